"""The main job: a float model goes in, an INT8 model of one target comes out, or the reason not."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from onnxfold.bench.measurement import Measurement
from onnxfold.bench.runners import open_runtime
from onnxfold.calibrate.samples import Samples, open_samples
from onnxfold.errors import BadModelError, BadOptionError, NotAccurateError, NotFasterError
from onnxfold.model import check_target, load, staged, to_proto
from onnxfold.optimization import Source
from onnxfold.quantization import floats
from onnxfold.quantization.accuracy import compare_on, refuse_other_results
from onnxfold.quantization.adapted import refuse_changed
from onnxfold.quantization.choose import Chosen, choose
from onnxfold.quantization.folds import with_safe_folds
from onnxfold.quantization.latency import RUNTIMES, latencies, refuse_slower
from onnxfold.quantization.options import QuantizeOptions
from onnxfold.quantization.prepare import Prepared, prepare
from onnxfold.quantization.ranges import Calibrator
from onnxfold.quantization.remainder import with_float16
from onnxfold.quantization.report import Accuracy, LayerReport, QuantizationReport
from onnxfold.quantization.samples import UseOfSamples, use_of
from onnxfold.quantize.layers import layers_of
from onnxfold.quantize.paired import PairedModel
from onnxfold.targets.proof import LayerPrecision, Precision, Proof, Severity
from onnxfold.targets.proof_tensorrt import trtexec_commands
from onnxfold.targets.prove import prove
from onnxfold.targets.target import Target, target_named

Progress = Callable[[str], None]

_HALVES = "tensorrt"
"""The target that float16 is for."""

_FOR_LAYERS = 8
"""Samples that the error of every layer is measured on."""


@dataclass(frozen=True, slots=True)
class Quantization:
    """The result of `quantize`.

    Attributes:
        model: The quantized model.
        report: What was done, and how it compares.
    """

    model: onnx.ModelProto
    report: QuantizationReport


def quantize(
    source: Source,
    output: str | os.PathLike[str] | None,
    data: str | os.PathLike[str] | Iterable[Any],
    *,
    target: str = "ort-cpu",
    truth: Sequence[NDArray[Any]] | None = None,
    options: QuantizeOptions | None = None,
    progress: Progress | None = None,
) -> Quantization:
    """Make an INT8 model that its target runs in INT8, and faster than the float model.

    Args:
        source: A float model: a path, a serialized model, or a message, which is not changed.
        output: Where to write the result; None: only return it.
        data: Samples: a path or an iterable, as `onnxfold.calibrate.samples.open_samples` takes
            them; or what it gave, if they need options.
        target: `ort-cpu`, `openvino` or `tensorrt`.
        truth: True labels of every sample, in their order, of the extents of the model's output;
            255 is ignored. With them `max_drop` counts points of mean IoU, and is 0.3 unless given.
        options: How to do it.
        progress: Called with a few words whenever something that may take long begins.

    Returns:
        The result with a report.

    Raises:
        BadModelError: The model cannot be read, is quantized already, or a value of it is NaN.
        BadOptionError: An option, the target, or the samples do not fit.
        NotFasterError: The result is not faster than the float model, and `force` was not given.
        NotAccurateError: It cannot keep `max_drop`, likewise.
        CannotRunError: The runtime of the target is not installed or refuses the model.
        CannotWriteError: The result could not be written. In all these cases nothing was.
    """
    chosen = target_named(target)
    path = None if output is None else check_target(output)
    job = _Job(chosen, path, options or QuantizeOptions(), progress or (lambda _: None))
    return job.run(source, data, truth)


@dataclass(frozen=True, slots=True)
class _Job:
    """One call of `quantize`."""

    target: Target
    output: Path | None
    options: QuantizeOptions
    progress: Progress

    def run(self, source: Source, data: Any, truth: Sequence[NDArray[Any]] | None) -> Quantization:
        if self.options.fp16 and self.target.name != _HALVES:
            raise BadOptionError(
                f"{self.target.title} is not faster with float16 for what stays float",
                f"leave it out: it is for {_HALVES}",
            )
        if self.target.name in RUNTIMES:
            open_runtime(RUNTIMES[self.target.name][0])  # or say now that it is not there
        self.progress("reading the model")
        loaded = floats.read(source, self.options)
        samples = self._opened(data, loaded.model)
        if truth is not None and len(truth) != len(samples):
            raise BadOptionError(
                f"there are {len(truth)} label maps for {len(samples)} samples",
                "give one for each sample that can be read",
            )
        use = use_of(samples)
        as_it_came = to_proto(loaded.model)
        if loaded.as_it_came is not None:
            self.progress("proving that the conversion is equal")
            refuse_changed(loaded.as_it_came, as_it_came, self.options.threads)
        file = self.options.calibration
        calibrator = Calibrator(
            workers=self.options.workers,
            progress=self.progress,
            beside=self.output,
            file=None if file is None else Path(file),
        )
        prepared = prepare(
            as_it_came, self.target, use, truth, self.options, calibrator, self.progress
        )
        prepared = with_safe_folds(
            as_it_came, prepared, self.target, use, self.options, calibrator, self.progress
        )
        found = choose(prepared, self.target, use.calibrated, self.options, self.progress)
        result = self._finished(prepared, found, samples, use, loaded.notes)
        self._write(result.model)
        calibrator.forget()
        return result

    def _opened(self, data: Any, model: ir.Model) -> Samples:
        if isinstance(data, Samples):
            return data
        return open_samples(
            data,
            model,
            progress=lambda done, total: self.progress(f"reading samples {done}/{total}"),
        )

    def _finished(
        self,
        prepared: Prepared,
        found: Chosen,
        samples: Samples,
        use: UseOfSamples,
        converted: tuple[str, ...],
    ) -> Quantization:
        model, notes = found.model, [*converted, *prepared.notes, *found.notes]
        self._refuse_inexact(found)
        self._refuse_all_float(found)
        if self.options.fp16:
            model, islands = with_float16(model, prepared.calibration)
            notes.append(f"what is not INT8 is float16{f', save {islands} nodes' * bool(islands)}")
        proof = prove(model, self.target.name)
        self._refuse_errors(proof)
        measured = self._timed(prepared, model)
        report = QuantizationReport(
            target=self.target.name,
            method=str(found.method),
            methods={name: (each.sqnr, each.agreement) for name, each in found.methods.items()},
            samples=(len(samples), len(use.calibrated)),
            skipped=samples.skipped,
            warnings=samples.warnings,
            notes=(*samples.notes, *_about(use), *notes),
            passes=prepared.reports,
            int8_share=proof.int8_share,
            layers=self._layers(prepared, found, proof),
            findings=proof.findings,
            accuracy=tuple(self._accuracies(prepared, found, model, use)),
            latencies=measured,
            commands=self._commands(model),
        )
        return Quantization(model, report)

    def _refuse_inexact(self, found: Chosen) -> None:
        drop, budget = found.comparison.drop, self.options.budget(found.comparison)
        if self.options.force or drop is None or budget is None or drop <= budget:
            return
        what = "label agreement" if found.comparison.truth is None else "mean IoU"
        raise NotAccurateError(
            f"{drop:.2f} points of {what} are lost, and {budget:g} may be",
            "give a larger --max-drop, or --force",
        )

    def _refuse_all_float(self, found: Chosen) -> None:
        if found.settled.plan.layers:
            return
        reasons = dict.fromkeys(
            (*found.reasons.values(), *found.settled.plan.float_layers.values())
        )
        raise NotFasterError(
            f"nothing would run in INT8 on {self.target.title}: {next(iter(reasons), 'no layers')}",
            "leave the model in float",
        )

    def _timed(self, prepared: Prepared, model: onnx.ModelProto) -> tuple[Measurement, ...]:
        measured = latencies(
            self.target.name,
            prepared.folded,
            model,
            prepared.judged.feed(0),
            seconds=self.options.seconds,
            threads=self.options.runtime_threads,
            progress=self.progress,
        )
        if not self.options.force:
            refuse_slower(measured)
        return measured

    def _layers(self, prepared: Prepared, found: Chosen, proof: Proof) -> tuple[LayerReport, ...]:
        self.progress("measuring the error of every layer")
        both = layers_of(prepared.model, found.model)
        errors = {}
        if both:
            paired = PairedModel(
                prepared.model, found.model, both, threads=self.options.runtime_threads
            )
            errors = paired.run_all(prepared.judged.first(_FOR_LAYERS))
        return tuple(
            LayerReport(
                _explained(layer, found),
                errors[layer.layer].distortion.decibels if layer.layer in errors else None,
            )
            for layer in proof.layers
        )

    def _accuracies(
        self, prepared: Prepared, found: Chosen, model: onnx.ModelProto, use: UseOfSamples
    ) -> Iterator[Accuracy]:
        comparison = found.comparison
        if model is not found.model:
            comparison = prepared.evaluation.compare(model)
        yield Accuracy(comparison, "ONNX Runtime", use.held_out)
        runtime, _ = RUNTIMES.get(self.target.name, ("ort", ()))
        if runtime != "ort":
            self.progress(f"comparing on {self.target.title}")
            threads = self.options.runtime_threads
            measured = compare_on(runtime, prepared.folded, model, prepared.judged, threads)
            if not self.options.force:
                refuse_other_results(comparison, measured, self.target.title)
            yield Accuracy(measured, self.target.title, use.held_out)

    def _commands(self, model: onnx.ModelProto) -> tuple[str, ...]:
        if self.target.name in RUNTIMES:
            return ()
        file = "model.onnx" if self.output is None else os.fspath(self.output)
        return trtexec_commands(load(model).model, file)

    def _refuse_errors(self, proof: Proof) -> None:
        errors = [each for each in proof.findings if each.severity is Severity.ERROR]
        if errors and not self.options.force:
            raise BadModelError(
                f"{self.target.title} would not take the result: {errors[0].message}",
                errors[0].hint,
            )

    def _write(self, model: onnx.ModelProto) -> None:
        if self.output is None:
            return
        self.progress("writing the result")
        with staged(load(model).model, self.output) as pending:
            pending.commit()


def _about(use: UseOfSamples) -> tuple[str, ...]:
    if use.held_out:
        return ()
    return (
        "the result is judged by the samples that it was calibrated with: there are too few to "
        "keep some apart",
    )


def _explained(layer: LayerPrecision, found: Chosen) -> LayerPrecision:
    """The layer with the reason why it was left in float, where that was decided here."""
    reason = found.reasons.get(layer.layer) or found.settled.plan.float_layers.get(layer.layer)
    if layer.precision is Precision.INT8 or reason is None:
        return layer
    return replace(layer, reason=reason)
