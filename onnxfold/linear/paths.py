"""Where linear paths part and meet again: the only places at which branches can be merged."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from onnxfold.ir.graph import is_op, producer, reader_count
from onnxfold.linear.affine import ARITHMETIC
from onnxfold.linear.reading import (
    CHAINED_OPS,
    MOVING_OPS,
    SUM_OPS,
    WINDOW_OPS,
    Reading,
    reading_of,
)

KERNEL_OPS = WINDOW_OPS | MOVING_OPS | CHAINED_OPS
"""Operators with a kernel of more than one channel or place, if only of ones."""

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


def paths_above(
    node: ir.Node, inlined: frozenset[str], into_kernels: frozenset[str], *, only_meeting: bool
) -> Paths:
    """Walk upwards from `node`, nearest first.

    Args:
        node: Where the walk starts.
        inlined: The operators that may be inlined.
        into_kernels: Those of them that may be inlined where a kernel reads them; all but these
            end a path behind a convolution, unless they are constants.
        only_meeting: Whether paths that meet no other are left out.
    """
    above: dict[ir.Value, list[ir.Value]] = {}
    reads = Counter(value for value in operands(node))
    pending = [(value, is_op(node, *KERNEL_OPS)) for value in reads]
    for value, behind in pending:  # grows on the way
        inner = producer(value)
        if value in above or len(above) >= _MAX_VALUES:
            continue
        if inner is None or inner.graph is not node.graph or not is_op(inner, *inlined):
            continue
        is_kernel = is_op(inner, *KERNEL_OPS)
        is_sum = is_op(inner, *SUM_OPS) and _is_sum(inner)
        if behind and (is_kernel or is_sum) and not is_op(inner, *into_kernels):
            continue
        if is_sum and reader_count(value) > reads[value]:
            # Others need the sum: to add its parts up again gains nothing. A residual trunk is one
            # such sum after another, and would be walked from every block to its beginning.
            continue
        above[value] = list(operands(inner))
        reads.update(above[value])
        pending += [(operand, behind or is_kernel) for operand in above[value]]
    meeting = frozenset(value for value, count in reads.items() if count > 1)
    order = _readers_first(above)
    return Paths(tuple(_leading_to(meeting, order, above) if only_meeting else order), meeting)


def operands(node: ir.Node) -> Iterator[ir.Value]:
    """The inputs of a linear operator, or of the chain that ends in it, that are no weights."""
    if is_op(node, *CHAINED_OPS):
        found = reading_of(node.outputs[0])
        if isinstance(found, Reading):
            yield from (value for value, _ in found.operands)
        return
    given = node.inputs if is_op(node, *ARITHMETIC, "Sum", "Concat") else node.inputs[:1]
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
