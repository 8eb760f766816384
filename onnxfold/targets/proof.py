"""What a backend makes of a quantized model, layer by layer: the types all targets share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Precision(StrEnum):
    """How a backend computes a layer.

    INT8: it reads 8-bit integers. A product or convolution multiplies them; inside a pointwise
    kernel the arithmetic may be float all the same. UNKNOWN: the backend does not tell, or it
    fails when it runs.
    """

    INT8 = "int8"
    FLOAT = "float"
    UNKNOWN = "unknown"


class Severity(StrEnum):
    """How much a finding matters.

    ERROR: the backend refuses the model, or computes something else. WARNING: it runs, and
    slower than it could. INFO: worth knowing.
    """

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with a model for a target.

    Attributes:
        rule: Identifier of the rule, stable between versions.
        severity: How much it matters.
        layer: The name of the first output of the node that it is about; empty for the model.
        message: One sentence, without a full stop.
        hint: What to do about it, without a full stop.
    """

    rule: str
    severity: Severity
    layer: str
    message: str
    hint: str


@dataclass(frozen=True, slots=True)
class LayerPrecision:
    """How a backend computes one layer of the model.

    Attributes:
        layer: The name of the layer's first output value in the float model.
        node: The name of its node; may be empty.
        op_type: Its operator in the model.
        precision: Whether it runs in INT8.
        kernel: What the backend runs it as: the operator or the primitive, and the element type
            where the backend tells it; empty when not known.
        reason: Why it is not INT8; empty when it is.
        multiply_adds: Multiply-adds in one run for Conv, ConvTranspose, Gemm and MatMul; 0 for
            other operators, None when the shapes are not known.
    """

    layer: str
    node: str
    op_type: str
    precision: Precision
    kernel: str
    reason: str
    multiply_adds: int | None


@dataclass(frozen=True, slots=True)
class Proof:
    """What a backend runs in INT8, and what not.

    Attributes:
        target: The target's name.
        compiled: Whether the backend itself compiled the model; otherwise rules were applied.
        layers: The layers of the main graph, in its order.
        unfused: Values, by their name in the float model, whose Q/DQ stands between operators
            that run in float on either side: they cost time and gain nothing.
        runtime_weights: Layers whose weight is stored as integers and dequantized in every run.
        kernels: How many operators of each type the compiled model holds; empty without one.
        findings: What else was found.
        commands: Shell commands that build and time the model, for backends not run here.
    """

    target: str
    compiled: bool
    layers: tuple[LayerPrecision, ...]
    unfused: tuple[str, ...] = ()
    runtime_weights: tuple[str, ...] = ()
    kernels: Mapping[str, int] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    commands: tuple[str, ...] = ()

    @property
    def int8_share(self) -> float | None:
        """Share of the multiply-adds of Conv, ConvTranspose, Gemm and MatMul that run in INT8.

        None when the count of some layer is not known, or when there are none. Layers whose
        precision is not known count as not INT8.
        """
        counts = [layer.multiply_adds for layer in self.layers]
        known = [count for count in counts if count is not None]
        if len(known) < len(counts) or not sum(known):
            return None
        integer = sum(layer.multiply_adds or 0 for layer in self.of(Precision.INT8))
        return integer / sum(known)

    def of(self, precision: Precision) -> tuple[LayerPrecision, ...]:
        """The layers of that precision."""
        return tuple(layer for layer in self.layers if layer.precision is precision)

    def layer(self, name: str) -> LayerPrecision:
        """The layer whose first output is called `name`.

        Raises:
            KeyError: There is none.
        """
        for layer in self.layers:
            if layer.layer == name:
                return layer
        raise KeyError(name)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "target": self.target,
            "compiled": self.compiled,
            "int8_share": self.int8_share,
            "layers": [
                {
                    "layer": layer.layer,
                    "node": layer.node,
                    "op_type": layer.op_type,
                    "precision": layer.precision.value,
                    "kernel": layer.kernel,
                    "reason": layer.reason,
                    "multiply_adds": layer.multiply_adds,
                }
                for layer in self.layers
            ],
            "unfused": list(self.unfused),
            "runtime_weights": list(self.runtime_weights),
            "kernels": dict(sorted(self.kernels.items())),
            "findings": [
                {
                    "rule": finding.rule,
                    "severity": finding.severity.value,
                    "layer": finding.layer,
                    "message": finding.message,
                    "hint": finding.hint,
                }
                for finding in self.findings
            ],
            "commands": list(self.commands),
        }
