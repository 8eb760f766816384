"""Which operators float16 is enough for, and under what conditions.

A node stays in float32 unless a rule here lets it go: an operator that no rule names may compute
anything. Overflow is judged by what is summed inside an operator as well as by what it reads and
writes, because backends are free to add up in the type of the operands.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from onnxfold.ir.graph import input_at, int_attribute
from onnxfold.precision.magnitudes import Magnitudes
from onnxfold.precision.schemas import Slots, op_types
from onnxfold.precision.summands import summands
from onnxfold.precision.weights import HALF_MAX, HALF_NORMAL, MAX_ERROR, Weights

LONGEST_SOFTMAX = 4096
"""Over more elements the mean result is less than 4 times the smallest normal float16."""

LARGEST_EXPONENT = 11.0
"""exp(11) is the last power of e that float16 holds."""

LARGEST_ANGLE = 8.0
"""Above it neighbouring float16 numbers are more than 1/256 of a radian apart."""

HEAVY = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum"})
"""The operators that float16 is for."""

PLAIN = HEAVY | op_types(
    "Abs Add ArgMax ArgMin Clip Compress Concat ConcatFromSequence "
    "ConstantOfShape DepthToSpace DequantizeLinear Dropout Elu Equal Erf Expand "
    "EyeLike Flatten Floor Ceil Gather GatherElements GatherND Gelu GlobalMaxPool Greater "
    "GreaterOrEqual HardSigmoid HardSwish Hardmax Identity IsInf IsNaN LeakyRelu Less LessOrEqual "
    "Max MaxPool MaxUnpool Mean Min Mul Neg NonZero OneHot PRelu Pad QuantizeLinear ReduceMax "
    "ReduceMin Relu Reshape Resize ReverseSequence Round ScatterElements ScatterND Selu "
    "SequenceAt SequenceConstruct Shrink Sigmoid Sign Slice Softsign SpaceToDepth Split "
    "SplitToSequence Squeeze Sub Sum Swish Tanh ThresholdedRelu Tile TopK Transpose Trilu "
    "Unsqueeze Upsample Where"
)
"""The operators that float16 is enough for where their operands and results fit."""

_STRICT: Mapping[str, frozenset[int]] = {
    "Div": frozenset({1}),
    "QuantizeLinear": frozenset({1}),
    "DequantizeLinear": frozenset({1}),
}
"""Constants of which every single element matters, however small beside the others."""

_NARROW = frozenset({ir.DataType.UINT8, ir.DataType.INT8, ir.DataType.BOOL})


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known about the numbers in a graph.

    Attributes:
        magnitudes: Of its values.
        weights: Of its constants.
        limit: The largest magnitude that a float16 value may have.
    """

    magnitudes: Magnitudes
    weights: Weights
    limit: float


def objection(node: ir.Node, slots: Slots, evidence: Evidence) -> str | None:
    """Why a default-domain node must stay in float32; None when it may become float16.

    Args:
        node: The node.
        slots: Its float32 inputs and outputs that could be float16.
        evidence: What is known about the numbers.
    """
    rule = RULES.get(node.op_type)
    if rule is None and node.op_type not in PLAIN:
        return "no rule says that float16 is enough for this operator"
    if not slots:
        return f"operator set {node.version} has no float16 form of it"
    reason = _constants_objection(node, slots, evidence)
    if reason is None and rule is not None:
        reason = rule(node, evidence)
    return reason or _range_objection(node, slots, evidence)


def _constants_objection(node: ir.Node, slots: Slots, evidence: Evidence) -> str | None:
    for index in sorted(slots.inputs):
        weight = evidence.weights.of(node.inputs[index])
        if weight is None or _is_bound(node, index):
            continue
        if weight.largest > HALF_MAX:
            return f"it reads a constant as large as {weight.largest:.3g}"
        if weight.error > MAX_ERROR:
            return "float16 loses digits of a small constant that it reads"
        if weight.worst > MAX_ERROR and index in _STRICT.get(node.op_type, ()):
            return "float16 loses digits of a small constant that it reads"
    return None


def _is_bound(node: ir.Node, index: int) -> bool:
    return node.op_type == "Clip" and index > 0


def _range_objection(node: ir.Node, slots: Slots, evidence: Evidence) -> str | None:
    read = [node.inputs[index] for index in sorted(slots.inputs) if not _is_bound(node, index)]
    written = [node.outputs[index] for index in sorted(slots.outputs)]
    for verb, values in (("reads", read), ("computes", written)):
        for value in values:
            magnitude = evidence.magnitudes.of(value)
            if magnitude > evidence.limit and evidence.weights.of(value) is None:
                may = "" if evidence.magnitudes.is_measured(value) else "may be "
                return f"it {verb} values that {may or 'are '}as large as {magnitude:.3g}"
    return None


_Rule = Callable[[ir.Node, Evidence], str | None]


def _summing(power: int) -> _Rule:
    """Operators that add up numbers, or their squares."""

    def rule(node: ir.Node, evidence: Evidence) -> str | None:
        count = summands(node)
        if count is None:
            return "how many numbers it adds up depends on a dynamic extent"
        total = count * evidence.magnitudes.of(node.inputs[0]) ** power
        if total <= HALF_MAX:
            return None
        what = "squares" if power == 2 else "numbers"
        return f"the sum of {count} {what} may reach {total:.3g}"

    return rule


def _normalizing(node: ir.Node, evidence: Evidence) -> str | None:
    """ONNX lets these say in which type they add up; float32 unless stated otherwise."""
    if int_attribute(node, "stash_type", 1) == int(ir.DataType.FLOAT):
        return None
    return _summing(2)(node, evidence)


def _batch_normalization(node: ir.Node, evidence: Evidence) -> str | None:
    if evidence.magnitudes.least(node.inputs[4]) < HALF_NORMAL:
        return "its variance may be too small for float16"
    return None


def _softmax(node: ir.Node, evidence: Evidence) -> str | None:
    count = summands(node)
    if count is None:
        return "how many numbers it adds up depends on a dynamic extent"
    if count > LONGEST_SOFTMAX:
        return f"its results over {count} elements are too small for float16"
    return None


def _dividing(divisor: int) -> _Rule:
    def rule(node: ir.Node, evidence: Evidence) -> str | None:
        if evidence.magnitudes.least(node.inputs[divisor]) < HALF_NORMAL:
            return "its divisor may be too small for float16"
        return None

    return rule


def _logarithm(node: ir.Node, evidence: Evidence) -> str | None:
    if evidence.magnitudes.least(node.inputs[0]) < HALF_NORMAL:
        return "its operand may be too small for float16"
    return None


def _within(limit: float) -> _Rule:
    """Operators that are good for small operands; an estimate is not good enough."""

    def rule(node: ir.Node, evidence: Evidence) -> str | None:
        x = node.inputs[0]
        if not evidence.magnitudes.is_measured(x):
            return "how large its operand becomes was not measured"
        if evidence.magnitudes.of(x) > limit:
            return f"its operand reaches {evidence.magnitudes.of(x):.3g}"
        return None

    return rule


def _power(node: ir.Node, evidence: Evidence) -> str | None:
    """A result that was measured is judged by the range alone."""
    if evidence.weights.of(input_at(node, 1)) is None:
        return "its exponent is not known"
    if not evidence.magnitudes.is_measured(node.outputs[0]):
        return "how large its result becomes was not measured"
    return None


def _cast(node: ir.Node, evidence: Evidence) -> str | None:
    source = node.inputs[0]
    if source is None or source.dtype is None:
        return "the type of its operand is not known"
    if source.dtype.is_integer() and source.dtype not in _NARROW:
        return "float16 does not hold the integers above 2048 exactly"
    return None


RULES: dict[str, _Rule] = {
    **dict.fromkeys(
        ("ReduceSum", "ReduceMean", "ReduceL1", "GlobalAveragePool", "AveragePool", "CumSum"),
        _summing(1),
    ),
    **dict.fromkeys(
        (
            "ReduceSumSquare",
            "ReduceL2",
            "GlobalLpPool",
            "LpPool",
            "InstanceNormalization",
            "LpNormalization",
            "LRN",
        ),
        _summing(2),
    ),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization", "GroupNormalization"), _normalizing),
    **dict.fromkeys(("Softmax", "LogSoftmax"), _softmax),
    **dict.fromkeys(("Exp", "Softplus", "Mish"), _within(LARGEST_EXPONENT)),
    **dict.fromkeys(("Sin", "Cos"), _within(LARGEST_ANGLE)),
    **dict.fromkeys(("Log", "Sqrt"), _logarithm),
    "BatchNormalization": _batch_normalization,
    "Div": _dividing(1),
    "Reciprocal": _dividing(0),
    "Pow": _power,
    "Cast": _cast,
    "CastLike": _cast,
}
