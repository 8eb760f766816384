"""merge_sequential: linear operators in a row become one, where that gains and is exact."""

import numpy as np
import onnx
import pytest

from tests.toolkit import batch_norm, folds, integers, parse, unchanged

P = "pads=[1,1,1,1]"


def chain(body: str, extents: str = "12,12", **weights: np.ndarray) -> onnx.ModelProto:
    return parse(f"g (float[N,8,{extents}] x) => (float[] y) {{ {body} }}", weights)


@pytest.mark.parametrize(("body", "kernels"), [
    ("a = Conv(x, wa, ba) y = Conv(a, wb, bb)", (1, 1)),
    (f"a = Conv(x, wa) y = Conv<{P}>(a, wb, bb)", (1, 3)),
    (f"a = Conv<{P}>(x, wa, ba) y = Conv(a, wb, bb)", (3, 1)),
    ("a = Conv(x, wa, ba) y = Conv<strides=[2,2]>(a, wb, bb)", (3, 3)),
])  # fmt: skip
@pytest.mark.parametrize("extents", ["12,12", "H,W"])
def test_an_expansion_in_between(body: str, kernels: tuple[int, int], extents: str) -> None:
    first, second = kernels
    weights = {
        "wa": integers("wa", 64, 8, first, first),
        "ba": integers("ba", 64),
        "wb": integers("wb", 8, 64, second, second),
        "bb": integers("bb", 8),
    }
    model = parse(f"g (float[N,8,{extents}] x) => (float[] y) {{ {body} }}", weights)
    folds(model, "merge_sequential", ops={"Conv": 1})


def test_constants_in_between() -> None:
    model = parse(
        "g (float[N,8,12,12] x) => (float[] y) { a = Conv(x, wa)"
        " n = BatchNormalization<epsilon=0.0>(a, g, b, m, v) y = Conv(n, wb) }",
        {"wa": integers("wa", 32, 8, 1, 1), "wb": integers("wb", 8, 32, 3, 3), **batch_norm(32)},
    )
    folds(model, "merge_sequential", ops={"Conv": 1})


def test_a_transposed_convolution_and_a_pointwise_one() -> None:
    model = chain(
        "a = ConvTranspose<strides=[2,2]>(x, wa, ba) y = Conv(a, wb)",
        wa=integers("wa", 8, 32, 2, 2),
        ba=integers("ba", 32),
        wb=integers("wb", 8, 32, 1, 1),
    )
    folds(model, "merge_sequential", ops={"ConvTranspose": 1})


@pytest.mark.parametrize("bias", ["s = Add(a, c) y = MatMul(s, wb)", "y = MatMul(a, wb)"])
def test_two_products(bias: str) -> None:
    model = parse(
        f"g (float[N,L,8] x) => (float[] y) {{ a = MatMul(x, wa) {bias} }}",
        {"wa": integers("wa", 8, 64), "c": integers("c", 64), "wb": integers("wb", 64, 8)},
    )
    left = {"MatMul": 1, "Add": 1} if "Add" in bias else {"MatMul": 1}
    folds(model, "merge_sequential", ops=left)


@pytest.mark.parametrize(("model", "reason"), [
    (
        chain(
            f"a = Conv(x, wa, ba) y = Conv<{P}>(a, wb)",
            wa=integers("wa", 64, 8, 1, 1), ba=integers("ba", 64) + 1,
            wb=integers("wb", 8, 64, 3, 3),
        ),
        "the 1x1's bias is non-zero and the 3x3 pads the border (the begin of axis 0)",
    ),
    (
        chain(
            "a = Conv(x, wa) y = Conv(a, wb)", "64,64",
            wa=integers("wa", 2, 8, 1, 1), wb=integers("wb", 64, 2, 3, 3),
        ),
        "merging it with what it reads would cost more than it saves",
    ),
    (
        chain(
            f"a = Conv<{P}, group=8>(x, wa) y = Conv(a, wb)", "64,64",
            wa=integers("wa", 8, 1, 3, 3), wb=integers("wb", 32, 8, 1, 1),
        ),
        "merging it with what it reads would cost more than it saves",
    ),
    (
        parse(
            "g (float[N,8,9,9] x) => (float[] y, float[] a) { a = Conv(x, wa) y = Conv(a, wb) }",
            {"wa": integers("wa", 4, 8, 3, 3), "wb": integers("wb", 8, 4, 1, 1)},
        ),
        "its result is read elsewhere too, so merging loses",
    ),
    (
        parse(
            "g (float[N,8] x) => (float[] y, float[] a) { a = MatMul(x, wa) y = MatMul(a, wb) }",
            {"wa": integers("wa", 8, 64), "wb": integers("wb", 64, 8)},
        ),
        "the product in between has another reader",
    ),
    (
        parse(
            "g (float[N,8] x) => (float[] y) { a = MatMul(x, wa) y = MatMul(a, wb) }",
            {"wa": integers("wa", 8, 2), "wb": integers("wb", 2, 8)},
        ),
        "the product of both matrices would cost more than they do",
    ),
])  # fmt: skip
def test_refusals(model: onnx.ModelProto, reason: str) -> None:
    unchanged(model, "merge_sequential", reason=reason)


def test_an_activation_in_between() -> None:
    unchanged(
        chain(
            "a = Conv(x, wa) r = Relu(a) y = Conv(r, wb)",
            wa=integers("wa", 64, 8, 1, 1),
            wb=integers("wb", 8, 64, 1, 1),
        ),
        "merge_sequential",
    )


def test_a_matrix_that_is_no_constant() -> None:
    model = parse(
        "g (float[2,8] x, float[8,64] v) => (float[] y) { a = MatMul(x, v) y = MatMul(a, wb) }",
        {"wb": integers("wb", 64, 8)},
    )
    unchanged(model, "merge_sequential")
