"""Statistics merge to what the whole gives; calibrations that do not fit are refused."""

from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxfold.calibrate import Calibration, TensorStatistics
from onnxfold.errors import BadOptionError


def drawn(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@settings(deadline=None)
@given(st.integers(0, 99), st.lists(st.integers(1, 6), max_size=3), st.booleans())
def test_a_split_by_images_gives_the_same(seed: int, places: list[int], backwards: bool) -> None:
    array = drawn(seed, 7, 3, 2, 4)
    array[array < -1.0] = -0.0
    parts = [TensorStatistics.of(part, 1) for part in np.split(array, sorted(places)) if part.size]
    if backwards:
        parts.reverse()
    merged = reduce(TensorStatistics.merged, parts)
    assert merged == TensorStatistics.of(array, 1)


def test_what_the_numbers_say() -> None:
    array = drawn(1, 5, 3, 4)
    array[0] = 0.0
    stats = TensorStatistics.of(array, 2)
    assert stats.count == 60
    assert stats.zeros == 12
    assert (stats.minimum, stats.maximum) == (array.min(), array.max())
    assert stats.histogram.total == 60
    np.testing.assert_array_equal(stats.channel_minimum, array.min(axis=(0, 1)))
    np.testing.assert_array_equal(stats.channel_maximum, array.max(axis=(0, 1)))
    assert stats.channel_mean is not None
    np.testing.assert_allclose(stats.channel_mean, array.mean(axis=(0, 1)), atol=1e-7)


def test_without_channels() -> None:
    stats = TensorStatistics.of(drawn(2, 9))
    assert stats.channel_minimum is None
    assert stats.channel_maximum is None
    assert stats.channel_mean is None


def test_the_sign_of_zero_does_not_depend_on_the_order() -> None:
    one = TensorStatistics.of(np.array([[-0.0, 1.0]], np.float32), 1)
    two = TensorStatistics.of(np.array([[0.0, 1.0]], np.float32), 1)
    for stats in (one.merged(two), two.merged(one)):
        assert str(stats.minimum) == "0.0"
        assert stats.channel_minimum is not None
        assert not np.signbit(stats.channel_minimum).any()


def test_channels_that_change_are_given_up() -> None:
    three, four = (TensorStatistics.of(drawn(3, 2, extent), 1) for extent in (3, 4))
    assert three.merged(four).channels is None
    assert three.merged(four).merged(three).channels is None
    assert three.merged(four).count == 14


def calibration(
    samples: tuple[int, ...], graph: str = "g", data: str = "d", name: str = "x"
) -> Calibration:
    tensors = {name: TensorStatistics.of(drawn(sum(samples), 4, 3))}
    return Calibration(graph, data, samples, tensors)


def test_calibrations_merge() -> None:
    one, two = calibration((0, 3)), calibration((1,))
    merged = one.merged(two)
    assert merged == two.merged(one)
    assert merged.samples == (0, 1, 3)
    assert merged.tensors["x"] == one.tensors["x"].merged(two.tensors["x"])


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (calibration((1,), graph="h"), "different models"),
        (calibration((1,), data="e"), "different data sets"),
        (calibration((1,), name="y"), "observed different values"),
        (calibration((3, 4)), "share 1 samples, the first being 3"),
    ],
)
def test_calibrations_that_do_not_fit(other: Calibration, reason: str) -> None:
    with pytest.raises(BadOptionError, match=reason):
        calibration((0, 3)).merged(other)
