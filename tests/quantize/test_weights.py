"""Weights as integers: scales, rounding, biases."""

import numpy as np
import pytest

from onnxfold.quantize.weights import (
    LIMIT,
    LIMIT_WITHOUT_VNNI,
    WeightMethod,
    dequantized_weight,
    quantized_bias,
    quantized_weight,
    scales_for_bias,
    weight_scales,
)
from tests.targets.emitted import normal

METHODS = tuple(WeightMethod)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("axis", [0, 1, None])
def test_nothing_inside_the_range_is_off_by_more_than_half_a_step(
    method: WeightMethod, axis: int | None
) -> None:
    weight = normal("weight", 6, 5, 3, 3)
    scales = weight_scales(weight, axis, method)
    assert scales.shape == (() if axis is None else (weight.shape[axis],))
    assert scales.dtype == np.float32
    integers = quantized_weight(weight, scales, axis)
    assert integers.dtype == np.int8
    assert np.abs(integers).max() <= LIMIT
    step = scales if axis is None else scales.reshape([-1 if i == axis else 1 for i in range(4)])
    inside = np.abs(weight) <= LIMIT * step
    error = np.abs(dequantized_weight(integers, scales, axis) - weight)
    assert (error <= 0.5 * step * (1 + 1e-6))[inside].all()
    if method is WeightMethod.MINMAX:
        assert inside.all()


def test_every_channel_uses_its_whole_grid() -> None:
    weight = normal("weight", 4, 8, 1, 1) * np.array([1e-3, 1, 10, 500]).reshape(4, 1, 1, 1)
    weight = weight.astype(np.float32)
    integers = quantized_weight(weight, weight_scales(weight, 0, WeightMethod.MINMAX), 0)
    assert np.abs(integers).max(axis=(1, 2, 3)).tolist() == [LIMIT] * 4


def test_mse_cuts_off_long_tails_and_never_does_worse() -> None:
    weight = normal("weight", 8, 512, 3, 3) ** 3

    def errors(method: WeightMethod) -> np.ndarray:
        scales = weight_scales(weight, 0, method)
        off = dequantized_weight(quantized_weight(weight, scales, 0), scales, 0) - weight
        return np.asarray(np.square(off).sum(axis=(1, 2, 3)))

    widest, best = errors(WeightMethod.MINMAX), errors(WeightMethod.MSE)
    assert (best <= widest * (1 + 1e-6)).all()
    assert best.sum() < 0.995 * widest.sum()


def test_blocks_do_not_change_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = normal("weight", 9, 7, 3, 3)
    whole = weight_scales(weight, 0, WeightMethod.MSE)
    monkeypatch.setattr("onnxfold.quantize.weights._BLOCK", 100)
    np.testing.assert_array_equal(weight_scales(weight, 0, WeightMethod.MSE), whole)


@pytest.mark.parametrize("method", METHODS)
def test_a_channel_of_zeros_has_a_scale(method: WeightMethod) -> None:
    weight = normal("weight", 3, 4, 1, 1)
    weight[1] = 0.0
    scales = weight_scales(weight, 0, method)
    assert (scales > 0).all()
    assert np.isfinite(quantized_weight(weight, scales, 0)).all()
    nothing = weight_scales(np.zeros((2, 3), np.float32), 1, method)
    assert (nothing >= np.finfo(np.float32).tiny).all()


def test_seven_bits() -> None:
    weight = normal("weight", 4, 4, 3, 3)
    scales = weight_scales(weight, 0, WeightMethod.MINMAX, LIMIT_WITHOUT_VNNI)
    assert np.abs(quantized_weight(weight, scales, 0, LIMIT_WITHOUT_VNNI)).max() == 63


def test_a_bias_is_on_the_grid_of_the_products() -> None:
    scales = np.array([0.01, 0.02], np.float32)
    bias = np.array([1.0, -3.0], np.float32)
    kept = scales_for_bias(scales, bias, np.float32(0.05))
    np.testing.assert_array_equal(kept, scales)
    integers, own = quantized_bias(bias, kept, np.float32(0.05))
    np.testing.assert_allclose(integers * own.astype(np.float64), bias, atol=own.max() / 2)
    assert integers.dtype == np.int32


@pytest.mark.parametrize("per_channel", [True, False])
def test_a_bias_that_overflows_raises_the_scale_of_its_channel(per_channel: bool) -> None:
    scales = np.array([1e-9, 0.02] if per_channel else 1e-9, np.float32)
    bias = np.array([900.0, 1.0], np.float32)
    raised = scales_for_bias(scales, bias, np.float32(1e-3))
    assert (raised >= scales).all()
    if per_channel:
        assert raised[1] == scales[1]
    integers, own = quantized_bias(bias, raised, np.float32(1e-3))
    assert np.abs(integers).max() <= 2**30
    np.testing.assert_allclose(integers * own.astype(np.float64), bias, rtol=1e-6, atol=own.max())
