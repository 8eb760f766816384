"""What TensorRT will run in INT8 as far as its rules tell, and the commands that build it."""

import shlex
from collections.abc import Iterator, Sequence

import onnx_ir as ir

from onnxfold.ir.graph import input_at, is_op
from onnxfold.ir.shapes import static_shape
from onnxfold.targets.lint_tensorrt import lint_tensorrt
from onnxfold.targets.lint_tensorrt_placement import gains
from onnxfold.targets.proof import Finding, LayerPrecision, Precision, Proof, Severity
from onnxfold.targets.proof_graph import (
    MULTIPLY_ADDS,
    Layer,
    dequantizer,
    layers_of,
    operands,
    pairs,
    quantizer,
    value_name,
)
from onnxfold.targets.proof_reasons import UNTOUCHED, is_untouched, unquantized_operand

_BUILT = "TensorRT decides that when it builds the engine"


def prove_tensorrt(model: ir.Model, file: str = "model.onnx") -> Proof:
    """Say how every layer should run by TensorRT's rules; TensorRT itself is not asked.

    Args:
        model: Its shapes are inferred.
        file: What the commands call the model.
    """
    findings = lint_tensorrt(model)
    errors = [finding for finding in findings if finding.severity is Severity.ERROR]
    return Proof(
        target="tensorrt",
        compiled=False,
        layers=tuple(_layer(layer, errors) for layer in layers_of(model)),
        unfused=tuple(
            dict.fromkeys(
                value_name(one.x)
                for one, following in pairs(model)
                if not any(gains(node, one) for node in following)
            )
        ),
        findings=findings,
        commands=trtexec_commands(model, file),
    )


def _layer(layer: Layer, errors: Sequence[Finding]) -> LayerPrecision:
    precision, reason = _verdict(layer.node, errors)
    return LayerPrecision(
        layer=layer.name,
        node=layer.label,
        op_type=layer.node.op_type,
        precision=precision,
        kernel="",
        reason=reason,
        multiply_adds=layer.multiply_adds,
    )


def _verdict(node: ir.Node, errors: Sequence[Finding]) -> tuple[Precision, str]:
    own, read = node.outputs[0].name, set(_quantized_operands(node))
    for error in errors:
        # Most errors are about the value that is quantized, few about the layer that reads it.
        if error.layer == own if error.rule in _ABOUT_LAYERS else error.layer in read:
            return Precision.UNKNOWN, error.message
    if not is_op(node, *MULTIPLY_ADDS):
        return Precision.UNKNOWN, _BUILT
    if is_untouched(node):
        return Precision.FLOAT, UNTOUCHED
    missing = unquantized_operand(node)
    if missing is not None:
        return Precision.FLOAT, missing
    if any(one.dtype is not ir.DataType.INT8 for one in map(dequantizer, operands(node)) if one):
        return Precision.FLOAT, "one of its operands is quantized to something else than int8"
    return Precision.INT8, ""


_ABOUT_LAYERS = frozenset({"weight-axis", "resize-antialias"})


def _quantized_operands(node: ir.Node) -> Iterator[str]:
    """The names of the values that are quantized for the node to read."""
    for value in (*operands(node), input_at(node, 2)):
        one = dequantizer(value)
        before = None if one is None else quantizer(one.x)
        if one is not None:
            yield (one.x if before is None else before.x).name or ""


def trtexec_commands(model: ir.Model, file: str) -> tuple[str, ...]:
    """Shell commands that build and time the model, for TensorRT 11 and for TensorRT 10.

    From TensorRT 11 on every network is strongly typed and the flag is gone, as are `--int8` and
    `--fp16`: the types are those of the graph. Open axes get the extents of `_STAND_IN`, to be
    edited.
    """
    name = file.removesuffix(".onnx")
    common = [
        "trtexec",
        f"--onnx={file}",
        f"--saveEngine={name}.plan",
        *_shapes(model),
        "--profilingVerbosity=detailed",
        "--exportLayerInfo=" + f"{name}.layers.json",
        "--useCudaGraph",
    ]
    return shlex.join(common), shlex.join([*common, "--stronglyTyped"])


_STAND_IN = 512
"""What an open axis counts as in a command; the batch counts as 1."""


def _shapes(model: ir.Model) -> Iterator[str]:
    """The flags for inputs with open axes."""
    inputs = [value for value in model.graph.inputs if value.shape is not None]
    opened = [value for value in inputs if static_shape(value) is None]
    given = ",".join(f"{value.name}:{_extents(value)}" for value in opened)
    if not given:
        return
    for flag in ("minShapes", "optShapes", "maxShapes"):
        yield f"--{flag}={given}"


def _extents(value: ir.Value) -> str:
    extents = value.shape if value.shape is not None else ()
    return "x".join(
        str(extent) if isinstance(extent, int) else str(_STAND_IN if axis else 1)
        for axis, extent in enumerate(extents)
    )
