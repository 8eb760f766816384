"""Whether the branches that were merged had better not been: INT8 is where that shows.

A kernel that sums up branches may have outliers that no branch had. What counts is the whole
model, biases corrected, beside that with its branches left apart. Where merging costs more than a
decibel, the layers that it harms are split into a coarse and a fine kernel, if that helps.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import onnx

from onnxfold.calibrate.calibrate import calibrate
from onnxfold.calibrate.ranges import Method
from onnxfold.calibrate.statistics import Calibration
from onnxfold.model import load, to_proto
from onnxfold.pipeline.manager import PassManager
from onnxfold.pipeline.registry import Registry
from onnxfold.quantization.builder import Builder
from onnxfold.quantization.floats import with_shapes
from onnxfold.quantization.observed import observed_values
from onnxfold.quantization.options import QuantizeOptions
from onnxfold.quantization.prepare import Prepared
from onnxfold.quantization.ranges import Calibrator
from onnxfold.quantization.rounding import rounding_of
from onnxfold.quantization.samples import UseOfSamples
from onnxfold.quantize.adaptive_rounding import AdaptiveRounding
from onnxfold.quantize.bias_correction import correct_biases
from onnxfold.quantize.fold_risk import QuantizedPair, Remedy, fold_risks
from onnxfold.quantize.split_weights import split_weights
from onnxfold.targets.target import Target
from onnxfold.verify import VerifyOptions, verify

Progress = Callable[[str], None]

_MERGING = ("merge_branches", "fold_linear")
_ENOUGH = 16
"""Samples that the branches are calibrated with, and biases corrected."""
_ENOUGH_FOR_RISKS = 4
_HARM = 1.0
"""In dB: what merging may cost, and what splitting has to gain."""


def with_safe_folds(
    source: onnx.ModelProto,
    prepared: Prepared,
    target: Target,
    use: UseOfSamples,
    options: QuantizeOptions,
    calibrator: Calibrator,
    progress: Progress,
) -> Prepared:
    """The model with what merging harmed put right, as far as that can be.

    Args:
        source: The model as it came.
        prepared: What was made of it.
        target: What it is for.
        use: Of the samples.
        options: Method and threads.
        calibrator: For the model that is taken.
        progress: Told what is being done.
    """
    merged = sum(
        report.rewrites_by_pass()[name] for report in prepared.reports for name in _MERGING
    )
    if not merged:
        return prepared
    gate = _Gate(source, prepared, target, use, options, calibrator, progress)
    progress("looking whether merged branches harm INT8")
    return gate.run()


@dataclass(frozen=True, slots=True)
class _Gate:
    source: onnx.ModelProto
    prepared: Prepared
    target: Target
    use: UseOfSamples
    options: QuantizeOptions
    calibrator: Calibrator
    progress: Progress

    def run(self) -> Prepared:
        prepared = self.prepared
        merged = self._builder(prepared.model, prepared.calibration, prepared.rounding)
        branches = self._branches()
        after, before = self._sqnr(merged), self._sqnr(branches)
        told = f"{after:.1f} dB, and {before:.1f} dB if they were left apart"
        if after >= before - _HARM:
            return self._with_note(f"merged branches cost no accuracy in INT8: {told}")
        risks = fold_risks(
            QuantizedPair(merged.model, merged.insert()),
            QuantizedPair(branches.model, branches.insert()),
            self.prepared.judged.first(_ENOUGH_FOR_RISKS),
            self.options.runtime_threads,
        )
        harmed = [risk.layer for risk in risks if risk.remedy is Remedy.SPLIT]
        return self._split(harmed, after) or self._with_note(
            f"merged branches cost accuracy in INT8: {told}; most at "
            f"{', '.join(repr(risk.layer) for risk in risks[:3])}"
        )

    def _with_note(self, note: str) -> Prepared:
        return replace(self.prepared, notes=(*self.prepared.notes, note))

    def _split(self, layers: list[str], sqnr: float) -> Prepared | None:
        """The model with these layers split, None if that does not help."""
        model = self.prepared.model
        for layer in layers:
            model = split_weights(model, layer)
        options = VerifyOptions(threads=self.options.threads)
        if not layers or not verify(self.prepared.model, model, options).equal:
            return None
        calibration = self._calibrated(model)
        rounding = self._rounding(model)
        split = self._sqnr(self._builder(model, calibration, rounding))
        if split < sqnr + _HARM:
            return None
        if len(self.use.calibrated) > _ENOUGH:
            values = observed_values(with_shapes(model), self.target, self._known(model))
            calibrator = replace(self.calibrator, file=None)  # it is about the model unsplit
            calibration = calibrator.ranges(model, values, self.use.calibrated)
        prepared = self._with_note(
            f"{len(layers)} merged layers are split into a coarse and a fine kernel: {sqnr:.1f} dB "
            f"became {split:.1f} dB"
        )
        return replace(prepared, model=model, calibration=calibration, rounding=rounding)

    @property
    def _excluded(self) -> frozenset[str]:
        return frozenset(self.options.exclude)

    def _branches(self) -> Builder:
        """Of the model with its branches apart; it is only looked at."""
        from onnxfold.passes.presets import BUILTIN, DEFAULT

        passes = [step for step in DEFAULT if step.name not in _MERGING]
        apart = PassManager(passes).run(load(self.source).model).model
        lowering = Registry(BUILTIN).parse(",".join(self.target.lowering))
        model = to_proto(PassManager(lowering).run(apart).model)
        return self._builder(model, self._calibrated(model), self._rounding(model))

    def _calibrated(self, model: onnx.ModelProto) -> Calibration:
        values = observed_values(with_shapes(model), self.target, self._known(model))
        return calibrate(model, self.use.calibrated.first(_ENOUGH), values)

    def _rounding(self, model: onnx.ModelProto) -> AdaptiveRounding | None:
        return rounding_of(model, self.use.calibrated, self.options, self.progress)

    def _builder(
        self, model: onnx.ModelProto, calibration: Calibration, rounding: AdaptiveRounding | None
    ) -> Builder:
        method = self.options.method or Method.MSE
        return Builder(model, self.target, calibration, method, self._known(model), rounding)

    def _known(self, model: onnx.ModelProto) -> frozenset[str]:
        """What is excluded, as far as it is there: branches have other names."""
        made = {name for node in model.graph.node for name in node.output[:1]}
        return self._excluded & made

    def _sqnr(self, builder: Builder) -> float:
        model = builder.insert()
        if self.options.correct_biases:
            samples = self.use.calibrated.first(_ENOUGH)
            threads = self.options.runtime_threads
            model = correct_biases(builder.model, model, samples, threads).model
        return self.prepared.evaluation.compare(model).sqnr
