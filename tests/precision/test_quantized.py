"""Quantized networks: what integers go through runs in one type with what reads it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxfold.ir.graph import opset_version
from onnxfold.ir.shapes import infer_shapes
from onnxfold.model import load, to_proto
from onnxfold.precision.opsets import raise_opset
from tests.precision.halves import FLOAT, FLOAT16, convert, sqnr
from tests.toolkit import Array, parse, run_ort

F = np.float32
RANDOM = np.random.default_rng(0)
IMAGE = RANDOM.normal(size=(1, 4, 8, 8)).astype(F)
WEIGHTS: dict[str, Array] = {
    "w": RANDOM.normal(size=(4, 4, 3, 3), scale=0.2).astype(F),
    "wq": RANDOM.integers(-127, 128, (4, 4, 3, 3)).astype(np.int8),
    "ws": np.full(4, 2e-3, F),
    "wz": np.zeros(4, np.int8),
    "s": np.array(0.03, F),
    "z": np.array(0, np.int8),
}
LAYER = (
    "q{i} = QuantizeLinear({x}, s, z) d{i} = DequantizeLinear(q{i}, s, z)"
    " v{i} = DequantizeLinear<axis=0>(wq, ws, wz)"
    " {y} = Conv<pads=[1, 1, 1, 1]>(d{i}, v{i})"
)
BODY = " ".join(
    (
        "c = Conv<pads=[1, 1, 1, 1]>(x, w) r = Relu(c)",
        LAYER.format(i=1, x="r", y="c1"),
        "r1 = Relu(c1)",
        LAYER.format(i=2, x="r1", y="c2"),
        "a = Add(c2, r) e = Relu(a) o = Conv<pads=[1, 1, 1, 1]>(e, w)",
    )
)


def network(opset: int, body: str = BODY, **weights: Array) -> onnx.ModelProto:
    text = f"g (float[1,4,8,8] x) => (float[] o) {{ {body} }}"
    return parse(text, {**WEIGHTS, **weights}, opset=opset)


@pytest.mark.parametrize("opset", [13, 17, 19, 21])
def test_everything_becomes_float16(opset: int) -> None:
    model = network(opset)
    found = convert(model)
    assert found.reasons == {}
    assert len(found.casts) == 2
    types = found.types
    assert {types[name] for name in ("s", "ws", "d1", "v1", "c1", "d2", "e")} == {FLOAT16}
    assert found.after.opset_import[0].version == max(opset, 19)
    assert sqnr(run_ort(model, {"x": IMAGE}), found.run({"x": IMAGE})) > 40


def test_both_sides_of_the_integers_have_one_scale() -> None:
    """The input of the model is quantized as it comes, and what reads it is float16."""
    body = LAYER.format(i=1, x="x", y="c1") + " o = Relu(c1)"
    for constant in (False, True):
        text = f"s = Constant<value_float=0.0301>() {body}" if constant else body
        model = network(19, text, s=np.array(0.0301, F))
        if constant:
            del model.graph.initializer[4]
        found = convert(model)
        assert (found.types["s"], found.types["s.float16"]) == (FLOAT, FLOAT16)
        assert [source for source, _ in found.casts] == ["o.float16"]
        held = {tensor.name: numpy_helper.to_array(tensor) for tensor in _tensors(found.after)}
        assert held["s"] == held["s.float16"]
        assert held["s"] != np.float32(0.0301)


def _tensors(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    constants = [node for node in model.graph.node if node.op_type == "Constant"]
    return [*model.graph.initializer, *(node.attribute[0].t for node in constants)]


def test_where_the_operator_set_cannot_be_raised() -> None:
    """No Cast comes between a DequantizeLinear and its reader, or before a QuantizeLinear."""
    pool = " p = AveragePool<kernel_shape=[2, 2], ceil_mode=1>(e)"
    body = BODY.replace(" o = Conv<pads=[1, 1, 1, 1]>(e, w)", pool + " o = Conv(p, w)")
    found = convert(network(17, body))
    assert set(found.reasons.values()) == {"operator set 17 has no float16 form of it"}
    types = found.types
    assert {types[name] for name in ("r", "d1", "c1", "r1", "c2")} == {FLOAT}
    assert {types[name] for name in ("c", "p")} == {FLOAT16}
    assert found.after.opset_import[0].version == 17


def test_a_scale_that_float16_does_not_hold() -> None:
    """The convolution goes with its weights; everything else becomes float16."""
    found = convert(network(19, ws=np.array([1e-8, 1, 1, 1], F)))
    assert set(found.reasons.values()) == {"float16 loses digits of a small constant that it reads"}
    types = found.types
    assert {types[name] for name in ("d1", "v1", "c1", "c2")} == {FLOAT}
    assert {types[name] for name in ("c", "e")} == {FLOAT16}


def test_a_quantized_bias_is_no_obstacle() -> None:
    """Its scale is far below the normal range; a Cast behind it costs nothing."""
    body = BODY.replace("(d1, v1)", "(d1, v1, b)")
    bias = "b = DequantizeLinear(bq, bs) "
    weights = {"bq": np.arange(4, dtype=np.int32) * 1000, "bs": np.array(6e-8, F)}
    model = network(19, bias + body, **weights)
    found = convert(model)
    assert found.reasons.keys() == {"DequantizeLinear of 'b'"}
    assert found.types["c1"] == FLOAT16
    assert ("b", "b.float16") in found.casts


# Raising the operator set


def raised(model: onnx.ModelProto) -> tuple[onnx.ModelProto, str | None]:
    loaded = load(model).model
    infer_shapes(loaded)
    reason = raise_opset(loaded, 19)
    assert opset_version(loaded) == (19 if reason is None else model.opset_import[0].version)
    return to_proto(loaded), reason


KEPT = {
    13: "r = ReduceMean<axes=[2, 3], keepdims=0>(x) y = Unsqueeze(r, axes)",
    14: "a, b = Split<axis=1>(x) y = Concat<axis=2>(b, a)",
    15: 'y = Resize<mode="linear">(x, , scales)',
    16: "y = Pad(x, pads)",
    17: "s = ReduceMax<keepdims=0>(x) l = ReduceL2<axes=[-1]>(x) t = Cast<to=1>(l) y = Add(t, s)",
    18: "p = AveragePool<kernel_shape=[2, 2]>(x) y = Identity(p)",
}


@pytest.mark.parametrize("opset", KEPT)
def test_raised_models_compute_the_same(opset: int) -> None:
    known = {
        "axes": np.array([2, 3]),
        "scales": np.array([1, 1, 1.7, 1.7], F),
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    }
    body = KEPT[opset]
    model = parse(f"g (float[1,4,8,8] x) => (float[] y) {{ {body} }}",
                  {name: known[name] for name in known if f", {name})" in body},
                  opset=opset)  # fmt: skip
    after, reason = raised(model)
    assert reason is None
    onnx.checker.check_model(after, full_check=True)
    assert sqnr(run_ort(model, {"x": IMAGE}), run_ort(after, {"x": IMAGE})) > 120


REFUSED = [
    (12, "y = Relu(x)", "operator set 12 is too old to be raised"),
    (15, "y = RoiAlign(x, rois, batch)", "RoiAlign of 'y' samples elsewhere in operator set 19"),
    (18, "y = AveragePool<kernel_shape=[2, 2], ceil_mode=1>(x)", "rounds its extents otherwise"),
]


@pytest.mark.parametrize(("opset", "body", "reason"), REFUSED)
def test_models_that_are_not_raised(opset: int, body: str, reason: str) -> None:
    weights = {"rois": np.zeros((1, 4), F), "batch": np.array([0])} if "Roi" in body else {}
    model = parse(f"g (float[1,4,8,8] x) => (float[] y) {{ {body} }}", weights, opset=opset)
    after, said = raised(model)
    assert said is not None
    assert reason in said
    (node,) = after.graph.node
    assert list(node.input) == list(model.graph.node[0].input)
