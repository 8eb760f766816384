"""Types, constants and Casts of converted models."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from onnxfold.ir.shapes import infer_shapes
from onnxfold.model import load, to_proto
from onnxfold.precision import convert_to_float16, rounding_model, values_to_measure
from onnxfold.rewrite.tensor_store import SpillStore
from tests.precision.halves import FLOAT, FLOAT16, convert, sqnr
from tests.toolkit import Array, parse, renamed, run_ort

F = np.float32
RANDOM = np.random.default_rng(0)
IMAGE = RANDOM.normal(size=(1, 4, 8, 8)).astype(F)
W = {"w": RANDOM.normal(size=(4, 4, 3, 3), scale=0.2).astype(F)}
CONV = "Conv<pads=[1, 1, 1, 1]>"


def scalar(number: float) -> Array:
    return np.array(number, F)


def constants(model: onnx.ModelProto) -> dict[str, Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


# Inputs and outputs


def test_interface_kept() -> None:
    model = parse(f"g (float[1,4,8,8] x) => (float[] y) {{ c = {CONV}(x, w) y = Relu(c) }}", W)
    found = convert(model)
    assert found.casts == [("x", "x.float16"), ("y.float16", "y")]
    assert found.after.graph.input[0] == model.graph.input[0]
    assert found.after.graph.output[0] == model.graph.output[0]
    assert found.types["c"] == FLOAT16
    assert sqnr(run_ort(model, {"x": IMAGE}), found.run({"x": IMAGE})) > 55


def test_interface_converted() -> None:
    model = parse(
        "g (float[1,4,8,8] x, float[4] z) => (float[] y, float[] e, float[4] z)"
        f" {{ c = {CONV}(x, w) y = Relu(c) e = Exp(c) }}", W)  # fmt: skip
    found = convert(model, keep_io=False)
    types = found.types
    assert {types[name] for name in ("x", "y", "e", "z")} == {FLOAT16}
    assert found.casts == [("c", "c.float32"), ("e.float32", "e")]
    feed = {"x": IMAGE, "z": np.ones(4, F)}
    halves = {name: array.astype(np.float16) for name, array in feed.items()}
    assert sqnr(run_ort(model, feed), found.run(halves)) > 50


def test_an_output_that_others_read_too() -> None:
    model = parse("g (float[1,4,8,8] x) => (float[] c, float[] y)"
                  f" {{ c = {CONV}(x, w) e = Exp(c) y = {CONV}(c, w) }}", W)  # fmt: skip
    model.graph.output.append(onnx.helper.make_tensor_value_info("e", FLOAT, [1, 4, 8, 8]))
    found = convert(model)
    # The Cast in front of the island gives the output as well.
    assert found.casts == [
        ("x", "x.float16"),
        ("c.float16", "c"),
        ("y.float16", "y"),
    ]
    assert [value.name for value in found.after.graph.output] == ["c", "y", "e"]
    assert sqnr(run_ort(model, {"x": IMAGE}), found.run({"x": IMAGE})) > 45


@pytest.mark.parametrize("keep_io", [True, False])
def test_outputs_that_no_node_computes(keep_io: bool) -> None:
    model = parse(f"g (float[1,4,8,8] x) => (float[] y) {{ y = {CONV}(x, w) }}", W)
    for name in ("x", "w"):
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, FLOAT, None))
    model.graph.output[1].CopyFrom(model.graph.input[0])
    model.graph.output[2].type.tensor_type.shape.CopyFrom(
        onnx.helper.make_tensor_value_info("w", FLOAT, [4, 4, 3, 3]).type.tensor_type.shape
    )
    found = convert(model, keep_io=keep_io)
    assert [value.name for value in found.after.graph.output] == ["y", "x", "w"]
    kind = FLOAT if keep_io else FLOAT16
    assert {found.types[name] for name in ("y", "x", "w")} == {kind}
    feed = IMAGE if keep_io else IMAGE.astype(np.float16)
    assert sqnr(run_ort(model, {"x": IMAGE}), found.run({"x": feed})) > 50


def test_an_input_with_a_default() -> None:
    model = parse(f"g (float[1,4,8,8] x) => (float[] y) {{ y = {CONV}(x, w) }}", W)
    model.graph.input.append(onnx.helper.make_tensor_value_info("w", FLOAT, [4, 4, 3, 3]))
    kept, changed = convert(model), convert(model, keep_io=False)
    assert constants(kept.after)["w"].dtype == np.float32
    assert ("w", "w.float16") in kept.casts
    assert constants(changed.after)["w"].dtype == np.float16
    assert changed.casts == []


def test_interface_converted_after_all() -> None:
    """What a first conversion has cast at the borders needs no second Cast."""
    model = parse(f"g (float[1,4,8,8] x) => (float[] y) {{ c = {CONV}(x, w) y = Relu(c) }}", W)
    found = convert(convert(model).after, keep_io=False)
    assert {found.types["x"], found.types["y"]} == {FLOAT16}
    assert "Cast" not in found.ops


# Islands


def test_overflow_island() -> None:
    """A naive conversion gives infinity, the measured one is close."""
    weights = {"a": np.full((4, 4, 1, 1), 100, F), "b": np.full((4, 4, 1, 1), 2e-3, F)}
    model = parse("g (float[1,4,8,8] x) => (float[] y)"
                  " { c = Conv(x, a) d = Relu(c) e = Conv(d, b) y = Relu(e) }",
                  weights)  # fmt: skip
    feed = {"x": np.abs(IMAGE) * 250}
    expected = run_ort(model, feed)
    naive = convert(model)
    assert not np.isfinite(naive.run(feed)[0]).all()
    found = convert(model, {"x": (0.0, 800.0), "c": (0.0, 2e5), "d": (0.0, 2e5), "e": (0.0, 1e3)})
    assert found.reasons.keys() == {"Conv of 'c'", "Relu of 'd'", "Conv of 'e'"}
    assert sqnr(expected, found.run(feed)) > 55


def test_measured_ranges_lift_estimates() -> None:
    model = parse("g (float[1,4,64,64] x) => (float[] y)"
                  f" {{ c = {CONV}(x, w) r = Reshape(c, s) m = ReduceMean(r, n) y = Exp(r) }}",
                  {**W, "s": np.array([4, 4096]), "n": np.array([1])})  # fmt: skip
    assert len(convert(model).reasons) == 2
    small = {"c": (-3.0, 3.0), "m": (-1.0, 1.0), "y": (0.05, 20.1)}
    assert convert(model, small).reasons == {}
    loaded = load(model).model
    infer_shapes(loaded)
    assert values_to_measure(loaded.graph) == ["x", "c", "m", "y"]


def test_island_of_a_decomposed_normalization() -> None:
    """All of it but the gain is one island, with one Cast on either side."""
    gain = RANDOM.normal(size=64).astype(F)
    weights: dict[str, Array] = {
        **W,
        "axis": np.array([3]),
        "two": scalar(2),
        "e": scalar(1e-6),
        "g": gain,
    }
    model = parse(
        "g (float[1,4,64,64] x) => (float[] y) {"
        f" c = {CONV}(x, w) m = ReduceMean(c, axis) d = Sub(c, m) p = Pow(d, two)"
        " v = ReduceMean(p, axis) a = Add(v, e) s = Sqrt(a) n = Div(d, s) o = Mul(n, g)"
        f" y = {CONV}(o, w) }}", weights)  # fmt: skip
    found = convert(model)
    assert found.casts == [
        ("x", "x.float16"),
        ("d", "d.float32"),
        ("n", "n.float16"),
        ("y.float16", "y"),
    ]
    feed = {"x": RANDOM.normal(size=(1, 4, 64, 64)).astype(F)}
    assert sqnr(run_ort(model, feed), found.run(feed)) > 50


def test_one_cast_for_all_readers() -> None:
    model = parse(
        "g (float[1,4,8,8] x) => (float[] y) {"
        f" c = {CONV}(x, w) a = Cos(c) b = Sin(c) d = Add(a, b)"
        f" e = {CONV}(d, w) f = {CONV}(d, w) y = Add(e, f) }}", W)  # fmt: skip
    assert convert(model).casts == [
        ("x", "x.float16"),
        ("c", "c.float32"),
        ("d", "d.float16"),
        ("y.float16", "y"),
    ]


def test_cheap_nodes_join_the_islands_around_them() -> None:
    body = f"c = {CONV}(x, w) a = Sin(c) b = Relu(a) d = Neg(b) e = Sin(d) y = {CONV}(e, w)"
    model = parse(f"g (float[1,4,8,8] x) => (float[] y) {{ {body} }}", W)
    found = convert(model)
    assert found.reasons.keys() == {"Sin of 'a'", "Sin of 'e'"}
    assert {found.types[name] for name in "abde"} == {FLOAT}
    assert len(found.casts) == 4


def test_heavy_nodes_do_not() -> None:
    body = f"c = {CONV}(x, w) a = Sin(c) b = {CONV}(a, w) e = Sin(b) y = {CONV}(e, w)"
    found = convert(parse(f"g (float[1,4,8,8] x) => (float[] y) {{ {body} }}", W))
    assert found.types["b"] == FLOAT16
    assert len(found.casts) == 6


# Constants


def test_a_constant_that_both_sides_read() -> None:
    model = parse("g (float[1,4,8,8] x) => (float[] y)"
                  f" {{ c = {CONV}(x, w) e = Exp(c) a = Add(e, k) b = Add(c, k)"
                  f" s = Mul(a, e) d = {CONV}(b, w) y = Add(s, d) }}",
                  {**W, "k": np.array(0.3, F)})  # fmt: skip
    held = constants(convert(model, keep=("a", "s")).after)
    assert held["k"].dtype == np.float32
    assert held["k.float16"].dtype == np.float16
    assert held["w"].dtype == np.float16
    assert "w.float16" not in held


def test_constant_nodes() -> None:
    model = parse("g (float[1,4,8,8] x) => (float[] y)"
                  f" {{ k = Constant<value_float=0.3>() l = Constant<value=float[1] {{0.7}}>()"
                  f" c = {CONV}(x, w) b = Add(c, k) e = Exp(b) a = Mul(e, l)"
                  f" d = Mul(b, l) f = Add(d, d) y = {CONV}(f, w) z = Neg(a) }}", W)  # fmt: skip
    model.graph.output.append(onnx.helper.make_tensor_value_info("z", FLOAT, [1, 4, 8, 8]))
    found = convert(model)
    types = found.types
    assert (types["k"], types["l"], types["l.float16"]) == (FLOAT16, FLOAT, FLOAT16)
    assert sqnr(run_ort(model, {"x": IMAGE}), found.run({"x": IMAGE})) > 50


def test_constants_are_rounded_to_the_nearest_once() -> None:
    exact = np.array([1 + 2.0**-11 + 2.0**-30, 1 + 2.0**-11, 1 + 3 * 2.0**-11, 0.1], np.float64)
    narrow = exact.astype(F)
    model = parse(f"g (float[1,4,8,8] x) => (float[] y) {{ c = {CONV}(x, w) y = Mul(c, k) }}",
                  {**W, "k": narrow.reshape(1, 4, 1, 1)})  # fmt: skip
    held = constants(convert(model, keep_io=False).after)["k"].reshape(-1)
    ties_to_even = np.array([1.0, 1.0, 1 + 2 * 2.0**-10, 0.0999755859375])
    assert np.array_equal(held.astype(np.float64), ties_to_even)


def test_tiny_weights_beside_ordinary_ones_are_no_reason() -> None:
    """Training leaves dead filters; they are zero in float16, as they may well be."""
    weights = W["w"].copy()
    weights[:2] = 1e-20
    model = parse(f"g (float[1,4,8,8] x) => (float[] y) {{ y = {CONV}(x, w) }}", {"w": weights})
    found = convert(model)
    assert found.reasons == {}
    assert sqnr(run_ort(model, {"x": IMAGE}), found.run({"x": IMAGE})) > 55


@pytest.mark.parametrize(("low", "high"), [(0.0, 3.4e38), (-3.4e38, 6.0), (-np.inf, np.inf)])
def test_bounds_of_a_clip_beyond_the_range(low: float, high: float) -> None:
    model = parse("g (float[1,4,8,8] x) => (float[] y)"
                  f" {{ c = {CONV}(x, w) d = Clip(c, l, h) y = {CONV}(d, w) }}",
                  {**W, "l": np.array(low, F), "h": np.array(high, F)})  # fmt: skip
    found = convert(model)
    assert found.reasons == {}
    held = constants(found.after)
    assert held["l"].dtype == np.float16
    assert np.isfinite(held["l"]) == np.isfinite(low)
    assert sqnr(run_ort(model, {"x": IMAGE}), found.run({"x": IMAGE})) > 50


def test_a_pad_of_minus_infinity() -> None:
    model = parse("g (float[1,4,8,8] x) => (float[] y)"
                  f" {{ c = {CONV}(x, w) p = Pad(c, pads, low)"
                  " y = MaxPool<kernel_shape=[3, 3]>(p) }",
                  {**W, "low": scalar(-np.inf), "pads": np.array([0, 0, 1, 1] * 2)})  # fmt: skip
    found = convert(model)
    assert found.reasons == {}
    assert sqnr(run_ort(model, {"x": IMAGE}), found.run({"x": IMAGE})) > 50


# Shapes and places


RESIZES = {
    10: 'Resize<mode="nearest">(c, scales)',
    11: 'Resize<mode="linear">(c, roi, scales)',
    13: 'Resize<coordinate_transformation_mode="tf_crop_and_resize">(c, roi, scales)',
    18: 'Resize<mode="cubic">(c, , scales)',
    19: 'Resize<mode="linear">(c, , , sizes)',
}


@pytest.mark.parametrize("opset", RESIZES)
def test_parameters_of_a_resize_stay(opset: int) -> None:
    """1.3 is not a float16; cast and back it would make another shape of 8 pixels times 10."""
    parameters = {
        "scales": np.array([1, 1, 1.3, 1.3], F),
        "roi": np.array([0, 0, 0.1, 0.1, 1, 1, 0.9, 0.9], F),
        "sizes": np.array([1, 4, 11, 13]),
    }
    body = f"c = {CONV}(x, w) r = {RESIZES[opset]} y = {CONV}(r, w)"
    used = {name: array for name, array in parameters.items() if name in body}
    model = parse(f"g (float[1,4,8,8] x) => (float[] y) {{ {body} }}", {**W, **used}, opset=opset)
    found = convert(model)
    held = constants(found.after)
    assert found.reasons == {}
    assert len(found.casts) == 2
    for name, array in used.items():
        assert held[name].dtype == array.dtype
        assert np.array_equal(held[name], array)
    assert sqnr(run_ort(model, {"x": IMAGE}), found.run({"x": IMAGE})) > 50


def test_scales_computed_from_shapes() -> None:
    body = (
        f"c = {CONV}(x, w) d = {CONV}(z, w) s = Shape(d) f = Cast<to=1>(s) t = Shape(c)"
        f" g = Cast<to=1>(t) q = Div(f, g) r = Resize(c, , q) y = {CONV}(r, w)"
    )
    text = f"g (float[1,4,H,W] x, float[1,4,A,B] z) => (float[] y) {{ {body} }}"
    model = parse(text, W)
    found = convert(model)
    assert {node.split("'")[1]: why for node, why in found.reasons.items()} == dict.fromkeys(
        "fgq", "it computes with shapes"
    )
    assert len(found.casts) == 3
    feed = {"x": IMAGE, "z": RANDOM.normal(size=(1, 4, 21, 13)).astype(F)}
    assert sqnr(run_ort(model, feed), found.run(feed)) > 50


def test_indices_computed_from_numbers() -> None:
    body = (
        f"c = {CONV}(x, w) m = Mul(p, k) f = Floor(m) i = Cast<to=7>(f)"
        f" g = Gather<axis=3>(c, i) y = {CONV}(g, w)"
    )
    model = parse(f"g (float[1,4,8,8] x, float[3] p) => (float[] y) {{ {body} }}",
                  {**W, "k": scalar(8)})  # fmt: skip
    found = convert(model)
    assert {found.types["m"], found.types["f"]} == {FLOAT}
    feed = {"x": IMAGE, "p": np.array([0.12499, 0.5, 0.99], F)}  # 0.12499 would round to 1/8
    assert sqnr(run_ort(model, feed), found.run(feed)) > 50


def test_a_table_that_is_cut_to_a_shape_is_no_shape() -> None:
    body = f"c = {CONV}(x, w) s = Shape(c) e = Expand(k, s) a = Add(c, e) y = {CONV}(a, w)"
    model = parse(f"g (float[1,4,H,W] x) => (float[] y) {{ {body} }}", {**W, "k": np.ones(1, F)})
    found = convert(model)
    assert found.reasons == {}
    assert found.types["e"] == FLOAT16


# What models are made of besides


def test_sequences_are_not_cast() -> None:
    body = (
        f"c = {CONV}(x, w) s = SplitToSequence<axis=1>(c) a = SequenceAt(s, zero)"
        f" b = SequenceAt(s, one) d = Add(a, b) y = Relu(d)"
    )
    weights: dict[str, Array] = {**W, "zero": np.array(0), "one": np.array(1)}
    model = parse(f"g (float[1,4,8,8] x) => (float[] y) {{ {body} }}", weights)
    found = convert(model)
    assert found.types["s"] == FLOAT16
    island = convert(model, keep=("a",))
    assert {island.types[name] for name in "sab"} == {FLOAT}
    for each in (found, island):
        assert sqnr(run_ort(model, {"x": IMAGE}), each.run({"x": IMAGE})) > 50


@pytest.mark.parametrize("keep_io", [True, False])
def test_sequences_at_the_borders_stay(keep_io: bool) -> None:
    body = "a = SequenceAt(s, zero) b = Add(a, x) t = SequenceConstruct(b, x)"
    text = f"g (float[4] x, seq(float[4]) s) => (seq(float[4]) t) {{ {body} }}"
    found = convert(parse(text, {"zero": np.array(0)}), keep_io=keep_io)
    assert {found.types[name] for name in "sat"} == {FLOAT}


def test_graphs_inside_nodes_stay() -> None:
    body = (
        f"c = {CONV}(x, w) r = If (b) <then_branch = t () => (float[1,4,8,8] o) {{ o = Relu(c) }},"
        f" else_branch = f () => (float[1,4,8,8] n) {{ n = {CONV}(c, w) }}> y = {CONV}(r, w)"
    )
    model = parse(f"g (float[1,4,8,8] x, bool b) => (float[] y) {{ {body} }}", W)
    found = convert(model)
    assert found.reasons == {"If of 'r'": "graphs inside a node stay in float32"}
    assert found.casts == [
        ("x", "x.float16"),
        ("c", "c.float32"),
        ("r", "r.float16"),
        ("y.float16", "y"),
    ]
    for condition in (True, False):
        feed = {"x": IMAGE, "b": np.array(condition)}
        assert sqnr(run_ort(model, feed), found.run(feed)) > 50


HALF_INSIDE = (
    f"h = Cast<to=10>(x) a = Conv<pads=[1, 1, 1, 1]>(h, v) f = Cast<to=1>(a) e = Relu(f)"
    f" b = {CONV}(e, w) y = Relu(b)"
)


def test_a_float32_island_of_the_model_itself() -> None:
    weights: dict[str, Array] = {**W, "v": W["w"].astype(np.float16)}
    model = parse(f"g (float[1,4,8,8] x) => (float[] y) {{ {HALF_INSIDE} }}", weights)
    found = convert(model)
    assert set(found.reasons.values()) == {"the model itself casts to float32 in front of it"}
    assert [(node.op_type, *node.input) for node in found.after.graph.node] == [
        (node.op_type, *node.input) for node in model.graph.node
    ]


def test_a_cast_of_an_input_is_no_island() -> None:
    model = parse("g (float16[1,4,8,8] x) => (float16[] z)"
                  f" {{ f = Cast<to=1>(x) y = {CONV}(f, w) z = Cast<to=10>(y) }}", W)  # fmt: skip
    found = convert(model)
    assert found.ops == {"Conv": 1, "Cast": 1}
    assert found.casts == []
    assert found.types["y"] == FLOAT16


def test_the_casts_of_the_model_are_shared() -> None:
    model = parse("g (float[1,4,8,8] x) => (float[] y, float16[] z)"
                  f" {{ e = Exp(x) c = {CONV}(e, w) h = Cast<to=10>(e) z = Relu(h)"
                  " y = Relu(c) }", W)  # fmt: skip
    found = convert(model)
    assert [source for source, _ in found.casts].count("e") == 1


def test_a_cast_of_the_model_is_a_border() -> None:
    """The ReLU in front of it costs less in float16: the Cast only moves."""
    model = parse("g (float[1,4,8,8] x) => (float16[] y)"
                  " { a = Sin(x) b = Relu(a) h = Cast<to=10>(b) y = Neg(h) }")  # fmt: skip
    found = convert(model)
    assert found.types["b"] == FLOAT16
    assert found.casts == [("a", "a.float16")]


def test_double_and_bfloat16() -> None:
    model = parse(
        "g (double[1,4,8,8] x, bfloat16[1,4,8,8] s) => (double[] z) {"
        f" f = Cast<to=1>(x) t = Cast<to=1>(s) a = Add(f, t) c = {CONV}(f, w) b = Add(c, a)"
        " y = Relu(b) d = Cast<to=11>(y) z = Mul(d, k) }",
        {**W, "k": np.array(0.3, np.float64)},
    )
    found = convert(model)
    types = found.types
    assert {types["f"], types["c"], types["y"]} == {FLOAT16}
    assert {types["d"], types["z"]} == {onnx.TensorProto.DOUBLE}
    assert constants(found.after)["k"].dtype == np.float64


def test_old_operator_sets() -> None:
    """Attributes where inputs are now, and the Softmax over several axes."""
    body = (
        f"c = {CONV}(x, w) d = Clip<min=0.0, max=6.0>(c)"
        ' p = Pad<mode="constant", pads=[0, 0, 1, 1, 0, 0, 1, 1], value=0.5>(d)'
        ' u = Upsample<mode="nearest">(p, s) o = Dropout<ratio=0.3>(u) r = ReduceMean<axes=[3]>(o)'
        " q = Softmax<axis=2>(r) y = Relu(q)"
    )
    model = parse(f"g (float[1,4,8,8] x) => (float[] y) {{ {body} }}",
                  {**W, "s": np.array([1, 1, 2, 2], F)}, opset=9)  # fmt: skip
    found = convert(model)
    assert found.reasons == {}
    assert constants(found.after)["s"].dtype == np.float32
    assert sqnr(run_ort(model, {"x": IMAGE}), found.run({"x": IMAGE})) > 50


def test_ratio_of_a_dropout_stays() -> None:
    model = parse(f"g (float[1,4,8,8] x) => (float[] y) {{ c = {CONV}(x, w)"
                  f" d = Dropout(c, p) y = {CONV}(d, w) }}", {**W, "p": scalar(0.3)})  # fmt: skip
    found = convert(model)
    assert constants(found.after)["p"].dtype == np.float32
    assert sqnr(run_ort(model, {"x": IMAGE}), found.run({"x": IMAGE})) > 50


def test_constant_of_shape() -> None:
    body = (
        f"c = {CONV}(x, w) s = Shape(c) k = ConstantOfShape<value=float[1] {{0.3}}>(s)"
        f" z = ConstantOfShape(s) a = Add(c, k) b = Add(a, z) y = {CONV}(b, w)"
    )
    model = parse(f"g (float[1,4,H,W] x) => (float[] y) {{ {body} }}", W)
    found = convert(model)
    assert {found.types["k"], found.types["z"]} == {FLOAT16}
    assert len(found.casts) == 2
    assert sqnr(run_ort(model, {"x": IMAGE}), found.run({"x": IMAGE})) > 50


def test_names_that_are_taken() -> None:
    model = parse(f"g (float[1,4,8,8] x) => (float[] y) {{ c = {CONV}(x, w) e = Exp(c)"
                  f" d = {CONV}(e, w) y = Relu(d) }}", W)  # fmt: skip
    found = convert(renamed(model, {"c": "x.float16", "d": "x.float16.1"}))
    assert found.casts[0] == ("x", "x.float16.2")


def test_rounding_is_visible() -> None:
    """ONNX Runtime alone would compute 300 * 300 in float32 and say that it fits float16."""
    model = parse("g (float16[1] x) => (float16[] y) { a = Mul(x, x) y = Sqrt(a) }")
    feed = {"x": np.array([300], np.float16)}
    assert np.isinf(run_ort(rounding_model(model), feed)[0])


def test_large_constants_can_be_kept_on_disk() -> None:
    weights = RANDOM.normal(size=(256, 4, 9, 9)).astype(F)
    model = load(parse("g (float[1,4,9,9] x) => (float[] y) { y = Conv(x, w) }", {"w": weights}))
    infer_shapes(model.model)
    with SpillStore() as store:
        convert_to_float16(model.model, store=store)
        tensor = model.model.graph.initializers["w"].const_value
        assert isinstance(tensor, ir.ExternalTensor)
        assert np.array_equal(tensor.numpy(), weights.astype(np.float16))
        after = to_proto(model.model)
    assert constants(after)["w"].dtype == np.float16
