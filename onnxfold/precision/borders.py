"""Where the borders of the float32 islands run, so that few Casts are needed.

An island may grow by cheap nodes that could be float16: between two islands a ReLU in float32
costs less than the two Casts around it. Which nodes to take is a minimum cut: every value that is
computed on one side and read on the other costs one Cast, however many readers it has, and every
node that stays in float32 costs a little. Of several cuts that cost the same the one with the
smallest islands is taken, so a converted model is found as it should be and stays as it is.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import networkx as nx
import onnx_ir as ir
from networkx.algorithms.flow import boykov_kolmogorov

from onnxfold.ir.graph import is_op, producer
from onnxfold.precision.existing_casts import is_lengthening, is_shortening, is_transparent
from onnxfold.precision.operators import HEAVY
from onnxfold.precision.schemas import Slots, half_slots, is_float, is_sequence

_CAST = 8
_STAKES = (
    (1, frozenset({"Cast", "CastLike", "ConstantOfShape", "EyeLike", "DequantizeLinear"})),
    (8, frozenset({"Resize", "Upsample", "MaxPool", "AveragePool", "BatchNormalization"})),
    (512, HEAVY),
)
"""What it costs to leave a node in float32, in eighths of a Cast; others cost `_CHEAP`."""
_CHEAP = 2
_BESIDE_QUANTIZE = 64
_FORBIDDEN = 4096
"""No Cast takes a sequence, and behind a DequantizeLinear one would keep its reader from INT8."""

_HALF, _FLOAT = "float16", "float32"
"""The two ends of the network that is cut: what is float16, and what is float32, for certain."""

_End = ir.Node | str


@dataclass(frozen=True, slots=True)
class _Value:
    """One float value as the cut sees it.

    Attributes:
        source: Who computes it: a node that may go either way, or an end.
        readers: Who reads it, each once.
        cast: What a Cast of it costs.
    """

    source: _End
    readers: tuple[_End, ...]
    cast: int

    def free_nodes(self) -> Iterator[ir.Node]:
        """The nodes among them that may go either way."""
        return (end for end in (self.source, *self.readers) if isinstance(end, ir.Node))


def joined(graph: ir.Graph, free: Sequence[ir.Node], *, keep_io: bool) -> frozenset[ir.Node]:
    """The nodes among `free` that stay in float32 because that takes fewer Casts.

    Args:
        graph: The graph.
        free: The nodes that could be float16; every other node is what it is.
        keep_io: Whether inputs and outputs of the graph are float32.
    """
    found: set[ir.Node] = set()
    movable = {node: half_slots(node) for node in free}
    values = [value for value in _values(graph, movable, keep_io) if _matters(value)]
    for part in _parts(values):
        found |= _cut(part)
    return frozenset(found)


def _matters(value: _Value) -> bool:
    return any(end != value.source for end in value.readers)


def _values(graph: ir.Graph, movable: dict[ir.Node, Slots], keep_io: bool) -> Iterator[_Value]:
    for value in graph.inputs:
        if is_float(value):
            outside = _outside(value, keep_io)
            yield _Value(outside, _readers(value, movable, keep_io), _cast_cost(value))
    for node in graph:
        if is_op(node, "Constant"):
            continue
        for index, output in enumerate(node.outputs):
            if is_float(output) and not is_shortening(node):
                source = _source(node, index, movable)
                yield _Value(source, _readers(output, movable, keep_io), _cast_cost(output))


def _outside(value: ir.Value, keep_io: bool) -> str:
    """The type of an input or output of the graph; sequences stay as they are."""
    return _FLOAT if keep_io or is_sequence(value) else _HALF


def _source(node: ir.Node, index: int, movable: dict[ir.Node, Slots]) -> _End:
    if is_lengthening(node):
        return _HALF
    slots = movable.get(node)
    if slots is None or index not in slots.outputs:
        return _FLOAT
    return _pinned(node)


def _pinned(node: ir.Node) -> _End:
    """Heavy nodes are float16, unless integers come in: then they go with their operands."""
    if not is_op(node, *HEAVY):
        return node
    return node if any(map(_is_dequantized, node.inputs)) else _HALF


def _is_dequantized(value: ir.Value | None) -> bool:
    """Whether 8 bits or fewer are behind a value; the 32 bits of a bias are no matter."""
    node = producer(value)
    if node is None or not is_op(node, "DequantizeLinear") or node.inputs[0] is None:
        return False
    return node.inputs[0].dtype != ir.DataType.INT32


def _readers(value: ir.Value, movable: dict[ir.Node, Slots], keep_io: bool) -> tuple[_End, ...]:
    found: list[_End] = [_outside(value, keep_io)] if value.is_graph_output() else []
    for use in value.uses():
        slots = movable.get(use.node)
        if slots is not None:
            found.append(_pinned(use.node) if use.idx in slots.inputs else _FLOAT)
        elif is_shortening(use.node):
            found.append(_HALF)
        elif not is_transparent(use.node):
            found.append(_FLOAT)
    return tuple(dict.fromkeys(found))


def _cast_cost(value: ir.Value) -> int:
    if is_sequence(value) or _is_dequantized(value):
        return _FORBIDDEN
    quantized = any(is_op(use.node, "QuantizeLinear") for use in value.uses())
    return _BESIDE_QUANTIZE if quantized else _CAST


def _parts(values: Sequence[_Value]) -> Iterable[list[_Value]]:
    """The values in parts that share no movable node."""
    links: nx.Graph[object] = nx.Graph()
    for value in values:
        nodes = list(value.free_nodes())
        links.add_nodes_from(nodes)
        links.add_edges_from(pairwise(nodes))
    number = {
        node: index for index, part in enumerate(nx.connected_components(links)) for node in part
    }
    parts: dict[int, list[_Value]] = {}
    for value in values:
        if (first := next(value.free_nodes(), None)) is not None:
            parts.setdefault(number[first], []).append(value)
    return parts.values()


def _cut(values: Sequence[_Value]) -> set[ir.Node]:
    """The movable nodes on the float32 side of the cheapest cut."""
    if not any(_FLOAT in (value.source, *value.readers) for value in values):
        return set()
    network: nx.DiGraph[object] = nx.DiGraph()
    network.add_nodes_from((_HALF, _FLOAT))
    nodes = dict.fromkeys(node for value in values for node in value.free_nodes())
    for node in nodes:
        _add(network, _HALF, node, _stake(node))
    for number, value in enumerate(values):
        _add_value(network, number, value)
    # Made for such networks: 10 times as fast here as the algorithm that networkx would choose.
    _, (_, floats) = nx.minimum_cut(network, _HALF, _FLOAT, flow_func=boykov_kolmogorov)
    return {node for node in nodes if node in floats}


def _stake(node: ir.Node) -> int:
    return next((stake for stake, ops in _STAKES if node.op_type in ops), _CHEAP)


def _add_value(network: "nx.DiGraph[object]", number: int, value: _Value) -> None:
    """One Cast for all readers on the other side, in either direction.

    The two knots stand for the value after the Cast: one in float32, one in float16.
    """
    lengthened, shortened = ("lengthened", number), ("shortened", number)
    _add(network, value.source, lengthened, value.cast)
    _add(network, shortened, value.source, value.cast)
    for reader in value.readers:
        if reader != value.source:
            network.add_edge(lengthened, reader)
            network.add_edge(reader, shortened)


def _add(network: "nx.DiGraph[object]", tail: object, head: object, capacity: int) -> None:
    if network.has_edge(tail, head):
        network[tail][head]["capacity"] += capacity
    else:
        network.add_edge(tail, head, capacity=capacity)
