"""What fold_constants computes, and what it must not."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxfold.model import load
from onnxfold.passes.fold_constants import PASS, FoldConstantsOptions
from onnxfold.pipeline.manager import PassManager
from onnxfold.pipeline.passes import ConfiguredPass
from tests.toolkit import Weights, folds, integers, parse, run, run_ort, unchanged

NAME = "fold_constants"


def test_weights_computed_in_the_graph() -> None:
    model = parse(
        "g (float[N,4,H,W] x) => (float[] y) { a = Transpose<perm=[3,2,0,1]>(k)"
        " c = Mul(a, s) w = Cast<to=1>(c) y = Conv(x, w) }",
        {"k": integers("k", 3, 3, 4, 6).transpose(1, 0, 2, 3).astype(np.float64).copy(),
         "s": np.array(2.0)},
    )  # fmt: skip
    model.graph.node[0].attribute[0].ints[:] = [3, 2, 0, 1]
    folds(model, NAME, ops={"Conv": 1})


def test_shapes_of_static_axes_beside_dynamic_ones() -> None:
    model = parse(
        "g (float[N,4,8,6] x) => (float[] y) { s = Shape(x) c = Slice(s, j, k) q = Gather(s, two)"
        " e = Mul(q, two) f = Unsqueeze(e, z) o = Concat<axis=0>(m, c, f) y = Reshape(x, o) }",
        {"j": np.array([1]), "k": np.array([2]), "z": np.array([0]), "two": np.array(2),
         "m": np.array([-1])},
    )  # fmt: skip
    folds(model, NAME, ops={"Reshape": 1})


def test_a_folded_reshape_makes_further_shapes_known() -> None:
    model = parse(
        "g (float[2,4,8,6] x) => (float[] y) { s = Shape(x) h = Slice(s, i, j) t = Concat<axis=0>"
        "(h, m) r = Reshape(x, t) q = Shape(r) k = Slice(q, j, e) f = Cast<to=1>(k)"
        " y = Mul(r, f) }",
        {"i": np.array([0]), "j": np.array([2]), "e": np.array([9]), "m": np.array([-1])},
    )
    folds(model, NAME, ops={"Reshape": 1, "Mul": 1})


OPEN = {"i": np.array([0]), "j": np.array([1]), "k": np.array([2]), "m": np.array([-1]),
        "c": np.array([2, 2, 8, 6])}  # fmt: skip


@pytest.mark.parametrize(("body", "inputs", "shape"), [
    ("s = Shape(x) b = Slice(s, i, j) t = Concat<axis=0>(b, c) y = Reshape(x, t)",
     "float[N,4,8,6] x", [0, 2, 2, 8, 6]),
    ("s = Shape(x) b = Slice(s, i, k) t = Concat<axis=0>(b, m) y = Reshape(x, t)",
     "float[N,4,H,W] x", [0, 4, -1]),
    ("s = Shape(x) b = Slice(s, j, k) t = Concat<axis=0>(b, c) y = Reshape(x, t)",
     "float[4,N,8,6] x", [-1, 2, 2, 8, 6]),
    ("s = Shape(x) b = Slice(s, i, j) d = Add(b, j) e = Sub(d, j) t = Concat<axis=0>(e, c)"
     " y = Reshape(x, t)", "float[N,4,8,6] x", [-1, 2, 2, 8, 6]),
    ("s = Shape(x) b = Slice(s, i, j) f = Shape(z) g = Slice(f, i, j) t = Concat<axis=0>(g, b, m)"
     " y = Reshape(x, t)", "float[N,4,8,6] x, float[M] z", None),
    ("s = Shape(x) b = Slice(s, i, j) t = Concat<axis=0>(b, c) y = Reshape<allowzero=1>(x, t)",
     "float[N,4,8,6] x", [0, 2, 2, 8, 6]),
])  # fmt: skip
def test_a_reshape_that_copies_its_open_extent(
    body: str, inputs: str, shape: list[int] | None
) -> None:
    model = parse(f"g ({inputs}) => (float[] y) {{ {body} }}", OPEN)
    if shape is None:
        assert "Shape" in unchanged(model, NAME).ops
        return
    result = folds(model, NAME, ops={"Reshape": 1}).after
    constants = {each.name: numpy_helper.to_array(each) for each in result.graph.initializer}
    assert constants[result.graph.node[0].input[1]].tolist() == shape


def test_extents_of_one_name_are_equal() -> None:
    model = parse(
        "g (float[N,4] x, float[N] z) => (float[] y) { s = Shape(z) t = Concat<axis=0>(s, m)"
        " y = Reshape(x, t) }",
        {"m": np.array([-1])},
    )
    folds(model, NAME, ops={"Reshape": 1})


def test_one_name_for_every_open_extent_does_not_make_them_equal() -> None:
    """Many tools write "?" for whatever is open; this Reshape swaps height and width."""
    body = "s = Shape(x) t = Gather(s, i) r = Relu(x) q = Reshape(r, t) y = Relu(q)"
    swapped = {"i": np.array([0, 1, 3, 2])}
    model = parse(f"g (float[d,3,d,d] x) => (float[a,b,c,e] y) {{ {body} }}", swapped)
    unchanged(model, NAME)
    result = run(model)
    (y,) = run_ort(result.after, {"x": integers("x", 1, 3, 4, 6)})
    assert y.shape == (1, 3, 6, 4)


def test_out_of_date_value_info_is_not_believed() -> None:
    """Somebody opened the batch axis of a model and left the interior shapes as they were."""
    model = parse(
        "g (float[N,4,8,6] x) => (float[A,B] y) <float[1,4,8,6] r>"
        " { r = Relu(x) s = Shape(r) b = Slice(s, i, j) t = Concat<axis=0>(b, m)"
        " y = Reshape(r, t) }",
        {"i": np.array([0]), "j": np.array([1]), "m": np.array([-1])},
    )
    result = folds(model, NAME, ops={"Relu": 1, "Reshape": 1}).after
    assert [numpy_helper.to_array(each).tolist() for each in result.graph.initializer] == [[0, -1]]


def test_resized_input_makes_static_value_info_out_of_date() -> None:
    model = parse(
        "g (float[1,4,16,6] x) => (float[A,B] y) <float[1,4,8,6] r>"
        " { r = Relu(x) s = Shape(r) b = Slice(s, i, j) t = Concat<axis=0>(m, b)"
        " y = Reshape(r, t) }",
        {"i": np.array([2]), "j": np.array([3]), "m": np.array([-1])},
    )
    folds(model, NAME, ops={"Relu": 1, "Reshape": 1})


@pytest.mark.parametrize(
    ("body", "weights"),
    [
        ("e = ConstantOfShape(s) y = Add(x, e)", {"s": np.array([1000, 1000])}),
        ("e = Expand(k, s) y = Add(x, e)", {"s": np.array([1000, 1000])}),
        ("e = Tile(k, s) y = Add(x, e)", {"s": np.array([1000000])}),
        ("e = Range(a, b, c) f = Cast<to=1>(e) y = Add(x, f)",
         {"a": np.array(0), "b": np.array(10**6), "c": np.array(1)}),
    ],
)  # fmt: skip
def test_blow_ups_are_not_folded(body: str, weights: dict[str, np.ndarray]) -> None:
    model = parse(f"g (float[1] x) => (float[] y) {{ {body} }}",
                  {**weights, "k": np.ones(1, np.float32)})  # fmt: skip
    result = run(model, NAME)
    assert sum(each.ByteSize() for each in result.after.graph.initializer) < 2**20


def test_the_cap_is_an_option() -> None:
    model = parse(
        "g (float[1] x) => (float[] y) { e = Expand(k, s) y = Add(x, e) }",
        {"k": np.ones(1, np.float32), "s": np.array([100])},
    )
    for cap, count in ((399, 2), (400, 1)):
        step = ConfiguredPass(PASS, FoldConstantsOptions(max_bytes=cap))
        assert PassManager([step]).run(load(model).model).model.graph.num_nodes() == count


QUANTIZED: Weights = {
             "q": integers("q", 6, 4, 1, 1).astype(np.int8), "s": np.array(0.5, np.float32),
             "f": integers("f", 6, 4, 1, 1), "z": np.array(0, np.int8)}  # fmt: skip


def test_quantized_constants_stay() -> None:
    body = "w = DequantizeLinear(q, s) a = Conv(x, w)"
    body += " r = QuantizeLinear(f, s, z) t = DequantizeLinear(r, s, z) y = Conv(x, t) u = Neg(a)"
    model = parse(f"g (float[N,4,H,W] x) => (float[] y, float[] u) {{ {body} }}", QUANTIZED)
    unchanged(model, NAME)


@pytest.mark.parametrize("body", [
    "r = RandomNormal<shape=[3]>() y = Add(x, r)",
    "r = RandomUniformLike(k) y = Add(x, r)",
    "r = Bernoulli(k) y = Add(x, r)",
    "r = Dropout(k, half, yes) y = Add(x, r)",
    "r = RandomNormal<shape=[3]>() s = Neg(r) y = Add(x, s)",
])  # fmt: skip
def test_random_numbers_stay_random(body: str) -> None:
    model = parse(
        f"g (float[3] x) => (float[] y) {{ {body} }}",
        {"k": np.ones(3, np.float32), "half": np.array(0.5, np.float32), "yes": np.array(True)},
    )
    unchanged(model, NAME)


def test_integer_overflow_wraps_as_in_the_runtime() -> None:
    model = parse(
        "g (int64[3] x) => (int64[] y) { s = Shape(x) a = Mul(s, k) b = Mul(a, k) y = Add(x, b) }",
        {"k": np.array([2**62])},
    )
    folds(model, NAME, ops=run(model, NAME).ops)


def test_integer_division_truncates() -> None:
    model = parse(
        "g (int64[7] x) => (int64[] y) { s = Shape(x) a = Mul(s, k) b = Div(a, d) y = Add(x, b) }",
        {"k": np.array([-1]), "d": np.array([2])},
    )
    folds(model, NAME, ops={"Add": 1})


def test_unsqueeze_of_a_scalar_by_two_axes() -> None:
    model = parse(
        "g (float[5,3] x) => (float[] y) { s = Size(x) u = Unsqueeze(s, a) c = Cast<to=1>(u)"
        " y = Mul(x, c) }",
        {"a": np.array([0, 1])},
    )
    folds(model, NAME, ops={"Mul": 1})
    (held,) = [each for each in run(model, NAME).after.graph.initializer if each.data_type == 1]
    assert list(held.dims) == [1, 1]


def test_a_computed_output_keeps_its_name() -> None:
    model = parse("g (float[3] x) => (float[] y, float[3] t) { y = Neg(k) t = Relu(x) }",
                  {"k": np.ones(3, np.float32)})  # fmt: skip
    folds(model, NAME, ops={"Identity": 1, "Relu": 1})


@pytest.mark.parametrize("to", [
    onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT16, onnx.TensorProto.BOOL,
    onnx.TensorProto.STRING, onnx.TensorProto.FLOAT8E4M3FN, onnx.TensorProto.INT4,
    onnx.TensorProto.UINT64,
])  # fmt: skip
def test_types_that_numpy_lacks_do_no_harm(to: int) -> None:
    model = parse(f"g (float[1] x) => (float[1] y, float[] u) {{ c = Cast<to={to}>(k)"
                  " u = Cast<to=1>(c) y = Relu(x) }", {"k": np.ones(3, np.float32)},
                  opset=21)  # fmt: skip
    result = run(model, NAME)
    for each in result.after.graph.initializer:
        if each.data_type == 1:
            np.testing.assert_array_equal(numpy_helper.to_array(each), np.ones(3, np.float32))


def test_overridable_weights_are_no_constants() -> None:
    model = parse("g (float[3] x, float[3] k) => (float[] y) { a = Neg(k) y = Add(x, a) }",
                  {"k": np.ones(3, np.float32)})  # fmt: skip
    unchanged(model, NAME)
    unchanged(model)


def test_inside_bodies_and_around_them() -> None:
    model = parse(
        "g (float[3] x, bool f) => (float[3] y) { a = Neg(k)"
        " y = If(f) <then_branch = t () => (float[3] z) { b = Neg(a) z = Add(x, b) },"
        " else_branch = e () => (float[3] o) { c = Exp(a) d = Shape(x) h = Cast<to=1>(d)"
        " i = Mul(c, h) o = Add(x, i) }> }",
        {"k": np.zeros(3, np.float32)},
    )
    feeds = [{"x": integers("x", 3), "f": np.array(f)} for f in (True, False)]
    folds(model, NAME, ops={"If": 1, "Add": 2}, feeds=feeds)


def test_an_if_on_a_constant_is_left_alone() -> None:
    model = parse(
        "g (float[3] x) => (float[3] y)"
        " { y = If(f) <then_branch = t () => (float[3] z) { z = Neg(x) },"
        " else_branch = e () => (float[3] o) { o = Relu(x) }> }",
        {"f": np.array(True)},
    )
    unchanged(model, NAME)


def test_sequences_of_constants() -> None:
    model = parse(
        "g (float[3] x) => (float[] y) { s = SequenceConstruct(k, k) a = SequenceAt(s, i)"
        " y = Add(x, a) }",
        {"k": np.ones(3, np.float32), "i": np.array(0)},
    )
    run(model, NAME)


def test_zero_sized_constants() -> None:
    model = parse(
        "g (float[N,3] x) => (float[] y) { e = Neg(k) y = Concat<axis=0>(x, e) }",
        {"k": np.zeros((0, 3), np.float32)},
    )
    folds(model, NAME, ops={"Concat": 1})
