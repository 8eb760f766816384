"""How many outputs an axis has: one formula for every operator of the algebra."""

import math
from dataclasses import dataclass

from onnxfold.algebra.refusal import AlgebraError, Cause, Refusal


@dataclass(frozen=True, slots=True)
class Extents:
    """Known sizes of one axis.

    Attributes:
        n_in: Input size.
        n_out: Output size wanted.
    """

    n_in: int
    n_out: int

    def __post_init__(self) -> None:
        if self.n_in < 0 or self.n_out < 0:
            raise AlgebraError(f"sizes {self.n_in} and {self.n_out} must not be negative")


@dataclass(frozen=True, slots=True)
class ExtentRule:
    """`n_out = ⌊(up · n_in + offset) / stride⌋`, for sizes that are not known.

    The rates are reduced on construction: with g = gcd(up, stride),
    `⌊(g·u·n + e) / (g·s)⌋ = ⌊(u·n + ⌊e / g⌋) / s⌋`.

    Attributes:
        up: u of the map.
        offset: e; pads at the end enter here and nowhere else.
        stride: s of the map.
    """

    up: int = 1
    offset: int = 0
    stride: int = 1

    def __post_init__(self) -> None:
        if self.up < 1 or self.stride < 1:
            raise AlgebraError(f"rates {self.up} and {self.stride} must be positive")
        factor = math.gcd(self.up, self.stride)
        if factor == 1:
            return
        object.__setattr__(self, "up", self.up // factor)
        object.__setattr__(self, "stride", self.stride // factor)
        object.__setattr__(self, "offset", self.offset // factor)

    def __call__(self, n_in: int) -> int:
        """The output size for one input size."""
        return (self.up * n_in + self.offset) // self.stride

    def then(
        self, following: "ExtentRule", *, first: int = 1, step: int = 1
    ) -> "ExtentRule | Refusal":
        """The rule of two operators in a row, for every n_in in {first, first + step, …}.

        A floor followed by an upsampling is a rule of its own only where the floor never rounds.

        Returns:
            The rule, or a refusal (`EXTENTS`).
        """
        never_rounds = (
            self.up * step % self.stride == 0 and (self.up * first + self.offset) % self.stride == 0
        )
        if following.up != 1 and not never_rounds:
            return Refusal(
                Cause.EXTENTS,
                f"rounding down by {self.stride} before upsampling by {following.up} loses a "
                "remainder that depends on the size",
            )
        return ExtentRule(
            self.up * following.up,
            following.up * self.offset + self.stride * following.offset,
            self.stride * following.stride,
        )


AxisExtent = Extents | ExtentRule


def conv_extent(
    kernel: int, stride: int = 1, pad_begin: int = 0, pad_end: int = 0, dilation: int = 1
) -> ExtentRule:
    """The rule of Conv and of pooling without `ceil_mode`, one axis."""
    reach = dilation * (kernel - 1) + 1
    return ExtentRule(1, pad_begin + pad_end - reach + stride, stride)


def conv_transpose_extent(
    kernel: int,
    stride: int = 1,
    pad_begin: int = 0,
    pad_end: int = 0,
    dilation: int = 1,
    output_padding: int = 0,
) -> ExtentRule:
    """The rule of ConvTranspose, one axis."""
    reach = dilation * (kernel - 1) + 1
    return ExtentRule(stride, output_padding + reach - stride - pad_begin - pad_end, 1)


def slice_extent(start: int, step: int = 1) -> ExtentRule:
    """The rule of a Slice from `start` to the end of the axis, one axis."""
    return ExtentRule(1, step - 1 - start, step)
