"""Which parts of a network are faster in INT8, conversions at their borders included.

Every operator that has an integer kernel may run in integers, in q seconds, or in floats, in f; a
value that is computed one way and read another is converted once. The cheapest choice is a minimum
cut between operators that run in integers, on the side of the source, and those in floats:

    source ── f ──▶ operator ── q ──▶ sink
    operator ── conversion ──▶ value read in floats ── ∞ ──▶ each reader
    each reader ── ∞ ──▶ value read in integers ── conversion ──▶ operator

so that choosing among 2ⁿ sets takes one maximum flow, and regions grow and shrink as wholes.
"""

from collections.abc import Collection, Mapping

import networkx as nx
import onnx

from onnxfold.quantize.kernel_times import KernelTimes
from onnxfold.quantize.layers import constants_of

_SOURCE, _SINK = ("source",), ("sink",)
_Key = tuple[str, ...]

_SECONDS_PER_ELEMENT = 2e-10
"""What a conversion is taken to cost where none was timed."""


def float_regions(
    model: onnx.ModelProto,
    floats: KernelTimes,
    integers: KernelTimes,
    convertible: Collection[str],
    caution: float = 1.0,
) -> frozenset[str]:
    """The operators that had better stay float.

    Args:
        model: The float model.
        floats: Its times.
        integers: Times of its quantized form.
        convertible: Names of the layers that run in INT8 there; all others are float anyway.
        caution: What measured conversions are multiplied by: layouts change at borders too, and
            fusions over them are lost.
    """
    network = nx.DiGraph()
    cost = _ConversionCost(floats, integers, caution)
    names = {name: node.output[0] for node in model.graph.node for name in node.output if name}
    for node in model.graph.node:
        if not node.output:
            continue
        key = ("node", node.output[0])
        if node.output[0] not in convertible:
            _add(network, key, _SINK, None)
            continue
        _add(network, _SOURCE, key, floats.nodes.get(node.output[0], 0.0))
        own = integers.nodes.get(node.output[0], 0.0)
        _add(network, key, _SINK, own)
        source = names.get(node.input[0], "") if node.input else ""
        if own == 0 and source in convertible:  # it runs inside the kernel before it
            _add(network, key, ("node", source), None)
            _add(network, ("node", source), key, None)
    _add_conversions(network, model, names, cost)
    return frozenset(convertible) - _integer_side(network)


def _integer_side(network: "nx.DiGraph[_Key]") -> frozenset[str]:
    if _SOURCE not in network:
        return frozenset()
    _, (side, _) = nx.minimum_cut(network, _SOURCE, _SINK)
    return frozenset(key[1] for key in side if key[0] == "node")


class _ConversionCost:
    """Seconds that converting a value takes: measured, or by its number of elements."""

    def __init__(self, floats: KernelTimes, integers: KernelTimes, caution: float) -> None:
        self._measured = integers.conversions
        self._elements = {**floats.elements, **integers.elements}
        self._caution = caution
        timed = [name for name in self._measured if self._elements.get(name)]
        elements = sum(self._elements[name] for name in timed)
        seconds = sum(self._measured[name] for name in timed)
        self._slope = seconds / elements if elements else _SECONDS_PER_ELEMENT

    def __call__(self, name: str) -> float:
        guess = self._elements.get(name, 0) * self._slope
        return self._caution * max(guess, self._measured.get(name, 0.0))


def _add_conversions(
    network: "nx.DiGraph[_Key]",
    model: onnx.ModelProto,
    names: Mapping[str, str],
    cost: _ConversionCost,
) -> None:
    constants = constants_of(model.graph)
    readers: dict[str, dict[_Key, None]] = {}  # in the order of the model, whatever the hash seed
    for node in model.graph.node:
        for value in node.input:
            if value and value not in constants:
                readers.setdefault(value, {})["node", node.output[0]] = None
    for output in model.graph.output:
        readers.setdefault(output.name, {})[_SINK] = None
    for value, found in readers.items():
        producer = ("node", names[value]) if value in names else _SINK
        seconds = cost(value)
        _add(network, producer, ("to_float", value), seconds)
        _add(network, ("to_integer", value), producer, seconds)
        for reader in found:
            _add(network, ("to_float", value), reader, None)
            _add(network, reader, ("to_integer", value), None)


def _add(network: "nx.DiGraph[_Key]", start: _Key, end: _Key, seconds: float | None) -> None:
    """An edge that costs whole nanoseconds, which keeps the flow exact; None cannot be cut."""
    if start in (end, _SINK) or end == _SOURCE:
        return
    if seconds is None:
        network.add_edge(start, end)
    else:
        network.add_edge(start, end, capacity=round(seconds * 1e9))
