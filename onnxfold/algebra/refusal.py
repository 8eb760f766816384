"""What the algebra answers when it cannot do exactly what was asked."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class AlgebraError(ValueError):
    """The caller broke a precondition (shapes, channel counts, ranks): a bug, not a refusal."""


class Cause(StrEnum):
    """Why an exact result does not exist, or cannot be written as asked."""

    RATES = "rates"
    PERIODIC = "periodic"
    UNEVEN_BIAS = "uneven_bias"
    NEGATIVE_PAD = "negative_pad"
    EXTENTS = "extents"
    SPATIAL_TAPS = "spatial_taps"
    UNKNOWN_EXTENTS = "unknown_extents"
    REACH_BACK = "reach_back"
    VARIANCE = "variance"
    NOT_FINITE = "not_finite"
    OVERFLOW = "overflow"
    UNDERFLOW = "underflow"


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer instead of a result; never raised.

    Attributes:
        cause: The kind of obstacle, for counting and for tests.
        reason: One clause for people, without a full stop.
    """

    cause: Cause
    reason: str


def by_axis(values: Sequence[int]) -> str:
    """How people write one number per axis: "2x2"; "nothing" where there is no axis."""
    return "x".join(str(value) for value in values) or "nothing"
