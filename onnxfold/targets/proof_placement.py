"""Where nodes run, and which Q/DQ pairs are worth nothing for that."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import networkx as nx
import onnx_ir as ir

from onnxfold.ir.constants import is_constant
from onnxfold.ir.graph import describe, input_at, is_op
from onnxfold.targets.proof import LayerPrecision, Precision
from onnxfold.targets.proof_graph import (
    MOVEMENT,
    MULTIPLY_ADDS,
    Layer,
    Quantization,
    is_dequantizer,
    is_quantizer,
    pairs,
    value_name,
)

_MOVEMENT = (*MOVEMENT, "MaxPool", "Pad", "Resize")


@dataclass(frozen=True, slots=True)
class Placement:
    """How a backend runs a node.

    Attributes:
        precision: Whether in INT8.
        kernel: What it runs it as.
        reason: Why it is not INT8, where that is known already.
    """

    precision: Precision
    kernel: str
    reason: str = ""


TAG = re.compile(r"onnxfold:(\d+):")
"""What `tag` names nodes, wherever it appears in the name of a compiled one."""


def tag(model: ir.Model) -> list[ir.Node]:
    """Give every node of the main graph a name that can be told again after compiling.

    Returns:
        The nodes; the number in a tag is an index into them.
    """
    nodes = list(model.graph)
    for index, node in enumerate(nodes):
        node.meta[_LABEL] = describe(node)
        node.name = f"onnxfold:{index}:"
    return nodes


def untagged(text: str, nodes: Sequence[ir.Node]) -> str:
    """A message of a runtime with the names that the nodes had."""
    return TAG.sub(lambda found: str(nodes[int(found[1])].meta[_LABEL]), text)


_LABEL = "onnxfold.label"


def tagged(name: str | None) -> int | None:
    """The index in the first tag of a name, or None."""
    found = TAG.search(name or "")
    return int(found[1]) if found else None


def with_absorbed(
    nodes: Iterable[ir.Node], places: Mapping[ir.Node, Placement]
) -> dict[ir.Node, Placement]:
    """The placements, with those of nodes that vanished into what comes before them.

    An activation or addition that was fused runs as what it was fused into. Where the nodes before
    it run in several ways it stays unknown, and so does arithmetic that INT8 is for.
    """
    found = dict(places)
    for node in nodes:
        if node in found or is_quantizer(node) or is_dequantizer(node):
            continue
        if is_op(node, *MULTIPLY_ADDS):
            continue
        before = {_before(value, found) for value in node.inputs if not is_constant(value)}
        before.discard(None)
        place = before.pop() if len(before) == 1 else None
        if place is not None:
            found[node] = place
    return found


def _before(value: ir.Value | None, places: Mapping[ir.Node, Placement]) -> Placement | None:
    """The placement of the node that computes `value`, through Q/DQ."""
    node = None if value is None else value.producer()
    while node is not None and (is_quantizer(node) or is_dequantizer(node)):
        before = input_at(node, 0)
        node = None if before is None else before.producer()
    return None if node is None else places.get(node)


def layer_precision(
    layer: Layer, place: Placement | None, reason_for_float: Callable[[ir.Node], str]
) -> LayerPrecision:
    """What a proof says of a layer.

    Args:
        layer: The layer.
        place: How it runs, None when that is not known.
        reason_for_float: Why the backend runs a node in float.
    """
    place = place or Placement(Precision.UNKNOWN, "", _NO_TRACE)
    reason = place.reason
    if place.precision is Precision.FLOAT and not reason:
        reason = reason_for_float(layer.node)
    return LayerPrecision(
        layer=layer.name,
        node=layer.label,
        op_type=layer.node.op_type,
        precision=place.precision,
        kernel=place.kernel,
        reason=reason,
        multiply_adds=layer.multiply_adds,
    )


_NO_TRACE = "there is no sure trace of it in what the backend made of the model"


def unfused_values(model: ir.Model, places: Mapping[ir.Node, Placement]) -> tuple[str, ...]:
    """Names of the values that are quantized and dequantized for nothing.

    A pair is worth something when an operator that computes in INT8 stands on either side of it,
    directly or behind operators that only move integers. Where it is not known how a neighbour
    runs, the pair counts as worth something.

    Args:
        model: The model with its Q/DQ.
        places: How its nodes run; a node that is missing is not known.
    """
    worth: nx.Graph[object] = nx.Graph()
    found = list(pairs(model))
    for one, readers in found:
        worth.add_node(one.node)
        if any(output.is_graph_output() for output in one.node.outputs):
            worth.add_edge(one.node, _WORTH)
        for node in _neighbours(one, readers):
            place = places.get(node)
            if place is None:
                worth.add_edge(one.node, _WORTH)
            elif place.precision is not Precision.FLOAT:
                worth.add_edge(one.node, node)
                if not is_op(node, *_MOVEMENT):
                    worth.add_edge(node, _WORTH)
    worth.add_node(_WORTH)
    used = nx.node_connected_component(worth, _WORTH)
    return tuple(dict.fromkeys(value_name(one.x) for one, _ in found if one.node not in used))


_WORTH = "worth"


def _neighbours(one: Quantization, readers: list[ir.Node]) -> Iterator[ir.Node]:
    """What makes the value that is quantized, and what reads it."""
    node = one.x.producer()
    if node is not None:
        yield node
    yield from readers
