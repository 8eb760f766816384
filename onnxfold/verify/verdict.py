"""What a comparison found, as plain data."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class OutputRecord:
    """How one output compared, over all feeds that were tried.

    The error figures are those of the feed that came closest to (or went furthest past) its
    tolerance.

    Attributes:
        name: The output; an element of a sequence is `name[i]`.
        dtype: Its element type in numpy's words.
        feeds: On how many feeds it was compared.
        worst_feed: The feed of the figures below, empty if none was compared.
        max_abs_error: Largest absolute difference, None unless float.
        scale: Largest finite magnitude in the reference's output, None unless float.
        relative_error: `max_abs_error / scale`, None unless float; 0 where both are 0.
        tolerance: What was allowed at the element that used most of its allowance; for integers
            and booleans the share of elements that may differ.
        rms_error: Root mean square difference, None unless float.
        rms_tolerance: What was allowed of it, None where only `tolerance` holds.
        tolerance_origin: Where the tolerance comes from, in words.
        used: Error over tolerance at that element, or the same of the root mean squares if
            that is larger; above 1 is a mismatch.
        label_agreement: Smallest share of positions with the same class, None if the output does
            not look like class scores or labels.
        mismatch: Why it is not equal, None if it is.
    """

    name: str
    dtype: str
    feeds: int = 0
    worst_feed: str = ""
    max_abs_error: float | None = None
    scale: float | None = None
    relative_error: float | None = None
    tolerance: float | None = None
    rms_error: float | None = None
    rms_tolerance: float | None = None
    tolerance_origin: str = ""
    used: float = 0.0
    label_agreement: float | None = None
    mismatch: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the candidate is the same model.

    Attributes:
        equal: It is, as far as the feeds can tell.
        reason: One sentence.
        outputs: One record per output, in the reference's order.
        worst: The output that used most of its tolerance, None if none was compared.
        feeds: Labels of the feeds that the candidate was given.
        notes: What limits the verdict, one sentence each.
    """

    equal: bool
    reason: str
    outputs: tuple[OutputRecord, ...] = ()
    worst: str | None = None
    feeds: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The verdict as JSON-ready data; infinite and undefined figures become strings."""
        plain: dict[str, Any] = asdict(self)
        plain["outputs"] = [
            {key: _json(value) for key, value in record.items()} for record in plain["outputs"]
        ]
        for key in ("feeds", "notes"):
            plain[key] = list(plain[key])
        return plain


def _json(value: Any) -> Any:
    if isinstance(value, float) and value - value != 0.0:  # inf or nan: JSON has neither
        return str(value)
    return value
