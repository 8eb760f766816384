"""Everything that a run has to say, as plain data."""

import math
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from onnxfold.cost.summary import ModelSummary
from onnxfold.pipeline.manager import PassTiming
from onnxfold.rewrite.ledger import AppliedRewrite, Failure, Rejection
from onnxfold.verify.verdict import Verdict


@dataclass(frozen=True, slots=True)
class RolledBack:
    """A rewrite that made the model wrong and was taken back alone.

    Attributes:
        rewrite: What it was, in the run in which it was found.
        reason: What was wrong with the model that contained it.
    """

    rewrite: AppliedRewrite
    reason: str


@dataclass(frozen=True, slots=True)
class Loss:
    """What lossy passes cost: not proven equal, but measured.

    Attributes:
        passes: These passes, and those behind them.
        sqnr: The lowest signal to noise ratio of all outputs, in dB, infinite if nothing changed;
            None if there was nothing to measure it on.
        agreement: Equal labels in percent; None where no output looks like a class map.
        feeds: What it was measured on.
        notes: Where else the result is not what it was.
    """

    passes: tuple[str, ...]
    sqnr: float | None
    agreement: float | None
    feeds: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON-ready data."""
        known = self.sqnr is not None and math.isfinite(self.sqnr)
        return {**asdict(self), "sqnr": self.sqnr if known else None}


@dataclass(frozen=True, slots=True)
class OptimizationReport:
    """What was done to a model, what was not, and why.

    Attributes:
        before: Figures of the model as it came.
        after: Figures of the result.
        timings: One entry per pass, in order.
        applied: Every rewrite in the result, in order.
        rejections: Patterns that were found and left alone, with the reason.
        failures: Passes and rules that raised, and were skipped.
        rolled_back: Rewrites that verification took back.
        verdict: How the result compares with the model as it came; None when it was not asked.
        notes: What else a user should know, one sentence each.
        loss: What lossy passes cost, which `verdict` then says nothing about; None without any, and
            where nothing was verified.
    """

    before: ModelSummary
    after: ModelSummary
    timings: tuple[PassTiming, ...]
    applied: tuple[AppliedRewrite, ...]
    rejections: tuple[Rejection, ...]
    failures: tuple[Failure, ...]
    rolled_back: tuple[RolledBack, ...]
    verdict: Verdict | None
    notes: tuple[str, ...]
    loss: Loss | None = None

    def rewrites_by_pass(self) -> Counter[str]:
        """How many rewrites each pass made."""
        return Counter(rewrite.key.pass_name for rewrite in self.applied)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-ready data."""
        return {
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
            "passes": [asdict(timing) for timing in self.timings],
            "rewrites": [_rewrite(rewrite) for rewrite in self.applied],
            "rewrites_by_pass": dict(self.rewrites_by_pass()),
            "rejections": [_named(rejection) for rejection in self.rejections],
            "failures": [_named(failure) for failure in self.failures],
            "rolled_back": [
                {**_rewrite(entry.rewrite), "reason": entry.reason} for entry in self.rolled_back
            ],
            "verification": None if self.verdict is None else self.verdict.to_dict(),
            "loss": None if self.loss is None else self.loss.to_dict(),
            "notes": list(self.notes),
        }


def _named(entry: Rejection | Failure) -> dict[str, Any]:
    plain = asdict(entry)
    return {"pass": plain.pop("pass_name"), **plain}


def _rewrite(rewrite: AppliedRewrite) -> dict[str, Any]:
    return {
        "number": rewrite.number,
        "pass": rewrite.key.pass_name,
        "rule": rewrite.key.rule,
        "output": rewrite.key.output,
        "sources": list(rewrite.sources),
        "created": rewrite.created,
    }
