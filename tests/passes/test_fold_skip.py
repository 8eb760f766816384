"""fold_skip: what is added to a convolution of itself becomes a tap of its kernel."""

import pytest

from tests.toolkit import batch_norm, folds, integers, parse, unchanged

X = "float[N,4,H,W] x"
P = "pads=[1,1,1,1]"
WEIGHTS = {"w": integers("w", 4, 4, 3, 3), "d": integers("d", 4, 1, 3, 3)}
S = "float[N,4,16,16] x"


@pytest.mark.parametrize("body", [
    f"c = Conv<{P}>(x, w) y = Add(c, x)",
    f"c = Conv<{P}>(x, w) y = Sub(x, c)",
    f"c = Conv<{P}, group=4>(x, d) y = Sum(x, c)",
])  # fmt: skip
def test_a_skip_around_one_convolution(body: str) -> None:
    folds(parse(f"g ({S}) => (float[] y) {{ {body} }}", WEIGHTS), "fold_skip", ops={"Conv": 1})


def test_a_layer_scale_and_a_normalization_of_the_skip() -> None:
    """The token mixer of FastViT: x + γ · (mix(x) − norm(x))."""
    model = parse(
        f"g ({S}) => (float[] y) {{ mix = Conv<{P}, group=4>(x, d)"
        " n = BatchNormalization<epsilon=0.0>(x, g, b, m, v)"
        " s = Sub(mix, n) l = Mul(s, gamma) y = Add(x, l) }",
        {**WEIGHTS, **batch_norm(4), "gamma": integers("gamma", 4, 1, 1)},
    )
    folds(model, "fold_skip", ops={"Conv": 1})


def test_two_kernels_are_left_to_merge_branches() -> None:
    body = f"a = Conv<{P}>(x, w) b = Conv<{P}>(x, v) y = Add(a, b)"
    model = parse(
        f"g ({S}) => (float[] y) {{ {body} }}", {**WEIGHTS, "v": integers("v", 4, 4, 3, 3)}
    )
    unchanged(model, "fold_skip")
    folds(model, "merge_branches", ops={"Conv": 1})


def test_a_convolution_with_another_reader() -> None:
    model = parse(
        f"g ({S}) => (float[] y, float[] c) {{ c = Conv<{P}>(x, w) y = Add(c, x) }}", WEIGHTS
    )
    unchanged(model, "fold_skip", reason="its result is read elsewhere too, so merging loses")


def test_a_strided_convolution_has_no_skip() -> None:
    model = parse(
        f"g ({X}, float[N,4,A,B] z) => (float[] y)"
        f" {{ c = Conv<{P}, strides=[2,2]>(x, w) y = Add(c, z) }}",
        WEIGHTS,
    )
    unchanged(model, "fold_skip")
