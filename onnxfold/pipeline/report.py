"""Everything that a run has to say, as plain data."""

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
