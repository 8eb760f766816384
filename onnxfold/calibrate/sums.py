"""Sums of floating-point numbers that do not depend on the order of the additions.

A float32 is an integer of 24 bits times a power of two. Numbers whose powers lie in the same group
of 16 are added as integers, shifted to the least power of that group; groups are kept apart until
the sum is read. Integer additions are exact, so any split of the numbers gives the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_MANTISSA_BITS = 24
_GROUP_BITS = 16

_LOWEST = -149 - _MANTISSA_BITS
"""Power of two below which no float32 has a significant bit, with room for denormal numbers."""


@dataclass(frozen=True, slots=True, eq=False)
class ExactSums:
    """One sum for each of `C` channels.

    Up to 2**23 numbers can be added to each channel.

    Attributes:
        terms: How many numbers were added to each channel.
        first: The least group of powers that occurs.
        limbs: int64 (G, C): the sums of the groups `first`, `first + 1` and so on.
    """

    terms: int
    first: int
    limbs: NDArray[np.int64]

    @staticmethod
    def of(array: NDArray[np.float32]) -> ExactSums:
        """The sums of the rows of a float32 array (terms, C) of finite numbers."""
        fractions, exponents = np.frexp(array)
        mantissas = np.ldexp(fractions, _MANTISSA_BITS).astype(np.int64)
        powers = exponents.astype(np.int64) - _MANTISSA_BITS - _LOWEST
        groups = np.where(mantissas == 0, -1, powers // _GROUP_BITS)
        terms = mantissas << (powers % _GROUP_BITS)
        used = groups[groups >= 0]
        if not used.size:
            return ExactSums(len(array), 0, np.zeros((0, array.shape[1]), np.int64))
        first = int(used.min())
        sums = [(terms * (groups == each)).sum(axis=0) for each in range(first, used.max() + 1)]
        return ExactSums(len(array), first, np.stack(sums))

    @property
    def means(self) -> NDArray[np.float64]:
        """The mean of each channel, (C,)."""
        total = np.zeros(self.limbs.shape[1], np.float64)
        for group, limb in reversed(list(enumerate(self.limbs, self.first))):
            total += np.ldexp(limb.astype(np.float64), group * _GROUP_BITS + _LOWEST)
        return total / max(1, self.terms)

    def merged(self, other: ExactSums) -> ExactSums:
        """The sums of the numbers of both, which have equally many channels."""
        terms = self.terms + other.terms
        if not len(self.limbs) or not len(other.limbs):
            full = self if len(self.limbs) else other
            return ExactSums(terms, full.first, full.limbs)
        first = min(self.first, other.first)
        end = max(self.first + len(self.limbs), other.first + len(other.limbs))
        limbs = np.zeros((end - first, self.limbs.shape[1]), np.int64)
        for part in (self, other):
            limbs[part.first - first : part.first - first + len(part.limbs)] += part.limbs
        return ExactSums(terms, first, limbs)

    def __eq__(self, other: object) -> bool:
        """Whether both hold the same sums of equally many terms."""
        return (
            isinstance(other, ExactSums)
            and (self.terms, self.first) == (other.terms, other.first)
            and np.array_equal(self.limbs, other.limbs)
        )

    def __hash__(self) -> int:
        return hash((self.terms, self.first, self.limbs.tobytes()))
