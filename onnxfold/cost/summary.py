"""The figures of a model that users compare before and after."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import onnx
import onnx_ir as ir

from onnxfold.ir.constants import FLOAT_TYPES
from onnxfold.ir.graph import every_node, int_attribute, is_op, nested_graphs
from onnxfold.ir.shapes import skeleton_proto, tensor_extents

STAND_IN_EXTENT = 224
"""What a dynamic extent of an input counts as, unless it is told; the batch counts as 1."""

_SIZED = frozenset(ir.DataType) - {ir.DataType.STRING, ir.DataType.UNDEFINED}
"""The types whose elements have a fixed size."""

_COUNTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """The size of a model.

    Attributes:
        nodes: Number of nodes by operator, nested graphs included.
        parameters: Number of floating-point constants.
        weight_bytes: Bytes of all constants.
        multiply_adds: Multiply-adds of Conv, ConvTranspose, Gemm and MatMul in one run, or None
            when some extent cannot be inferred.
        at_shapes: The input shapes at which they were counted.
    """

    nodes: Counter[str]
    parameters: int
    weight_bytes: int
    multiply_adds: int | None
    at_shapes: dict[str, tuple[int, ...]]

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "nodes": dict(sorted(self.nodes.items())),
            "node_count": self.nodes.total(),
            "parameters": self.parameters,
            "weight_bytes": self.weight_bytes,
            "multiply_adds": self.multiply_adds,
            "at_shapes": {name: list(shape) for name, shape in self.at_shapes.items()},
        }


def summarize(model: ir.Model, shapes: Shapes | None = None) -> ModelSummary:
    """Count nodes, constants and multiply-adds.

    Args:
        model: Not changed; its shapes have been inferred.
        shapes: Input shapes at which to count, by name; others count dynamic extents as
            `STAND_IN_EXTENT` and the batch as 1.
    """
    at_shapes = _input_shapes(model, shapes or {})
    sizes = [(t.dtype, math.prod(tensor_extents(t))) for t in _tensors(model)]
    return ModelSummary(
        nodes=Counter(node.op_type for node in every_node(model.graph)),
        parameters=sum(size for dtype, size in sizes if dtype in FLOAT_TYPES),
        weight_bytes=sum(
            math.ceil(dtype.itemsize * size) for dtype, size in sizes if dtype in _SIZED
        ),
        multiply_adds=_multiply_adds(model, at_shapes),
        at_shapes=at_shapes,
    )


def multiply_adds_by_layer(model: ir.Model, shapes: Shapes | None = None) -> dict[str, int | None]:
    """Multiply-adds of every Conv, ConvTranspose, Gemm and MatMul of the main graph in one run.

    Args:
        model: Not changed; its shapes have been inferred.
        shapes: Input shapes at which to count, as in `summarize`.

    Returns:
        The count by the name of the layer's output, None where some extent cannot be inferred.
    """
    at_shapes = _input_shapes(model, shapes or {})
    counted = [node for node in model.graph if is_op(node, *_COUNTED)]
    extents = _bound_extents(model, at_shapes, counted)
    if any(isinstance(e, ir.SymbolicDim) for v in model.graph.inputs for e in v.shape or ()):
        extents = {**extents, **_inferred_at(model, at_shapes)}
    return {node.outputs[0].name or "": _of_node(node, extents) for node in counted}


def _tensors(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    for graph in (model.graph, *nested_graphs(model.graph)):
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value.const_value
        for node in graph:
            for attribute in node.attributes.data.values():
                if attribute.type is ir.AttributeType.TENSOR and not attribute.is_ref():
                    yield attribute.value  # `as_tensor` checks a protocol, slowly


def _input_shapes(model: ir.Model, given: Shapes) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for value in model.graph.inputs:
        name = value.name or ""
        if value.is_initializer():
            continue
        if name in given:
            shapes[name] = given[name]
        elif value.shape is not None:
            shapes[name] = tuple(
                extent if isinstance(extent, int) else (STAND_IN_EXTENT if axis else 1)
                for axis, extent in enumerate(value.shape)
            )
    return shapes


def _multiply_adds(model: ir.Model, shapes: Shapes) -> int | None:
    counts = list(multiply_adds_by_layer(model, shapes).values())
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _bound_extents(
    model: ir.Model, shapes: Shapes, nodes: Iterable[ir.Node]
) -> dict[str, tuple[int, ...]]:
    """The shapes of what `nodes` read and compute, with the symbols of the inputs filled in."""
    bindings: dict[object, int] = {}
    for value in model.graph.inputs:
        bindings.update(zip(value.shape or (), shapes.get(value.name or "", ()), strict=False))
    extents: dict[str, tuple[int, ...]] = {}
    for value in (each for node in nodes for each in (*node.inputs, *node.outputs) if each):
        bound = [e if isinstance(e, int) else bindings.get(e) for e in value.shape or ()]
        known = tuple(number for number in bound if number is not None)
        if value.name is not None and value.shape is not None and len(known) == len(bound):
            extents[value.name] = known
    return extents


def _inferred_at(model: ir.Model, shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """The shapes of the values that can be inferred when the inputs have these shapes."""
    proto = skeleton_proto(model)
    for info in proto.graph.input:
        if info.name in shapes:
            del info.type.tensor_type.shape.dim[:]
            for extent in shapes[info.name]:
                info.type.tensor_type.shape.dim.add(dim_value=extent)
    for info in proto.graph.output:
        # What the file declares may contradict the shapes that were asked for.
        info.type.tensor_type.ClearField("shape")
    try:
        graph = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
    except Exception:  # whatever inference cannot do means: not known
        return {}
    found = {info.name: _extents(info) for info in (*graph.value_info, *graph.output)}
    return {name: extents for name, extents in found.items() if extents is not None}


def _extents(info: onnx.ValueInfoProto) -> tuple[int, ...] | None:
    tensor = info.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    if any(not dim.HasField("dim_value") for dim in tensor.shape.dim):
        return None
    return tuple(dim.dim_value for dim in tensor.shape.dim)


def _of_node(node: ir.Node, extents: Mapping[str, tuple[int, ...]]) -> int | None:
    """Multiply-adds of one node that is counted, None when not known."""
    x, weight, y = (
        None if value is None else extents.get(value.name or "")
        for value in (node.inputs[0], node.inputs[1], node.outputs[0])
    )
    if x is None or weight is None or y is None:
        return None
    match node.op_type:
        case "Conv":
            return math.prod(y) * math.prod(weight[1:])
        case "ConvTranspose":
            return math.prod(x) * math.prod(weight[1:])
        case _:
            inner = x[0] if int_attribute(node, "transA", 0) else x[-1]
            return math.prod(y) * inner
