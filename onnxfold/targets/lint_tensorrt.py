"""What TensorRT would refuse or run slowly in a quantized model, told without TensorRT."""

import onnx_ir as ir

from onnxfold.targets.lint_rule import Rule
from onnxfold.targets.lint_tensorrt_layers import RULES as LAYER_RULES
from onnxfold.targets.lint_tensorrt_placement import RULES as PLACEMENT_RULES
from onnxfold.targets.lint_tensorrt_types import RULES as TYPE_RULES
from onnxfold.targets.proof import Finding
from onnxfold.targets.proof_graph import infer_quantized_shapes

RULES: tuple[Rule, ...] = (*TYPE_RULES, *PLACEMENT_RULES, *LAYER_RULES)
"""Every rule, in the order in which they are reported."""


def lint_tensorrt(model: ir.Model) -> tuple[Finding, ...]:
    """Apply every rule.

    Args:
        model: Its shapes are inferred; otherwise it is not changed.
    """
    infer_quantized_shapes(model)
    return tuple(finding for rule in RULES for finding in rule.findings(model))
