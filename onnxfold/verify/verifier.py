"""One reference, any number of candidates.

The reference runs once per feed and twice more with its weights moved (`baseline.py`); its
outputs and noise are kept. A candidate then costs one session and one run per feed, and its first
wrong output ends the check, so that a bisection over rewrites stays cheap. Reference and
candidate are never loaded at the same time.
"""

from collections.abc import Iterable, Mapping

from onnxfold.errors import CannotRunError
from onnxfold.verify.baseline import Baseline, Case, Data, Progress, measure_baseline
from onnxfold.verify.compare import GivenTolerance, combined, compare
from onnxfold.verify.feeds import Feed, Outputs
from onnxfold.verify.interface import Interface, differences
from onnxfold.verify.options import VerifyOptions
from onnxfold.verify.session import Array, FeedRefusedError, Session
from onnxfold.verify.sources import ModelSource, read_skeleton
from onnxfold.verify.verdict import OutputRecord, Verdict


class Verifier:
    """Compares candidates with one reference."""

    def __init__(
        self,
        reference: ModelSource,
        options: VerifyOptions | None = None,
        data: Data | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Nothing is run before the first `check` or `prepare`.

        Args:
            reference: The model as it came in. A path is read again for every session, so the
                file must stay as it is; a proto must not be changed.
            options: How to verify.
            data: The user's own inputs, used beside the made-up ones; the first
                `feeds.MAX_DATA` items are read.
            progress: Called with (what is being done, steps done, steps in all or 0).
        """
        self._reference = reference
        self._options = options or VerifyOptions()
        self._data = data
        self._progress: Progress = progress or (lambda _what, _done, _total: None)
        self._baseline: Baseline | None = None
        self._first = 0
        given = GivenTolerance(self._options.rtol, self._options.atol)
        self._given = None if given == GivenTolerance(None, None) else given

    def prepare(self) -> None:
        """Run the reference now, if that has not been done.

        Raises:
            BadModelError: The reference cannot be read.
            BadOptionError: A shape or an item of data does not fit the model.
            CannotRunError: The runtime cannot run the reference.
        """
        self._prepared()

    def feeds(self) -> tuple[Feed, ...]:
        """The feeds that candidates are given, e.g. to run another runtime on them.

        Raises:
            OnnxfoldError: As `prepare`.
        """
        return tuple(case.feed for case in self._prepared().cases)

    def expected(self) -> tuple[Outputs, ...]:
        """The reference's outputs on each of `feeds()`.

        Raises:
            OnnxfoldError: As `prepare`.
        """
        return tuple(case.outputs for case in self._prepared().cases)

    def check(self, candidate: ModelSource, *, stop_early: bool = True) -> Verdict:
        """Whether the candidate computes the same.

        Args:
            candidate: A path (needed where weights are external) or a proto.
            stop_early: Stop at the first feed that fails, and try that feed first next time.

        Raises:
            BadModelError: The candidate cannot be read, or the reference cannot.
            BadOptionError: A shape or an item of data does not fit the reference.
            CannotRunError: The runtime cannot run the reference.
        """
        baseline = self._prepared()
        changed = differences(baseline.interface, Interface.of(read_skeleton(candidate)))
        if changed:
            return Verdict(False, "; ".join(changed), notes=baseline.notes)
        try:
            session = Session(
                candidate, threads=self._options.threads, map_weights=baseline.map_weights
            )
        except CannotRunError as error:
            reason = f"the reference runs but the candidate does not: {error.message}"
            return Verdict(False, reason, notes=baseline.notes)
        return self._judge(session, baseline, stop_early)

    def check_outputs(self, outputs: Iterable[Mapping[str, Array]]) -> Verdict:
        """Judge outputs that another runtime gave on `feeds()`, in that order.

        Raises:
            OnnxfoldError: As `prepare`.
        """
        baseline = self._prepared()
        records: dict[str, dict[str, OutputRecord]] = {}
        for case, given in zip(baseline.cases, outputs, strict=True):
            self._compare_case(case, given, baseline, records)
        return _verdict(records, baseline)

    def _judge(self, session: Session, baseline: Baseline, stop_early: bool) -> Verdict:
        records: dict[str, dict[str, OutputRecord]] = {}
        order = sorted(range(len(baseline.cases)), key=lambda index: index != self._first)
        for step, index in enumerate(order):
            case = baseline.cases[index]
            self._progress("checking", step, len(order))
            try:
                outputs = session.run(case.feed.arrays)
            except (FeedRefusedError, CannotRunError) as error:
                self._first = index
                reason = f"the candidate does not run on {case.feed.label}: {error}"
                return Verdict(False, reason, feeds=(case.feed.label,), notes=baseline.notes)
            good = self._compare_case(case, outputs, baseline, records)
            if not good and stop_early:
                self._first = index
                break
        self._progress("checking", len(order), len(order))
        return _verdict(records, baseline)

    def _compare_case(
        self,
        case: Case,
        outputs: Mapping[str, Array],
        baseline: Baseline,
        records: dict[str, dict[str, OutputRecord]],
    ) -> bool:
        """Compare all outputs on one feed into `records`; whether all are equal."""
        found = {
            name: compare(
                name,
                reference,
                outputs.get(name),
                case.noise[name],
                baseline.flip_rates.get(name),
                self._given,
            )
            for name, reference in case.outputs.items()
        }
        for name in outputs.keys() - found.keys():  # a sequence that grew
            found[name] = OutputRecord(
                name,
                str(outputs[name].dtype),
                used=float("inf"),
                mismatch="the reference does not give this element",
            )
        for name, record in found.items():
            records.setdefault(name, {})[case.feed.label] = record
        return all(record.mismatch is None for record in found.values())

    def _prepared(self) -> Baseline:
        if self._baseline is None:
            self._baseline = measure_baseline(
                self._reference, self._options, self._data, self._progress
            )
        return self._baseline


def verify(
    reference: ModelSource,
    candidate: ModelSource,
    options: VerifyOptions | None = None,
    data: Data | None = None,
) -> Verdict:
    """Whether two models compute the same, on all feeds.

    Raises:
        OnnxfoldError: As `Verifier.check`.
    """
    return Verifier(reference, options, data).check(candidate, stop_early=False)


def _verdict(records: Mapping[str, Mapping[str, OutputRecord]], baseline: Baseline) -> Verdict:
    outputs = tuple(combined(by_feed) for by_feed in records.values())
    tried = {label for by_feed in records.values() for label in by_feed}
    labels = tuple(c.feed.label for c in baseline.cases if c.feed.label in tried)
    bad = [record for record in outputs if record.mismatch is not None]
    worst = max(bad or outputs, key=lambda record: record.used, default=None)
    if bad and worst is not None:
        reason = f"output {worst.name} is not equal on {worst.worst_feed}: {worst.mismatch}"
    else:
        reason = f"all {len(outputs)} outputs are within tolerance on {len(labels)} feeds"
    name = worst.name if worst is not None else None
    return Verdict(not bad, reason, outputs, name, labels, baseline.notes)
