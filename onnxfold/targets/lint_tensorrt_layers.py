"""Which layers TensorRT gains nothing from quantizing.

Source of the sizes: what NVIDIA's Model Optimizer leaves in float, and the issues named in the
rules. A layer is told by the name of its first output.
"""

import math
from collections.abc import Iterator

import onnx_ir as ir

from onnxfold.ir.constants import FLOAT_TYPES
from onnxfold.ir.graph import input_at, int_attribute, is_op, string_attribute
from onnxfold.ir.shapes import dim, rank, static_shape
from onnxfold.targets.lint_rule import Complaint, Rule
from onnxfold.targets.proof import Severity
from onnxfold.targets.proof_graph import MULTIPLY_ADDS, dequantizer, is_weight, readers
from onnxfold.targets.proof_reasons import has_weight

_FEW = 16
"""Channels or matrix extents below this do not fill a tensor core."""

_STEP = 8
_SMALLEST_GROUPED_KERNEL = 3
_LARGEST_FLOAT8_KERNEL = 32
_WEIGHT_ONLY = frozenset({ir.DataType.INT4, ir.DataType.FLOAT4E2M1})


def _name(node: ir.Node) -> str:
    return node.outputs[0].name or ""


def _quantized(model: ir.Model, *op_types: str) -> Iterator[ir.Node]:
    """The layers of these types whose input and weight are both quantized."""
    for node in model.graph:
        if is_op(node, *op_types) and all(
            dequantizer(input_at(node, index)) is not None for index in (0, 1)
        ):
            yield node


def _half_quantized(model: ir.Model) -> Iterator[Complaint]:
    for node in model.graph:
        if not is_op(node, *MULTIPLY_ADDS):
            continue
        data, weight = (dequantizer(input_at(node, index)) for index in (0, 1))
        if (data is None) == (weight is None):
            continue
        if weight is not None and is_weight(weight) and weight.dtype in _WEIGHT_ONLY:
            continue
        sides = ("input", "weight") if has_weight(node) else ("first operand", "second operand")
        given, missing = sides if weight is None else sides[::-1]
        yield (
            _name(node),
            f"the {given} of {node.op_type} {_name(node)!r} is quantized and its {missing} is not, "
            "so that it runs in float",
        )


def _small_channels(model: ir.Model) -> Iterator[Complaint]:
    for node in _quantized(model, "Conv"):
        shape = static_shape(input_at(node, 1))
        if shape is None or int_attribute(node, "group", 1) > 1 or min(shape[:2]) >= _FEW:
            continue
        outputs, inputs, *kernel = shape
        stepped = outputs % _STEP == 0 or inputs % _STEP == 0
        wide = max(outputs, inputs) >= _FEW or _reads_input(node)
        if not (stepped and wide and len(set(kernel)) == 1):
            yield (
                _name(node),
                f"Conv {_name(node)!r} has {inputs} input and {outputs} output channels, too few "
                "for an INT8 kernel to pay or to exist",
            )


def _reads_input(node: ir.Node) -> bool:
    """Whether it is a first layer: it reads an input of the model, quantized or not."""
    value = input_at(node, 0)
    while value is not None and not value.is_graph_input():
        one = value.producer()
        if one is None or one.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            return False
        value = input_at(one, 0)
    return value is not None


def _grouped(model: ir.Model) -> Iterator[Complaint]:
    for node in _quantized(model, "Conv"):
        shape = static_shape(input_at(node, 1))
        if shape is None or int_attribute(node, "group", 1) == 1 or min(shape[:2]) >= _FEW:
            continue
        if shape[0] % _STEP or min(shape[2:], default=0) < _SMALLEST_GROUPED_KERNEL:
            size = "×".join(map(str, shape[2:]))
            yield (
                _name(node),
                f"the grouped Conv {_name(node)!r} has {shape[0]} output channels and a {size} "
                "kernel, for which TensorRT may have no INT8 kernel",
            )


def _float8(model: ir.Model) -> Iterator[Complaint]:
    for node in _quantized(model, "Conv"):
        one = dequantizer(input_at(node, 1))
        shape = static_shape(input_at(node, 1))
        if one is None or one.dtype is not ir.DataType.FLOAT8E4M3FN or shape is None:
            continue
        if math.prod(shape[2:]) > _LARGEST_FLOAT8_KERNEL or min(shape[:2]) <= _FEW:
            yield _name(node), f"Conv {_name(node)!r} is of a size that FP8 slows down"


def _vectors(model: ir.Model) -> Iterator[Complaint]:
    for node in _quantized(model, "Gemm", "MatMul"):
        output, extents = node.outputs[0], rank(node.outputs[0])
        if extents is not None and extents >= 2 and 1 in (dim(output, -1), dim(output, -2)):
            yield _name(node), f"{node.op_type} {_name(node)!r} multiplies a matrix by a vector"


def _small_matrices(model: ir.Model) -> Iterator[Complaint]:
    for node in _quantized(model, "Gemm", "MatMul"):
        transposed = bool(int_attribute(node, "transA", 0))
        inner, outputs = dim(input_at(node, 0), 0 if transposed else -1), dim(node.outputs[0], -1)
        few = [extent for extent in (inner, outputs) if extent is not None and extent < _FEW]
        if few:
            yield (
                _name(node),
                f"{node.op_type} {_name(node)!r} has an extent of {min(few)}, below {_FEW}",
            )


def _antialias(model: ir.Model) -> Iterator[Complaint]:
    for node in model.graph:
        if is_op(node, "Resize") and int_attribute(node, "antialias", 0):
            yield _name(node), f"Resize {_name(node)!r} asks for antialiasing"


def _resize_mode(model: ir.Model) -> Iterator[Complaint]:
    for node in model.graph:
        mode = string_attribute(node, "mode", "nearest")
        if is_op(node, "Resize") and mode not in ("nearest", "linear"):
            yield _name(node), f"Resize {_name(node)!r} interpolates by {mode}"


def _remainder(model: ir.Model) -> Iterator[Complaint]:
    computed = [
        node.outputs[0].dtype
        for node in model.graph
        if node.outputs and readers(node.outputs[0]) and node.op_type != "Constant"
    ]
    floats = {dtype for dtype in computed if dtype in FLOAT_TYPES}
    if ir.DataType.FLOAT in floats and ir.DataType.FLOAT16 not in floats:
        yield "", "what is not INT8 is float32, and TensorRT runs it as that"


RULES = (
    Rule(
        "half-quantized",
        Severity.WARNING,
        _half_quantized,
        "quantize both, or neither",
    ),
    Rule("small-channels", Severity.WARNING, _small_channels, "leave it in float"),
    Rule("grouped-convolution", Severity.WARNING, _grouped, "leave it in float"),
    Rule("float8-convolution", Severity.WARNING, _float8, "leave it in float, or use int8"),
    Rule("matrix-vector", Severity.WARNING, _vectors, "leave it in float"),
    Rule("small-matrix", Severity.WARNING, _small_matrices, "leave it in float"),
    Rule(
        "resize-antialias",
        Severity.ERROR,
        _antialias,
        "TensorRT resizes without antialiasing",
    ),
    Rule(
        "resize-mode",
        Severity.WARNING,
        _resize_mode,
        "TensorRT resizes by nearest and linear, others run in float where they run at all",
    ),
    Rule(
        "float32-remainder",
        Severity.INFO,
        _remainder,
        "convert the rest to float16 with the pass to_fp16",
    ),
)
