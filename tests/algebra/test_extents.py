import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxfold.algebra.extents import (
    ExtentRule,
    Extents,
    conv_extent,
    conv_transpose_extent,
    slice_extent,
)
from onnxfold.algebra.refusal import AlgebraError, Cause, Refusal

SMALL = st.integers(1, 6)
RULES = st.builds(ExtentRule, SMALL, st.integers(-20, 20), SMALL)


@given(SMALL, SMALL, st.integers(0, 4), st.integers(0, 4), SMALL)
def test_conv_rule_is_the_onnx_formula(k: int, s: int, b: int, e: int, d: int) -> None:
    rule = conv_extent(k, s, b, e, d)
    for n in range(d * (k - 1) + 1, d * (k - 1) + 20):
        assert rule(n) == (n + b + e - (d * (k - 1) + 1)) // s + 1


@given(SMALL, SMALL, st.integers(0, 4), st.integers(0, 4), SMALL, st.integers(0, 3))
def test_conv_transpose_rule_is_the_onnx_formula(
    k: int, s: int, b: int, e: int, d: int, out: int
) -> None:
    rule = conv_transpose_extent(k, s, b, e, d, out)
    for n in range(1, 20):
        assert rule(n) == s * (n - 1) + out + (k - 1) * d + 1 - b - e


@given(st.integers(0, 5), SMALL)
def test_slice_rule_counts_the_range(start: int, step: int) -> None:
    rule = slice_extent(start, step)
    for n in range(start, 30):
        assert rule(n) == len(range(start, n, step))


@given(SMALL, st.integers(-20, 20), SMALL)
def test_reducing_a_rule_changes_no_size(u: int, e: int, s: int) -> None:
    rule = ExtentRule(u, e, s)
    assert all(rule(n) == (u * n + e) // s for n in range(50))


@given(RULES, RULES, SMALL, SMALL)
def test_two_rules_in_a_row(one: ExtentRule, two: ExtentRule, first: int, step: int) -> None:
    both = one.then(two, first=first, step=step)
    sizes = range(first, first + 40 * step, step)
    if isinstance(both, Refusal):
        assert both.cause is Cause.EXTENTS
        assert any((one.up * n + one.offset) % one.stride for n in sizes)
        return
    assert all(both(n) == two(one(n)) for n in sizes)


def test_folding_then_unfolding_keeps_even_sizes_only() -> None:
    half, double = ExtentRule(1, 0, 2), ExtentRule(2, 0, 1)
    assert isinstance(half.then(double), Refusal)
    assert half.then(double, first=2, step=2) == ExtentRule()


def test_what_does_not_fit_is_an_error() -> None:
    with pytest.raises(AlgebraError, match="positive"):
        ExtentRule(0, 1, 1)
    with pytest.raises(AlgebraError, match="negative"):
        Extents(3, -1)
