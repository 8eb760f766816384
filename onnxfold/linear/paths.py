"""Where linear paths part and meet again: the only places at which branches can be merged."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from onnxfold.ir.graph import is_op, producer, reader_count
from onnxfold.linear.affine import ARITHMETIC
from onnxfold.linear.reading import SUM_OPS, WINDOW_OPS

_MAX_VALUES = 64
"""Paths are followed through this many values; larger regions collapse in several steps."""


@dataclass(frozen=True, slots=True)
class Paths:
    """What may be inlined into a node, judged by operators alone.

    Attributes:
        values: Values that may be inlined, each behind all that read it.
        meeting: Values that are read more than once on the way.
    """

    values: tuple[ir.Value, ...]
    meeting: frozenset[ir.Value]


def paths_above(node: ir.Node, inlined: frozenset[str], *, composed: bool) -> Paths:
    """Walk upwards from `node`, nearest first.

    Args:
        node: Where the walk starts.
        inlined: The operators that may be inlined.
        composed: Whether every path is of interest. When not, those that meet no other are left
            out, and a path ends at an addition or a convolution behind a convolution.
    """
    above: dict[ir.Value, list[ir.Value]] = {}
    reads = Counter(value for value in operands(node))
    pending = [(value, False) for value in reads]
    for value, behind in pending:  # grows on the way
        inner = producer(value)
        if value in above or len(above) >= _MAX_VALUES:
            continue
        if inner is None or inner.graph is not node.graph or not is_op(inner, *inlined):
            continue
        is_window = is_op(inner, *WINDOW_OPS)
        is_sum = is_op(inner, *SUM_OPS) and _is_sum(inner)
        if behind and not composed and (is_window or is_sum):
            continue
        if is_sum and reader_count(value) > reads[value]:
            # Others need the sum: to add its parts up again gains nothing. A residual trunk is one
            # such sum after another, and would be walked from every block to its beginning.
            continue
        above[value] = list(operands(inner))
        reads.update(above[value])
        pending += [(operand, behind or is_window) for operand in above[value]]
    meeting = frozenset(value for value, count in reads.items() if count > 1)
    order = _readers_first(above)
    return Paths(tuple(order if composed else _leading_to(meeting, order, above)), meeting)


def operands(node: ir.Node) -> Iterator[ir.Value]:
    """The inputs of a linear operator that are no weights of it."""
    given = node.inputs if is_op(node, *ARITHMETIC, "Sum") else node.inputs[:1]
    for value in given:
        if value is not None and not _is_weight(value):
            yield value


def _is_weight(value: ir.Value) -> bool:
    """Whether a value is a constant, as far as one look tells; a whole graph is walked this way."""
    if (node := value.producer()) is not None:
        return is_op(node, "Constant")
    return value.is_initializer() and not value.is_graph_input()


def _is_sum(node: ir.Node) -> bool:
    return sum(1 for _ in operands(node)) > 1


def _leading_to(
    meeting: frozenset[ir.Value], order: list[ir.Value], above: dict[ir.Value, list[ir.Value]]
) -> list[ir.Value]:
    """The values on a path to one of `meeting`."""
    leading: set[ir.Value] = set()
    for value in reversed(order):
        if any(operand in meeting or operand in leading for operand in above[value]):
            leading.add(value)
    return [value for value in order if value in leading]


def _readers_first(above: dict[ir.Value, list[ir.Value]]) -> list[ir.Value]:
    """Depth first, every value is finished after what it reads; the reverse is wanted."""
    finished: dict[ir.Value, None] = {}
    stack = [(value, False) for value in reversed(above)]
    while stack:
        value, expanded = stack.pop()
        if value in finished:
            continue
        if expanded:
            finished[value] = None
            continue
        stack.append((value, True))
        stack += [(operand, False) for operand in above[value] if operand in above]
    return list(reversed(finished))
