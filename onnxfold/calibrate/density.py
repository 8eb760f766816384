"""The distribution of a tensor's values, read off its statistics."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from onnxfold.calibrate.scheme import Floats
from onnxfold.calibrate.statistics import TensorStatistics


@dataclass(frozen=True, slots=True)
class Density:
    """Masses spread evenly over adjoining bins, a mass at zero, and two single elements.

    Attributes:
        edges: (B + 1,) limits of the bins; the outermost ones reach no further than the extremes.
        masses: (B,) how many elements lie in each bin, exact zeros left out.
        zeros: How many elements are exactly zero.
        extremes: The exact minimum and maximum.
        extreme_mass: What each extreme weighs: nothing when all elements were counted, else one
            element, in units of the elements counted.
    """

    edges: Floats
    masses: Floats
    zeros: float
    extremes: Floats
    extreme_mass: float

    @classmethod
    def of(cls, stats: TensorStatistics) -> Self:
        """The distribution that the histogram and the exact extremes describe."""
        histogram = stats.histogram
        masses = histogram.counts.astype(np.float64)
        if stats.zeros:
            masses[-histogram.first] -= stats.zeros
        extremes = np.array([stats.minimum, stats.maximum])
        counted = histogram.total
        return cls(
            edges=np.clip(histogram.edges, *extremes),
            masses=masses,
            zeros=float(stats.zeros),
            extremes=extremes,
            extreme_mass=counted / stats.count if counted < stats.count else 0.0,
        )

    def of_sign(self, below: bool, above: bool) -> Self:
        """Without the masses of negative numbers, or of positive ones, where not asked for."""
        keep = ((self.centres < 0.0) & below) | ((self.centres >= 0.0) & above)
        return replace(self, masses=np.where(keep, self.masses, 0.0))

    @property
    def total(self) -> float:
        """The mass of everything."""
        return float(self.masses.sum()) + self.zeros + 2.0 * self.extreme_mass

    @property
    def centres(self) -> Floats:
        """The middle of each bin."""
        return self.edges[:-1] + np.diff(self.edges) / 2.0

    @property
    def typical_width(self) -> float:
        """The width of a bin that was not cut."""
        return float(np.diff(self.edges).max())

    def quantile(self, share: float) -> float:
        """The value below which this share of all elements lies, linear within a bin."""
        masses = self.masses.copy()
        at_zero = np.searchsorted(self.edges, 0.0, side="right") - 1
        masses[np.clip(at_zero, 0, len(masses) - 1)] += self.zeros
        return _quantile(self.edges, masses, share)

    def magnitude_quantile(self, share: float, below: bool, above: bool) -> float:
        """The same of absolute values, those of one sign counting as zero if so asked.

        Args:
            share: Of the elements.
            below: Whether negative elements have their magnitude.
            above: Whether positive elements have theirs.
        """
        around_zero = np.zeros(int(self.edges[0] <= 0.0 <= self.edges[-1]))
        edges = np.unique(np.abs(np.append(self.edges, around_zero)))
        running = np.append(0.0, np.cumsum(self.masses))
        negative = float(np.interp(0.0, self.edges, running))
        positive = float(running[-1]) - negative
        over = np.interp(edges, self.edges, running) - negative if above else positive
        under = negative - np.interp(-edges, self.edges, running) if below else negative
        cumulative = np.asarray(over + under) + self.zeros
        return float(np.interp(share * cumulative[-1], cumulative, edges))

    def squared_error(self, scale: Floats, first: Floats, last: Floats) -> Floats:
        """The mean squared error of rounding to `scale · n`, n from `first` to `last`.

        Over the interval from 0 to x the squared error of evenly spread values is
        `s³ · (n/12 + u³/3)` with `n` the nearest level to `x/s` and `u = x/s − n`: each whole cell
        contributes 1/12, and the rest, clipped values included, is a cubic.

        Args:
            scale: (K,), distances between levels.
            first: (K,), at most 0: zero has to be a level.
            last: (K,), at least 0.

        Returns:
            (K,), in squared units of the tensor.
        """
        columns = scale[:, None], first[:, None], last[:, None]
        integral, _ = _rounding(self.edges, *columns)
        widths = np.diff(self.edges)
        narrow = widths <= 0.0
        mean = np.diff(integral, axis=1) / np.where(narrow, 1.0, widths)
        if narrow.any():
            mean[:, narrow] = _rounding(self.edges[1:][narrow], *columns)[1]
        error = np.maximum(mean, 0.0) @ self.masses
        if self.extreme_mass:
            error += self.extreme_mass * _rounding(self.extremes, *columns)[1].sum(axis=1)
        return error / self.total


def _rounding(x: Floats, scale: Floats, first: Floats, last: Floats) -> tuple[Floats, Floats]:
    """The integral of the squared error from 0 to each `x`, and the squared error there."""
    rest = x / scale
    nearest = np.rint(rest)
    np.minimum(np.maximum(nearest, first, out=nearest), last, out=nearest)
    rest -= nearest
    squares = rest * rest
    rest *= squares / 3.0
    nearest /= 12.0
    nearest += rest
    nearest *= scale * scale * scale
    squares *= scale * scale
    return nearest, squares


def _quantile(edges: Floats, masses: Floats, share: float) -> float:
    cumulative = np.append(0.0, np.cumsum(masses))
    return float(np.interp(share * cumulative[-1], cumulative, edges))
