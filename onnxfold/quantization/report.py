"""Everything that a quantization has to say, as plain data."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from onnxfold.bench.measurement import Measurement
from onnxfold.calibrate.samples_checks import Skipped
from onnxfold.pipeline.report import OptimizationReport
from onnxfold.quantize.metrics import Comparison
from onnxfold.targets.proof import Finding, LayerPrecision, Precision, Severity


@dataclass(frozen=True, slots=True)
class LayerReport:
    """One layer of the quantized model.

    Attributes:
        precision: How its target runs it.
        sqnr: Of its output, with all the error of the layers before it, in dB; None for what
            multiplies by no weights, and where it was not measured.
    """

    precision: LayerPrecision
    sqnr: float | None

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        layer = self.precision
        return {
            "layer": layer.layer,
            "op_type": layer.op_type,
            "precision": layer.precision.value,
            "kernel": layer.kernel,
            "reason": layer.reason,
            "multiply_adds": layer.multiply_adds,
            "sqnr": _finite(self.sqnr),
        }


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How near the quantized model is to the float one.

    Attributes:
        comparison: Output by output.
        where: What ran the models.
        held_out: Whether the samples were kept out of the calibration.
    """

    comparison: Comparison
    where: str
    held_out: bool

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        found = self.comparison
        return {
            "where": self.where,
            "samples": found.samples,
            "held_out": self.held_out,
            "sqnr": _finite(found.sqnr),
            "agreement": found.agreement,
            "mean_iou": None if found.mean_iou is None else list(found.mean_iou),
            "outputs": {
                name: {
                    "sqnr": _finite(each.distortion.decibels),
                    "agreement": None if each.agreement is None else each.agreement.percent,
                }
                for name, each in found.outputs.items()
            },
        }


@dataclass(frozen=True, slots=True)
class QuantizationReport:
    """What was done to a model, how near it is to the float one, and how much faster.

    Attributes:
        target: Its name.
        method: How ranges were chosen.
        methods: What was tried for that: SQNR in dB and label agreement in percent, by method.
        samples: How many samples there were, and how many of them were calibrated with.
        skipped: Samples that could not be read.
        warnings: What is suspicious about the samples.
        notes: What else a user should know, one sentence each.
        passes: What passes did to the float model before.
        int8_share: Share of the multiply-adds that run in INT8; None when not known.
        layers: The layers of the model, in its order.
        findings: What is wrong with the result for its target.
        accuracy: How near it is to the float model; on more than one runtime, maybe.
        latencies: How fast it is beside the float model, on each runtime and precision.
        commands: What builds and times it, where its target does not run here.
    """

    target: str
    method: str
    methods: Mapping[str, tuple[float, float | None]]
    samples: tuple[int, int]
    skipped: tuple[Skipped, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    passes: tuple[OptimizationReport, ...]
    int8_share: float | None
    layers: tuple[LayerReport, ...]
    findings: tuple[Finding, ...]
    accuracy: tuple[Accuracy, ...]
    latencies: tuple[Measurement, ...]
    commands: tuple[str, ...]

    @property
    def float_layers(self) -> tuple[LayerReport, ...]:
        """The layers with multiply-adds that do not run in INT8."""
        return tuple(
            layer
            for layer in self.layers
            if layer.precision.precision is not Precision.INT8
            and layer.precision.multiply_adds != 0
        )

    @property
    def errors(self) -> tuple[Finding, ...]:
        """Why the target would refuse the result."""
        return tuple(each for each in self.findings if each.severity is Severity.ERROR)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-ready data."""
        return {
            "target": self.target,
            "method": self.method,
            "methods": {
                name: {"sqnr": _finite(sqnr), "agreement": agreement}
                for name, (sqnr, agreement) in self.methods.items()
            },
            "samples": {"all": self.samples[0], "calibrated": self.samples[1]},
            "skipped": {each.label: each.reason for each in self.skipped},
            "warnings": list(self.warnings),
            "notes": list(self.notes),
            "passes": [each.to_dict() for each in self.passes],
            "int8_share": self.int8_share,
            "layers": [layer.to_dict() for layer in self.layers],
            "findings": [
                {
                    "rule": each.rule,
                    "severity": each.severity.value,
                    "layer": each.layer,
                    "message": each.message,
                    "hint": each.hint,
                }
                for each in self.findings
            ],
            "accuracy": [each.to_dict() for each in self.accuracy],
            "latencies": [each.to_dict() for each in self.latencies],
            "commands": list(self.commands),
        }


def _finite(number: float | None) -> float | None:
    """JSON knows no infinity: no error at all is none."""
    return None if number is None or math.isinf(number) or math.isnan(number) else number
