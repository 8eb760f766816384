"""Float arithmetic whose results are places: shapes, indices, coordinates.

An activation may be wrong in its fourth digit. A scale of a Resize, an index or a coordinate may
not: it would point at another pixel.
"""

from collections.abc import Iterable, Iterator

import onnx_ir as ir

from onnxfold.ir.constants import is_constant
from onnxfold.ir.graph import is_op
from onnxfold.precision.schemas import is_float, op_types

SHAPES = "it computes with shapes"
PLACES = "indices or coordinates are computed from it"

_COORDINATES: dict[str, tuple[int, ...]] = {
    "Resize": (1, 2),
    "Upsample": (1,),
    "GridSample": (1,),
    "AffineGrid": (0,),
    "RoiAlign": (1,),
    "MaxRoiPool": (1,),
    "DeformConv": (2,),
    "OneHot": (0, 1),
}
"""Inputs that hold places or sizes."""

_WIDE = frozenset(
    {
        ir.DataType.INT64,
        ir.DataType.INT32,
        ir.DataType.INT16,
        ir.DataType.UINT64,
        ir.DataType.UINT32,
        ir.DataType.UINT16,
    }
)
"""Integers that may be indices; 8 bits hold pixels."""

_MOVING = op_types(
    "Reshape Transpose Flatten Squeeze Unsqueeze Split Slice Gather GatherND GatherElements Expand "
    "Tile Pad"
)
"""Operators whose result consists of elements of their first input."""

_ELEMENTWISE = _MOVING | op_types(
    "Identity Cast Concat Add Sub Mul Div Neg Abs Floor Ceil Round Sign Mod Pow Sqrt Min Max Clip "
    "Where Mean Sum"
)
"""Operators through which places are followed to where they come from."""

_SOURCES = ("Shape", "Size", "Range")


def addressing_nodes(graph: ir.Graph) -> dict[ir.Node, str]:
    """The float nodes of a graph that compute places, each with a reason."""
    nodes = list(graph)
    found = dict.fromkeys(_leading_to_places(nodes), PLACES)
    found.update(dict.fromkeys(_computed_from_shapes(nodes), SHAPES))
    return found


def _computed_from_shapes(nodes: Iterable[ir.Node]) -> Iterator[ir.Node]:
    """Nodes that need nothing but shapes and constants."""
    derived: set[ir.Value] = set()
    for node in nodes:
        if not is_op(node, *_SOURCES) and not _is_derived(node, derived):
            continue
        derived.update(node.outputs)
        if any(is_float(output) for output in node.outputs):
            yield node


def _is_derived(node: ir.Node, derived: set[ir.Value]) -> bool:
    """Whether the elements come from shapes; where they are moved to does not count."""
    if node.domain != "" or node.op_type not in _ELEMENTWISE:
        return False
    read = node.inputs[:1] if node.op_type in _MOVING else node.inputs
    given = [value for value in read if value is not None and not is_constant(value)]
    return bool(given) and all(value in derived for value in given)


def _leading_to_places(nodes: Iterable[ir.Node]) -> set[ir.Node]:
    pending = [value for node in nodes for value in _places(node)]
    found: set[ir.Node] = set()
    while pending:
        node = pending.pop().producer()
        if node is None or node in found or node.op_type not in _ELEMENTWISE:
            continue
        if node.domain == "" and any(is_float(output) for output in node.outputs):
            found.add(node)
            read = node.inputs[:1] if node.op_type in _MOVING else node.inputs
            pending += [value for value in read if is_float(value) and value is not None]
    return found


def _places(node: ir.Node) -> list[ir.Value]:
    """The float inputs of a node that hold places."""
    if node.domain != "":
        return []
    indices = _COORDINATES.get(node.op_type, ())
    if node.op_type == "Cast" and node.outputs[0].dtype in _WIDE:
        indices = (0,)
    read = [node.inputs[index] for index in indices if index < len(node.inputs)]
    return [value for value in read if value is not None and is_float(value)]
