"""Integer grids: which integers a tensor may take, and which real numbers they stand for.

A grid is `real = scale · (integer − zero_point)`. Every grid represents zero exactly, because
convolutions pad with it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_MIN_SCALE = 2.0**-62
"""The product of two scales, which is that of a bias, stays far from float32's smallest numbers."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Scheme:
    """Which integers there are, and whether the one that means zero may be chosen.

    Attributes:
        lowest: The least integer.
        highest: The greatest integer.
        zero_point: The integer that means zero; None: chosen to fit the range.
    """

    lowest: int
    highest: int
    zero_point: int | None

    def __post_init__(self) -> None:
        """Refuse grids without zero.

        Raises:
            ValueError: `zero_point` is not one of the integers.
        """
        if not self.lowest < self.highest:
            raise ValueError("a grid has at least two levels")
        if self.zero_point is not None and not self.lowest <= self.zero_point <= self.highest:
            raise ValueError("the zero point is not on the grid")

    @property
    def levels(self) -> int:
        """How many integers there are."""
        return self.highest - self.lowest + 1

    @property
    def dtype(self) -> np.dtype[np.integer]:
        """The narrowest type that holds the integers."""
        kinds = (np.int8, np.int16) if self.lowest < 0 else (np.uint8, np.uint16)
        return next(
            np.dtype(kind)
            for kind in kinds
            if np.iinfo(kind).min <= self.lowest and self.highest <= np.iinfo(kind).max
        )

    @property
    def below_zero(self) -> bool:
        """Whether negative numbers can be represented."""
        return self.zero_point is None or self.zero_point > self.lowest

    @property
    def above_zero(self) -> bool:
        """Whether positive numbers can be represented."""
        return self.zero_point is None or self.zero_point < self.highest


UINT8 = Scheme(0, 255, None)
"""Asymmetric; a range that begins at zero gets the zero point 0."""

UINT8_NON_NEGATIVE = Scheme(0, 255, 0)
"""For tensors without negative numbers, which would all become zero."""

UINT8_CENTRED = Scheme(0, 255, 128)
"""Symmetric, for backends that take unsigned activations only."""

INT8 = Scheme(-128, 127, 0)
"""Symmetric, all levels."""

INT8_NARROW = Scheme(-127, 127, 0)
"""Symmetric, as many levels below zero as above it."""


@dataclass(frozen=True, slots=True)
class Range:
    """The real numbers that a grid has to reach, in units of the tensor.

    Attributes:
        low: At most 0.
        high: At least 0.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        """Refuse what no grid can represent.

        Raises:
            ValueError: Zero lies outside, or a limit is not finite.
        """
        if not -np.inf < self.low <= 0.0 <= self.high < np.inf:
            raise ValueError(f"[{self.low}, {self.high}] is no finite range around zero")

    def union(self, other: "Range") -> "Range":
        """The least range that contains both."""
        return Range(min(self.low, other.low), max(self.high, other.high))


@dataclass(frozen=True, slots=True)
class Quantization:
    """The parameters of QuantizeLinear and DequantizeLinear for one tensor.

    Attributes:
        scale: Positive, not denormal.
        zero_point: The integer that means zero.
        dtype: Of the integers.
    """

    scale: np.float32
    zero_point: int
    dtype: np.dtype[np.integer]


def quantization_of(limits: Range, scheme: Scheme) -> Quantization:
    """The finest grid of `scheme` that reaches `limits`.

    With a free zero point: `scale = (high − low) / (highest − lowest)` and
    `zero_point = round(lowest − low / scale)`. With a fixed one: the greater of
    `high / (highest − zero_point)` and `low / (lowest − zero_point)`. Computed in float64, the
    scale rounded once. A range of nothing but zero gets the scale 1.
    """
    scales, zero_points = grids(np.array([limits.low]), np.array([limits.high]), scheme)
    return Quantization(np.float32(scales[0]), int(zero_points[0]), scheme.dtype)


def grids(low: Floats, high: Floats, scheme: Scheme) -> tuple[Floats, Floats]:
    """Scales and zero points for many ranges at once, as `quantization_of`.

    Args:
        low: (K,), none above 0.
        high: (K,), none below 0.
        scheme: Of all of them.

    Returns:
        Scales (K,), each of which float32 represents exactly, and zero points (K,).
    """
    if scheme.zero_point is None:
        scale = _rounded((high - low) / (scheme.highest - scheme.lowest))
        zero = np.rint(scheme.lowest - low / scale)
        return scale, np.clip(zero, scheme.lowest, scheme.highest)
    scale = np.zeros_like(low)
    if scheme.above_zero:
        scale = np.maximum(scale, high / (scheme.highest - scheme.zero_point))
    if scheme.below_zero:
        scale = np.maximum(scale, low / (scheme.lowest - scheme.zero_point))
    return _rounded(scale), np.full_like(low, scheme.zero_point)


def _rounded(scale: Floats) -> Floats:
    positive = np.where(scale > 0.0, np.maximum(scale, _MIN_SCALE), 1.0)
    return positive.astype(np.float32).astype(np.float64)
