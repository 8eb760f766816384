"""Writes channel scales into the weights of layers, and into other constants."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxfold.ir.constants import constant_tensor, float_constant
from onnxfold.ir.graph import input_at, int_attribute, is_op
from onnxfold.rewrite.builder import Builder, Refused
from onnxfold.rewrite.names import Names
from onnxfold.rewrite.rewriter import Rewriter
from onnxfold.rewrite.rule import Reject

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LayerScales:
    """How the weights of one layer change; None where nothing does.

    Attributes:
        node: The layer.
        inputs: What each input channel is multiplied by, (C_in,).
        outputs: What each output channel is divided by, (C_out,).
    """

    node: ir.Node
    inputs: Floats | None
    outputs: Floats | None


@dataclass(frozen=True, slots=True)
class ConstantScales:
    """How another constant changes.

    Attributes:
        node: Who reads it.
        index: As which input.
        axis: Its channel axis, counted from its end.
        divisors: What each channel is divided by, (C,).
    """

    node: ir.Node
    index: int
    axis: int
    divisors: Floats


def write_scales(
    rewriter: Rewriter, changes: Sequence[LayerScales | ConstantScales], pass_name: str
) -> Reject | None:
    """Change constants of `rewriter.model`, all of them in one rewrite.

    Returns:
        Why nothing was changed, if the type of a weight cannot hold what it would become.
    """
    constants: dict[str, dict[int, ir.Value]] = {}
    for change in changes:
        numbers = _numbers(change)
        try:
            found = _constants(change.node, numbers, rewriter.builder(change.node))
        except Refused as refused:
            return Reject(refused.reason, change.node)
        constants.setdefault(_key(change.node), {}).update(found)
    if constants:
        rewriter.adopt(lambda model: _with_constants(model, constants), pass_name=pass_name)
    return None


def _key(node: ir.Node) -> str:
    return node.outputs[0].name or ""


def _numbers(change: LayerScales | ConstantScales) -> dict[int, Floats]:
    """The new numbers, by input."""
    node = change.node
    if isinstance(change, ConstantScales):
        old = float_constant(node.inputs[change.index])
        assert old is not None
        shape = (-1, *(1,) * (-change.axis - 1))
        return {change.index: old / change.divisors.reshape(shape)}
    scaled = {1: _scaled_weight(change)}
    bias = float_constant(input_at(node, 2))
    if change.outputs is not None and bias is not None:
        scaled[2] = bias / change.outputs
    return scaled


def _constants(node: ir.Node, numbers: Mapping[int, Floats], build: Builder) -> dict[int, ir.Value]:
    found = {}
    for index, array in numbers.items():
        old = node.inputs[index]
        tensor = constant_tensor(old)
        assert old is not None
        assert tensor is not None
        found[index] = build.constant(array, tensor.dtype, old.name)
    return found


def _scaled_weight(layer: LayerScales) -> Floats:
    """The weight as the operator stores it, with scaled input and output channels."""
    node = layer.node
    weight = float_constant(node.inputs[1])
    assert weight is not None
    by_input = np.ones(1) if layer.inputs is None else layer.inputs
    by_output = np.ones(1) if layer.outputs is None else 1 / layer.outputs
    outputs_first = is_op(node, "Conv") or bool(int_attribute(node, "transB", 0))
    rows, columns = (by_output, by_input) if outputs_first else (by_input, by_output)
    group = int_attribute(node, "group", 1)
    blocks = weight.reshape(group, weight.shape[0] // group, weight.shape[1], -1)
    along_rows, along_columns = (
        np.broadcast_to(vector, (group * extent,)).reshape(group, extent)
        for vector, extent in ((rows, blocks.shape[1]), (columns, blocks.shape[2]))
    )
    scaled = blocks * along_rows[:, :, None, None] * along_columns[:, None, :, None]
    return np.asarray(scaled.reshape(weight.shape))


def _with_constants(model: ir.Model, constants: Mapping[str, Mapping[int, ir.Value]]) -> ir.Model:
    """The model with other constants as some inputs of some nodes."""
    names = Names(model)
    replaced: list[ir.Value] = []
    for node in model.graph:
        for index, value in constants.get(_key(node) if node.outputs else "", {}).items():
            old = node.inputs[index]
            assert old is not None
            value.name = names.value(old.name)
            model.graph.register_initializer(value)
            node.replace_input_with(index, value)
            replaced.append(old)
    for old in replaced:
        if old.is_initializer() and not old.uses() and not old.is_graph_output():
            model.graph.initializers.pop(old.name or "", None)
    return model
