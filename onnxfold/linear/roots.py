"""At which nodes a linear region may end, judged by operators alone."""

import onnx_ir as ir

from onnxfold.ir.graph import is_op, producer, sole_reader
from onnxfold.linear.affine import AFFINE_OPS
from onnxfold.linear.paths import operands
from onnxfold.linear.reading import SUM_OPS, WINDOW_OPS, Reading, reading_of

_MAX_CHAIN = 16
"""How many constants in a row are looked through in search of an addition."""


def is_inside_larger(node: ir.Node) -> bool:
    """Whether `node` is part of the region of its only reader, which then does all at once.

    So a region is multiplied out and rounded once. A chain too long for one region is cut.
    """
    if not ends_in_sum(node):
        return False
    inner: ir.Node | None = node
    for _ in range(_MAX_CHAIN):
        reader = None if inner is None else sole_reader(inner.outputs[0])
        if reader is None or not is_op(reader, *SUM_OPS, *AFFINE_OPS):
            return inner is not node
        if not isinstance(reading_of(reader.outputs[0]), Reading):
            return inner is not node
        inner = reader
    return False


def ends_in_sum(root: ir.Node) -> bool:
    """Whether `root` joins variables by addition or Concat, or is constants behind such a node."""
    node: ir.Node | None = root
    for _ in range(_MAX_CHAIN):
        if node is None or not is_op(node, "Concat", *SUM_OPS, *AFFINE_OPS):
            return False
        variable = list(operands(node))
        if len(variable) != 1:
            return is_op(node, "Concat", *SUM_OPS)
        node = producer(variable[0])
    return False


def is_near(node: ir.Node, inlined: frozenset[str], wanted: frozenset[str]) -> bool:
    """Whether one of `wanted` lies in front of `node`, with nothing but inlined ones between."""
    pending = list(operands(node))
    for value in pending:  # grows on the way
        inner = producer(value)
        if inner is None or not is_op(inner, *inlined) or len(pending) > _MAX_CHAIN:
            continue
        if is_op(inner, *wanted):
            return True
        pending += operands(inner)
    return False


def has_parallel_operands(node: ir.Node) -> bool:
    """Whether two operands of a sum are computed from the same tensor."""
    feeding = [producer(value) for value in node.inputs]
    sources = [
        each.inputs[0]
        for each in feeding
        if is_op(each, *WINDOW_OPS, "BatchNormalization") and each
    ]
    return len(set(sources)) < len(sources)
