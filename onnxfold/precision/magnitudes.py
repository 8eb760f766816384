"""How large the values of a graph may be: as measured, or by cautious rules.

Where no calibration measured a value, it is estimated from the operator that computes it. Bounds
are followed through operators that have them (Sigmoid, Clip, constants, sums and products). The
results of Conv, MatMul and normalizations, which no rule bounds, are assumed to stay within
`ASSUMED`, and the inputs of the model, as images are, within `ASSUMED_INPUT`.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import onnx_ir as ir

from onnxfold.ir.constants import FLOAT_TYPES, is_constant
from onnxfold.ir.graph import float_attribute, input_at
from onnxfold.precision.schemas import is_float, op_types
from onnxfold.precision.summands import summands
from onnxfold.precision.weights import Weights

ASSUMED = 64.0
"""What trained networks with normalization keep nearly all of their activations within."""

ASSUMED_INPUT = 256.0
"""Images come as 0 to 255, or normalized."""

Ranges = Mapping[str, tuple[float, float]]
"""The least and the greatest number measured, by name of the value."""


class Magnitudes:
    """The largest magnitude that each value of a graph has, or may have."""

    def __init__(self, graph: ir.Graph, ranges: Ranges, weights: Weights) -> None:
        """Follow the graph from its inputs to its outputs.

        Args:
            graph: Its nodes in topological order.
            ranges: What was measured; empty when nothing was.
            weights: The constants of the graph.
        """
        self._weights = weights
        self._measured: dict[ir.Value, tuple[float, float]] = {}
        self._estimates: dict[ir.Value, float] = dict.fromkeys(graph.inputs, ASSUMED_INPUT)
        values = (*graph.inputs, *(output for node in graph for output in node.outputs))
        self._measured.update((v, ranges[v.name]) for v in values if v.name and v.name in ranges)
        for node in graph:
            self._follow(node)

    def of(self, value: ir.Value | None) -> float:
        """The largest magnitude: measured, of a constant, or estimated; 0 for an absent value."""
        if value is None:
            return 0.0
        if (measured := self._measured.get(value)) is not None:
            return max(abs(measured[0]), abs(measured[1]))
        if (weight := self._weights.of(value)) is not None:
            return weight.largest
        return self._estimates.get(value, ASSUMED)

    def least(self, value: ir.Value | None) -> float:
        """The smallest magnitude that is known for certain; 0 when none is."""
        if value is None:
            return 0.0
        if (measured := self._measured.get(value)) is not None:
            return max(measured[0], -measured[1], 0.0)
        weight = self._weights.of(value)
        return 0.0 if weight is None else weight.smallest

    def is_measured(self, value: ir.Value | None) -> bool:
        """Whether the magnitude was measured, or is that of a constant."""
        if value is None or value in self._measured:
            return True
        return self._weights.of(value) is not None

    def _follow(self, node: ir.Node) -> None:
        if _only_moves(node) and (source := node.inputs[0]) in self._measured:
            for output in node.outputs:
                self._measured.setdefault(output, self._measured[source])
        estimate = _RULES.get(node.op_type) if node.domain == "" else None
        found = ASSUMED if estimate is None else estimate(node, self)
        for output in node.outputs:
            self._estimates[output] = found


def values_to_measure(graph: ir.Graph) -> list[str]:
    """Names of the float32 values whose measured ranges tell all that is asked of a calibration."""
    computed = [value for node in graph if not _only_moves(node) for value in node.outputs]
    floats = [value for value in (*graph.inputs, *computed) if is_float(value)]
    return [value.name for value in floats if value.name and not is_constant(value)]


def _only_moves(node: ir.Node) -> bool:
    """Whether all elements of the results are elements of the first operand."""
    return node.domain == "" and node.op_type in _MOVING and bool(node.inputs)


_MOVING = op_types(
    "Identity Reshape Transpose Flatten Squeeze Unsqueeze Split Slice Gather GatherND "
    "GatherElements Expand Tile DepthToSpace SpaceToDepth SplitToSequence SequenceAt Cast "
    "MaxPool GlobalMaxPool ReduceMax ReduceMin"
)

_Rule = Callable[[ir.Node, Magnitudes], float]


def _first(node: ir.Node, known: Magnitudes) -> float:
    return known.of(node.inputs[0]) if node.inputs else ASSUMED


def _largest(node: ir.Node, known: Magnitudes) -> float:
    found = [known.of(v) for v in node.inputs if v is not None and v.dtype in FLOAT_TYPES]
    return max(found, default=ASSUMED)


def _sum(node: ir.Node, known: Magnitudes) -> float:
    return sum(known.of(value) for value in node.inputs)


def _product(node: ir.Node, known: Magnitudes) -> float:
    return math.prod(known.of(value) for value in node.inputs)


def _quotient(node: ir.Node, known: Magnitudes) -> float:
    """By a divisor that may be anything it is taken for a normalization."""
    least = known.least(node.inputs[1])
    return known.of(node.inputs[0]) / least if least else ASSUMED


def _power(node: ir.Node, known: Magnitudes) -> float:
    base, exponent = known.of(node.inputs[0]), known.of(node.inputs[1])
    try:
        return math.pow(max(base, 1.0), exponent)
    except OverflowError:
        return math.inf


def _exponential(node: ir.Node, known: Magnitudes) -> float:
    try:
        return math.exp(_first(node, known))
    except OverflowError:
        return math.inf


def _clipped(node: ir.Node, known: Magnitudes) -> float:
    """Both bounds are needed; before opset 11 they are attributes."""
    x = _first(node, known)
    if (node.version or 0) < 11:
        ends = [float_attribute(node, end, math.inf) for end in ("min", "max")]
        return min(x, max(abs(end) for end in ends))
    low, high = input_at(node, 1), input_at(node, 2)
    if low is None or high is None:
        return x
    return min(x, max(known.of(low), known.of(high)))


def _summed(power: int) -> _Rule:
    def estimate(node: ir.Node, known: Magnitudes) -> float:
        count = summands(node)
        return math.inf if count is None else count * _first(node, known) ** power

    return estimate


def _norm(node: ir.Node, known: Magnitudes) -> float:
    count = summands(node)
    return math.inf if count is None else math.sqrt(count) * _first(node, known)


def _dequantized(node: ir.Node, known: Magnitudes) -> float:
    scale = node.inputs[1]
    return 255.0 * known.of(scale) if known.is_measured(scale) else ASSUMED


def _rules(rules: Sequence[tuple[str, _Rule]]) -> dict[str, _Rule]:
    return {op_type: rule for names, rule in rules for op_type in op_types(names)}


_RULES = dict.fromkeys(_MOVING, _first) | _rules(
    (
        ("Sigmoid HardSigmoid Softmax Hardmax Tanh Erf Softsign Sin Cos Sign", lambda *_: 1.0),
        ("Add Sub Sum", _sum),
        ("Mul", _product),
        ("Div", _quotient),
        ("Pow", _power),
        ("Exp", _exponential),
        ("Clip", _clipped),
        ("ReduceSum ReduceL1 CumSum", _summed(1)),
        ("ReduceSumSquare", _summed(2)),
        ("ReduceL2 GlobalLpPool LpPool", _norm),
        ("ReduceProd", lambda *_: math.inf),
        ("Concat Where Max Min Mean Pad ScatterND ScatterElements", _largest),
        ("Sqrt", lambda node, known: math.sqrt(_first(node, known))),
        ("Softplus", lambda node, known: 1.0 + _first(node, known)),
        ("DequantizeLinear", _dequantized),
        (
            "Compress ReverseSequence Trilu CastLike Dropout Neg Abs Relu LeakyRelu HardSwish Elu "
            "Selu Gelu Mish Swish Floor Ceil Round AveragePool GlobalAveragePool ReduceMean Resize "
            "Upsample TopK",
            _first,
        ),
    )
)
