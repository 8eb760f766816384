"""From what a backend can compute with integers to the values that become integers.

Layers are anchors. Between them, an operator computes with integers where they *reach* it (an
anchor or another such operator computes what it reads) and are *wanted* behind it (an anchor reads
what it computes, at once or through others): elsewhere two conversions would cost more than the
integer kernel saves. What merely rearranges a tensor for integer readers rearranges integers, even
where none reach it: quantizing first costs the same, and moving bytes costs less.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import networkx as nx
import onnx_ir as ir

from onnxfold.calibrate.scheme import UINT8, UINT8_NON_NEGATIVE, Range, Scheme
from onnxfold.ir.constants import is_constant
from onnxfold.ir.graph import is_op
from onnxfold.quantize.plan import Read, Site
from onnxfold.targets.layers import Layer, layer_name
from onnxfold.targets.signs import Signs, bounds_of

_REARRANGES = ("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Resize", "Concat")
"""What makes no fewer elements than it reads, and computes none."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """What a backend can do with integers.

    Attributes:
        computes: Whether an operator that is no layer has an integer kernel that reads and writes
            grids of their own.
        gathers: Whether such an operator is worth running wherever all it reads are integers,
            wanted behind it or not.
        moves: Whether an operator hands on the integers it reads as they are.
        reads_constants: Whether its integer kernels take constant operands.
        requantizes_moves: Whether integers that were moved need a Q/DQ pair behind the operator to
            be known as such.
        tail: The value behind what the kernel of a node swallows: activations, mostly.
        needs_output: Whether the kernel of a layer has to write integers.
        reaches: Whether a layer writes integers that others may go on computing with.
    """

    computes: Callable[[ir.Node], bool]
    gathers: Callable[[ir.Node], bool]
    moves: Callable[[ir.Node], bool]
    reads_constants: bool
    requantizes_moves: bool
    tail: Callable[[ir.Node], ir.Value]
    needs_output: Callable[[Layer], bool]
    reaches: Callable[[Layer], bool]


@dataclass(frozen=True, slots=True)
class Placement:
    """Where integers go in one graph.

    Attributes:
        sites: In the order of the graph.
        integer: The nodes that compute with integers, layers included.
    """

    sites: tuple[Site, ...]
    integer: frozenset[ir.Node]

    @property
    def written(self) -> frozenset[str]:
        """The values that everybody reads back from integers."""
        return frozenset(site.value for site in self.sites if site.readers is None)


def place(
    graph: ir.Graph,
    dialect: Dialect,
    layers: Mapping[str, Layer],
    barred: frozenset[ir.Node],
    schemes: Mapping[ir.Value, Scheme],
) -> Placement:
    """Decide which values become integers.

    Args:
        graph: With its shapes inferred.
        dialect: Of the backend.
        layers: That run in INT8, by name.
        barred: Nodes that stay float, whatever the backend can do.
        schemes: The integers of values for which the usual choice is wrong.
    """
    return _Placer(graph, dialect, layers, barred, schemes).placement()


class _Placer:
    def __init__(
        self,
        graph: ir.Graph,
        dialect: Dialect,
        layers: Mapping[str, Layer],
        barred: frozenset[ir.Node],
        schemes: Mapping[ir.Value, Scheme],
    ) -> None:
        self._dialect = dialect
        self._schemes = schemes
        self._signs = Signs()
        self._nodes = [node for node in graph if node.outputs]
        self._layers = {layer.node: layer for layer in layers.values()}
        self._tails: dict[ir.Node, ir.Value] = {}
        swallowed: set[ir.Node] = set()
        for node in self._nodes:
            if node in self._layers or (dialect.computes(node) and node not in barred):
                self._tails[node] = dialect.tail(node)
                swallowed |= _between(node, self._tails[node])
        self._barred = barred | swallowed
        self._reached: set[ir.Value] = set()
        self._wanted: set[ir.Value] = set()
        self._readers: dict[ir.Value, list[Read]] = {}
        self._written: set[ir.Value] = set()
        self._moved: set[ir.Value] = set()
        self._derived: set[ir.Value] = set()
        self._groups: nx.Graph[ir.Value] = nx.Graph()

    def placement(self) -> Placement:
        self._reach()
        self._want()
        found = {node for node in self._nodes if self._is_integer(node)}
        for node in reversed(self._nodes):
            if self._is_rearranged_for(node, found):
                found.add(node)
        integer = [node for node in self._nodes if node in found]
        for node in integer:
            self._visit(node)
        for node in integer:
            if is_op(node, "Concat"):
                self._share_with_concat(node)
        return Placement(self._sites(), frozenset(integer))

    def _may_compute(self, node: ir.Node) -> bool:
        return node not in self._barred and self._dialect.computes(node)

    def _may_move(self, node: ir.Node) -> bool:
        return node not in self._barred and self._dialect.moves(node)

    def _operands(self, node: ir.Node) -> list[ir.Value]:
        """What of the inputs could be integers and is computed at run time."""
        if node in self._layers or self._may_move(node):
            return [v for v in node.inputs[:1] if v is not None]
        return [v for v in node.inputs if v is not None and not is_constant(v)]

    def _results(self, node: ir.Node) -> list[ir.Value]:
        return [self._tails[node]] if node in self._tails else list(node.outputs)

    def _reach(self) -> None:
        for node in self._nodes:
            layer = self._layers.get(node)
            if layer is not None:
                reached = self._dialect.reaches(layer)
            else:
                hands_on = self._may_compute(node) or self._may_move(node)
                reached = hands_on and not self._reached.isdisjoint(self._operands(node))
            if reached:
                self._reached.update(self._results(node))

    def _want(self) -> None:
        for node in reversed(self._nodes):
            wants = node in self._layers
            if self._may_compute(node) or self._may_move(node):
                wants = wants or not self._wanted.isdisjoint(self._results(node))
            if wants:
                self._wanted.update(self._operands(node))

    def _is_integer(self, node: ir.Node) -> bool:
        if node in self._layers:
            return True
        if not (self._may_compute(node) or self._may_move(node)):
            return False
        operands = self._operands(node)
        if not self._wanted.isdisjoint(self._results(node)):
            return not self._reached.isdisjoint(operands)
        return self._dialect.gathers(node) and self._reached.issuperset(operands)

    def _is_rearranged_for(self, node: ir.Node, integer: set[ir.Node]) -> bool:
        """Whether the node rearranges a tensor that nothing but integer kernels reads then."""
        if node in integer or not is_op(node, *_REARRANGES):
            return False
        if not (self._may_move(node) or self._may_compute(node)):
            return False
        output = self._results(node)[0]
        reads = [use for use in output.uses() if not is_op(use.node, "Shape")]
        if not reads or output.is_graph_output():
            return False
        return all(
            use.node in integer and (use.idx == 0 or self._dialect.computes(use.node))
            for use in reads
        )

    def _visit(self, node: ir.Node) -> None:
        if node in self._layers:
            self._read(node, 0)
            if self._dialect.needs_output(self._layers[node]):
                self._readers.setdefault(self._tails[node], [])
            self._written.add(self._tails[node])
        elif self._may_move(node):
            self._read(node, 0)
            self._hand_on(node)
        else:
            for index, value in enumerate(node.inputs):
                if value is not None and (self._dialect.reads_constants or not is_constant(value)):
                    self._read(node, index)
            self._readers.setdefault(self._tails[node], [])
            self._written.add(self._tails[node])

    def _read(self, node: ir.Node, index: int) -> None:
        value = node.inputs[index]
        assert value is not None
        if value not in self._moved:
            self._readers.setdefault(value, []).append((layer_name(node), index))

    def _hand_on(self, node: ir.Node) -> None:
        x = node.inputs[0]
        assert x is not None
        for output in node.outputs:
            if not self._dialect.requantizes_moves:
                self._moved.add(output)
            elif output.uses() or output.is_graph_output():
                self._readers.setdefault(output, [])
                self._written.add(output)
                self._derived.add(output)
                self._groups.add_edge(x, output)

    def _share_with_concat(self, node: ir.Node) -> None:
        """Let what only a Concat reads have the grid of the result.

        It will be on that grid in a moment; a finer one before would round twice and gain nothing.
        """
        result = self._tails[node]
        for value in dict.fromkeys(node.inputs):
            if value in self._readers and not is_constant(value):
                members = self._group(value)
                if all(self._is_only_for(member, node, members) for member in members):
                    self._groups.add_edge(value, result)
                    self._derived.add(value)

    def _group(self, value: ir.Value) -> set[ir.Value]:
        known = self._groups.has_node(value)
        return nx.node_connected_component(self._groups, value) if known else {value}

    def _is_only_for(self, value: ir.Value, node: ir.Node, members: set[ir.Value]) -> bool:
        """Whether what reads `value` is `node`, or moves it on to another of the `members`."""
        target = self._tails[node]
        if self._scheme(value) != self._scheme(target) or bounds_of(value) != bounds_of(target):
            return False
        return not value.is_graph_output() and all(
            use.node is node or not members.isdisjoint(use.node.outputs) for use in value.uses()
        )

    def _scheme(self, value: ir.Value) -> Scheme:
        chosen = self._schemes.get(value)
        if chosen is not None:
            return chosen
        return UINT8_NON_NEGATIVE if self._signs.is_non_negative(value) else UINT8

    def _sites(self) -> tuple[Site, ...]:
        order = {value: index for index, value in enumerate(self._readers)}
        sites = []
        for value, readers in self._readers.items():
            group = sorted((v for v in self._group(value) if v in order), key=order.__getitem__)
            scheme, bounds = _agreed([(self._scheme(v), bounds_of(v)) for v in group])
            sites.append(
                Site(
                    value=value.name or "",
                    scheme=scheme,
                    group=group[0].name or "",
                    readers=None if value in self._written else tuple(readers),
                    is_source=value not in self._derived and not is_constant(value),
                    bounds=bounds,
                )
            )
        return tuple(sites)


def _agreed(members: list[tuple[Scheme, Range | None]]) -> tuple[Scheme, Range | None]:
    """The integers that suit all members of a group."""
    schemes = {scheme for scheme, _ in members}
    bounds = {limits for _, limits in members}
    scheme = members[0][0] if len(schemes) == 1 else UINT8
    return scheme, bounds.pop() if len(bounds) == 1 else members[0][1]


def _between(node: ir.Node, end: ir.Value) -> set[ir.Node]:
    """The nodes that compute `end` from what `node` computes."""
    found: set[ir.Node] = set()
    pending = [end]
    while pending:
        value = pending.pop()
        inner = value.producer()
        if inner is None or inner is node or inner in found:
            continue
        found.add(inner)
        pending += [v for v in inner.inputs if v is not None and not is_constant(v)]
    return found


def is_captured(value: ir.Value) -> bool:
    """Whether a body of control flow reads `value`."""
    producing = value.producer()
    graph = value.graph if producing is None else producing.graph
    return any(use.node.graph is not graph for use in value.uses())
