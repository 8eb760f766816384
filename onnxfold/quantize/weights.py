"""Weights as signed 8-bit integers around zero, with one scale per output channel."""

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

LIMIT = 127
"""The largest integer of a weight; its negative is the smallest, so that zero is in the middle."""

LIMIT_WITHOUT_VNNI = 63
"""For processors that add two products of 8 bits in 16 bits, which overflow with more."""

_SMALLEST = 2.0**-62
"""No scale is smaller: times that of an activation it stays a normal float32."""

_CANDIDATES = np.concatenate([np.linspace(1.0, 0.7, 13), np.geomspace(0.65, 0.15, 10)])
"""Shares of a channel's largest weight that may become its largest integer."""

_BLOCK = 1 << 22
"""Weights whose errors are computed at once."""

Weight = NDArray[np.float32]


class WeightMethod(StrEnum):
    """How the scales of weights are chosen.

    Attributes:
        MINMAX: The largest weight of a channel becomes the largest integer.
        MSE: The least squared error of rounding and clipping together, channel by channel.
    """

    MINMAX = "minmax"
    MSE = "mse"


def weight_scales(
    weight: Weight, axis: int | None, method: WeightMethod, limit: int = LIMIT
) -> NDArray[np.float32]:
    """The scales of a weight.

    Args:
        weight: Of any shape.
        axis: Of the output channels; None for a single scale.
        method: How to choose them.
        limit: The largest integer.

    Returns:
        float32 of shape (channels,), or () when there is a single one; all positive.
    """
    rows = _rows(weight, axis)
    largest = np.abs(rows).max(axis=1, initial=0.0).astype(np.float64)
    if method is WeightMethod.MSE:
        largest = largest * _best_shares(rows, largest, limit)
    scales = largest / limit
    # Zeros have no scale of their own; with that of other channels their bias keeps its digits.
    scales = np.where(scales > 0.0, scales, scales.max(initial=0.0))
    found = np.asarray(np.maximum(scales, _SMALLEST), np.float32)
    return found if axis is not None else found.reshape(())


def quantized_weight(
    weight: Weight, scales: NDArray[np.float32], axis: int | None, limit: int = LIMIT
) -> NDArray[np.int8]:
    """`round(weight / scale)`, cut off at ±`limit`; ties go to the even integer."""
    shaped = _broadcast(scales, weight.ndim, axis)
    return np.asarray(np.clip(np.rint(weight / shaped), -limit, limit), np.int8)


def dequantized_weight(
    integers: NDArray[np.int8], scales: NDArray[np.float32], axis: int | None
) -> Weight:
    """What DequantizeLinear makes of them."""
    return np.asarray(integers.astype(np.float32) * _broadcast(scales, integers.ndim, axis))


def scales_for_bias(
    scales: NDArray[np.float32], bias: NDArray[np.float32], x_scale: np.float32
) -> NDArray[np.float32]:
    """Scales no smaller than given, with which the bias fits 32-bit integers.

    The bias has the scale `x_scale · scales`, and its integers stay below 2³⁰, so that the sum of
    products that they are added to fits as well. Where a channel's weights are so small beside its
    bias that they do not, the weights lose digits that the bias would have drowned.
    """
    needed = np.abs(bias.astype(np.float64)) / (float(x_scale) * 2.0**30)
    if scales.ndim == 0:
        needed = np.asarray(needed.max(initial=0.0))
    raised = np.where(
        needed > scales, np.nextafter(needed.astype(np.float32), np.float32(np.inf)), scales
    )
    return np.asarray(raised, np.float32)


def quantized_bias(
    bias: NDArray[np.float32], scales: NDArray[np.float32], x_scale: np.float32
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The bias as integers, and their scales: `x_scale · scales`, as a runtime computes them."""
    own = (x_scale * scales).astype(np.float32)
    return np.rint(bias.astype(np.float64) / own).astype(np.int32), own


def _rows(weight: Weight, axis: int | None) -> Weight:
    """One row per scale."""
    if axis is None:
        return weight.reshape(1, -1)
    return np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)


def _broadcast(scales: NDArray[np.float32], rank: int, axis: int | None) -> NDArray[np.float32]:
    if axis is None:
        return scales
    return scales.reshape([-1 if each == axis else 1 for each in range(rank)])


def _best_shares(rows: Weight, largest: NDArray[np.float64], limit: int) -> NDArray[np.float64]:
    """Per row, the share of its largest weight that gives the least squared error."""
    best = np.ones(len(rows))
    step = max(1, _BLOCK // max(1, rows.shape[1]))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        best[part] = _best_of_block(rows[part], largest[part], limit)
    return best


def _best_of_block(rows: Weight, largest: NDArray[np.float64], limit: int) -> NDArray[np.float64]:
    errors = np.stack([_error(rows, largest * share, limit) for share in _CANDIDATES])
    return np.asarray(_CANDIDATES[errors.argmin(axis=0)], np.float64)


def _error(rows: Weight, limits: NDArray[np.float64], limit: int) -> NDArray[np.float64]:
    scale = np.maximum(limits / limit, _SMALLEST).astype(np.float32)[:, None]
    off = np.clip(np.rint(rows / scale), -limit, limit)
    off *= scale
    off -= rows
    return np.asarray(np.einsum("ij,ij->i", off, off, dtype=np.float64), np.float64)
