"""Activations as backends see them: pointwise operators with one way in and one way out."""

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from onnxfold.ir.constants import is_constant
from onnxfold.ir.graph import is_op
from onnxfold.ir.shapes import static_shape

_LARGEST = 12
"""Decomposed activations have fewer operators than this."""

_UNARY = (
    *("Relu", "Clip", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "ThresholdedRelu"),
    *("Sigmoid", "HardSigmoid", "HardSwish", "Softplus", "Softsign", "Tanh", "Mish", "Gelu"),
    *("Erf", "Exp", "Log", "Sqrt", "Abs", "Neg", "Identity"),
)
_ARITHMETIC = ("Add", "Sub", "Mul", "Div", "Pow", "Min", "Max")


@dataclass(frozen=True, slots=True)
class Region:
    """Pointwise operators that compute one value from one other and from constants.

    Attributes:
        nodes: The operators.
        exit: What they compute; nothing else of what is inside is read outside.
    """

    nodes: tuple[ir.Node, ...]
    exit: ir.Value


def is_pointwise(node: ir.Node) -> bool:
    """Whether the node computes each element from the elements at its place."""
    return is_op(node, *_UNARY, *_ARITHMETIC)


def region_behind(x: ir.Value) -> Region | None:
    """The smallest region that reads `x` and leaves no other reader of it."""
    inside: list[ir.Value] = [x]
    nodes: list[ir.Node] = []
    while len(nodes) < _LARGEST:
        node = next(_additions(inside, nodes), None)
        if node is None:
            return None
        nodes.append(node)
        inside.append(node.outputs[0])
        if len(open_values := [v for v in inside if _is_read_outside(v, nodes)]) == 1:
            (left,) = open_values
            if left is not x and static_shape(left) == static_shape(x):
                return Region(tuple(nodes), left)
    return None


def _additions(inside: list[ir.Value], nodes: list[ir.Node]) -> Iterator[ir.Node]:
    """Pointwise readers of what is inside that need nothing else but constants."""
    for value in inside:
        for node in dict.fromkeys(use.node for use in value.uses()):
            if node in nodes or not is_pointwise(node) or node.graph is not value.graph:
                continue
            if all(each is None or each in inside or is_constant(each) for each in node.inputs):
                yield node


def _is_read_outside(value: ir.Value, nodes: list[ir.Node]) -> bool:
    return value.is_graph_output() or any(use.node not in nodes for use in value.uses())
