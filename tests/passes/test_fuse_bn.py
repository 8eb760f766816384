"""What fuse_bn folds next to its host, and that it computes the same to the bit."""

import numpy as np
import pytest
from onnx import numpy_helper

from tests.toolkit import (
    BN,
    batch_norm,
    folds,
    integers,
    parse,
    powers,
    run,
    unchanged,
)

PASS = "fuse_bn"


def conv_weights(*shape: int, bias: bool = True) -> dict[str, np.ndarray]:
    weights = {"w": integers("w", *shape)}
    return {**weights, "d": integers("d", shape[0])} if bias else weights


CONVS = {
    "plain": ("Conv(x, w, d)", (8, 4, 3, 3)),
    "no_bias": ("Conv(x, w)", (8, 4, 3, 3)),
    "empty_bias": ('Conv(x, w, "")', (8, 4, 3, 3)),
    "strided": ("Conv<strides=[2,1], pads=[1,0,0,2], dilations=[1,2]>(x, w, d)", (6, 4, 3, 2)),
    "grouped": ("Conv<group=2, pads=[1,1,1,1]>(x, w, d)", (6, 2, 3, 3)),
    "depthwise": ("Conv<group=4, kernel_shape=[3,3]>(x, w, d)", (4, 1, 3, 3)),
    "same": ('Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, w, d)', (8, 4, 3, 3)),
    "same_lower": ('Conv<auto_pad="SAME_LOWER", strides=[2,2]>(x, w, d)', (8, 4, 4, 4)),
    "valid": ('Conv<auto_pad="VALID">(x, w, d)', (8, 4, 3, 3)),
    "one_channel_out": ("Conv(x, w, d)", (1, 4, 1, 1)),
}


@pytest.mark.parametrize("form", CONVS)
def test_conv_then_batch_norm(form: str) -> None:
    conv, shape = CONVS[form]
    conv = conv.replace('""', "")
    model = parse(
        f"g (float[N,4,H,W] x) => (float[] y) {{ c = {conv} y = {BN}(c, g, b, m, v) }}",
        {**conv_weights(*shape), **batch_norm(shape[0])},
    )
    if form == "empty_bias":
        model.graph.node[0].input[2:] = [""]
    folds(model, PASS, ops={"Conv": 1})


@pytest.mark.parametrize("rank", [1, 3])
def test_conv_of_other_ranks(rank: int) -> None:
    extents = ",".join(["7"] * rank)
    model = parse(
        f"g (float[N,4,{extents}] x) => (float[] y)"
        f" {{ c = Conv(x, w, d) y = {BN}(c, g, b, m, v) }}",
        {**conv_weights(6, 4, *(3,) * rank), **batch_norm(6)},
    )
    folds(model, PASS, ops={"Conv": 1})


TRANSPOSED = {
    "plain": ("", (4, 6, 3, 3), 6),
    "grouped": ("<group=2, strides=[2,2], output_padding=[1,1]>", (4, 3, 3, 3), 6),
    "depthwise": ("<group=4, strides=[2,2], pads=[1,1,1,1]>", (4, 1, 4, 4), 4),
    "dilated": ("<group=2, dilations=[2,2], pads=[1,0,0,1]>", (4, 1, 3, 3), 2),
    "output_shape": ("<group=2, strides=[2,2], output_shape=[15,13]>", (4, 2, 3, 3), 4),
    "same": ('<auto_pad="SAME_UPPER", strides=[2,2]>', (4, 5, 3, 3), 5),
}


@pytest.mark.parametrize("form", TRANSPOSED)
def test_conv_transpose_then_batch_norm(form: str) -> None:
    attributes, shape, channels = TRANSPOSED[form]
    model = parse(
        f"g (float[N,4,7,6] x) => (float[] y)"
        f" {{ c = ConvTranspose{attributes}(x, w, d) y = {BN}(c, g, b, m, v) }}",
        {"w": integers("w", *shape), "d": integers("d", channels), **batch_norm(channels)},
    )
    folds(model, PASS, ops={"ConvTranspose": 1}, reference=form == "plain")


GEMM_BIASES = {"none": None, "vector": (5,), "row": (1, 5), "matrix": (3, 5), "column": (3, 1),
               "scalar": (), "one": (1,)}  # fmt: skip


@pytest.mark.parametrize("bias", GEMM_BIASES)
@pytest.mark.parametrize("attributes", ["", "alpha=0.5, beta=2.0, transB=1", "transA=1, beta=0.5"])
def test_gemm_then_batch_norm(bias: str, attributes: str) -> None:
    shape = GEMM_BIASES[bias]
    weights = {"w": integers("w", *((5, 4) if "transB" in attributes else (4, 5)))}
    if shape is not None:
        weights["d"] = integers("d", *shape)
    rows = "4,3" if "transA" in attributes else "3,4"
    model = parse(
        f"g (float[{rows}] x) => (float[] y) {{ c = Gemm<{attributes}>"
        f"(x, w{'' if shape is None else ', d'}) y = {BN}(c, g, b, m, v) }}".replace("<>", ""),
        {**weights, **batch_norm(5)},
    )
    folds(model, PASS, ops={"Gemm": 1})


def test_matmul_then_batch_norm_gains_an_add() -> None:
    model = parse(
        f"g (float[N,4] x) => (float[N,5] y) {{ c = MatMul(x, w) y = {BN}(c, g, b, m, v) }}",
        {"w": integers("w", 4, 5), **batch_norm(5)},
    )
    folds(model, PASS, ops={"MatMul": 1, "Add": 1})


def test_matmul_with_bias_then_batch_norm() -> None:
    model = parse(
        f"g (float[N,4] x) => (float[] y)"
        f" {{ c = MatMul(x, w) d = Add(k, c) y = {BN}(d, g, b, m, v) }}",
        {"w": integers("w", 4, 5), "k": integers("k", 5), **batch_norm(5)},
    )
    folds(model, PASS, ops={"MatMul": 1, "Add": 1})


@pytest.mark.parametrize(
    ("middle", "channels"),
    [
        ("t = Transpose<perm=[0,2,1]>(c)", 5),
        ("t = Reshape(c, to)", 5),
        ("q = Transpose<perm=[0,2,1]>(c) t = Unsqueeze(q, axis)", 5),
        ("q = Unsqueeze(c, axis) t = Transpose<perm=[0,3,1,2]>(q)", 5),
    ],
)
def test_matmul_rearranged_then_batch_norm(middle: str, channels: int) -> None:
    model = parse(
        f"g (float[2,3,4] x) => (float[] y)"
        f" {{ c = MatMul(x, w) {middle} y = {BN}(t, g, b, m, v) }}",
        {
            "w": integers("w", 4, 5),
            "to": np.array([6, 5], np.int64),
            "axis": np.array([3 if "q = T" in middle else 1], np.int64),
            **batch_norm(channels),
        },
    )
    result = run(model, PASS)
    assert "BatchNormalization" not in result.ops, result.reasons
    folds(model, PASS, ops=result.ops)


SHAPES = {"scalar": (), "one": (1,), "ones": (1, 1, 1, 1), "channels": (6, 1, 1),
          "batch_of_one": (1, 6, 1, 1)}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("operation", ["Mul(c, k)", "Mul(k, c)", "Add(c, k)", "Add(k, c)",
                                       "Sub(c, k)", "Sub(k, c)", "Div(c, k)"])  # fmt: skip
@pytest.mark.parametrize("group", [1, 2])
def test_conv_then_constant(shape: str, operation: str, group: int) -> None:
    model = parse(
        f"g (float[N,4,H,W] x) => (float[N,6,a,b] y)"
        f" {{ c = Conv<group={group}>(x, w, d) y = {operation} }}",
        {**conv_weights(6, 4 // group, 3, 3), "k": powers("k", *SHAPES[shape])},
    )
    folds(model, PASS, ops={"Conv": 1}, reference=group == 1)


@pytest.mark.parametrize(("apart", "stays"), [(1e-7, False), (1e-5, True)])
def test_a_shift_that_takes_the_bias_back_leaves_none(apart: float, stays: bool) -> None:
    """Rounding is taken for nothing, so that a kernel behind the border may be folded too."""
    weights = conv_weights(6, 4, 1, 1)
    weights["d"] = np.linspace(0.5, 1.0, 6, dtype=np.float32)
    model = parse(
        "g (float[N,4,H,W] x) => (float[N,6,H,W] y) { c = Conv(x, w, d) y = Sub(c, k) }",
        {**weights, "k": (weights["d"] * (1 + np.float32(apart))).reshape(6, 1, 1)},
    )
    result = run(model, PASS)
    assert result.ops == {"Conv": 1}
    left = {each.name: numpy_helper.to_array(each) for each in result.after.graph.initializer}
    assert left[result.after.graph.node[0].input[2]].any() == stays


def test_conv_then_negation() -> None:
    model = parse("g (float[N,4,H,W] x) => (float[] y) { c = Conv(x, w, d) y = Neg(c) }",
                  conv_weights(6, 4, 3, 3))  # fmt: skip
    folds(model, PASS, ops={"Conv": 1})


def test_grouped_conv_transpose_then_constant() -> None:
    """M4: the scale index is group-major along the second axis of the weight."""
    model = parse(
        "g (float[N,4,H,W] x) => (float[] y) { c = ConvTranspose<group=2>(x, w) y = Mul(c, k) }",
        {"w": integers("w", 4, 3, 2, 2), "k": powers("k", 6, 1, 1)},
    )
    folds(model, PASS, ops={"ConvTranspose": 1}, reference=False)


@pytest.mark.parametrize("shape", [(5,), (5, 1), (1, 1, 5), (1, 5, 5), (2, 1, 1, 1), (1, 5, 1, 5)])
def test_constant_that_is_not_per_channel_stays(shape: tuple[int, ...]) -> None:
    """M4: C = H = W = 5, and ONNX aligns shapes at the right."""
    model = parse(
        "g (float[2,4,7,7] x) => (float[] y) { c = Conv(x, w) y = Mul(c, k) }",
        {"w": integers("w", 5, 4, 3, 3), "k": powers("k", *shape)},
    )
    unchanged(model, PASS)


BEFORE = {
    "plain": ("Conv(q, w, d)", (6, 4, 3, 3)),
    "grouped": ("Conv<group=2, strides=[2,1], dilations=[1,2]>(q, w, d)", (6, 2, 3, 3)),
    "depthwise": ("Conv<group=4>(q, w)", (8, 1, 3, 3)),
    "pointwise_strided": ("Conv<strides=[2,2]>(q, w, d)", (6, 4, 1, 1)),
    "pointwise_transposed": ("ConvTranspose(q, w)", (4, 6, 1, 1)),
}


@pytest.mark.parametrize("form", BEFORE)
def test_batch_norm_before_conv(form: str) -> None:
    conv, shape = BEFORE[form]
    model = parse(
        f"g (float[N,4,H,W] x) => (float[] y) {{ q = {BN}(x, g, b, m, v) y = {conv} }}",
        {**conv_weights(*shape), **batch_norm(4)},
    )
    folds(model, PASS, ops={conv.split("(")[0].split("<")[0]: 1}, reference="group" not in conv)


@pytest.mark.parametrize("conv", ["Conv<pads=[1,1,1,1], group=2>", 'Conv<auto_pad="SAME_UPPER">',
                                  "ConvTranspose<strides=[2,2]>"])  # fmt: skip
def test_scale_before_padded_conv(conv: str) -> None:
    shape = (6, 2, 3, 3) if "group" in conv else (4, 4, 3, 3)
    weights = {"w": integers("w", *shape), "k": powers("k", 4, 1, 1)}
    model = parse(f"g (float[N,4,H,W] x) => (float[] y) {{ q = Mul(k, x) y = {conv}(q, w) }}",
                  weights)  # fmt: skip
    folds(model, PASS, ops={conv.split("<")[0]: 1}, reference=False)


def test_zero_channel_keeps_the_kernel_shape() -> None:
    """Pruned networks: the taps that become zero stay, so do kernel and pads."""
    weights = {"w": integers("w", 6, 4, 3, 3), "k": np.zeros((4, 1, 1), np.float32)}
    model = parse(
        "g (float[N,4,H,W] x) => (float[N,6,H,W] y)"
        " { q = Mul(x, k) y = Conv<pads=[1,1,1,1]>(q, w) }",
        weights,
    )
    result = folds(model, PASS, ops={"Conv": 1})
    assert list(result.after.graph.initializer[0].dims) == [6, 4, 3, 3]


@pytest.mark.parametrize("opset", [9, 13, 14, 15, 18])
def test_operator_sets(opset: int) -> None:
    model = parse(
        f"g (float[N,4,H,W] x) => (float[] y) {{ c = Conv(x, w) y = {BN}(c, g, b, m, v) }}",
        {"w": integers("w", 6, 4, 3, 3), **batch_norm(6)},
        opset=opset,
    )
    folds(model, PASS, ops={"Conv": 1}, reference=opset >= 14)


def test_batch_norm_then_batch_norm() -> None:
    model = parse(
        f"g (float[N,4,H,W] x) => (float[N,4,H,W] y)"
        f" {{ a = {BN}(x, g, b, m, v) y = {BN}(a, qg, qb, qm, qv) }}",
        {**batch_norm(4), **batch_norm(4, "q")},
    )
    folds(model, PASS, ops={"BatchNormalization": 1})


@pytest.mark.parametrize("body", [
    "a = Mul(x, k) y = {BN}(a, g, b, m, v)",
    "a = {BN}(x, g, b, m, v) y = Mul(k, a)",
    "a = {BN}(x, g, b, m, v) s = Sub(k, a) y = Div(s, k)",
    "a = Add(x, k) s = Mul(a, k) y = {BN}(s, g, b, m, v)",
])  # fmt: skip
def test_batch_norm_and_arithmetic(body: str) -> None:
    model = parse(
        f"g (float[N,4,H,W] x) => (float[N,4,H,W] y) {{ {body.replace('{BN}', BN)} }}",
        {**batch_norm(4), "k": powers("k", 4, 1, 1)},
    )
    folds(model, PASS, ops={"BatchNormalization": 1})


@pytest.mark.parametrize("body", [
    "p = Mul(x, k) q = Add(p, s) y = Conv<pads=[1,1,1,1]>(q, w)",
    "p = Sub(x, s) q = Div(p, k) y = Conv<pads=[1,1,1,1]>(q, w, d)",
    "o = Mul(x, k) p = Sub(o, s) q = Div(p, k) y = Conv<pads=[0,0,1,1], group=2>(q, u)",
    "p = Mul(x, k) q = Add(s, p) y = Conv<auto_pad=\"SAME_UPPER\">(q, w)",
])  # fmt: skip
def test_a_preprocessed_image_in_front_of_a_border(body: str) -> None:
    """Of a scale and a shift only the shift stays: the border is added behind both."""
    numbers = {"k": powers("k", 1, 4, 1, 1), "s": integers("s", 1, 4, 1, 1),
               "w": integers("w", 3, 4, 3, 3), "u": integers("u", 6, 2, 3, 3),
               "d": integers("d", 3)}  # fmt: skip
    used = {name: array for name, array in numbers.items()
            if f" {name})" in body or f" {name}," in body or f"({name}," in body}  # fmt: skip
    folds(parse(f"g (float[N,4,7,6] x) => (float[] y) {{ {body} }}", used), PASS,
          ops={"Add": 1, "Conv": 1})  # fmt: skip


def test_a_scale_of_zero_in_front_of_a_border_stays() -> None:
    body = "p = Mul(x, k) q = Add(p, s) y = Conv<pads=[1,1,1,1]>(q, w)"
    scale = powers("k", 1, 4, 1, 1)
    scale[0, 1] = 0
    weights = {"k": scale, "s": integers("s", 1, 4, 1, 1), "w": integers("w", 3, 4, 3, 3)}
    model = parse(f"g (float[N,4,7,6] x) => (float[] y) {{ {body} }}", weights)
    reason = "its shift is not zero, and the zeros that pad the border come after it"
    unchanged(model, PASS, reason=reason)


def test_a_shift_behind_a_gated_tensor() -> None:
    """The implicit knowledge of YOLOv7, which it adds behind an activation that is a product."""
    model = parse(
        "g (float[N,4,7,6] x) => (float[] y) { g = HardSigmoid<alpha=0.25>(x) a = Mul(x, g)"
        " p = Add(a, s) y = Conv(p, w) }",
        {"s": integers("s", 1, 4, 1, 1), "w": integers("w", 3, 4, 1, 1)},
    )
    folds(model, PASS, ops={"HardSigmoid": 1, "Mul": 1, "Conv": 1})
