"""Passes that are right nearly everywhere, and wrong as real passes are wrong."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper

from onnxfold.pipeline.passes import EditPass, ModelPass, RulePass
from onnxfold.rewrite.builder import Builder
from onnxfold.rewrite.rewriter import RULE_KEY, Rewriter
from onnxfold.rewrite.rule import AnyRule, Replacement, Rule
from tests.verify.networks import Weights, model, tensor

CHANNELS = 6


def chain(depth: int = 8, *, labels: bool = False, seed: int = 0) -> onnx.ModelProto:
    """`depth` times Conv 3x3 and Relu, named conv0, relu0 and so on, and a classifier."""
    rng = np.random.default_rng(seed)
    nodes, weights, x, inputs = [], [], "x", 3
    for i in range(depth):
        kernel = rng.standard_normal((CHANNELS, inputs, 3, 3)) * np.sqrt(2 / (9 * inputs))
        weights += [tensor(f"w{i}", kernel.astype(np.float32))]
        weights += [tensor(f"b{i}", (0.2 * rng.standard_normal(CHANNELS)).astype(np.float32))]
        nodes += [
            helper.make_node("Conv", [x, f"w{i}", f"b{i}"], [f"c{i}"], f"conv{i}", pads=[1] * 4),
            helper.make_node("Relu", [f"c{i}"], [f"r{i}"], f"relu{i}"),
        ]
        x, inputs = f"r{i}", CHANNELS
    head = (rng.standard_normal((4, CHANNELS, 1, 1)) / np.sqrt(CHANNELS)).astype(np.float32)
    weights += [tensor("head", head)]
    nodes += [helper.make_node("Conv", [x, "head"], ["scores"], "classifier")]
    dims: list[int | str] = ["N", "H", "W"]
    output = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 4, *dims[1:]])
    if labels:
        nodes += [helper.make_node("ArgMax", ["scores"], ["labels"], "argmax", axis=1, keepdims=0)]
        output = helper.make_tensor_value_info("labels", TensorProto.INT64, dims)
    source = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, *dims[1:]])
    return model(nodes, [source], [output], weights)


def written(proto: onnx.ModelProto, path: Path) -> Path:
    onnx.save(proto, path)
    return path


def array_of(value: ir.Value | None) -> Weights:
    assert value is not None
    assert value.const_value is not None
    return np.asarray(value.const_value.numpy())


Work = Callable[[ir.Node, Builder], Replacement]


def at_every(op_type: str, work: Work, *, name: str = "saboteur", rule: str = "again") -> RulePass:
    """A pass with one rule that does `work` once at every node of that type."""

    def match(node: ir.Node) -> ir.Node | None:
        return None if RULE_KEY in node.metadata_props else node

    def rules(_: Any) -> Sequence[AnyRule]:
        return (Rule(rule, frozenset({op_type}), match, work),)

    return RulePass(name, rules, "Does the same again, and sometimes something else.")


def mostly(right: Work, wrong: Work, *targets: str) -> Work:
    """`right` everywhere save at the nodes of these names."""
    return lambda node, build: (wrong if node.name in targets else right)(node, build)


def same(node: ir.Node, build: Builder) -> ir.Value:
    """The node again."""
    return build.like(node, node.inputs)


def rescaled(factor: float) -> Work:
    """The Conv again, its weight scaled."""

    def work(node: ir.Node, build: Builder) -> ir.Value:
        weight = node.inputs[1]
        scaled = build.constant(array_of(weight).astype(np.float64) * factor, ir.DataType.FLOAT)
        return build.like(node, [node.inputs[0], scaled, *node.inputs[2:]])

    return work


def swapped_classes(node: ir.Node, build: Builder) -> ir.Value:
    """The classifier again, with two of its classes exchanged."""
    order = [1, 0, *range(2, 4)]
    weight = build.tensor(array_of(node.inputs[1])[order], ir.DataType.FLOAT)
    return build.like(node, [node.inputs[0], weight])


def another_type(node: ir.Node, build: Builder) -> ir.Value:
    """A half-precision tensor in the place of a single-precision one."""
    return build.op("Cast", [same(node, build)], {"to": int(TensorProto.FLOAT16)})


def declared_other_type(node: ir.Node, build: Builder) -> ir.Value:
    """The same, and it says so."""
    value = another_type(node, build)
    value.type = ir.TensorType(ir.DataType.FLOAT16)
    return value


def another_shape(node: ir.Node, build: Builder) -> ir.Value:
    """Height and width exchanged."""
    return build.op("Transpose", [same(node, build)], {"perm": [0, 1, 3, 2]})


def dangling(node: ir.Node, build: Builder) -> ir.Value:
    """A node that reads what nothing computes."""
    return build.op("Add", [same(node, build), ir.Value(name="ghost")])


def not_a_number(node: ir.Node, build: Builder) -> ir.Value:
    """The root of a negative number, wherever the Relu gives zero."""
    tiny = build.constant(np.asarray(1e-3), ir.DataType.FLOAT)
    return build.op("Sqrt", [build.op("Sub", [same(node, build), tiny])])


def raising(node: ir.Node, build: Builder) -> ir.Value:
    """A bug of the pass."""
    build.op("Neg", [node.inputs[0]])
    raise KeyError("scale")


def shift_through_border(node: ir.Node, build: Builder) -> ir.Value:
    """y = Conv(x + t), padded, as Conv(x) with t in the bias: wrong where the zeros are."""
    before = node.inputs[0]
    assert before is not None
    add = before.producer()
    if add is None or add.op_type != "Add":
        return same(node, build)
    weight = array_of(node.inputs[1]).astype(np.float64)
    shift = array_of(add.inputs[1]).astype(np.float64)
    bias = weight.sum(axis=(2, 3)) @ shift.reshape(-1) + array_of(node.inputs[2])
    numbers = build.constant(bias, ir.DataType.FLOAT)
    return build.like(node, [add.inputs[0], node.inputs[1], numbers])


def model_pass(change: Callable[[ir.Model], None], name: str = "rewriter") -> ModelPass:
    """A pass that changes a copy of the whole model."""

    def transform(copy: ir.Model, _: Any) -> ir.Model:
        change(copy)
        return copy

    return ModelPass(name, transform, "Changes the whole model.")


def edit_pass(edit: Callable[[Rewriter], None], name: str = "meddler") -> EditPass:
    """A pass that does what it likes."""
    return EditPass(name, lambda rewriter, _: edit(rewriter), "Does what it likes.")


def scale_in_place(graph: ir.Graph, name: str, factor: float) -> None:
    """Scale one weight without asking anybody."""
    value = graph.initializers[name]
    value.const_value = ir.tensor((array_of(value) * factor).astype(np.float32), name=name)
