"""Why ONNX Runtime's CPU provider runs a layer in float, told from the Q/DQ around it.

Source of the rules: the selectors of ONNX Runtime's QDQ transformer, which fuse a DequantizeLinear
on every input, the operator and one QuantizeLinear on its output into an integer kernel.
"""

from collections.abc import Callable, Iterator

import onnx_ir as ir

from onnxfold.ir.constants import constant_array
from onnxfold.ir.graph import float_attribute, input_at, is_op, string_attribute
from onnxfold.targets.proof_graph import (
    ACTIVATIONS,
    Quantization,
    dequantizer,
    integer_readers,
    is_quantizer,
    is_weight,
    operands,
    quantizer,
    quantizers_of,
    readers,
)
from onnxfold.targets.proof_reasons import UNTOUCHED, is_untouched, unquantized_operand

_COMPUTING = ("Conv", "Gemm", "MatMul", "Add", "Mul", "Concat")
_UNARY = ("AveragePool", "GlobalAveragePool", "LeakyRelu", "Sigmoid", "Softmax")
_MOVING = ("DepthToSpace", "MaxPool", "Resize", "SpaceToDepth", "Upsample")
_ABSORBED = ("Relu", "Clip")
_WITHOUT_QUANTIZER = ("Gemm", "MatMul")
"""Their integer kernels can give floats."""

_SIGNED = "ONNX Runtime on this processor turns int8 into uint8 only where there is one"


def reason_for_float(node: ir.Node) -> str:
    """Why the layer does not run in INT8, as the end of a sentence about it."""
    if is_untouched(node):
        return UNTOUCHED
    for check in _checks(node):
        reason = check(node)
        if reason is not None:
            return reason
    return "ONNX Runtime did not fuse it, for a reason that onnxfold does not know"


def channelwise_activation(node: ir.Node) -> str | None:
    """The name of an activation at the node that is quantized with a scale per channel."""
    for one in _activations(node):
        if one.per_channel:
            before = quantizer(one.x)
            return (one.x if before is None else before.x).name
    return None


def _checks(node: ir.Node) -> tuple[Callable[[ir.Node], str | None], ...]:
    if is_op(node, *_COMPUTING):
        return unquantized_operand, _bias, _output, _signed, _types
    if is_op(node, *_UNARY):
        return unquantized_operand, _output, _signed, _types
    if is_op(node, *_MOVING):
        return _interpolation, unquantized_operand, _output, _grids, _signed
    if is_op(node, *_ABSORBED):
        return (_absorbed,)
    return (_no_kernel,)


def _no_kernel(node: ir.Node) -> str:
    return f"ONNX Runtime has no INT8 kernel for {node.op_type} on the CPU"


def _bias(node: ir.Node) -> str | None:
    one = dequantizer(input_at(node, 2)) if is_op(node, "Conv", "Gemm") else None
    if one is not None and one.dtype is not ir.DataType.INT32:
        return f"its bias is stored as {_name(one)}, and has to be int32"
    return None


def _output(node: ir.Node) -> str | None:
    output = node.outputs[0]
    if is_op(node, *_WITHOUT_QUANTIZER) and not quantizers_of(output):
        return None
    if output.is_graph_output():
        return "its output is a graph output in float: put Q/DQ in front of the output"
    quantized = quantizers_of(output)
    if not quantized:
        return _not_quantized(output)
    others = _described(reader for reader in readers(output) if not is_quantizer(reader))
    if others:
        return f"its output is also read in float, by {others}"
    if any(not one.same_grid(quantized[0]) for one in quantized[1:]):
        return f"{len(quantized)} different QuantizeLinear read its output"
    return None


def _not_quantized(output: ir.Value) -> str:
    following = readers(output)
    if len(following) == 1 and is_op(following[0], *ACTIVATIONS):
        behind = quantizers_of(following[0].outputs[0])
        if behind:
            return _in_between(following[0], behind)
    described = _described(following)
    return "no QuantizeLinear reads its output" + (f", only {described}" if described else "")


def _in_between(activation: ir.Node, behind: list[Quantization]) -> str:
    if is_op(activation, *_ABSORBED) and len(behind) == 1:
        cut = _not_absorbed(activation, behind[0])
        return f"the {activation.op_type} behind it is not absorbed: {cut}"
    return (
        f"{activation.op_type} stands between it and its QuantizeLinear: put Q/DQ in front of "
        f"the {activation.op_type} too"
    )


def _absorbed(node: ir.Node) -> str | None:
    behind = quantizers_of(node.outputs[0])
    if len(behind) != 1 or len(readers(node.outputs[0])) != 1:
        return "no QuantizeLinear that could absorb it is the only reader of its output"
    return _not_absorbed(node, behind[0])


def _not_absorbed(activation: ir.Node, behind: Quantization) -> str:
    numbers = behind.numbers()
    if numbers is None:
        return "the QuantizeLinear behind it has no constant scale"
    if is_op(activation, "Relu"):
        if behind.starts_at_zero():
            return "the layer before it runs in float"
        return (
            f"the QuantizeLinear behind it starts at {numbers[0]:.4g} and not at 0 "
            f"({_name(behind)} with zero point {behind.shift()})"
        )
    low, high = _clip_bounds(activation)
    return (
        f"it cuts at {low:.4g} and {high:.4g}, and the QuantizeLinear behind it represents "
        f"{numbers[0]:.4g} to {numbers[1]:.4g}"
    )


def _clip_bounds(node: ir.Node) -> tuple[float, float]:
    bounds = []
    for index, name, default in ((1, "min", float("-inf")), (2, "max", float("inf"))):
        array = constant_array(input_at(node, index))
        bounds.append(
            float_attribute(node, name, default) if array is None else float(array.reshape(-1)[0])
        )
    return bounds[0], bounds[1]


def _types(node: ir.Node) -> str | None:
    found = {one.dtype: _name(one) for one in _activations(node)}
    if len(found) > 1:
        return f"its activations are of different types: {', '.join(sorted(found.values()))}"
    return None


def _activations(node: ir.Node) -> Iterator[Quantization]:
    """The quantization of its operands that are no constants, and of its output."""
    for value in operands(node):
        one = dequantizer(value)
        if one is not None and not is_weight(one):
            yield one
    yield from quantizers_of(node.outputs[0])


def _signed(node: ir.Node) -> str | None:
    for one in _activations(node):
        stored = one.node.outputs[0] if is_quantizer(one.node) else one.x
        count = len(integer_readers(stored))
        if one.dtype is ir.DataType.INT8 and count > 1:
            before = quantizer(stored)
            name = (stored if before is None else before.x).name
            return f"the int8 value {name!r} has {count} readers, and {_SIGNED}: make it uint8"
    return _signed_constant(node)


def _signed_constant(node: ir.Node) -> str | None:
    """A constant operand stays int8 where the other operand and the output become uint8."""
    for value in operands(node) if is_op(node, "Add", "Mul", "Concat") else ():
        one = dequantizer(value)
        if one is not None and one.dtype is ir.DataType.INT8 and is_weight(one):
            return f"its constant operand {one.x.name!r} is int8: make it uint8"
    return None


def _interpolation(node: ir.Node) -> str | None:
    mode = string_attribute(node, "mode", "nearest") if is_op(node, "Resize", "Upsample") else ""
    if mode and mode != "nearest":
        return f"ONNX Runtime interpolates in float ({mode})"
    return None


def _grids(node: ir.Node) -> str | None:
    one, behind = dequantizer(input_at(node, 0)), quantizers_of(node.outputs[0])
    if one is not None and behind and not one.same_grid(behind[0]):
        return "the scales or zero points before and behind it differ"
    return None


def _name(one: Quantization) -> str:
    return "an unknown type" if one.dtype is None else one.dtype.name.lower()


def _described(nodes: Iterator[ir.Node] | list[ir.Node]) -> str:
    return ", ".join(sorted({node.op_type for node in nodes}))
