"""Reasons for float that hold on every backend."""

import onnx_ir as ir

from onnxfold.ir.constants import is_constant
from onnxfold.ir.graph import input_at, is_op
from onnxfold.targets.proof_graph import (
    MULTIPLY_ADDS,
    dequantizer,
    is_weight,
    operands,
    quantizers_of,
)

UNTOUCHED = "nothing around it is quantized"


def is_untouched(node: ir.Node) -> bool:
    """Whether neither an input nor an output of `node` is quantized."""
    inputs = [input_at(node, index) for index in range(len(node.inputs))]
    if any(dequantizer(value) is not None for value in inputs):
        return False
    return not any(quantizers_of(output) for output in node.outputs)


def unquantized_operand(node: ir.Node) -> str | None:
    """Which input that has to be quantized is not."""
    for index, value in enumerate(operands(node)):
        if dequantizer(value) is None:
            return f"its {_role(node, index)} {value.name!r} is not quantized"
    return None


def _role(node: ir.Node, index: int) -> str:
    if is_op(node, *MULTIPLY_ADDS) and has_weight(node):
        return ("input", "weight")[index]
    return "input" if len(operands(node)) == 1 else "operand"


def has_weight(node: ir.Node) -> bool:
    """Whether input 1 of a convolution or matrix product is a constant, quantized or not."""
    if is_op(node, "Conv", "ConvTranspose"):
        return True
    weight = input_at(node, 1)
    one = dequantizer(weight)
    return is_constant(weight) if one is None else is_weight(one)
