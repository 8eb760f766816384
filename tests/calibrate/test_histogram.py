"""The histogram of a union is the merged histogram of its parts, as bits."""

import math
import sys
from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnxfold.calibrate import Histogram
from onnxfold.calibrate.histogram import MAX_BINS
from onnxfold.calibrate.sums import ExactSums

ANY = st.floats(width=32, allow_nan=False, allow_infinity=False)
NEAR = st.floats(-4.0, 4.0, width=32)
POSITIVE = st.floats(0.0, 1e3, width=32)
TINY = st.integers(-40, 40).map(lambda n: n * 2.0**-149)


@st.composite
def arrays(draw: st.DrawFn, most: int = 60) -> NDArray[np.float32]:
    """Numbers of a few kinds, often several of them in one array."""
    kind = draw(st.sampled_from([ANY, NEAR, POSITIVE, TINY, ANY | NEAR, POSITIVE | TINY]))
    return np.array(draw(st.lists(kind, max_size=most)), np.float32)


def cut(array: NDArray[np.float32], places: list[int]) -> list[NDArray[np.float32]]:
    return np.split(array, sorted(place % (len(array) + 1) for place in places))


@settings(deadline=None)
@given(arrays(), st.lists(st.integers(0, 200), max_size=5), st.randoms(use_true_random=False))
def test_any_split_in_any_order_gives_the_same_bits(
    array: NDArray[np.float32], places: list[int], random: object
) -> None:
    parts = [Histogram.of(part) for part in cut(array, places)]
    getattr(random, "shuffle")(parts)  # noqa: B009
    assert reduce(Histogram.merged, parts) == Histogram.of(array)


@settings(deadline=None)
@given(arrays(), arrays(), arrays())
def test_merging_is_associative(
    one: NDArray[np.float32], two: NDArray[np.float32], three: NDArray[np.float32]
) -> None:
    first, second, third = Histogram.of(one), Histogram.of(two), Histogram.of(three)
    left = first.merged(second).merged(third)
    assert left == first.merged(second.merged(third))
    assert left == Histogram.of(np.concatenate((one, two, three)))
    assert hash(left) == hash(first.merged(second.merged(third)))


@settings(deadline=None)
@given(arrays())
def test_every_number_is_in_its_bin(array: NDArray[np.float32]) -> None:
    histogram = Histogram.of(array)
    expected: dict[int, int] = {}
    for number in array.tolist():
        index = math.floor(math.ldexp(number, -histogram.exponent))
        expected[index] = expected.get(index, 0) + 1
    found = {
        index: count
        for index, count in enumerate(histogram.counts.tolist(), histogram.first)
        if count
    }
    assert found == expected
    assert histogram.total == array.size
    if array.size:
        assert histogram.counts[0] > 0
        assert histogram.counts[-1] > 0
        edges = histogram.edges
        assert edges[0] <= array.min()
        assert array.max() < edges[-1]
        assert len(edges) == len(histogram.counts) + 1 <= MAX_BINS + 1


@settings(deadline=None)
@given(arrays().filter(len))
def test_the_width_is_the_least_that_fits(array: NDArray[np.float32]) -> None:
    exponent = Histogram.of(array).exponent
    low, high = float(array.min()), float(array.max())

    def fits(exponent: int) -> bool:
        first, last = (math.floor(math.ldexp(each, -exponent)) for each in (low, high))
        return last - first < MAX_BINS and first >= -(2**24) and last < 2**24

    assert fits(exponent)
    assert exponent == -149 or not fits(exponent - 1)


@pytest.mark.parametrize("scale", [1e-40, 1e-20, 1e-3, 1.0, 7e5, 1e30])
@pytest.mark.parametrize("shift", [0.0, 3.0, -40.0])
def test_there_are_enough_bins(scale: float, shift: float) -> None:
    drawn = np.random.default_rng(3).normal(shift, 1.0, 10_000)
    if scale == 1e-40 and shift == 0.0:
        drawn *= 10  # there are few denormal numbers
    assert len(Histogram.of((drawn * scale).astype(np.float32)).counts) >= MAX_BINS // 2


def test_without_negative_numbers_all_bins_are_above_zero() -> None:
    drawn = np.maximum(np.random.default_rng(4).normal(size=10_000), 0).astype(np.float32)
    histogram = Histogram.of(drawn)
    assert histogram.first == 0
    assert histogram.edges[0] == 0.0
    assert len(histogram.counts) > MAX_BINS // 2


def test_alike_and_extreme_numbers() -> None:
    assert len(Histogram.of(np.full(7, 0.3, np.float32)).counts) == 1
    zero = Histogram.of(np.array([0.0, -0.0], np.float32))
    assert (zero.first, zero.counts.tolist()) == (0, [2])
    widest = Histogram.of(np.array([-sys.float_info.max, sys.float_info.max]))
    assert widest.total == 2
    largest = np.finfo(np.float32).max
    mixed = Histogram.of(np.array([-largest, 2.0**-149, largest], np.float32))
    assert mixed.counts.sum() == 3


def test_nothing_is_neutral() -> None:
    nothing = Histogram.of(np.zeros(0, np.float32))
    some = Histogram.of(np.array([1.0, -2.0], np.float32))
    assert nothing.merged(some) == some == some.merged(nothing)
    assert nothing.merged(nothing) == nothing
    assert some != nothing
    assert some != "some"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_only_finite_numbers(bad: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        Histogram.of(np.array([0.0, bad]))


@settings(deadline=None)
@given(arrays(), st.lists(st.integers(0, 200), max_size=5))
def test_sums_do_not_depend_on_the_split(array: NDArray[np.float32], places: list[int]) -> None:
    rows = array[: array.size // 2 * 2].reshape(-1, 2)
    parts = [ExactSums.of(part) for part in cut(rows, places)]
    whole = ExactSums.of(rows)
    assert reduce(ExactSums.merged, reversed(parts)) == whole
    assert whole.terms == len(rows)
    exact = [math.fsum(column) / max(1, len(rows)) for column in rows.T.tolist()]
    np.testing.assert_allclose(whole.means, exact, rtol=1e-12, atol=2.0**-149)


def test_sums_cancel_exactly() -> None:
    column = np.array([[3e38], [1.0], [2.0**-140], [-3e38]], np.float32)
    sums = ExactSums.of(column)
    assert sums.means[0] * 4 == 1.0 + 2.0**-140
    assert sums.merged(ExactSums.of(-column)).means.tolist() == [0.0]
    assert sums != ExactSums.of(column[:3])
