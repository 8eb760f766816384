"""What a rule of a linter is."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import onnx_ir as ir

from onnxfold.targets.proof import Finding, Severity

Complaint = tuple[str, str]
"""The name of the value that it is about, and one sentence without a full stop."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that a backend wants of a model.

    Attributes:
        id: Its name, in words joined by hyphens; stable between versions.
        severity: How much it matters.
        check: What is wrong with a model; its shapes have been inferred.
        hint: What to do about it.
    """

    id: str
    severity: Severity
    check: Callable[[ir.Model], Iterator[Complaint]]
    hint: str

    def findings(self, model: ir.Model) -> Iterator[Finding]:
        """What is wrong with `model`, each thing once."""
        for name, message in dict.fromkeys(self.check(model)):
            yield Finding(self.id, self.severity, name, message, self.hint)
