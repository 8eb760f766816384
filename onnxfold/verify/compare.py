"""One output of the candidate against the reference's, on one feed."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from onnxfold.verify.session import Array
from onnxfold.verify.tolerance import (
    EXACT,
    FLIPS,
    FLOORED,
    MEASURED,
    Noise,
    allowance,
    allowed_flips,
    finite_magnitudes,
    root_mean_square,
    spread_allowance,
    working,
)
from onnxfold.verify.verdict import OutputRecord


@dataclass(frozen=True, slots=True)
class GivenTolerance:
    """The user's own tolerance: `atol + rtol · scale`.

    Attributes:
        rtol: Relative to the largest finite magnitude of the output, not to each element.
        atol: Absolute.
    """

    rtol: float | None
    atol: float | None

    @property
    def origin(self) -> str:
        """Who said so."""
        names = [n for n, v in (("--rtol", self.rtol), ("--atol", self.atol)) if v is not None]
        return f"given by {' and '.join(names)}"

    def allowance(self, reference: Array, scale: float) -> Array:
        """The largest allowed error, the same for every element."""
        limit = (self.atol or 0.0) + (self.rtol or 0.0) * scale
        return np.full(reference.shape, limit, working(reference[..., :0]).dtype)


def compare(
    name: str,
    reference: Array,
    candidate: Array | None,
    noise: Noise | None,
    flip_rate: float | None,
    given: GivenTolerance | None,
) -> OutputRecord:
    """Judge one output on one feed.

    Args:
        name: The output.
        reference: What the reference gave.
        candidate: What the candidate gave, None if nothing.
        noise: The reference's noise in this output on this feed, None if it has none to measure.
        flip_rate: Share of flips over all feeds, None in a model without floats; for outputs that
            are not float.
        given: The user's tolerance, which replaces the measured one for float outputs.
    """
    dtype = str(reference.dtype)
    if candidate is None:
        return _broken(name, dtype, "the candidate does not give this output")
    if candidate.dtype != reference.dtype:
        return _broken(name, dtype, f"its type became {candidate.dtype}")
    if candidate.shape != reference.shape:
        return _broken(name, dtype, f"its shape was {reference.shape} and became {candidate.shape}")
    if reference.dtype.kind == "f":
        return _compare_floats(name, reference, candidate, noise, given)
    return _compare_discrete(name, reference, candidate, flip_rate)


def _broken(name: str, dtype: str, mismatch: str) -> OutputRecord:
    return OutputRecord(name, dtype, feeds=1, used=float("inf"), mismatch=mismatch)


def _compare_floats(
    name: str,
    reference: Array,
    candidate: Array,
    noise: Noise | None,
    given: GivenTolerance | None,
) -> OutputRecord:
    dtype = str(reference.dtype)
    if reference.size == 0:
        return OutputRecord(name, dtype, feeds=1, tolerance_origin=EXACT)
    strange = _undefined_differently(reference, candidate)
    excused = noise.undefined if noise is not None else 0
    if strange > excused:
        return _broken(name, dtype, f"NaN or infinity stands elsewhere in {strange} elements")
    scale = float(finite_magnitudes(reference).max())
    allowed = given.allowance(reference, scale) if given else allowance(reference, noise)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        # Non-finite elements were compared above; a finite overflow of the difference stays inf.
        error = np.abs(working(candidate) - working(reference))
        error[~(np.isfinite(reference) & np.isfinite(candidate))] = 0
        used = np.where(error > 0, error / allowed, 0)
    worst = int(used.argmax())
    peak = float(error.max())
    spread = root_mean_square(error)
    spread_allowed = None if given else spread_allowance(reference, noise)
    record = OutputRecord(
        name,
        dtype,
        feeds=1,
        max_abs_error=peak,
        rms_error=spread,
        rms_tolerance=spread_allowed,
        scale=scale,
        relative_error=peak / scale if scale else (0.0 if peak == 0 else float("inf")),
        tolerance=float(allowed.reshape(-1)[worst]),
        tolerance_origin=_origin(given, noise),
        used=max(
            float(used.reshape(-1)[worst]), spread / spread_allowed if spread_allowed else 0.0
        ),
    )
    return _judged(record, reference, candidate, allowed)


def _origin(given: GivenTolerance | None, noise: Noise | None) -> str:
    if given:
        return given.origin
    return MEASURED if noise is not None and noise.peak > 0 else FLOORED


def _judged(
    record: OutputRecord, reference: Array, candidate: Array, allowed: Array
) -> OutputRecord:
    agreement, wrong = _labels(reference, candidate, allowed)
    mismatch = None
    if record.used > 1:
        mismatch = (
            f"its error of {record.max_abs_error:.3g} on a scale of {record.scale:.3g} is "
            f"{record.used:.3g} times the tolerance"
        )
    elif wrong:
        mismatch = f"{wrong} positions changed class although the classes are further apart"
    return replace(record, label_agreement=agreement, mismatch=mismatch)


def _undefined_differently(reference: Array, candidate: Array) -> int:
    """How many elements differ in being NaN, +inf, -inf or finite."""
    same = np.isfinite(reference) & np.isfinite(candidate)
    same |= np.isnan(reference) & np.isnan(candidate)
    same |= (reference == candidate) & ~np.isnan(reference)
    return int(np.count_nonzero(~same))


def _labels(reference: Array, candidate: Array, allowed: Array) -> tuple[float | None, int]:
    """Agreement of the classes (axis 1) and the number of disagreements that are no near-tie.

    A near-tie: the reference's scores of the two classes differ by no more than the tolerance.
    """
    if reference.ndim < 2 or reference.shape[1] < 2:
        return None, 0
    before = np.expand_dims(reference.argmax(axis=1), 1)
    after = np.expand_dims(candidate.argmax(axis=1), 1)
    changed = before != after
    agreement = 1.0 - float(np.count_nonzero(changed)) / changed.size
    if agreement == 1.0:
        return agreement, 0
    scores = working(reference)
    with np.errstate(invalid="ignore"):
        margin = np.take_along_axis(scores, before, 1) - np.take_along_axis(scores, after, 1)
    limit = np.maximum(
        np.take_along_axis(allowed, before, 1), np.take_along_axis(allowed, after, 1)
    )
    return agreement, int(np.count_nonzero(changed & (margin > limit)))


def _compare_discrete(
    name: str, reference: Array, candidate: Array, flip_rate: float | None
) -> OutputRecord:
    different = int(np.count_nonzero(reference != candidate))
    allowed = 0
    if flip_rate is not None and reference.dtype.kind in "iub":
        allowed = allowed_flips(flip_rate, reference.size)
    share = different / max(reference.size, 1)
    mismatch = None
    if different > allowed:
        mismatch = f"{different} of {reference.size} elements differ where {allowed} may"
    return OutputRecord(
        name,
        str(reference.dtype),
        feeds=1,
        tolerance=allowed / max(reference.size, 1),
        tolerance_origin=FLIPS if allowed else EXACT,
        used=different / allowed if allowed else (float("inf") if different else 0.0),
        label_agreement=1.0 - share,
        mismatch=mismatch,
    )


def combined(records: Mapping[str, OutputRecord]) -> OutputRecord:
    """One output's records on several feeds (by feed label) as one."""
    label, worst = max(records.items(), key=lambda item: item[1].used)
    agreements = [r.label_agreement for r in records.values() if r.label_agreement is not None]
    broken = next(((at, r) for at, r in records.items() if r.mismatch is not None), None)
    if broken is not None and worst.mismatch is None:
        label, worst = broken
    return replace(
        worst,
        feeds=len(records),
        worst_feed=label,
        label_agreement=min(agreements, default=None),
    )
