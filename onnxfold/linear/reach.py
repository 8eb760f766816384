"""How far a search upwards from a value may go."""

import onnx_ir as ir

from onnxfold.ir.graph import has_other_readers, producer

_MAX_DEPTH = 64
_MAX_NODES = 4096


def is_within_reach(value: ir.Value, carriers: frozenset[str]) -> bool:
    """Whether the tree of `carriers` that computes `value` is small enough to walk.

    The walks are recursive and start again at every affine node: without a bound, a chain of a
    thousand activations would exhaust the stack, and a run would take quadratic time.

    Args:
        value: Where the walk starts.
        carriers: The default-domain operators through which it may go on.
    """
    frontier, seen = [value], 0
    for _ in range(_MAX_DEPTH):
        above: list[ir.Value] = []
        for read in frontier:
            node = producer(read)
            if node is None or node.domain != "" or node.op_type not in carriers:
                continue
            if not has_other_readers(read):
                above += [each for each in node.inputs if each is not None]
        seen += len(above)
        if not above:
            return True
        if seen > _MAX_NODES:
            return False
        frontier = above
    return False
