"""Ranges: what each method promises, against brute force and on degenerate tensors."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnxfold.calibrate import (
    INT8,
    INT8_NARROW,
    UINT8,
    UINT8_CENTRED,
    UINT8_NON_NEGATIVE,
    Histogram,
    Method,
    Range,
    Scheme,
    TensorStatistics,
    quantization_error,
    quantization_of,
    select_range,
)

SCHEMES = {
    "u8": UINT8,
    "u8 zp 0": UINT8_NON_NEGATIVE,
    "u8 zp 128": UINT8_CENTRED,
    "s8": INT8,
    "s8 narrow": INT8_NARROW,
    "s16": Scheme(-32768, 32767, 0),
    "u4": Scheme(0, 15, None),
}
ALL_SCHEMES = pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES.keys())
ALL_METHODS = pytest.mark.parametrize("method", Method)

Array = NDArray[Any]


def gauss(count: int = 40_000, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=count)


def spiky() -> Array:
    return np.append(gauss(), [60.0, -45.0])


TENSORS: dict[str, Array] = {
    "gauss": gauss(),
    "relu": np.maximum(gauss(), 0.0),
    "relu6": np.clip(gauss() * 4.0, 0.0, 6.0),
    "spiky": spiky(),
    "spike above": np.append(gauss(), 60.0),
    "laplace": np.random.default_rng(1).laplace(size=40_000),
    "sigmoid": 1.0 / (1.0 + np.exp(-3.0 * gauss())),
    "far from zero": 50.0 + 0.1 * gauss(),
    "negative": -np.abs(gauss()) - 1.0,
    "few levels": np.random.default_rng(2).integers(-3, 9, 5000) * 0.25,
}
ALL_TENSORS = pytest.mark.parametrize("tensor", TENSORS.values(), ids=TENSORS.keys())

DEGENERATE: dict[str, Array] = {
    "zero": np.zeros(50),
    "negative zero": np.full(3, -0.0),
    "one number": np.array([0.3]),
    "constant": np.full(50, 0.3),
    "negative constant": np.full(50, -7.0),
    "denormal": np.array([1e-42, -1e-43, 3e-45]),
    "least": np.full(4, 2.0**-149),
    "huge": np.array([-3e38, 3e38, 1.0]),
    "two": np.array([0.0, 1.0]),
    "wide": np.array([1e-30, 1e30, -1e-10]),
}
ALL_DEGENERATE = pytest.mark.parametrize("tensor", DEGENERATE.values(), ids=DEGENERATE.keys())


def stats_of(tensor: Array) -> TensorStatistics:
    return TensorStatistics.of(tensor.astype(np.float32))


def quantized(tensor: Array, limits: Range, scheme: Scheme) -> Array:
    """What QuantizeLinear and DequantizeLinear make of a tensor, in float64."""
    grid = quantization_of(limits, scheme)
    levels = np.rint(tensor.astype(np.float64) / np.float64(grid.scale)) + grid.zero_point
    clipped = np.clip(levels, scheme.lowest, scheme.highest)
    return np.asarray((clipped - grid.zero_point) * np.float64(grid.scale))


def true_error(tensor: Array, limits: Range, scheme: Scheme) -> float:
    rounded = tensor.astype(np.float32).astype(np.float64)
    return float(np.mean((quantized(rounded, limits, scheme) - rounded) ** 2))


@ALL_TENSORS
@ALL_SCHEMES
@ALL_METHODS
def test_a_range_lies_within_what_occurs_and_around_zero(
    tensor: Array, scheme: Scheme, method: Method
) -> None:
    limits = select_range(stats_of(tensor), method, scheme)
    whole = select_range(stats_of(tensor), Method.MINMAX, scheme)
    assert whole.low <= limits.low <= 0.0 <= limits.high <= whole.high


@ALL_TENSORS
@ALL_SCHEMES
def test_mse_is_never_worse_than_minmax(tensor: Array, scheme: Scheme) -> None:
    stats = stats_of(tensor)
    best = select_range(stats, Method.MSE, scheme)
    whole = select_range(stats, Method.MINMAX, scheme)
    assert quantization_error(stats, best, scheme) <= quantization_error(stats, whole, scheme)


@settings(deadline=None)
@given(
    st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=40),
    st.floats(0.0, 20.0),
    st.sampled_from(sorted(SCHEMES)),
)
def test_mse_is_never_worse_than_minmax_on_anything(
    numbers: list[float], outlier: float, name: str
) -> None:
    scheme = SCHEMES[name]
    stats = stats_of(np.append(np.array(numbers), 10.0**outlier))
    best = select_range(stats, Method.MSE, scheme)
    whole = select_range(stats, Method.MINMAX, scheme)
    assert quantization_error(stats, best, scheme) <= quantization_error(stats, whole, scheme)


@ALL_TENSORS
@pytest.mark.parametrize("scheme", [UINT8, INT8], ids=["u8", "s8"])
def test_mse_is_near_the_best_range_there_is(tensor: Array, scheme: Scheme) -> None:
    stats = stats_of(tensor)
    whole = select_range(stats, Method.MINMAX, scheme)
    found = quantization_error(stats, select_range(stats, Method.MSE, scheme), scheme)
    factors = np.linspace(0.02, 1.0, 50)
    two_sided = scheme.zero_point is None and whole.low < 0.0 < whole.high
    least = min(
        quantization_error(stats, Range(whole.low * low, whole.high * high), scheme)
        for high in factors
        for low in (factors if two_sided else [high])
    )
    assert found <= 1.02 * least


IN_BINS = [name for name in TENSORS if name not in ("few levels", "relu6")]
"""Spread out over the bins; of the others the histogram does not tell where in a bin they are."""


@pytest.mark.parametrize("name", IN_BINS)
@pytest.mark.parametrize("scheme", [s for s in SCHEMES.values() if s.levels <= 256], ids=str)
@ALL_METHODS
def test_the_error_from_the_histogram_is_the_true_one(
    name: str, scheme: Scheme, method: Method
) -> None:
    tensor, stats = TENSORS[name], stats_of(TENSORS[name])
    limits = select_range(stats, method, scheme)
    expected = true_error(tensor, limits, scheme)
    assert quantization_error(stats, limits, scheme) == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("scheme", [UINT8, INT8], ids=["u8", "s8"])
def test_mse_pays_where_it_should(scheme: Scheme) -> None:
    """Two spikes among many numbers: a third of the error of minmax, in truth and by estimate."""
    tensor = np.append(gauss(400_000), [60.0, -45.0])
    stats = stats_of(tensor)
    best = select_range(stats, Method.MSE, scheme)
    whole = select_range(stats, Method.MINMAX, scheme)
    assert true_error(tensor, best, scheme) < 0.6 * true_error(tensor, whole, scheme)
    estimate = quantization_error(stats, best, scheme)
    assert estimate < 0.6 * quantization_error(stats, whole, scheme)
    assert -best.low < 0.9 * 45.0
    assert best.high < 0.9 * 60.0


def test_mse_moves_either_limit_alone() -> None:
    limits = select_range(stats_of(np.append(gauss(400_000), -60.0)), Method.MSE, UINT8)
    assert 2.5 < limits.high < 5.0
    assert -40.0 < limits.low < -6.0
    one_sided = select_range(stats_of(np.append(np.abs(gauss(400_000)), 60.0)), Method.MSE, UINT8)
    assert one_sided.low == 0.0
    assert 4.0 < one_sided.high < 40.0


def test_what_was_not_sampled_counts_too() -> None:
    """The extremes are exact though the histogram never saw them."""
    seen = stats_of(gauss())
    stats = TensorStatistics(seen.count * 10, seen.minimum, 1000.0, seen.zeros, seen.histogram)
    clipped = Range(seen.minimum, seen.maximum)
    share = (1000.0 - seen.maximum) ** 2 / stats.count
    found = quantization_error(stats, clipped, UINT8)
    assert found == pytest.approx(share + quantization_error(seen, clipped, UINT8), rel=0.01)
    assert select_range(stats, Method.MINMAX, UINT8).high == 1000.0
    assert select_range(stats, Method.PERCENTILE, UINT8, percentile=100.0).high == 1000.0


@ALL_SCHEMES
def test_kl_is_no_minmax(scheme: Scheme) -> None:
    stats = stats_of(spiky())
    kl = select_range(stats, Method.KL, scheme)
    whole = select_range(stats, Method.MINMAX, scheme)
    if scheme.levels > 256:
        assert kl == whole  # there are more levels than bins
        return
    assert kl.high < 0.5 * whole.high
    assert kl.high > 2.0


def test_kl_keeps_what_is_spread_evenly() -> None:
    even = np.random.default_rng(5).uniform(0.0, 8.0, 200_000)
    assert select_range(stats_of(even), Method.KL, UINT8).high > 7.9


def test_kl_is_not_drawn_to_zero_by_relu() -> None:
    """Half of all numbers are zero, which every grid has: they say nothing about the range."""
    some = np.maximum(gauss(), 0.0)
    most = np.concatenate((some, np.zeros(20 * len(some))))
    few = select_range(stats_of(some), Method.KL, UINT8)
    many = select_range(stats_of(most), Method.KL, UINT8)
    assert few.high == pytest.approx(many.high, rel=1e-6)
    assert few.high > 3.0


@pytest.mark.parametrize("percent", [50.0, 90.0, 99.0, 99.9, 99.99])
def test_percentiles_are_those_of_the_numbers(percent: float) -> None:
    numbers = gauss().astype(np.float32)
    cut = 1.0 - percent / 100.0

    def found(tensor: Array, scheme: Scheme) -> Range:
        return select_range(stats_of(tensor), Method.PERCENTILE, scheme, percentile=percent)

    width = 2.0 ** stats_of(numbers).histogram.exponent

    def cuts_off(tensor: Array, limit: float, share: float) -> None:
        """Up to the numbers in one bin, this share of the tensor is above the limit."""
        nearby = np.count_nonzero(np.abs(tensor - limit) <= width) + 1
        assert abs(np.count_nonzero(tensor > limit) - share * tensor.size) <= nearby

    both = found(numbers, UINT8)
    cuts_off(numbers, both.high, cut / 2.0)
    cuts_off(-numbers, -both.low, cut / 2.0)
    around = found(numbers, INT8)
    assert around.low == -around.high
    cuts_off(np.abs(numbers), around.high, cut)
    above, below = found(np.abs(numbers), UINT8), found(-np.abs(numbers), UINT8)
    assert (above.low, below.high) == (0.0, 0.0)
    cuts_off(np.abs(numbers), above.high, cut)
    cuts_off(np.abs(numbers), -below.low, cut)


def test_percentiles_count_zeros() -> None:
    numbers = np.concatenate((np.zeros(900), np.linspace(0.01, 1.0, 100)))
    found = select_range(stats_of(numbers), Method.PERCENTILE, UINT8, percentile=95.0)
    assert found.high == pytest.approx(0.5, abs=0.02)
    found = select_range(stats_of(-numbers), Method.PERCENTILE, INT8, percentile=95.0)
    assert found.low == pytest.approx(-0.5, abs=0.02)


@pytest.mark.parametrize("percent", [0.0, -1.0, 100.1, float("nan")])
def test_percentiles_that_are_none(percent: float) -> None:
    with pytest.raises(ValueError, match="percentile"):
        select_range(stats_of(gauss()), Method.PERCENTILE, UINT8, percentile=percent)


def test_negative_numbers_count_as_zero_where_there_are_no_levels_for_them() -> None:
    numbers = np.concatenate((-np.ones(50), np.linspace(0.0, 1.0, 50)))
    whole = select_range(stats_of(numbers), Method.MINMAX, UINT8_NON_NEGATIVE)
    assert whole == Range(0.0, 1.0)
    found = select_range(stats_of(numbers), Method.PERCENTILE, UINT8_NON_NEGATIVE, percentile=75.0)
    assert found.high == pytest.approx(0.5, abs=0.03)


@ALL_DEGENERATE
@ALL_SCHEMES
@ALL_METHODS
def test_degenerate_tensors(tensor: Array, scheme: Scheme, method: Method) -> None:
    stats = stats_of(tensor)
    limits = select_range(stats, method, scheme)
    grid = quantization_of(limits, scheme)
    assert np.finfo(np.float32).tiny <= grid.scale < np.inf
    assert scheme.lowest <= grid.zero_point <= scheme.highest
    error = quantization_error(stats, limits, scheme)
    assert np.isfinite(error)
    if method is Method.MINMAX and scheme.below_zero:
        reach = float(np.abs(tensor.astype(np.float32)).max())
        assert error <= max(float(grid.scale), reach * 1e-6) ** 2


@ALL_SCHEMES
def test_nothing_but_zero(scheme: Scheme) -> None:
    for method in Method:
        limits = select_range(stats_of(np.zeros(9)), method, scheme)
        assert limits == Range(0.0, 0.0)
        assert quantization_of(limits, scheme).scale == 1.0


@pytest.mark.parametrize("number", [0.3, -7.0, 1e-30, 2.5e37])
@ALL_METHODS
def test_a_constant_is_kept(number: float, method: Method) -> None:
    stats = stats_of(np.full(50, number))
    for scheme in (UINT8, INT8):
        limits = select_range(stats, method, scheme)
        assert limits.low <= np.float32(number) <= limits.high


def test_methods_have_the_names_that_users_type() -> None:
    assert [str(each) for each in Method] == ["minmax", "percentile", "mse", "kl"]


def test_parts_give_the_ranges_of_the_whole() -> None:
    tensor = spiky().astype(np.float32)
    whole = TensorStatistics.of(tensor)
    parts = TensorStatistics.of(tensor[30_000:]).merged(TensorStatistics.of(tensor[:30_000]))
    for scheme in SCHEMES.values():
        for method in Method:
            assert select_range(parts, method, scheme) == select_range(whole, method, scheme)


def test_histograms_need_no_zero() -> None:
    assert Histogram.of(TENSORS["far from zero"]).first > 0
