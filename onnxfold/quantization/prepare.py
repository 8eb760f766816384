"""From the model as it came to a calibrated float model, ready to be quantized."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx
from numpy.typing import NDArray

from onnxfold.calibrate.ranges import Method
from onnxfold.calibrate.statistics import Calibration
from onnxfold.pipeline.report import OptimizationReport
from onnxfold.quantization import floats
from onnxfold.quantization.builder import Builder
from onnxfold.quantization.observed import observed_values
from onnxfold.quantization.options import QuantizeOptions
from onnxfold.quantization.ranges import Calibrator
from onnxfold.quantization.rounding import rounding_of
from onnxfold.quantization.samples import Subset, UseOfSamples
from onnxfold.quantize.adaptive_rounding import AdaptiveRounding
from onnxfold.quantize.evaluation import Evaluation
from onnxfold.targets.target import Target

Progress = Callable[[str], None]

_ENOUGH_FOR_CHANNELS = 32


@dataclass(frozen=True, slots=True)
class Prepared:
    """A float model, and what is known about it.

    Attributes:
        folded: What `optimize` alone makes of the model as it came: what INT8 has to be faster
            than.
        model: The same, lowered for the target and equalized.
        calibration: Of `model`.
        rounding: Of its weights; None for the nearest integers.
        evaluation: Compares quantized models with it.
        judged: On these samples.
        affordable: On how many samples the model runs in a few seconds.
        reports: What passes did.
        notes: What a user should know about it.
    """

    folded: onnx.ModelProto
    model: onnx.ModelProto
    calibration: Calibration
    rounding: AdaptiveRounding | None
    evaluation: Evaluation
    judged: Subset
    affordable: int
    reports: tuple[OptimizationReport, ...]
    notes: tuple[str, ...]


def prepare(
    source: onnx.ModelProto,
    target: Target,
    use: UseOfSamples,
    truth: Sequence[NDArray[Any]] | None,
    options: QuantizeOptions,
    calibrator: Calibrator,
    progress: Progress,
) -> Prepared:
    """Fold, lower, equalize and calibrate.

    Args:
        source: The model as it came.
        target: What it is for.
        use: Of the samples.
        truth: True labels of all samples, if they are known.
        options: What is not to be done.
        calibrator: Calibrates.
        progress: Told what is being done.
    """
    return _Preparation(target, use, truth, options, calibrator, progress).run(source)


@dataclass(frozen=True, slots=True)
class _Preparation:
    target: Target
    use: UseOfSamples
    truth: Sequence[NDArray[Any]] | None
    options: QuantizeOptions
    calibrator: Calibrator
    progress: Progress

    def run(self, source: onnx.ModelProto) -> Prepared:
        calibrated = self.use.calibrated
        folded = floats.folded(source, calibrated, self.options, self.progress)
        lowered = floats.lowered(folded.model, self.target, calibrated, self.options, self.progress)
        affordable = self.use.affordable(lowered.model)
        judged = self.use.judged.first(affordable)
        labels = None if self.truth is None else [self.truth[index] for index in judged.indices]
        evaluation = Evaluation(lowered.model, judged, labels, self.options.runtime_threads)
        known = self._known(lowered.model)
        notes: list[str] = []
        if known is None and self.options.equalize:
            chosen = self._equalized(lowered.model, evaluation, notes)
        else:
            chosen = _Candidate(lowered.model, known)
        calibration = chosen.calibration
        if calibration is None:
            values = self._values(chosen.model)
            calibration = self.calibrator.ranges(chosen.model, values, calibrated)
        self.calibrator.keep(calibration)
        reports = (folded.report, lowered.report, chosen.report)
        return Prepared(
            folded.model,
            chosen.model,
            calibration,
            self._rounding(chosen),
            evaluation,
            judged,
            affordable,
            tuple(report for report in reports if report is not None),
            tuple(notes),
        )

    def _known(self, model: onnx.ModelProto) -> Calibration | None:
        """What the user's file says, if it is about this model."""
        return self.calibrator.known(model, self._values(model))

    def _values(self, model: onnx.ModelProto) -> list[str]:
        excluded = frozenset(self.options.exclude)
        return observed_values(floats.with_shapes(model), self.target, excluded)

    def _equalized(
        self, model: onnx.ModelProto, evaluation: Evaluation, notes: list[str]
    ) -> "_Candidate":
        """The equalized model if it quantizes better, else the model as it is."""
        channels, some = floats.equalizable(model), self.use.calibrated.first(_ENOUGH_FOR_CHANNELS)
        if not channels:
            return _Candidate(model, None)
        values = self._values(model)
        known = self.calibrator.channels(model, list(dict.fromkeys([*channels, *values])), some)
        plain = _Candidate(model, known if len(some) == len(self.use.calibrated) else None)
        changed = floats.equalized(model, known, some, self.options, self.progress)
        if changed.report is None:
            return plain
        if (kept := self._known(changed.model)) is not None:  # an earlier run has decided
            return _Candidate(changed.model, kept, changed.report)
        calibration = self.calibrator.ranges(
            changed.model, self._values(changed.model), self.use.calibrated
        )
        equalized = _Candidate(changed.model, calibration, changed.report)
        equalized = replace(equalized, rounding=self._rounding(equalized))
        plain = replace(plain, rounding=self._rounding(plain))
        self.progress("looking whether equalization helps")
        before, after = (
            evaluation.compare(self._builder(each, ranges).insert()).sqnr
            for each, ranges in ((plain, known), (equalized, calibration))
        )
        if after > before:
            notes.append(f"channels are equalized: {before:.1f} dB became {after:.1f} dB")
            return equalized
        notes.append(f"not equalized: {before:.1f} dB would become {after:.1f} dB")
        return plain

    def _rounding(self, candidate: "_Candidate") -> AdaptiveRounding | None:
        if candidate.rounding is not None:
            return candidate.rounding
        return rounding_of(candidate.model, self.use.calibrated, self.options, self.progress)

    def _builder(self, candidate: "_Candidate", calibration: Calibration) -> Builder:
        return Builder(
            candidate.model,
            self.target,
            calibration,
            self.options.method or Method.MSE,
            frozenset(self.options.exclude),
            candidate.rounding,
        )


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A float model that may be quantized.

    Attributes:
        model: The model.
        calibration: Of it, from all samples, if it was calibrated already.
        report: How it was equalized, if it was.
        rounding: Of its weights, if that was looked at already.
    """

    model: onnx.ModelProto
    calibration: Calibration | None
    report: OptimizationReport | None = None
    rounding: AdaptiveRounding | None = None
