"""Decides which nodes become float16 and which stay in float32."""

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from onnxfold.ir.graph import captured_values, is_op, subgraphs
from onnxfold.precision.addressing import addressing_nodes
from onnxfold.precision.borders import joined
from onnxfold.precision.existing_casts import is_transparent
from onnxfold.precision.magnitudes import Magnitudes, Ranges
from onnxfold.precision.operators import Evidence, objection
from onnxfold.precision.options import Float16Options, kept_nodes
from onnxfold.precision.schemas import Slots, half_slots, is_float
from onnxfold.precision.weights import Weights

ASKED = "it was asked to stay in float32"
DELIBERATE = "the model itself casts to float32 in front of it"

_SHORT = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})


@dataclass(frozen=True, slots=True)
class Plan:
    """What becomes of the nodes that read or write float32.

    Attributes:
        half: Nodes that become float16, with the inputs and outputs that do.
        islands: Nodes that must stay in float32, each with the reason.
        joined: Nodes that stay in float32 because a Cast on either side would cost more.
    """

    half: dict[ir.Node, Slots]
    islands: dict[ir.Node, str]
    joined: frozenset[ir.Node]


def plan(graph: ir.Graph, options: Float16Options, ranges: Ranges) -> Plan:
    """Decide for every node of a graph; nodes of nested graphs stay as they are.

    Args:
        graph: The main graph of a model, shapes and operator set versions filled in.
        options: How to convert.
        ranges: What was measured, by name of the value; may be empty or partial.

    Raises:
        BadOptionError: The options name something that the model does not have.
    """
    nodes = [node for node in graph if _works_in_float(node)]
    islands = _islands(graph, nodes, options, ranges)
    free = [node for node in nodes if node not in islands]
    together = joined(graph, free, keep_io=options.keep_io)
    half = {node: half_slots(node) for node in free if node not in together}
    return Plan(half, islands, together)


def _works_in_float(node: ir.Node) -> bool:
    """Whether there is anything to decide: constants and plain conversions follow the others."""
    if is_op(node, "Constant") or is_transparent(node) or _is_half_already(node):
        return False
    values = (*node.inputs, *node.outputs, *captured_values(node))
    return any(is_float(value) for value in values)


def _is_half_already(node: ir.Node) -> bool:
    """Whether a node works in float16, and what is float32 about it are its parameters."""
    values = (*node.inputs, *node.outputs)
    if node.domain != "" or all(v is None or v.dtype != ir.DataType.FLOAT16 for v in values):
        return False
    return not half_slots(node)


def _islands(
    graph: ir.Graph, nodes: list[ir.Node], options: Float16Options, ranges: Ranges
) -> dict[ir.Node, str]:
    weights = Weights()
    evidence = Evidence(Magnitudes(graph, ranges, weights), weights, options.max_activation)
    kept = kept_nodes(nodes, options.keep)
    addressing = addressing_nodes(graph)
    deliberate = set(_deliberate(graph))
    found: dict[ir.Node, str] = {}
    for node in nodes:
        if node in kept:
            found[node] = ASKED
        elif node in addressing:
            found[node] = addressing[node]
        elif (reason := _objection(node, evidence)) is not None:
            found[node] = reason
        elif node in deliberate:
            found[node] = DELIBERATE
    return found


def _objection(node: ir.Node, evidence: Evidence) -> str | None:
    if node.domain != "":
        return f"what operators of the domain {node.domain} compute in float16 is not known"
    if any(True for _ in subgraphs(node)):
        return "graphs inside a node stay in float32"
    values = (*node.inputs, *node.outputs)
    if any(value is not None and value.name and value.dtype is None for value in values):
        return "the types around it are not known"
    return objection(node, half_slots(node), evidence)


def _deliberate(graph: ir.Graph) -> Iterator[ir.Node]:
    """Nodes between a Cast from a shorter type to float32 and one back.

    A Cast of an input of the model only adapts the interface.
    """
    lengthened: set[ir.Value] = set()
    for node in graph:
        if is_op(node, "Cast"):
            source = node.inputs[0]
            if source is not None and source.dtype in _SHORT and not source.is_graph_input():
                lengthened.add(node.outputs[0])
                continue
        if any(value in lengthened for value in node.inputs):
            lengthened.update(output for output in node.outputs if is_float(output))
            yield node
