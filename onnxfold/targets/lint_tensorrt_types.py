"""What TensorRT wants of the types and numbers of QuantizeLinear and DequantizeLinear.

Sources: the ONNX parser of TensorRT (its helper for both operators), the page on quantized types in
its documentation, and the issues where a user met the rule.
"""

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from onnxfold.ir.constants import constant_tensor, is_constant
from onnxfold.ir.graph import input_at, int_attribute, is_op, opset_version
from onnxfold.ir.shapes import dim, rank
from onnxfold.targets.lint_rule import Complaint, Rule
from onnxfold.targets.proof import Severity
from onnxfold.targets.proof_graph import (
    MULTIPLY_ADDS,
    Quantization,
    dequantizer,
    is_dequantizer,
    is_quantizer,
    is_weight,
    quantizer,
)

_READ = frozenset(
    {
        ir.DataType.INT8,
        ir.DataType.INT4,
        ir.DataType.FLOAT8E4M3FN,
        ir.DataType.FLOAT4E2M1,
    }
)
"""The quantized types of TensorRT."""

_FOUR_BITS = frozenset({ir.DataType.INT4, ir.DataType.FLOAT4E2M1})
_INTEGER_OPERATORS = frozenset({"ConvInteger", "DynamicQuantizeLinear", "MatMulInteger"})
_FIRST_WITH_AXIS = 13
_FIRST_WITH_HALF = 19
_FIRST_WITH_FREE_SCALE_TYPE = 23
_LAST_COMMON_OPSET = 17


def _all(model: ir.Model) -> Iterator[Quantization]:
    for node in model.graph:
        one = Quantization.of(node)
        if one is not None:
            yield one


def _subject(one: Quantization) -> str:
    """The value that is quantized: where a pair starts, or the stored weight."""
    before = quantizer(one.x) if is_dequantizer(one.node) else None
    return (one.x if before is None else before.x).name or ""


def _is_constant(one: Quantization) -> bool:
    return is_weight(one) if is_dequantizer(one.node) else is_constant(one.x)


def _unsigned(model: ir.Model) -> Iterator[Complaint]:
    for one in _all(model):
        if one.dtype is ir.DataType.UINT8:
            name = _subject(one)
            yield name, f"{name!r} is quantized to uint8, which TensorRT refuses or reads as int8"


def _zero_point(model: ir.Model) -> Iterator[Complaint]:
    for one in _all(model):
        name = _subject(one)
        if one.dtype is ir.DataType.INT32 or not one.has_zero_point:
            continue
        if one.zero_point is None:
            yield name, f"the zero point of {name!r} is computed at run time"
        elif np.any(one.zero_point.astype(np.float64) != 0):
            yield name, f"the zero point of {name!r} is not 0"


def _scale_constant(model: ir.Model) -> Iterator[Complaint]:
    for one in _all(model):
        if one.scale is None:
            name = _subject(one)
            yield name, f"the scale of {name!r} is computed at run time"


def _scale_positive(model: ir.Model) -> Iterator[Complaint]:
    for one in _all(model):
        if one.scale is None:
            continue
        scale = one.scale.astype(np.float64)
        if scale.size == 0 or not np.all(np.isfinite(scale)) or np.any(scale <= 0):
            name = _subject(one)
            yield name, f"a scale of {name!r} is not a positive number"


def _scale_type(model: ir.Model) -> Iterator[Complaint]:
    version = opset_version(model)
    for one in _all(model):
        if not is_quantizer(one.node) or one.x.dtype is None:
            continue
        name, data = _subject(one), one.x.dtype
        scale = constant_tensor(input_at(one.node, 1))
        if data is ir.DataType.FLOAT16 and version < _FIRST_WITH_HALF:
            yield name, f"QuantizeLinear takes no float16 in opset {version}, as {name!r} is"
        elif scale is not None and scale.dtype != data and version < _FIRST_WITH_FREE_SCALE_TYPE:
            types = f"{scale.dtype.name.lower()} scale, {data.name.lower()} value"
            yield name, f"the scale of {name!r} is of another type than the value ({types})"


def _activation_per_channel(model: ir.Model) -> Iterator[Complaint]:
    for one in _all(model):
        if one.per_channel and not _is_constant(one):
            name = _subject(one)
            yield name, f"the activation {name!r} is quantized per channel"


def _bias(model: ir.Model) -> Iterator[Complaint]:
    for one in _all(model):
        if one.dtype is ir.DataType.INT32:
            name = _subject(one)
            yield name, f"{name!r} is an int32 bias behind a DequantizeLinear"


def _quantized_type(model: ir.Model) -> Iterator[Complaint]:
    known = _READ | {ir.DataType.UINT8, ir.DataType.INT32}  # these have rules of their own
    for one in _all(model):
        if one.dtype is not None and one.dtype not in known:
            name = _subject(one)
            yield name, f"{name!r} is quantized to {one.dtype.name.lower()}"


def _four_bits_odd(model: ir.Model) -> Iterator[Complaint]:
    for one in _all(model):
        last = dim(one.x, -1)
        if one.dtype in _FOUR_BITS and last is not None and last % 2:
            name = _subject(one)
            yield name, f"the last extent of the 4-bit tensor {name!r} is odd ({last})"


def _four_bits_activation(model: ir.Model) -> Iterator[Complaint]:
    for one in _all(model):
        if one.dtype is ir.DataType.INT4 and not _is_constant(one):
            name = _subject(one)
            yield name, f"the activation {name!r} is quantized to int4"


def _weights(model: ir.Model) -> Iterator[tuple[ir.Node, Quantization]]:
    """Every layer with a weight behind a DequantizeLinear that has a scale per channel."""
    for node in model.graph:
        one = dequantizer(input_at(node, 1)) if is_op(node, *MULTIPLY_ADDS) else None
        if one is not None and is_weight(one) and one.per_channel:
            yield node, one


def _positive_axis(one: Quantization) -> int:
    extents = rank(one.x)
    return one.axis + extents if one.axis < 0 and extents is not None else one.axis


def _output_axis(node: ir.Node) -> int | None:
    """The axis of the weight along which the output channels lie."""
    if is_op(node, "Conv"):
        return 0
    if is_op(node, "Gemm"):
        return 0 if int_attribute(node, "transB", 0) else 1
    if is_op(node, "ConvTranspose"):
        return 1
    extents = rank(input_at(node, 1))
    return None if extents is None else extents - 1


def _weight_axis(model: ir.Model) -> Iterator[Complaint]:
    for node, one in _weights(model):
        axis, wanted = _positive_axis(one), _output_axis(node)
        blocked = one.scale is not None and one.scale.ndim > 1
        if wanted is not None and axis != wanted and not blocked:
            name = node.outputs[0].name or ""
            yield (
                name,
                f"the weight of {node.op_type} {name!r} has its scales along axis {axis}, and its "
                f"output channels lie along axis {wanted}",
            )


def _transposed_per_channel(model: ir.Model) -> Iterator[Complaint]:
    for node, _ in _weights(model):
        if is_op(node, "ConvTranspose"):
            name = node.outputs[0].name or ""
            yield name, f"the weight of ConvTranspose {name!r} has a scale per channel"


def _scale_length(model: ir.Model) -> Iterator[Complaint]:
    for one in _all(model):
        if not one.per_channel or one.scale is None or one.scale.ndim != 1:
            continue
        extent = dim(one.x, one.axis)
        if extent is not None and extent != one.scale.size:
            name = _subject(one)
            yield (
                name,
                f"{name!r} has {one.scale.size} scales, and an extent of {extent} along their axis",
            )


def _opset(model: ir.Model) -> Iterator[Complaint]:
    version = opset_version(model)
    if version < _FIRST_WITH_AXIS and any(one.per_channel for one in _all(model)):
        yield "", f"opset {version} knows no scales per channel"


def _late_opset(model: ir.Model) -> Iterator[Complaint]:
    version = opset_version(model)
    types = {one.dtype for one in _all(model)} - {ir.DataType.INT8}
    if version > _LAST_COMMON_OPSET and not types and any(True for _ in _all(model)):
        yield "", f"INT8 does not need opset {version}, and older parsers stop at 17"


def _integer_operators(model: ir.Model) -> Iterator[Complaint]:
    for node in model.graph:
        if node.op_type in _INTEGER_OPERATORS or node.op_type.startswith(("QLinear", "QGemm")):
            name = node.outputs[0].name or ""
            yield name, f"TensorRT cannot import {node.op_type} ({name!r})"


def _custom_operators(model: ir.Model) -> Iterator[Complaint]:
    for node in model.graph:
        if node.domain == "" or node.op_type.startswith(("QLinear", "QGemm")):
            continue
        if not is_quantizer(node) and not is_dequantizer(node):
            name = node.outputs[0].name or ""
            yield name, f"{node.domain}.{node.op_type} ({name!r}) is no operator of ONNX"


_SYMMETRIC = "quantize for the target tensorrt: int8 around 0, one positive scale per activation"
_REEXPORT = "store the scales as constants"

RULES = (
    Rule("unsigned-type", Severity.ERROR, _unsigned, _SYMMETRIC),
    Rule("zero-point", Severity.ERROR, _zero_point, _SYMMETRIC),
    Rule("scale-not-constant", Severity.ERROR, _scale_constant, _REEXPORT),
    Rule(
        "scale-not-positive",
        Severity.ERROR,
        _scale_positive,
        "give channels that are all zero a small positive scale",
    ),
    Rule(
        "scale-type",
        Severity.ERROR,
        _scale_type,
        "give the scale the type of the value; float16 needs opset 19 or later",
    ),
    Rule("activation-per-channel", Severity.ERROR, _activation_per_channel, _SYMMETRIC),
    Rule("quantized-bias", Severity.ERROR, _bias, "leave the bias in float"),
    Rule(
        "quantized-type",
        Severity.ERROR,
        _quantized_type,
        "TensorRT reads int8, int4, float8e4m3fn and float4e2m1",
    ),
    Rule(
        "four-bits-odd",
        Severity.ERROR,
        _four_bits_odd,
        "pad the weight to an even extent, or quantize it to int8",
    ),
    Rule(
        "four-bits-activation",
        Severity.ERROR,
        _four_bits_activation,
        "int4 is for weights alone; quantize the activation to int8",
    ),
    Rule(
        "weight-axis",
        Severity.ERROR,
        _weight_axis,
        "scale per output channel: axis 0 of Conv, axis 1 of ConvTranspose, the last of MatMul",
    ),
    Rule(
        "conv-transpose-per-channel",
        Severity.INFO,
        _transposed_per_channel,
        "versions of TensorRT differed in the axis they want; build it, or use one scale",
    ),
    Rule(
        "scale-length",
        Severity.ERROR,
        _scale_length,
        "there has to be one scale for each index of the axis",
    ),
    Rule("opset", Severity.ERROR, _opset, "export with opset 13 to 17"),
    Rule("late-opset", Severity.INFO, _late_opset, "export with opset 13 to 17"),
    Rule(
        "integer-operator",
        Severity.ERROR,
        _integer_operators,
        "write QuantizeLinear and DequantizeLinear around float operators instead",
    ),
    Rule(
        "custom-operator",
        Severity.WARNING,
        _custom_operators,
        "it needs a TensorRT plugin of that name",
    ),
)
