"""Why OpenVINO's CPU plugin runs a layer in float, told from the Q/DQ around it.

Source of the rules: small graphs compiled by OpenVINO 2026.4, which `tests/targets` does again.
"""

import onnx_ir as ir

from onnxfold.ir.graph import is_op, string_attribute
from onnxfold.targets.proof_graph import MULTIPLY_ADDS, Quantization, dequantizer, operands
from onnxfold.targets.proof_reasons import (
    UNTOUCHED,
    has_weight,
    is_untouched,
    unquantized_operand,
)


def reason_for_float(node: ir.Node) -> str:
    """Why the layer does not run in INT8, as the end of a sentence about it."""
    if is_untouched(node):
        return UNTOUCHED
    if is_op(node, "Resize", "Upsample") and string_attribute(node, "mode", "nearest") != "nearest":
        return "OpenVINO interpolates in float"
    computes = f"OpenVINO computes {node.op_type} in float"
    if is_op(node, *_IN_FLOAT):
        return computes
    reason = unquantized_operand(node)
    if reason is None and is_op(node, *MULTIPLY_ADDS):
        return _zero_points(node) or _UNKNOWN
    return reason or computes


_IN_FLOAT = (
    "GroupNormalization",
    "HardSigmoid",
    "InstanceNormalization",
    "LayerNormalization",
    "Softmax",
)

_UNKNOWN = "OpenVINO chose a float kernel, for a reason that onnxfold does not know"


def _zero_points(node: ir.Node) -> str | None:
    found = [one for one in map(dequantizer, operands(node)) if one is not None]
    if len(found) != 2:
        return None
    data, weight = found
    if not has_weight(node):
        if all(one.dtype is ir.DataType.INT8 and one.shift() == 0 for one in found):
            return None
        return "OpenVINO multiplies two activations in INT8 only where both are int8 around 0"
    if _is_shifted(weight):
        return "its weight has a zero point other than 0"
    if is_op(node, "ConvTranspose") and _is_shifted(data):
        return "its input has a zero point other than 0, which OpenVINO's INT8 ConvTranspose lacks"
    return None


def _is_shifted(one: Quantization) -> bool:
    return one.zero_point is not None and bool(one.zero_point.any())
