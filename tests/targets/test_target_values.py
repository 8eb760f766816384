"""What targets know of values: signs, bounds, activations, shortcuts."""

import numpy as np
import onnx_ir as ir
import pytest

from onnxfold.calibrate.scheme import Range
from onnxfold.ir.shapes import infer_shapes
from onnxfold.model import load
from onnxfold.targets.pointwise import region_behind
from onnxfold.targets.residual import residual_of
from onnxfold.targets.signs import Signs, bounds_of
from tests.targets.emitted import normal
from tests.toolkit import parse

CONSTANTS = {
    "zero": np.array(0, np.float32), "one": np.array(1, np.float32),
    "six": np.array(6, np.float32), "minus": np.array(-1, np.float32),
    "k": np.abs(normal("k", 4, 1, 1)), "w": normal("w", 4, 4, 1, 1),
    "scales": np.array([1, 1, 2, 2], np.float32),
}  # fmt: skip


def graph_of(body: str) -> ir.Graph:
    model = parse(f"g (float[N,4,H,W] x, float z) => (float[] y) {{ {body} }}", CONSTANTS)
    loaded = load(model).model
    infer_shapes(loaded)
    return loaded.graph


def value(graph: ir.Graph, name: str) -> ir.Value:
    return next(
        each
        for each in (*graph.inputs, *(o for n in graph for o in n.outputs))
        if each.name == name
    )


@pytest.mark.parametrize(("body", "expected"), [
    ("y = Relu(x)", True),
    ("y = Neg(x)", False),
    ("y = Clip(x, zero, six)", True),
    ("y = Clip(x, minus, six)", False),
    ("y = Clip(x, z, six)", False),
    ("a = Relu(x) b = Sigmoid(x) y = Mul(a, b)", True),
    ("a = Relu(x) y = Mul(a, x)", False),
    ("a = Relu(x) y = Add(a, k)", True),
    ("a = Relu(x) y = Add(a, minus)", False),
    ("a = Relu(x) b = Transpose<perm=[0,1,3,2]>(a) y = MaxPool<kernel_shape=[2,2]>(b)", True),
    ("a = Relu(x) y = Concat<axis=1>(a, x)", False),
    ("a = Relu(x) y = Concat<axis=1>(a, a)", True),
    ('a = Relu(x) y = Resize<mode="linear">(a, , scales)', True),
    ('a = Relu(x) y = Resize<mode="cubic">(a, , scales)', False),
    ("y = Identity(x)", False),
])  # fmt: skip
def test_signs(body: str, expected: bool) -> None:
    graph = graph_of(body)
    assert Signs().is_non_negative(value(graph, "y")) is expected


@pytest.mark.parametrize(("body", "expected"), [
    ("y = Sigmoid(x)", Range(0.0, 1.0)),
    ("y = Clip(x, zero, six)", Range(0.0, 6.0)),
    ("y = Clip(x, minus, one)", Range(-1.0, 1.0)),
    ("y = Clip(x, one, six)", None),
    ("y = Clip(x, zero)", None),
    ("y = Clip(x, z, six)", None),
    ("y = Relu(x)", None),
])  # fmt: skip
def test_bounds(body: str, expected: Range | None) -> None:
    assert bounds_of(value(graph_of(body), "y")) == expected


@pytest.mark.parametrize(("body", "expected"), [
    ("y = Relu(x)", "y"),
    ("a = Sigmoid(x) m = Mul(x, a) y = Neg(m)", "m"),
    ("a = Add(x, k) b = Erf(a) c = Mul(b, x) y = Mul(c, k)", "c"),
    ("a = Relu(x) b = Neg(x) y = Concat<axis=1>(a, b)", None),
    ("a = Relu(x) b = GlobalAveragePool(x) y = Mul(a, b)", None),
    ("y = Mul(x, z)", None),
    ("c = Conv(x, w) y = Add(c, x)", None),
])  # fmt: skip
def test_activations(body: str, expected: str | None) -> None:
    region = region_behind(value(graph_of(body), "x"))
    assert (None if region is None else region.exit.name) == expected


def test_a_region_does_not_leave_its_body() -> None:
    model = parse(
        "g (float[3] x, bool f) => (float[] y) { y = If(f) <then_branch = t () => (float[3] p)"
        " { p = Neg(x) }, else_branch = e () => (float[3] q) { q = Abs(x) }> }"
    )
    assert region_behind(load(model).model.graph.inputs[0]) is None


def test_an_addition_of_something_constant_is_no_shortcut() -> None:
    graph = graph_of("c = Conv(x, w) a = Add(c, k) y = Add(a, x)")
    layers = frozenset(node for node in graph if node.op_type == "Conv")
    assert [residual_of(node, layers) for node in graph] == [None, None, None]


def test_a_shortcut_from_an_activation() -> None:
    graph = graph_of("r = Relu(x) c = Conv(r, w) y = Add(r, c)")
    layers = frozenset(node for node in graph if node.op_type == "Conv")
    found = [residual_of(node, layers) for node in graph]
    assert found[-1] is not None
    assert found[-1].skip == 0
    assert found[:-1] == [None, None]
