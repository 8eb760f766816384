"""Where TensorRT wants QuantizeLinear and DequantizeLinear, and where they cost speed.

Every pair belongs in front of an operator that computes in INT8: at the inputs of convolutions and
matrix products, at the skip operand of a residual addition, and around average pooling. TensorRT
itself moves them over operators that only move elements. Pairs elsewhere keep operators from being
fused. Sources: the recommendations in NVIDIA's documentation of explicit quantization, the
placement of its Model Optimizer, and TensorRT issues 2592 (Pad) and 2976 (Resize).
"""

from collections.abc import Callable, Iterator

import onnx_ir as ir

from onnxfold.ir.constants import is_constant
from onnxfold.ir.graph import is_op, sole_reader
from onnxfold.targets.lint_rule import Complaint, Rule
from onnxfold.targets.proof import Severity
from onnxfold.targets.proof_graph import (
    MOVEMENT,
    MULTIPLY_ADDS,
    Quantization,
    data_inputs,
    dequantizer,
    integer_readers,
    is_dequantizer,
    is_fixed,
    is_quantizer,
    pairs,
    quantizer,
    quantizers_of,
    readers,
)

_FUSED_ACTIVATIONS = (
    "Clip",
    "Elu",
    "HardSigmoid",
    "LeakyRelu",
    "Relu",
    "Selu",
    "Sigmoid",
    "Softplus",
    "Tanh",
)
_FLOAT_ONLY = (
    "Erf",
    "Gelu",
    "GroupNormalization",
    "HardSwish",
    "InstanceNormalization",
    "LayerNormalization",
    "PRelu",
    "Softmax",
)
_COMMUTING = (*MOVEMENT, "ArgMax", "MaxPool", "Where")
_POOLING = ("AveragePool", "GlobalAveragePool", "LpPool")
_ON_THE_WAY = ("BatchNormalization", "Relu", "MaxPool")
"""What may stand between a convolution and the addition that it is fused with."""


def _name(node: ir.Node) -> str:
    return node.outputs[0].name or ""


def _before(*op_types: str) -> Callable[[ir.Model], Iterator[Complaint]]:
    """A check that nothing is quantized in front of these operators."""

    def check(model: ir.Model) -> Iterator[Complaint]:
        for one, following in pairs(model):
            for node in following:
                if is_op(node, *op_types):
                    yield (
                        one.x.name or "",
                        f"Q/DQ stands in front of {node.op_type} {_name(node)!r}",
                    )

    return check


def _between_pad_and_conv(model: ir.Model) -> Iterator[Complaint]:
    for one, following in pairs(model):
        if is_op(one.x.producer(), "Pad"):
            for node in following:
                if is_op(node, "Conv", "ConvTranspose"):
                    yield (
                        one.x.name or "",
                        f"Q/DQ stands between a Pad and {node.op_type} {_name(node)!r}",
                    )


def _before_gate(model: ir.Model) -> Iterator[Complaint]:
    """Inside x·sigmoid(x), or on the gate of a squeeze-and-excite block."""
    for one, following in pairs(model):
        for node in following:
            if is_op(node, "Mul") and any(_is_gate(value) for value in node.inputs):
                yield one.x.name or "", f"Q/DQ stands in front of the gating Mul {_name(node)!r}"


def _is_gate(value: ir.Value | None) -> bool:
    """Whether a sigmoid makes the value, quantized or not."""
    one = dequantizer(value)
    before = quantizer(one.x) if one is not None else None
    source = value if before is None else before.x
    return source is not None and is_op(source.producer(), "Sigmoid", "HardSigmoid")


def _at_output(model: ir.Model) -> Iterator[Complaint]:
    for node in model.graph:
        if is_dequantizer(node) and node.outputs[0].is_graph_output():
            name = _name(node)
            yield name, f"Q/DQ stands in front of the output {name!r} of the model"
        elif is_quantizer(node) and node.outputs[0].is_graph_output():
            name = _name(node)
            yield name, f"the output {name!r} of the model is quantized"


def _after_convolution(model: ir.Model) -> Iterator[Complaint]:
    """The result of a convolution is quantized for readers of which none computes in INT8."""
    for one, following in pairs(model):
        source = one.x.producer()
        while is_op(source, *_FUSED_ACTIVATIONS):
            assert source is not None
            value = source.inputs[0]
            source = None if value is None else value.producer()
        if is_op(source, *MULTIPLY_ADDS) and not any(gains(node, one) for node in following):
            assert source is not None
            yield (
                one.x.name or "",
                f"Q/DQ stands behind {source.op_type} {_name(source)!r}, and nothing that reads it "
                "computes in INT8",
            )


def gains(node: ir.Node, one: Quantization) -> bool:
    """Whether a reader computes in INT8 because its input is quantized.

    What only moves elements gains when a reader behind it does.
    """
    if is_op(node, *MULTIPLY_ADDS):
        return True
    if is_op(node, "Add"):
        return any(_is_conv_side(value) for value in node.inputs if not _comes_from(value, one))
    if is_op(node, *_POOLING, "Concat"):
        return _is_quantized_behind(node)
    if is_op(node, *_COMMUTING):
        return any(gains(reader, one) for reader in _float_readers(node))
    return False


def _float_readers(node: ir.Node) -> Iterator[ir.Node]:
    """The readers of a node's outputs, through Q/DQ."""
    for output in node.outputs:
        for reader in readers(output):
            if is_quantizer(reader):
                yield from (each for each, _ in integer_readers(reader.outputs[0]))
            else:
                yield reader


def _comes_from(value: ir.Value | None, one: Quantization) -> bool:
    found = dequantizer(value)
    return found is not None and found.x is one.node.outputs[0]


def _is_quantized_behind(node: ir.Node) -> bool:
    """Whether the result is quantized, at once or behind what only moves it."""
    output = node.outputs[0]
    if quantizers_of(output):
        return True
    return any(is_op(each, *_COMMUTING) and _is_quantized_behind(each) for each in readers(output))


def _pooling(model: ir.Model) -> Iterator[Complaint]:
    for node in model.graph:
        if not is_op(node, *_POOLING) or dequantizer(node.inputs[0]) is None:
            continue
        if not _is_quantized_behind(node):
            yield (
                _name(node),
                f"the input of {node.op_type} {_name(node)!r} is quantized and its output is not",
            )


def _is_conv_side(value: ir.Value | None) -> bool:
    """Whether a convolution makes the value for this reader alone, so that both can be fused."""
    while value is not None:
        node = value.producer()
        if node is None or sole_reader(value) is None:
            return False
        if is_op(node, "Conv", "ConvTranspose"):
            return True
        scaled = is_op(node, "Add", "Mul") and len(data_inputs(node)) == 1
        if not (scaled or is_op(node, *_ON_THE_WAY) or is_quantizer(node) or is_dequantizer(node)):
            return False
        value = next((each for each in node.inputs if not is_fixed(each)), None)
    return False


def _residuals(model: ir.Model) -> Iterator[tuple[ir.Node, list[bool], list[bool]]]:
    """Additions of two activations: which operand a convolution makes, and which is quantized."""
    for node in model.graph:
        if not is_op(node, "Add") or any(is_constant(value) for value in node.inputs):
            continue
        sides = [_is_conv_side(value) for value in node.inputs]
        if any(sides):
            yield node, sides, [dequantizer(value) is not None for value in node.inputs]


def _residual_both(model: ir.Model) -> Iterator[Complaint]:
    for node, _, quantized in _residuals(model):
        if all(quantized):
            yield _name(node), f"both operands of the residual Add {_name(node)!r} are quantized"


def _residual_wrong_side(model: ir.Model) -> Iterator[Complaint]:
    for node, sides, quantized in _residuals(model):
        if sum(sides) == 1 and quantized == sides:
            yield (
                _name(node),
                f"the operand of the residual Add {_name(node)!r} that a convolution makes is "
                "quantized, and the skip is not",
            )


def _residual_float(model: ir.Model) -> Iterator[Complaint]:
    for node, _, quantized in _residuals(model):
        if any(quantized):
            continue
        last: ir.Node | None = node
        while last is not None and not quantizers_of(last.outputs[0]):
            last = sole_reader(last.outputs[0])
            last = last if is_op(last, *_FUSED_ACTIVATIONS) else None
        if last is not None:
            yield (
                _name(node),
                f"the skip operand of the residual Add {_name(node)!r} is float, so that the "
                "quantization behind it cannot be fused",
            )


def _concat_scales(model: ir.Model) -> Iterator[Complaint]:
    for node in model.graph:
        found = [dequantizer(value) for value in node.inputs] if is_op(node, "Concat") else []
        given = [one for one in found if one is not None]
        if len(given) > 1 and any(not one.same_grid(given[0]) for one in given[1:]):
            yield _name(node), f"the operands of Concat {_name(node)!r} have different scales"


def _several_scales(model: ir.Model) -> Iterator[Complaint]:
    for one, _ in pairs(model):
        others = quantizers_of(one.x)
        if any(not one.same_grid(other) for other in others):
            yield one.x.name or "", f"{one.x.name!r} is quantized with {len(others)} scales"


_AT_CONSUMERS = "quantize at the inputs of the next convolutions instead"

RULES = (
    Rule("before-resize", Severity.WARNING, _before("Resize", "Upsample"), _AT_CONSUMERS),
    Rule("before-pad", Severity.WARNING, _before("Pad"), "fold the Pad into the convolution"),
    Rule(
        "between-pad-and-conv",
        Severity.WARNING,
        _between_pad_and_conv,
        "fold the Pad into the convolution",
    ),
    Rule("before-activation", Severity.WARNING, _before(*_FUSED_ACTIVATIONS), _AT_CONSUMERS),
    Rule(
        "before-float-operator",
        Severity.WARNING,
        _before(*_FLOAT_ONLY),
        "it runs in float; take the Q/DQ away",
    ),
    Rule(
        "before-batch-normalization",
        Severity.WARNING,
        _before("BatchNormalization"),
        "fold the BatchNormalization before quantizing",
    ),
    Rule("before-gate", Severity.WARNING, _before_gate, _AT_CONSUMERS),
    Rule("before-movement", Severity.INFO, _before(*_COMMUTING), _AT_CONSUMERS),
    Rule("before-concat", Severity.INFO, _before("Concat"), _AT_CONSUMERS),
    Rule("at-output", Severity.WARNING, _at_output, "leave the output of the model in float"),
    Rule("after-convolution", Severity.WARNING, _after_convolution, "take the Q/DQ away"),
    Rule(
        "pooling-one-side",
        Severity.WARNING,
        _pooling,
        "quantize before and behind it, or neither",
    ),
    Rule(
        "residual-both",
        Severity.WARNING,
        _residual_both,
        "quantize the skip operand alone, so that the Add is fused into the convolution",
    ),
    Rule(
        "residual-wrong-side",
        Severity.WARNING,
        _residual_wrong_side,
        "quantize the skip operand instead",
    ),
    Rule("residual-float", Severity.INFO, _residual_float, "quantize the skip operand"),
    Rule(
        "concat-scales",
        Severity.INFO,
        _concat_scales,
        "one scale for all of them would save requantizing, at a cost in accuracy",
    ),
    Rule(
        "several-scales",
        Severity.WARNING,
        _several_scales,
        "quantize a value once, for all who read it",
    ),
)
