"""Round once, at the end, to the model's dtype; refuse what does not survive it."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxfold.algebra.convmap import Array, ConvMap
from onnxfold.algebra.refusal import Cause, Refusal

_ROUNDINGS = 8
"""How many roundings of the largest term two sides of a difference may lie apart; see `cancels`."""


@dataclass(frozen=True, slots=True, eq=False)
class RoundedMap:
    """A map whose every number the target dtype holds, with what the rounding did.

    Attributes:
        conv_map: Still float64; casting its arrays to the dtype changes nothing any more.
        coarse: How many nonzero numbers lost relative accuracy (subnormal or flushed to zero), yet
            are within half a unit in the last place of the largest number of their output channel.
        largest_error: Largest |rounded − exact|, relative to the largest of its output channel.
    """

    conv_map: ConvMap
    coarse: int
    largest_error: float


def round_array(values: npt.ArrayLike, dtype: npt.DTypeLike) -> npt.NDArray[Any] | Refusal:
    """Cast to `dtype`, every number for itself.

    Args:
        values: Any shape.
        dtype: A floating numpy dtype, or one registered with numpy, such as a bfloat16.

    Returns:
        The cast array; or a refusal: `NOT_FINITE`, `OVERFLOW`, or `UNDERFLOW` where a nonzero
        number loses relative accuracy because it is below the normal range.
    """
    exact, target = np.asarray(values, np.float64), np.dtype(dtype)
    found = _cast(exact, target)
    if isinstance(found, Refusal):
        return found
    rounded, held = found
    # In place: weights are large, and fresh memory costs more than the arithmetic.
    error = np.subtract(held, exact, out=held)
    np.abs(error, out=error)
    bound = np.abs(exact)
    bound *= unit_roundoff(target)
    if np.count_nonzero(error > bound):
        return _underflow(target)
    return rounded


def round_map(conv_map: ConvMap, dtype: npt.DTypeLike) -> RoundedMap | Refusal:
    """Round kernel and bias to what `dtype` can hold.

    A kernel entry is judged beside the largest entry of its output channel, or that channel's bias
    where that is larger (inputs of unit scale): small taps beside large ones may be subnormal, a
    channel that lives wholly below the normal range may not.

    Args:
        conv_map: The map.
        dtype: A floating numpy dtype, or one registered with numpy, such as a bfloat16.

    Returns:
        The rounded map, or a refusal: `NOT_FINITE`, `OVERFLOW` or `UNDERFLOW`.
    """
    target = np.dtype(dtype)
    parts = [_cast(conv_map.kernel, target), _cast(conv_map.bias, target)]
    refused = next((part for part in parts if isinstance(part, Refusal)), None)
    if refused is not None:
        return refused
    kernel, bias = (part[1] for part in parts if not isinstance(part, Refusal))
    unit = unit_roundoff(target)
    axes = tuple(range(1, conv_map.kernel.ndim))
    scale = np.maximum(np.abs(conv_map.kernel).max(axis=axes), np.abs(conv_map.bias))
    rows = [conv_map.kernel.reshape(conv_map.out_channels, -1), conv_map.bias[:, None]]
    exact = np.concatenate(rows, axis=1)
    columns = [part.reshape(conv_map.out_channels, -1) for part in (kernel, bias)]
    held = np.concatenate(columns, axis=1)
    error = np.abs(held - exact)
    if (error > unit * scale[:, None]).any():
        return _underflow(target)
    relative = error.max(axis=1)[scale > 0] / scale[scale > 0]
    rounded = ConvMap(
        kernel,
        bias,
        conv_map.groups,
        conv_map.origin,
        conv_map.up,
        conv_map.stride,
    )
    coarse = int(np.count_nonzero(error > unit * np.abs(exact)))
    return RoundedMap(rounded, coarse, float(relative.max(initial=0.0)))


def unit_roundoff(dtype: npt.DTypeLike) -> float:
    """Half the gap above 1, found by casting, so that any dtype known to numpy will do.

    A hair is added because a cast may round twice on its way (float64 to float32 to bfloat16).
    """
    return _unit_roundoff(np.dtype(dtype))


@cache
def _unit_roundoff(target: np.dtype[Any]) -> float:
    bits = 1
    while bits < 53 and float(np.asarray(1.0 + 2.0**-bits).astype(target)) != 1.0:
        bits += 1
    return float(2.0**-bits * (1.0 + 2.0**-10))


def cancels(left: Array, right: Array, dtype: npt.DTypeLike) -> bool:
    """Whether `left + right` is zero in every entry but for the rounding of its terms.

    What a normalization makes of zero, `β − μ · γ / sqrt(σ² + ε)`, is one number that a model may
    hold twice: folded into a bias, and subtracted from it as a constant of its own. Whoever wrote
    the constant rounded five times (sum, root, quotient, product, difference), a bias is rounded
    once more when it is folded. With unit roundoff u and no term above L each of these moves the
    result by no more than u · L, so the two lie at most 6 · u · L apart; the next power of two is
    allowed. L is the largest entry of all, because β and μ · s may nearly cancel in one channel
    and are not known here any more. Every entry has to be within the bound, not just some, and the
    model rounds by as much when it subtracts: no more than that is lost by taking it for zero.

    Args:
        left: Finite, any shape.
        right: Of the shape of `left`.
        dtype: The type in which both were rounded.
    """
    largest = max(float(np.abs(left).max()), float(np.abs(right).max()))
    if not np.isfinite(largest):
        return False
    bound = _ROUNDINGS * unit_roundoff(dtype) * largest
    return bool((np.abs(left + right) <= bound).all())


def _cast(exact: Array, dtype: np.dtype[Any]) -> tuple[npt.NDArray[Any], Array] | Refusal:
    """The numbers in the dtype, and these widened again."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        rounded = exact.astype(dtype)
    held: Array = rounded.astype(np.float64)
    if np.count_nonzero(np.isfinite(held)) == held.size:
        return rounded, held
    if not np.isfinite(exact).all():
        return Refusal(Cause.NOT_FINITE, "a weight or bias is infinite or not a number")
    largest = float(np.abs(exact).max())
    return Refusal(Cause.OVERFLOW, f"a weight of {largest:.4g} does not fit into {dtype.name}")


def _underflow(dtype: np.dtype[Any]) -> Refusal:
    return Refusal(
        Cause.UNDERFLOW, f"weights of a channel fall below the normal range of {dtype.name}"
    )
