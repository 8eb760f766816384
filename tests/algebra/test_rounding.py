import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxfold.algebra import operators
from onnxfold.algebra.convmap import Array, ConvMap
from onnxfold.algebra.refusal import Cause
from onnxfold.algebra.rounding import cancels, round_array, round_map, unit_roundoff
from tests.algebra import strategies
from tests.algebra.strategies import accepted, refused

DTYPES = [np.float16, np.float32, np.float64, ml_dtypes.bfloat16]


@pytest.mark.parametrize(("dtype", "bits"), list(zip(DTYPES, (11, 24, 53, 8), strict=True)))
def test_unit_roundoff(dtype: type, bits: int) -> None:
    assert unit_roundoff(dtype) == pytest.approx(2.0**-bits, rel=2e-3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rounding_once_is_within_half_a_unit(dtype: type) -> None:
    values = np.random.default_rng(0).normal(size=1000)
    rounded = accepted(round_array(values, dtype))
    assert rounded.dtype == np.dtype(dtype)
    error = np.abs(rounded.astype(np.float64) - values)
    assert (error <= unit_roundoff(dtype) * np.abs(values)).all()


@settings(max_examples=60, deadline=None)
@given(strategies.maps(), st.sampled_from(DTYPES))
def test_small_integers_survive_every_dtype(conv_map: ConvMap, dtype: type) -> None:
    rounded = accepted(round_map(conv_map, dtype))
    np.testing.assert_array_equal(rounded.conv_map.kernel, conv_map.kernel)
    np.testing.assert_array_equal(rounded.conv_map.bias, conv_map.bias)
    assert (rounded.coarse, rounded.largest_error) == (0, 0.0)


def test_a_rounded_map_casts_without_change() -> None:
    rng = np.random.default_rng(1)
    conv_map = operators.conv(rng.normal(size=(4, 3, 3)), rng.normal(size=4))
    for dtype in DTYPES:
        rounded = accepted(round_map(conv_map, dtype))
        kernel = rounded.conv_map.kernel
        np.testing.assert_array_equal(kernel.astype(dtype).astype(np.float64), kernel)
        assert rounded.largest_error <= unit_roundoff(dtype)


def test_overflow_is_refused() -> None:
    big = operators.matrix([[70_000.0]])
    assert refused(round_map(big, np.float16)).cause is Cause.OVERFLOW
    assert refused(round_array([1e39], np.float32)).cause is Cause.OVERFLOW
    assert refused(round_array([3.5e38], ml_dtypes.bfloat16)).cause is Cause.OVERFLOW
    assert refused(round_map(operators.matrix([[1.0]], [1e6]), np.float16)).cause is Cause.OVERFLOW
    accepted(round_map(big, ml_dtypes.bfloat16))


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_numbers_that_are_not_finite_are_refused(value: float) -> None:
    assert refused(round_map(operators.matrix([[value]]), np.float32)).cause is Cause.NOT_FINITE
    assert refused(round_array([1.0, value], np.float64)).cause is Cause.NOT_FINITE


def test_a_channel_below_the_normal_range_is_refused() -> None:
    faint = operators.matrix([[3e-8]])
    assert refused(round_map(faint, np.float16)).cause is Cause.UNDERFLOW
    assert refused(round_array([1.0, 3e-8], np.float16)).cause is Cause.UNDERFLOW
    assert refused(round_array([1e-50], np.float32)).cause is Cause.UNDERFLOW
    accepted(round_map(faint, np.float32))


def test_faint_taps_beside_large_ones_are_counted_not_refused() -> None:
    mixed = operators.matrix([[1.0, 3e-8, 1e-6], [0.0, 0.0, 0.0]], [0.0, 0.5])
    rounded = accepted(round_map(mixed, np.float16))
    assert rounded.coarse == 2
    assert 0 < rounded.largest_error <= unit_roundoff(np.float16)
    pruned = operators.matrix([[3e-8]], [0.5])
    assert accepted(round_map(pruned, np.float16)).coarse == 1


def test_exact_subnormals_are_exact() -> None:
    assert accepted(round_array([2.0**-24], np.float16)).astype(np.float64) == 2.0**-24


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_constant_computed_in_the_type_cancels_what_was_folded(dtype: type) -> None:
    generator = np.random.default_rng(0)
    gamma, beta, mean = generator.standard_normal((3, 64)).astype(dtype)
    variance: Array = generator.uniform(0.1, 2.0, 64).astype(dtype)
    written = beta - mean * gamma / np.sqrt(variance)
    assert written.dtype == dtype
    g, b, m, v = (each.astype(np.float64) for each in (gamma, beta, mean, variance))
    folded = (b - m * g / np.sqrt(v)).astype(dtype).astype(np.float64)
    assert cancels(folded, -written.astype(np.float64), dtype)


def test_one_entry_beyond_the_rounding_keeps_all() -> None:
    left = np.array([1.0, 0.5, -0.25])
    near = left * (1 + 4 * unit_roundoff(np.float32))
    assert cancels(left, -near, np.float32)
    near[2] += 16 * unit_roundoff(np.float32)
    assert not cancels(left, -near, np.float32)
    assert not cancels(left, -left - 1e-5, np.float32)
    assert cancels(left, -left - 1e-5, np.float16)


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_what_is_not_finite_cancels_nothing(value: float) -> None:
    assert not cancels(np.array([value, 1.0]), np.array([-value, -1.0]), np.float32)
