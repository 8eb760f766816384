"""Grids: zero is a level, limits are reached, scales are numbers that runtimes can use."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxfold.calibrate import (
    INT8,
    INT8_NARROW,
    UINT8,
    UINT8_CENTRED,
    UINT8_NON_NEGATIVE,
    Range,
    Scheme,
    quantization_of,
)

WIDTH = st.floats(0.0, float(np.finfo(np.float32).max), width=32)
SCHEMES = st.sampled_from(
    [UINT8, UINT8_NON_NEGATIVE, UINT8_CENTRED, INT8, INT8_NARROW, Scheme(0, 65535, None)]
)


@settings(deadline=None)
@given(WIDTH, WIDTH, SCHEMES)
def test_a_grid_reaches_the_limits_it_can(low: float, high: float, scheme: Scheme) -> None:
    grid = quantization_of(Range(-low, high), scheme)
    scale = float(grid.scale)
    assert grid.dtype == scheme.dtype
    assert type(grid.scale) is np.float32
    assert np.finfo(np.float32).tiny <= scale < np.inf
    assert scheme.lowest <= grid.zero_point <= scheme.highest
    least, most = (scale * (each - grid.zero_point) for each in (scheme.lowest, scheme.highest))
    # The zero point is rounded, which moves the grid by half a level at most.
    slack = scale * (0.5 if scheme.zero_point is None else 0.0) + 1e-6 * scale * scheme.levels
    if scheme.below_zero:
        assert least <= -low + slack
    if scheme.above_zero:
        assert most >= high - slack


@settings(deadline=None)
@given(WIDTH.filter(lambda width: width > 1e-15))
def test_no_grid_is_coarser_than_it_must_be(high: float) -> None:
    assert quantization_of(Range(0.0, high), UINT8) == quantization_of(
        Range(0.0, high), UINT8_NON_NEGATIVE
    )
    assert quantization_of(Range(0.0, high), UINT8).scale == np.float32(high / 255)
    assert quantization_of(Range(0.0, high), INT8).scale == np.float32(high / 127)
    assert quantization_of(Range(-high, 0.0), INT8).scale == np.float32(high / 128)
    assert quantization_of(Range(-high, 0.0), INT8_NARROW).scale == np.float32(high / 127)


def test_zero_points() -> None:
    assert quantization_of(Range(0.0, 5.0), UINT8).zero_point == 0
    assert quantization_of(Range(-5.0, 0.0), UINT8).zero_point == 255
    assert quantization_of(Range(-1.0, 1.0), UINT8).zero_point in (127, 128)
    assert quantization_of(Range(-1.0, 3.0), UINT8).zero_point == 64
    assert quantization_of(Range(-1.0, 3.0), UINT8_CENTRED).zero_point == 128
    assert quantization_of(Range(-9.0, 3.0), INT8).zero_point == 0


def test_types() -> None:
    assert [scheme.dtype for scheme in (UINT8, UINT8_CENTRED, INT8, INT8_NARROW)] == [
        np.uint8,
        np.uint8,
        np.int8,
        np.int8,
    ]
    assert Scheme(-32768, 32767, 0).dtype == np.int16
    assert Scheme(0, 65535, None).dtype == np.uint16
    assert Scheme(-8, 7, 0).dtype == np.int8
    assert INT8_NARROW.levels == 255


def test_a_bias_scale_is_no_denormal_number() -> None:
    scale = quantization_of(Range(0.0, 1e-44), UINT8).scale
    assert scale * scale >= np.finfo(np.float32).tiny


@pytest.mark.parametrize(
    ("low", "high"), [(0.1, 1.0), (-1.0, -0.5), (float("-inf"), 0.0), (0.0, float("nan"))]
)
def test_ranges_without_zero_or_limits(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="no finite range around zero"):
        Range(low, high)


def test_schemes_without_zero() -> None:
    with pytest.raises(ValueError, match="not on the grid"):
        Scheme(0, 255, -1)
    with pytest.raises(ValueError, match="two levels"):
        Scheme(3, 3, None)


def test_a_union_contains_both() -> None:
    assert Range(-1.0, 2.0).union(Range(-3.0, 0.5)) == Range(-3.0, 2.0)
