"""The main job: load, rewrite, prove equal, write."""

import gc
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
import onnx_ir as ir

from onnxfold.cost.summary import summarize
from onnxfold.errors import CannotRunError, CannotVerifyError, NotEqualError
from onnxfold.ir.checks import structural_problem
from onnxfold.ir.interface import pin_input_shapes
from onnxfold.ir.shapes import has_all_shapes, infer_shapes, skeleton_proto
from onnxfold.model import LoadedModel, check_target, load, staged, to_proto
from onnxfold.model.collector import garbage_collection_paused
from onnxfold.optimization.loss import check_loss
from onnxfold.optimization.notes import notes_about
from onnxfold.optimization.options import Data, OptimizeOptions, Progress, Source, for_target
from onnxfold.optimization.room import is_heavy, room_wanted
from onnxfold.pipeline.blame import first_bad, first_meddler
from onnxfold.pipeline.manager import PassManager, PipelineRun
from onnxfold.pipeline.passes import ConfiguredPass, Pass
from onnxfold.pipeline.report import Loss, OptimizationReport, RolledBack
from onnxfold.rewrite.ledger import Failure, Ledger, RewriteKey
from onnxfold.rewrite.tensor_store import MemoryStore, SpillStore, TensorStore
from onnxfold.verify import ModelSource, Verdict, Verifier, VerifyOptions

_MAX_ROLLBACKS = 20
"""More wrong rewrites than this in one model point to a broken pass, not to an odd corner."""


@dataclass(frozen=True, slots=True)
class Optimization:
    """The result of `optimize`.

    Attributes:
        model: The optimized graph. Where weights lie in other files it reads them from there when
            they are asked for, so these files must stay.
        report: What was done, and how it compares.
    """

    model: ir.Model
    report: OptimizationReport

    def to_proto(self) -> onnx.ModelProto:
        """The result as a message, for callers that go on in memory."""
        return to_proto(self.model)


def optimize(
    source: Source,
    output: str | os.PathLike[str] | None = None,
    *,
    passes: Sequence[Pass | ConfiguredPass] | None = None,
    options: OptimizeOptions | None = None,
    data: Data | None = None,
    progress: Progress | None = None,
) -> Optimization:
    """Rewrite a model, prove that the result computes the same, and write it.

    What lossy passes do cannot be proven equal. What stands before the first of them is; the rest
    is checked to be valid and finite, and how far it is off is reported.

    Args:
        source: A path, a serialized model, or a `ModelProto`, which is not changed.
        output: Where to write the result; it may be the path of `source`. None: only return it.
        passes: What to run, in order; the default pipeline when None.
        options: How to do it.
        data: Inputs of your own to verify with, beside those that are made up.
        progress: Called with a few words whenever something that may take long begins.

    Returns:
        The result with a report.

    Raises:
        BadModelError: The source is not a model that can be read.
        BadOptionError: A shape does not fit, or an option of a pass or a file that it names.
        NotEqualError: The result does not compute the same, and no few rewrites are to blame.
        CannotVerifyError: The runtime cannot run the model, so nothing can be verified.
        CannotWriteError: The result could not be written. In all these cases nothing was.
    """
    if passes is None:
        from onnxfold.passes.presets import DEFAULT  # the framework does not know the library

        passes = DEFAULT
    if output is not None:
        check_target(output)
    options = options or OptimizeOptions()
    with ExitStack() as resources:
        resources.enter_context(garbage_collection_paused())
        run = _Optimizer(
            source,
            None if output is None else Path(output),
            PassManager(for_target(passes, options.target)),
            options,
            data,
            progress or (lambda _: None),
            resources,
        )
        return run.run()


class _Optimizer:
    """One call of `optimize`: may run the pipeline several times to find who is to blame."""

    def __init__(
        self,
        source: Source,
        output: Path | None,
        manager: PassManager,
        options: OptimizeOptions,
        data: Data | None,
        progress: Progress,
        resources: ExitStack,
    ) -> None:
        self._output = output
        self._manager, self._lossy = manager.split()
        self._options = options
        self._data = data
        self._progress = progress
        self._resources = resources
        self._spilled = resources.enter_context(ExitStack())
        progress("reading the model")
        self._loaded: LoadedModel | None
        self._loaded, skeleton = self._load(source)
        self._source: Source = self._loaded.source
        self._is_heavy = is_heavy(self._loaded)
        self._was_valid = structural_problem(skeleton) is None
        self._blocked: frozenset[RewriteKey] = frozenset()
        self._broken: list[Failure] = []
        self._tensors: TensorStore = MemoryStore()
        self._folder: Path | None = None
        self._verifier: Verifier | None = None

    def run(self) -> Optimization:
        before = summarize(self._fresh(keep=True).model, self._options.input_shapes)
        notes = notes_about(self._fresh(keep=True), self._was_valid, self._options.verify)
        if self._options.verify:
            self._verifier = self._make_verifier()
        rolled_back: list[RolledBack] = []
        result, verdict = self._proven(rolled_back)
        loss = None
        if self._lossy.passes:
            result = self._lossy_run(result)
            if self._lossy.passes:
                loss = self._lossily_written(result.model)
            else:  # all of them are out, and nothing is written yet
                result, verdict = self._proven(rolled_back)
        report = OptimizationReport(
            before=before,
            after=summarize(result.model, self._options.input_shapes),
            timings=result.timings,
            applied=tuple(result.ledger.applied),
            rejections=tuple(result.ledger.rejections),
            failures=(*self._broken, *result.ledger.failures),
            rolled_back=tuple(rolled_back),
            verdict=verdict,
            notes=notes,
            loss=loss,
        )
        return Optimization(self._lasting(result.model), report)

    def _proven(self, rolled_back: list[RolledBack]) -> tuple[PipelineRun, Verdict | None]:
        """A run whose result is right, and written if that is all; what is wrong is taken back."""
        sound: int | None = None
        while True:
            result = self._finished_run()
            problem = self._problem(result.model)
            wrong, verdict = self._written(result.model) if problem is None else (problem, None)
            if wrong is None:
                return result, verdict
            if len(rolled_back) == _MAX_ROLLBACKS:
                raise NotEqualError(
                    f"the result is wrong even without {_MAX_ROLLBACKS} rewrites: {wrong}",
                    f"the last was {rolled_back[-1].rewrite.key}; leave its pass out",
                )
            entry = self._blame(result, wrong, sound)
            if entry is None:  # a whole pass was to blame, and is gone
                sound = None
                continue
            rolled_back.append(entry)
            self._blocked |= {entry.rewrite.key}
            sound = entry.rewrite.number - 1

    def _lossy_run(self, exact: PipelineRun) -> PipelineRun:
        """What the lossy passes make of a proven result; those that leave off half-way are out."""
        while True:
            result = self._lossy.run(
                exact.model,
                exact.ledger,
                self._tensors,
                self._progress,
                shapes_are_inferred=True,
            )
            if not result.unfinished:
                return replace(result, timings=(*exact.timings, *result.timings))
            failures = result.ledger.failures
            self._broken += [each for each in failures if each.pass_name in result.unfinished]
            self._lossy = self._lossy.without(result.unfinished)
            exact = self._finished_run()

    def _lossily_written(self, model: ir.Model) -> Loss | None:
        """How far the result is off, after it was written.

        Raises:
            NotEqualError: It is broken.
        """
        problem = self._problem(model)
        if problem is not None:
            raise NotEqualError(problem, "please report the pass that made it so")
        if self._output is None:
            return self._loss(to_proto(model))
        self._progress("writing the result")
        with staged(model, self._output) as pending:
            loss = self._loss(pending.path)
            pending.commit()
        return loss

    def _loss(self, candidate: ModelSource) -> Loss | None:
        if self._verifier is None:
            return None
        self._progress("measuring how far the result is from the model as it came")
        names = tuple(entry.name for entry in self._lossy.passes)
        return check_loss(self._verifier, candidate, names, self._options.threads)

    def _lasting(self, model: ir.Model) -> ir.Model:
        """The result in a form that outlives this call: spilled constants do not."""
        if self._output is None or not self._is_heavy:
            return model
        return load(self._output, keep_overridable=self._options.keep_overridable).model

    def _load(self, source: Source) -> tuple[LoadedModel, onnx.ModelProto]:
        """The model with its shapes inferred, and its skeleton, from which they were."""
        loaded = load(source, keep_overridable=self._options.keep_overridable)
        pin_input_shapes(loaded.model, self._options.input_shapes)
        skeleton = skeleton_proto(loaded.model)
        infer_shapes(loaded.model, skeleton)
        return loaded, skeleton

    def _fresh(self, *, keep: bool = False) -> LoadedModel:
        """The model as it came. A pipeline rewrites it in place, so it is read again each time."""
        if self._loaded is None:
            gc.collect()
        loaded = self._loaded or self._load(self._source)[0]
        self._loaded = loaded if keep else None
        return loaded

    def _problem(self, model: ir.Model) -> str | None:
        """What a valid model has become invalid by; on the way missing shapes are inferred."""
        skeleton = skeleton_proto(model)
        if not has_all_shapes(model):
            infer_shapes(model, skeleton)
        problem = structural_problem(skeleton) if self._was_valid else None
        return problem and f"the ONNX checker refuses it: {problem}"

    def _make_verifier(self) -> Verifier:
        options = VerifyOptions(
            rtol=self._options.rtol,
            atol=self._options.atol,
            input_shapes=self._options.input_shapes,
            threads=self._options.threads,
        )
        self._progress("running the model as it came")
        verifier = Verifier(self._reference(), options, self._data, _counted(self._progress))
        try:
            verifier.prepare()
        except CannotRunError as error:
            raise CannotVerifyError(
                f"the model cannot be verified here: {error.message}", error.hint
            ) from error
        return verifier

    def _reference(self) -> ModelSource:
        """The model as it came, in a form that the runtime reads."""
        if isinstance(self._source, Path) and not self._options.input_shapes:
            return self._source
        model = self._fresh(keep=True).model
        if not self._is_heavy:
            return to_proto(model)
        reference = self._resources.enter_context(staged(model, self._scratch() / "reference.onnx"))
        return reference.path

    def _scratch(self) -> Path:
        if self._folder is None:
            beside = None if self._output is None else self._output.absolute().parent
            with room_wanted():
                folder = tempfile.TemporaryDirectory(prefix=".onnxfold-", dir=beside)
            self._folder = Path(self._resources.enter_context(folder))
        return self._folder

    def _store(self) -> TensorStore:
        if self._output is None or not self._is_heavy:
            return MemoryStore()  # what is returned must last
        self._spilled.close()  # what an earlier run left there is of no use any more
        with room_wanted():
            return self._spilled.enter_context(SpillStore())

    def _pipeline(self, limit: int | None) -> PipelineRun:
        model = self._fresh().model
        ledger = Ledger(limit, self._blocked)
        self._tensors = self._store()
        return self._manager.run(
            model, ledger, self._tensors, self._progress, shapes_are_inferred=True
        )

    def _finished_run(self) -> PipelineRun:
        """A run in which no pass left off half-way; those that do are taken out whole."""
        while True:
            result = self._pipeline(self._options.rewrite_limit)
            if not result.unfinished:
                return result
            self._drop_passes(result.unfinished, result.ledger.failures)

    def _drop_passes(self, names: Sequence[str], failures: Iterable[Failure]) -> None:
        self._broken += [failure for failure in failures if failure.pass_name in names]
        self._manager = self._manager.without(names)

    def _written(self, model: ir.Model) -> tuple[str | None, Verdict | None]:
        """What is wrong with the result, or None after it was written; and the verdict.

        It is not written when lossy passes will change it.
        """
        if self._output is None or self._lossy.passes:
            verdict = self._verdict(model)
            return _wrong(verdict), verdict
        self._progress("writing the result")
        with staged(model, self._output) as pending:
            verdict = self._verdict_on(pending.path)
            if (wrong := _wrong(verdict)) is None:
                pending.commit()
            return wrong, verdict

    def _verdict(self, model: ir.Model, *, stop_early: bool = False) -> Verdict | None:
        if self._verifier is None:
            return None
        if not self._is_heavy:
            return self._verdict_on(to_proto(model), stop_early=stop_early)
        with staged(model, self._scratch() / "candidate.onnx") as pending:
            return self._verdict_on(pending.path, stop_early=stop_early)

    def _verdict_on(self, model: ModelSource, *, stop_early: bool = False) -> Verdict | None:
        if self._verifier is None:
            return None
        self._progress("comparing the result with the model as it came")
        return self._verifier.check(model, stop_early=stop_early)

    def _flaw(self, model: ir.Model) -> str | None:
        """What is wrong with a model that is only looked at; None when it is right."""
        return self._problem(model) or _wrong(self._verdict(model, stop_early=True))

    def _blame(self, result: PipelineRun, wrong: str, sound: int | None) -> RolledBack | None:
        """The one rewrite that makes the model `wrong`, or None when a whole pass did and is gone.

        So many of the first rewrites of `result` are known to be `sound`, if any search was made.
        """
        applied = tuple(result.ledger.applied)
        flaws: dict[int, str | None] = {len(applied): wrong}

        def is_good(limit: int) -> bool:
            self._progress(f"looking for the rewrite to blame: {limit} rewrites")
            flaws[limit] = self._flaw(self._pipeline(limit).model)
            return flaws[limit] is None

        if applied and (sound is not None or is_good(0)):
            found = first_bad(applied, is_good, sound)
            return RolledBack(found, flaws[found.number] or wrong)
        if not self._manager.passes or self._flaw(self._fresh().model) is not None:
            raise NotEqualError(
                f"the model does not survive being read and written: {wrong}",
                "please report the model; this is not the fault of a pass",
            )
        meddler = first_meddler(self._manager.passes, self._is_good_without_rewrites)
        reason = f"it edited the graph without the rewriter, and {wrong}"
        self._drop_passes([meddler.name], [Failure(meddler.name, "", "", reason)])
        return None

    def _is_good_without_rewrites(self, passes: Sequence[ConfiguredPass]) -> bool:
        run = PassManager(passes).run(self._fresh().model, Ledger(0), self._store())
        return self._flaw(run.model) is None


def _counted(progress: Progress) -> Callable[[str, int, int], None]:
    return lambda what, done, total: progress(f"{what} {done}/{total}" if total else what)


def _wrong(verdict: Verdict | None) -> str | None:
    return None if verdict is None or verdict.equal else verdict.reason
