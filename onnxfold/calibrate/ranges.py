"""Which range of a tensor's values its integers are to cover.

All methods begin with the exact minimum and maximum, widened to contain zero. What lies outside the
chosen range is clipped to its limits; what lies inside is rounded to a grid that is the finer, the
narrower the range.
"""

from enum import StrEnum

import numpy as np

from onnxfold.calibrate.density import Density
from onnxfold.calibrate.scheme import Floats, Range, Scheme, grids
from onnxfold.calibrate.search import Cost, best_range
from onnxfold.calibrate.statistics import TensorStatistics

DEFAULT_PERCENTILE = 99.99
"""Percent of the elements that the method `percentile` keeps inside the range."""

_SMOOTHING = 1e-4
"""Share of a distribution that is spread evenly, so that no quotient of two is infinite."""


class Method(StrEnum):
    """How a range is chosen.

    Attributes:
        MINMAX: The exact minimum and maximum: nothing is clipped.
        PERCENTILE: A given share of the elements stays inside.
        MSE: The least expected squared error of quantizing, rounding and clipping together.
        KL: The least Kullback-Leibler divergence of the quantized distribution from the original.
    """

    MINMAX = "minmax"
    PERCENTILE = "percentile"
    MSE = "mse"
    KL = "kl"


def select_range(
    stats: TensorStatistics,
    method: Method,
    scheme: Scheme,
    *,
    percentile: float = DEFAULT_PERCENTILE,
) -> Range:
    """The range that a method chooses.

    Args:
        stats: Of the tensor.
        method: How to choose.
        scheme: The integers that the range is for.
        percentile: Percent of elements to keep inside, for `Method.PERCENTILE` only. With a free
            zero point half of the others are cut off at either end; with a fixed one those of the
            largest magnitude; at an end where the values reach no further than zero, none.

    Raises:
        ValueError: `percentile` is not above 0 and at most 100.
    """
    if not 0.0 < percentile <= 100.0:
        raise ValueError("a percentile is above 0 and at most 100")
    whole = _whole(stats, scheme)
    everything = method is Method.PERCENTILE and percentile == 100.0
    if whole.low == whole.high or method is Method.MINMAX or everything:
        return whole
    density = Density.of(stats)
    if method is Method.PERCENTILE:
        return _percentile_range(density, whole, scheme, 1.0 - percentile / 100.0)
    if method is Method.MSE:
        best = best_range(whole, scheme, _squared_errors(density, scheme))
    else:
        narrowest = density.typical_width * scheme.levels / (whole.high - whole.low)
        best = best_range(whole, scheme, _divergences(density, scheme), narrowest)
    return best if scheme.zero_point is None else _reached(best, whole, scheme)


def quantization_error(stats: TensorStatistics, limits: Range, scheme: Scheme) -> float:
    """The mean squared error of quantizing the tensor with this range.

    Values are taken to be spread evenly within each bin of the histogram, zeros to be exact, and
    one element each to lie at the exact minimum and maximum where the histogram did not see them.
    """
    cost = _squared_errors(Density.of(stats), scheme)
    return float(cost(*_pair(limits))[0])


def _whole(stats: TensorStatistics, scheme: Scheme) -> Range:
    """Everything that occurs and the integers can represent."""
    return Range(
        min(0.0, stats.minimum) if scheme.below_zero else 0.0,
        max(0.0, stats.maximum) if scheme.above_zero else 0.0,
    )


def _reached(limits: Range, whole: Range, scheme: Scheme) -> Range:
    """What the grid for `limits` covers of `whole`: on the other side of zero, maybe more."""
    scale, zero = (float(each[0]) for each in grids(*_pair(limits), scheme))
    low, high = scale * (scheme.lowest - zero), scale * (scheme.highest - zero)
    return limits.union(Range(max(whole.low, low), min(whole.high, high)))


def _pair(limits: Range) -> tuple[Floats, Floats]:
    return np.array([limits.low]), np.array([limits.high])


def _percentile_range(density: Density, whole: Range, scheme: Scheme, cut: float) -> Range:
    if scheme.zero_point is not None:
        limit = density.magnitude_quantile(1.0 - cut, scheme.below_zero, scheme.above_zero)
        return Range(max(whole.low, -limit), min(whole.high, limit))
    if whole.low == 0.0:
        return Range(0.0, min(whole.high, max(0.0, density.quantile(1.0 - cut))))
    if whole.high == 0.0:
        return Range(max(whole.low, min(0.0, density.quantile(cut))), 0.0)
    return Range(
        max(whole.low, min(0.0, density.quantile(cut / 2.0))),
        min(whole.high, max(0.0, density.quantile(1.0 - cut / 2.0))),
    )


def _squared_errors(density: Density, scheme: Scheme) -> Cost:
    def cost(low: Floats, high: Floats) -> Floats:
        scale, zero = grids(low, high, scheme)
        return density.squared_error(scale, scheme.lowest - zero, scheme.highest - zero)

    return cost


def _divergences(density: Density, scheme: Scheme) -> Cost:
    # What has no levels of its sign becomes zero whatever the range, and tells nothing about it.
    density = density.of_sign(scheme.below_zero, scheme.above_zero)

    def cost(low: Floats, high: Floats) -> Floats:
        scale, zero = grids(low, high, scheme)
        first, last = scheme.lowest - zero, scheme.highest - zero
        return np.array(
            [
                _divergence(density, *each)
                for each in zip(scale, first.astype(int), last.astype(int), strict=True)
            ]
        )

    return cost


def _divergence(density: Density, scale: float, first: int, last: int) -> float:
    """The divergence KL(P‖Q) for one grid; infinite when everything is clipped.

    P is the distribution with everything outside the grid moved to the outermost bins inside. Q is
    that of what was inside, its mass at each level spread evenly over the bins of the level that
    are not empty. What chance alone contributes is taken off: among N numbers, (bins − levels) / 2N
    (Miller, Note on the bias of information estimates, 1955).
    """
    levels = np.rint(density.centres / scale)
    inside = slice(*np.searchsorted(levels, (first, last + 1)))
    kept = density.masses[inside]
    if not kept.any():
        return float("inf")
    reference = kept.copy()
    reference[0] += density.masses[: inside.start].sum()
    reference[-1] += density.masses[inside.stop :].sum()
    index = (levels[inside] - first).astype(np.intp)
    occupied = kept > 0.0
    per_level = np.bincount(index, kept)
    bins_per_level = np.maximum(1, np.bincount(index, occupied))
    spread = np.where(occupied, (per_level / bins_per_level)[index], 0.0)
    present = reference > 0.0
    one = reference[present] / reference.sum()
    two = (1.0 - _SMOOTHING) * spread[present] / spread.sum() + _SMOOTHING / present.sum()
    chance = np.count_nonzero(occupied) - np.count_nonzero(per_level)
    return float((one * np.log(one / two)).sum()) - chance / (2.0 * float(reference.sum()))
