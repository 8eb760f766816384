"""Scales and shifts in front of an operator, against arithmetic written out in loops."""

import itertools

import numpy as np
import pytest

from onnxfold.algebra.normalisation import scaled_input_weights
from onnxfold.algebra.refusal import AlgebraError

CASES = [((6, 4, 3, 3), 1), ((6, 2, 3, 2), 2), ((4, 1, 5), 4), ((6, 4), 1), ((2, 3, 2, 2, 2), 2)]


@pytest.mark.parametrize(("shape", "group"), CASES)
def test_scaled_input_weights_by_brute_force(shape: tuple[int, ...], group: int) -> None:
    generator = np.random.default_rng(len(shape) + group)
    weight = generator.integers(-3, 4, shape).astype(np.float64)
    channels = group * shape[1]
    scale = generator.integers(-3, 4, channels).astype(np.float64)
    shift = generator.integers(-3, 4, channels).astype(np.float64)
    x = generator.integers(-3, 4, (channels, *shape[2:])).astype(np.float64)
    scaled, addend = scaled_input_weights(weight, scale, shift, group)
    assert scaled.shape == weight.shape
    normalised = x * scale.reshape(-1, *(1,) * (x.ndim - 1)) + shift.reshape(
        -1, *(1,) * (x.ndim - 1)
    )
    for row in range(shape[0]):
        first = row // (shape[0] // group) * shape[1]
        expected = found = 0.0
        for column, *tap in itertools.product(*map(range, shape[1:])):
            expected += weight[row, column, *tap] * normalised[first + column, *tap]
            found += scaled[row, column, *tap] * x[first + column, *tap]
        assert found + addend[row] == expected


def test_scalars_stand_for_every_channel() -> None:
    weight = np.arange(24.0).reshape(4, 2, 3)
    scaled, addend = scaled_input_weights(weight, 2.0, 1.0, 2)
    np.testing.assert_array_equal(scaled, 2 * weight)
    np.testing.assert_array_equal(addend, weight.sum(axis=(1, 2)))


def test_zero_taps_stay() -> None:
    weight = np.zeros((4, 2, 3, 3))
    weight[:, :, 1, 1] = 1.0
    assert scaled_input_weights(weight, np.zeros(2), np.zeros(2), 1)[0].shape == weight.shape


def test_groups_that_do_not_fit() -> None:
    with pytest.raises(AlgebraError, match="5 output channels in 2 groups"):
        scaled_input_weights(np.zeros((5, 1, 1)), 1.0, 0.0, 2)
