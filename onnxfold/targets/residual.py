"""Residual additions, and which operand of one a convolution should be fused with."""

from collections import deque
from dataclasses import dataclass

import onnx_ir as ir

from onnxfold.ir.constants import is_constant
from onnxfold.ir.graph import is_op
from onnxfold.targets.pointwise import is_pointwise


@dataclass(frozen=True, slots=True)
class Residual:
    """An Add that closes a shortcut.

    Attributes:
        node: The Add.
        skip: Which input is the shortcut; the other one is what a convolution computes.
    """

    node: ir.Node
    skip: int


def residual_of(node: ir.Node, layers: frozenset[ir.Node]) -> Residual | None:
    """Read an Add as the end of a shortcut around one of the `layers`.

    Of two convolutions the one further from where the paths part is the main branch; the second
    operand where they are equally far. An addition of what a convolution computes and of what is
    computed from that same result is no shortcut around it.
    """
    if not is_op(node, "Add") or len(node.inputs) != 2:
        return None
    left, right = node.inputs
    if left is None or right is None or is_constant(left) or is_constant(right):
        return None
    if left.producer() is None or right.producer() is None:
        return None
    one, other = _layer_behind(left, layers), _layer_behind(right, layers)
    if one is other:
        return None
    parting = _parting(left, right)
    if one is not None and other is not None:
        longer_left = parting is None or parting[1] > parting[2]
        return Residual(node, 1 if longer_left else 0)
    if parting is not None and parting[0] in (one, other):
        return None
    return Residual(node, 1 if one is not None else 0)


def _layer_behind(value: ir.Value, layers: frozenset[ir.Node]) -> ir.Node | None:
    """The layer that computes `value`, activations and constant arithmetic aside."""
    node = value.producer()
    while node is not None and node not in layers:
        operands = [v for v in node.inputs if v is not None and not is_constant(v)]
        if len(operands) != 1 or not (is_pointwise(node) or is_op(node, "BatchNormalization")):
            return None
        node = operands[0].producer()
    return node


def _parting(left: ir.Value, right: ir.Value) -> tuple[ir.Node, int, int] | None:
    """The nearest node that both values come from, and how many nodes away it is from each."""
    one, other = _distances(left), _distances(right)
    common = [(one[node] + other[node], one[node], node) for node in one if node in other]
    if not common:
        return None
    _, distance, nearest = min(common, key=lambda item: item[:2])
    return nearest, distance, other[nearest]


def _distances(value: ir.Value) -> dict[ir.Node, int]:
    start = value.producer()
    found: dict[ir.Node, int] = {} if start is None else {start: 0}
    pending = deque(found)
    while pending:
        node = pending.popleft()
        for each in node.inputs:
            above = None if each is None else each.producer()
            if above is not None and above not in found:
                found[above] = found[node] + 1
                pending.append(above)
    return found
