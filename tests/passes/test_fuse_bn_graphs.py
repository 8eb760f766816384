"""fuse_bn in awkward surroundings: sharing, bodies, names, types, extreme numbers."""

import ml_dtypes
import numpy as np
import pytest
from onnx import numpy_helper

from tests.toolkit import (
    BN,
    batch_norm,
    drawn_feeds,
    folds,
    integers,
    parse,
    powers,
    renamed,
    run,
    run_ort,
    unchanged,
)

PASS = "fuse_bn"


def test_two_batch_norms_on_one_weight() -> None:
    model = parse(
        f"g (float[N,4,H,W] x, float[N,4,H,W] z) => (float[] y, float[] t)"
        f" {{ a = Conv(x, w) y = {BN}(a, g, b, m, v) c = Conv(z, w) t = {BN}(c, qg, qb, qm, qv) }}",
        {"w": integers("w", 6, 4, 3, 3), **batch_norm(6), **batch_norm(6, "q")},
    )
    result = folds(model, PASS, ops={"Conv": 2})
    names = [each.name for each in result.after.graph.initializer]
    assert len(set(names)) == len(names)
    assert "w" not in names


def test_one_weight_of_which_one_reader_is_folded() -> None:
    model = parse(
        f"g (float[N,4,H,W] x) => (float[] y, float[] t)"
        f" {{ a = Conv(x, w) y = {BN}(a, g, b, m, v) t = Conv<pads=[1,1,1,1]>(x, w) }}",
        {"w": integers("w", 6, 4, 3, 3), **batch_norm(6)},
    )
    result = folds(model, PASS, ops={"Conv": 2})
    assert "w" in [each.name for each in result.after.graph.initializer]


def test_batch_norm_read_by_two_convs_goes_into_both() -> None:
    model = parse(
        f"g (float[N,4,H,W] x) => (float[] y, float[] t)"
        f" {{ q = {BN}(x, g, b, m, v) y = Conv(q, w) t = Conv<strides=[2,2]>(q, u) }}",
        {"w": integers("w", 6, 4, 3, 3), "u": integers("u", 5, 4, 1, 1), **batch_norm(4)},
    )
    folds(model, PASS, ops={"Conv": 2})


def test_what_lies_further_up_is_not_copied_for_every_reader() -> None:
    """The ReLU stays one: only the scale next to the readers goes into both of them."""
    model = parse(
        "g (float[N,4,H,W] x) => (float[] y, float[] t) { s = Mul(x, k) r = Relu(s)"
        " q = Mul(r, k) y = Conv(q, w) t = Conv<strides=[2,2]>(q, u) }",
        {"w": integers("w", 6, 4, 3, 3), "u": integers("u", 5, 4, 1, 1),
         "k": powers("k", 4, 1, 1, negative=False)},
    )  # fmt: skip
    result = run(model, PASS)
    assert result.ops["Relu"] == 1
    folds(model, PASS, ops=result.ops)


def test_concat_carries_batch_norms_into_the_conv_behind() -> None:
    """DenseNet: BN of one part, the other part raw."""
    model = parse(
        f"g (float[N,4,H,W] x, float[N,3,H,W] z) => (float[] y)"
        f" {{ q = {BN}(x, g, b, m, v) j = Concat<axis=1>(z, q) y = Conv(j, w) }}",
        {"w": integers("w", 6, 7, 3, 3), **batch_norm(4)},
    )
    folds(model, PASS, ops={"Concat": 1, "Conv": 1})


def test_inside_an_if() -> None:
    branch = f"{{ c = Conv(x, w) z = {BN}(c, g, b, m, v) }}"
    model = parse(
        f"g (float[N,4,H,W] x, bool p) => (float[] y)"
        f" {{ y = If(p) <then_branch = t () => (float[] z) {branch},"
        f" else_branch = e () => (float[] o) {{ o = Neg(x) }}> }}",
        {"w": integers("w", 4, 4, 3, 3), **batch_norm(4)},
    )
    feeds = [{"x": integers("x", 2, 4, 7, 6), "p": np.array(p)} for p in (True, False)]
    folds(model, PASS, ops={"If": 1, "Conv": 1, "Neg": 1}, feeds=feeds)


def test_captured_value_is_not_moved_into_the_body() -> None:
    body = f"{{ z = {BN}(c, g, b, m, v) }}"
    model = parse(
        f"g (float[N,4,H,W] x, bool p) => (float[] y)"
        f" {{ c = Conv(x, w) y = If(p) <then_branch = t () => (float[] z) {body},"
        f" else_branch = e () => (float[] o) {{ o = Neg(x) }}> }}",
        {"w": integers("w", 4, 4, 3, 3), **batch_norm(4)},
    )
    unchanged(model, PASS, reason="what it reads is computed outside the body of control flow")


def test_loop_body_captures_the_conv_output() -> None:
    """A capture counts as a reader: the BatchNormalization beside it stays."""
    model = parse(
        f"g (float[1,4,6,6] x, int64 n) => (float[1,6,4,4] y, float[1,4,6,6] t)"
        f" {{ c = Conv(x, w) y = {BN}(c, g, b, m, v) k = Constant<value = bool {{1}}>()"
        " t = Loop(n, k, x) <body = o (int64 i, bool a, float[] s) => (bool e, float[] u)"
        " { e = Identity(a) q = ReduceSum(c) u = Add(s, q) }> }",
        {"w": integers("w", 6, 4, 3, 3), **batch_norm(6)},
    )
    unchanged(model, PASS, reason="what it reads has another reader")


@pytest.mark.parametrize("form", ["constant", "identity", "constant_identity"])
def test_weights_that_are_no_initializers(form: str) -> None:
    text = {
        "constant": "k = Constant<value = float[1,1,1,1] {2.0}>()",
        "identity": "k = Identity(i)",
        "constant_identity": "h = Constant<value = float[1,1,1,1] {2.0}>() l = Identity(h)"
        " k = Identity(l)",
    }[form]
    model = parse(
        f"g (float[N,1,H,W] x) => (float[] y) {{ {text} c = Conv(x, k) y = {BN}(c, g, b, m, v) }}",
        {"i": integers("i", 1, 1, 1, 1), **batch_norm(1)},
    )
    result = run(model, PASS)
    assert "BatchNormalization" not in result.ops
    folds(model, PASS, ops=result.ops)
    assert result.ops == {"Conv": 1}


def test_batch_norm_of_a_constant() -> None:
    model = parse(
        f"g (float[1,4,3,3] x) => (float[] y) {{ q = {BN}(k, g, b, m, v) y = Add(x, q) }}",
        {"k": integers("k", 1, 4, 3, 3), **batch_norm(4)},
    )
    folds(model, PASS, ops={"Add": 1})


def test_conv_that_is_an_output_stays() -> None:
    model = parse(
        f"g (float[N,4,H,W] x) => (float[] c, float[] y)"
        f" {{ c = Conv(x, w) y = {BN}(c, g, b, m, v) }}",
        {"w": integers("w", 6, 4, 3, 3), **batch_norm(6)},
    )
    unchanged(model, PASS, reason="what it reads has another reader")


def test_identity_batch_norm_between_input_and_output() -> None:
    ones, zeros = np.ones(4, np.float32), np.zeros(4, np.float32)
    model = parse(f"g (float[N,4,H,W] x) => (float[N,4,H,W] y) {{ y = {BN}(x, g, b, m, v) }}",
                  {"g": ones, "b": zeros, "m": zeros, "v": ones})  # fmt: skip
    folds(model, PASS, ops={"Identity": 1})


@pytest.mark.parametrize(
    ("text", "dtype", "runtime"), [("float16", np.float16, True), ("double", np.float64, False)]
)
def test_other_types(text: str, dtype: type, runtime: bool) -> None:
    """ONNX Runtime has no Conv of doubles on the CPU."""
    weights = {"w": integers("w", 6, 4, 3, 3).astype(dtype), **batch_norm(6, dtype=dtype)}
    model = parse(
        f"g ({text}[N,4,H,W] x) => ({text}[] y) {{ c = Conv(x, w) y = {BN}(c, g, b, m, v) }}",
        weights,
    )
    folds(model, PASS, ops={"Conv": 1}, runtime=runtime)


def test_bfloat16() -> None:
    """No engine here runs it; the numbers are judged against the exact ones."""
    wide = {"w": integers("w", 6, 4, 1, 1), **batch_norm(6)}
    model = parse(
        f"g (bfloat16[N,4,H,W] x) => (bfloat16[] y) {{ c = Conv(x, w) y = {BN}(c, g, b, m, v) }}",
        {name: array.astype(ml_dtypes.bfloat16) for name, array in wide.items()},
        opset=22,
    )
    result = run(model, PASS)
    assert result.ops == {"Conv": 1}
    scale = wide["g"] / np.sqrt(wide["v"])
    held = {each.name: numpy_helper.to_array(each) for each in result.after.graph.initializer}
    expected = (wide["w"] * scale[:, None, None, None]).astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(held["w.folded"].astype(np.float32), expected.astype(np.float32))


def test_double_gemm() -> None:
    model = parse(
        f"g (double[N,4] x) => (double[] y) {{ c = Gemm(x, w) y = {BN}(c, g, b, m, v) }}",
        {"w": integers("w", 4, 6).astype(np.float64), **batch_norm(6, dtype=np.float64)},
    )
    folds(model, PASS, ops={"Gemm": 1})


def test_float16_conv_with_float32_parameters() -> None:
    """M8: legal since operator set 15; the folded weights are float16."""
    weights = {"w": integers("w", 6, 4, 3, 3).astype(np.float16), **batch_norm(6)}
    model = parse(
        f"g (float16[N,4,H,W] x) => (float16[N,6,a,b] y)"
        f" {{ c = Conv(x, w) y = {BN}(c, g, b, m, v) }}",
        weights,
    )
    result = run(model, PASS)
    assert result.ops == {"Conv": 1}
    assert {each.data_type for each in result.after.graph.initializer} == {10}


def test_epsilon_that_float16_rounds_to_zero() -> None:
    """M9: var = 0 and epsilon = 1e-8, finite because the fold is computed in float64."""
    half = {name: array.astype(np.float16) for name, array in batch_norm(2).items()}
    half["v"][:] = 0
    half["m"][:] = 0
    half["g"][:] = 2.0**-4
    model = parse(
        "g (float16[1,2,4,4] x) => (float16[] y) { c = Conv(x, w)"
        " y = BatchNormalization<epsilon: float = 0.00000001>(c, g, b, m, v) }",
        {"w": integers("w", 2, 2, 1, 1).astype(np.float16), **half},
    )
    result = run(model, PASS)
    assert result.ops == {"Conv": 1}
    for each in result.after.graph.initializer:
        values = np.frombuffer(each.raw_data, np.float16)
        assert np.isfinite(values).all()
        assert values.any()


def test_names_with_our_own_suffixes() -> None:
    model = parse(
        f"g (float[N,4,H,W] x) => (float[] y) {{ c = Conv(x, w) d = Conv(c, u)"
        f" e = {BN}(c, g, b, m, v) f = {BN}(d, g, b, m, v) y = Add(f, e) }}",
        {"w": integers("w", 6, 4, 3, 3), "u": integers("u", 6, 6, 1, 1), **batch_norm(6)},
    )
    model.graph.node[0].name = model.graph.node[1].name = "same"
    model.graph.node[2].name = "same.1"
    names = {"w": "w.folded.1", "u": "w.folded", "g": "w.folded.2", "b": "w", "f": "y.folded"}
    run(renamed(model, names), PASS)


def test_fresh_names_do_not_collide() -> None:
    model = parse(
        f"g (float[N,4,H,W] x) => (float[] y)"
        f" {{ c = Conv(x, w) d = {BN}(c, g, b, m, v) y = Conv(d, u) }}",
        {"w": integers("w", 6, 4, 3, 3), "u": integers("u", 6, 6, 1, 1), **batch_norm(6)},
    )
    folds(renamed(model, {"u": "w.folded"}), PASS, ops={"Conv": 2})


def test_unnamed_and_doubly_named_nodes() -> None:
    model = parse(
        f"g (float[N,4,H,W] x) => (float[] y) {{ c = Conv(x, w) d = {BN}(c, g, b, m, v)"
        f" e = Conv(d, u) y = {BN}(e, g, b, m, v) }}",
        {"w": integers("w", 6, 4, 3, 3), "u": integers("u", 6, 6, 1, 1), **batch_norm(6)},
    )
    folds(model, PASS, ops={"Conv": 2})
    for node in model.graph.node:
        node.name = "twin"
    assert run(model, PASS).ops == {"Conv": 2}


def test_inside_a_loop() -> None:
    body = f"c = Conv<pads=[1,1,1,1]>(s, w) z = {BN}(c, g, b, m, v) u = Identity(z)"
    model = parse(
        "g (float[1,2,4,4] x, int64 n) => (float[1,2,4,4] y) {"
        " k = Constant<value = bool {1}>() y = Loop(n, k, x)"
        " <body = o (int64 i, bool a, float[1,2,4,4] s) => (bool e, float[1,2,4,4] u)"
        f" {{ e = Identity(a) {body} }}> }}",
        {"w": integers("w", 2, 2, 3, 3, largest=1), **batch_norm(2)},
    )
    feeds = [{"x": integers("x", 1, 2, 4, 4), "n": np.array(2)}]
    result = run(model, PASS)
    assert "BatchNormalization" not in result.ops
    folds(model, PASS, ops=result.ops, feeds=feeds)


def test_a_batch_norm_before_a_loop_goes_into_the_conv_of_its_body() -> None:
    model = parse(
        f"g (float[1,2,4,4] x, int64 n) => (float[1,2,4,4] y) {{ q = {BN}(x, g, b, m, v)"
        " k = Constant<value = bool {1}>() y = Loop(n, k, x)"
        " <body = o (int64 i, bool a, float[1,2,4,4] s) => (bool e, float[1,2,4,4] u)"
        " { e = Identity(a) c = Conv(q, w) u = Add(s, c) }> }",
        {"w": integers("w", 2, 2, 1, 1), **batch_norm(2)},
    )
    feeds = [{"x": integers("x", 1, 2, 4, 4), "n": np.array(2)}]
    result = run(model, PASS)
    assert "BatchNormalization" not in result.ops
    folds(model, PASS, ops=result.ops, feeds=feeds)


@pytest.mark.parametrize(
    ("outside", "kept"),
    [
        ("m = Mul(x, f) q = Relu(m)", {"Mul": 1, "Relu": 1}),
        (f"m = Mul(x, f) r = Relu(m) q = {BN}(r, g, b, m0, v)", {"Mul": 0, "Relu": 1}),
    ],
)
def test_an_activation_before_a_loop_is_not_moved_into_it(
    outside: str, kept: dict[str, int]
) -> None:
    params = batch_norm(2)
    params["m0"] = params.pop("m")
    model = parse(
        f"g (float[1,2,4,4] x, int64 n) => (float[1,2,4,4] y) {{ {outside}"
        " k = Constant<value = bool {1}>() y = Loop(n, k, x)"
        " <body = o (int64 i, bool a, float[1,2,4,4] s) => (bool e, float[1,2,4,4] u)"
        " { e = Identity(a) c = Conv(q, w) u = Add(s, c) }> }",
        {"w": integers("w", 2, 2, 1, 1), "f": np.full((2, 1, 1), 2, np.float32), **params},
    )
    result = run(model, PASS)
    outer = [node.op_type for node in result.after.graph.node]
    assert {op: outer.count(op) for op in ("Mul", "Relu")} == kept
    assert "BatchNormalization" not in outer
    feeds = [{"x": integers("x", 1, 2, 4, 4), "n": np.array(2)}]
    folds(model, PASS, ops=result.ops, feeds=feeds)


def test_subnormal_weights_beside_large_ones_are_no_refusal() -> None:
    weight = np.full((2, 4, 1, 1), 1e-6, np.float16)
    weight[:, 0] = 1.0
    half = {name: array.astype(np.float16) for name, array in batch_norm(2).items()}
    model = parse(
        f"g (float16[N,4,H,W] x) => (float16[] y) {{ c = Conv(x, w) y = {BN}(c, g, b, m, v) }}",
        {"w": weight, **half},
    )
    assert run(model, PASS).ops == {"Conv": 1}


@pytest.mark.parametrize("number", [np.inf, -np.inf, np.nan, 1e-40])
@pytest.mark.parametrize("operation", ["Mul", "Add", "Sub", "Div"])
@pytest.mark.parametrize("place", ["after", "before"])
def test_extreme_constants_neither_raise_nor_change_anything(
    number: float, operation: str, place: str
) -> None:
    body = f"c = Conv(x, w) y = {operation}(c, k)"
    if place == "before":
        body = f"c = {operation}(x, k) y = Conv(c, w)"
    model = parse(
        f"g (float[N,4,H,W] x) => (float[] y) {{ {body} }}",
        {"w": integers("w", 6, 4, 3, 3), "k": np.array(number, np.float32)},
    )
    result = run(model, PASS)
    for feed in drawn_feeds(model):
        old, new = run_ort(model, feed)[0], run_ort(result.after, feed)[0]
        np.testing.assert_array_equal(np.isfinite(new), np.isfinite(old))
