"""Names that nothing else in the model has."""

import re
from collections import Counter

import onnx_ir as ir

from onnxfold.ir.graph import nested_graphs

_SUFFIX = re.compile(r"(\.folded(\.\d+)?)+$")


class Names:
    """Hands out unused names for values and for nodes.

    Value names are unique over the whole model, nested graphs included, because ONNX forbids a
    nested graph to reuse a name of an outer one. Names are counted, because two branches of an If
    may share one, and a file may repeat the names of nodes.
    """

    def __init__(self, model: ir.Model) -> None:
        values: Counter[str] = Counter()
        nodes: Counter[str] = Counter()
        for graph in (model.graph, *nested_graphs(model.graph)):
            values.update(value.name or "" for value in graph.inputs)
            values.update(list(graph.initializers))
            nodes.update(node.name or "" for node in graph)
            values.update(output.name or "" for node in graph for output in node.outputs)
        self._values = dict(values)  # a Counter is slow where it is asked for one name at a time
        self._nodes = dict(nodes)
        self._numbers: dict[str, int] = {}

    def value(self, wish: str | None) -> str:
        """An unused value name that reminds of `wish`."""
        return self._claim(self._values, _SUFFIX.sub("", wish or "folded") + ".folded")

    def node(self, wish: str | None) -> str:
        """An unused node name, `wish` itself when it is free."""
        return self._claim(self._nodes, wish or "folded")

    def _claim(self, taken: dict[str, int], wish: str) -> str:
        name = wish
        while name in taken:
            # Counted on, because starting at 1 every time is quadratic in nodes without names.
            number = self._numbers[wish] = self._numbers.get(wish, 0) + 1
            name = f"{wish}.{number}"
        taken[name] = 1
        return name

    def free_value(self, name: str | None) -> None:
        """Give back the name of a value that is gone."""
        _release(self._values, name or "")

    def claim_value(self, name: str) -> None:
        """Take a name that a value gets from another one."""
        self._values[name] = self._values.get(name, 0) + 1

    def free_node(self, name: str | None) -> None:
        """Give back the name of a node that is gone."""
        _release(self._nodes, name or "")


def _release(taken: dict[str, int], name: str) -> None:
    left = taken.pop(name, 0) - 1
    if left > 0:
        taken[name] = left
