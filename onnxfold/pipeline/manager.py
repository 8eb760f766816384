"""Runs passes in the order given, and keeps a run going when one of them breaks."""

import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

import onnx_ir as ir

from onnxfold.errors import BadModelError, BadOptionError
from onnxfold.ir.graph import stamp_opset_versions
from onnxfold.ir.shapes import infer_shapes
from onnxfold.pipeline.passes import ConfiguredPass, ModelPass, Pass, RulePass, configured
from onnxfold.rewrite.ledger import Failure, Ledger
from onnxfold.rewrite.rewriter import Rewriter
from onnxfold.rewrite.rule import Exactness
from onnxfold.rewrite.tensor_store import MemoryStore, TensorStore


@dataclass(frozen=True, slots=True)
class PassTiming:
    """How long one pass took.

    Attributes:
        name: The pass.
        seconds: Wall time.
        rewrites: How many rewrites it made.
    """

    name: str
    seconds: float
    rewrites: int


@dataclass(frozen=True, slots=True)
class PipelineRun:
    """The outcome of one run.

    Attributes:
        model: The rewritten model.
        ledger: What was done, what nearly was, and what raised.
        timings: One entry per pass, in order.
        unfinished: Names of the passes that raised half-way, with edits of theirs in the model.
    """

    model: ir.Model
    ledger: Ledger
    timings: tuple[PassTiming, ...]
    unfinished: tuple[str, ...] = ()


class PassManager:
    """An ordered list of passes.

    Attributes:
        passes: The passes with their options, in the order in which they run.
    """

    def __init__(self, passes: Iterable[Pass | ConfiguredPass]) -> None:
        self.passes: tuple[ConfiguredPass, ...] = tuple(configured(step) for step in passes)

    def without(self, names: Collection[str]) -> "PassManager":
        """The same passes save those of these names."""
        return PassManager(entry for entry in self.passes if entry.name not in names)

    def split(self) -> tuple["PassManager", "PassManager"]:
        """The passes before the first lossy one, and that one with all behind it."""
        lossy = [entry.step.exactness is Exactness.LOSSY for entry in self.passes]
        place = lossy.index(True) if True in lossy else len(lossy)
        return PassManager(self.passes[:place]), PassManager(self.passes[place:])

    def run(
        self,
        model: ir.Model,
        ledger: Ledger | None = None,
        store: TensorStore | None = None,
        progress: Callable[[str], None] | None = None,
        *,
        shapes_are_inferred: bool = False,
    ) -> PipelineRun:
        """Run every pass once, in order.

        A pass that raises is reported in the ledger and left behind. Each single edit is made whole
        or not at all, so the model is valid wherever the pass stopped; a caller who wants none of
        its edits runs the pipeline again `without` the passes that are `unfinished`.

        Only what the user got wrong ends the run: an option, or a file that one names, or the model
        for a lossy pass, which is run for what it does and not for what it may find.

        Args:
            model: Rewritten in place, or replaced by a pass that makes a new one.
            ledger: Numbers the rewrites; a fresh one without limit when None.
            store: Where new constants are kept; in memory when None.
            progress: Called with the name of each pass before it runs.
            shapes_are_inferred: The caller did so already; what a file says about the shapes of
                interior values may be wrong, and is not believed.

        Raises:
            BadOptionError: A pass cannot do what its options ask for.
            BadModelError: A lossy pass does not take the model.
        """
        ledger = Ledger() if ledger is None else ledger
        if not shapes_are_inferred:
            infer_shapes(model)
        stamp_opset_versions(model)
        rewriter = Rewriter(model, ledger, MemoryStore() if store is None else store)
        timings: list[PassTiming] = []
        unfinished: list[str] = []
        for entry in self.passes:
            if progress is not None:
                progress(entry.name)
            started, before = time.perf_counter(), len(ledger.applied)
            finished = _run_one(entry, rewriter)
            seconds = time.perf_counter() - started
            rewrites = len(ledger.applied) - before
            timings.append(PassTiming(entry.name, seconds, rewrites))
            if not finished and (rewrites or not _edits_through_rewriter(entry.step)):
                unfinished.append(entry.name)
        return PipelineRun(rewriter.model, ledger, tuple(timings), tuple(unfinished))


def _run_one(entry: ConfiguredPass, rewriter: Rewriter) -> bool:
    """Run one pass; whether it came to its end."""
    try:
        entry.step.run(rewriter, entry.options)
    except (Exception, SystemExit) as error:  # whatever a plugin does, the others go on
        if _is_users_mistake(error, entry.step):
            raise
        lines = str(error).strip().splitlines() or [""]
        summary = f"{type(error).__name__}: {lines[0]}".rstrip(": ")
        rewriter.ledger.failures.append(Failure(entry.name, "", "", summary))
        return False
    return True


def _is_users_mistake(error: BaseException, step: Pass) -> bool:
    if isinstance(error, BadModelError):
        return step.exactness is Exactness.LOSSY
    return isinstance(error, BadOptionError)


def _edits_through_rewriter(step: Pass) -> bool:
    """Whether all that the pass has changed is in the ledger, by the kind of pass that it is."""
    return isinstance(step, RulePass | ModelPass)
