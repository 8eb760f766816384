"""Histograms that merge exactly: integer counts of bins whose width is a power of two.

Bin `i` of width `w = 2**e` covers `[i·w, (i+1)·w)`, so bins lie on one grid that data do not move.
Doubling the width joins the bins `2i` and `2i+1`, because `floor(floor(x/w)/2) = floor(x/(2w))`. A
set of numbers gets the smallest width at which it fits, which depends on its least and greatest bin
alone. Hence the histogram of a union is the merged histogram of its parts, as bits, whatever the
parts are and in whatever order they are merged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_BINS = 4096
"""Most bins that a histogram has; unless its numbers are all alike it has over half as many."""

_MIN_EXPONENT = -149
"""Width of the narrowest bins: every float32 is a multiple of it."""

_MAX_INDEX = 1 << 24
"""Bins are no narrower than the numbers are apart in float32 at the largest magnitude."""

_SHIFT_TO_NOTHING = 62
"""Halving an index so often leaves 0 or -1, and more halvings leave that."""

Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Histogram:
    """Counts of bins of equal width.

    Attributes:
        exponent: Bins are `2**exponent` wide.
        first: Index of the first bin, which covers `[first, first + 1) * 2**exponent`.
        counts: int64, one for each bin; the first and the last are not zero.
    """

    exponent: int
    first: int
    counts: Counts

    @staticmethod
    def of(array: NDArray[np.floating]) -> Histogram:
        """The histogram of the elements of an array of any shape.

        Raises:
            ValueError: An element is NaN or infinite.
        """
        flat = np.asarray(array, dtype=np.float64).ravel()
        if flat.size == 0:
            return Histogram(_MIN_EXPONENT, 0, np.zeros(0, np.int64))
        low, high = float(flat.min()), float(flat.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError("a histogram holds finite numbers only")
        exponent = _least_exponent(low, high)
        first = math.floor(math.ldexp(low, -exponent))
        indices = np.floor(np.ldexp(flat, -exponent)).astype(np.int64)
        return Histogram(exponent, first, np.bincount(indices - first).astype(np.int64))

    @property
    def total(self) -> int:
        """How many numbers were counted."""
        return int(self.counts.sum())

    @property
    def edges(self) -> NDArray[np.float64]:
        """The limits of the bins in ascending order, one more than there are bins."""
        return np.ldexp(np.arange(self.first, self.last + 2, dtype=np.float64), self.exponent)

    @property
    def last(self) -> int:
        """Index of the last bin."""
        return self.first + len(self.counts) - 1

    def merged(self, other: Histogram) -> Histogram:
        """The histogram of the numbers of both."""
        if not len(self.counts) or not len(other.counts):
            return self if len(self.counts) else other
        exponent = max(self.exponent, other.exponent)
        one, two = self._coarsened(exponent), other._coarsened(exponent)
        while not _fits(min(one.first, two.first), max(one.last, two.last)):
            exponent += 1
            one, two = one._coarsened(exponent), two._coarsened(exponent)
        first = min(one.first, two.first)
        counts = np.zeros(max(one.last, two.last) - first + 1, np.int64)
        for part in (one, two):
            counts[part.first - first : part.last - first + 1] += part.counts
        return Histogram(exponent, first, counts)

    def _coarsened(self, exponent: int) -> Histogram:
        """The same with bins `2**exponent` wide, which is no less than before."""
        shift = min(exponent - self.exponent, _SHIFT_TO_NOTHING)
        if shift == 0:
            return self
        indices = np.arange(self.first, self.last + 1) >> shift
        starts = np.flatnonzero(np.diff(indices, prepend=indices[0] - 1))
        return Histogram(exponent, int(indices[0]), np.add.reduceat(self.counts, starts))

    def __eq__(self, other: object) -> bool:
        """Whether both have the same bins."""
        return (
            isinstance(other, Histogram)
            and (self.exponent, self.first) == (other.exponent, other.first)
            and np.array_equal(self.counts, other.counts)
        )

    def __hash__(self) -> int:
        return hash((self.exponent, self.first, self.counts.tobytes()))


def _fits(first: int, last: int) -> bool:
    return last - first < MAX_BINS and first >= -_MAX_INDEX and last < _MAX_INDEX


def _least_exponent(low: float, high: float) -> int:
    """The smallest exponent at which numbers from `low` to `high` fit."""
    magnitude = _bits(max(abs(low), abs(high))) - _MAX_INDEX.bit_length()
    spread = _bits(high / 2 - low / 2) + 1 - MAX_BINS.bit_length()  # halves do not overflow
    exponent = max(_MIN_EXPONENT, magnitude, spread)
    while not _fits(
        math.floor(math.ldexp(low, -exponent)), math.floor(math.ldexp(high, -exponent))
    ):
        exponent += 1
    return exponent


def _bits(number: float) -> int:
    """The least exponent of a power of two above a number that is not negative."""
    return math.frexp(number)[1] if number else _MIN_EXPONENT
