"""Names that nothing else in the model has."""

import re
from collections import Counter

import onnx_ir as ir

_SUFFIX = re.compile(r"(\.folded(\.\d+)?)+$")


class Names:
    """Hands out unused names for values and for nodes.

    Value names are unique over the whole model, nested graphs included, because ONNX forbids a
    nested graph to reuse a name of an outer one. Names are counted, because two branches of an If
    may share one, and a file may repeat the names of nodes.
    """

    def __init__(self, model: ir.Model) -> None:
        self._values: Counter[str] = Counter()
        self._nodes: Counter[str] = Counter()
        self._numbers: Counter[str] = Counter()
        for graph in (model.graph, *model.graph.subgraphs()):
            self._values.update(value.name or "" for value in graph.inputs)
            self._values.update(list(graph.initializers))
            for node in graph:
                self._nodes[node.name or ""] += 1
                self._values.update(output.name or "" for output in node.outputs)

    def value(self, wish: str | None) -> str:
        """An unused value name that reminds of `wish`."""
        return self._claim(self._values, _SUFFIX.sub("", wish or "folded") + ".folded")

    def node(self, wish: str | None) -> str:
        """An unused node name, `wish` itself when it is free."""
        return self._claim(self._nodes, wish or "folded")

    def _claim(self, taken: Counter[str], wish: str) -> str:
        name = wish
        while name in taken:
            # Counted on, because starting at 1 every time is quadratic in nodes without names.
            self._numbers[wish] += 1
            name = f"{wish}.{self._numbers[wish]}"
        taken[name] += 1
        return name

    def free_value(self, name: str | None) -> None:
        """Give back the name of a value that is gone."""
        _release(self._values, name or "")

    def claim_value(self, name: str) -> None:
        """Take a name that a value gets from another one."""
        self._values[name] += 1

    def free_node(self, name: str | None) -> None:
        """Give back the name of a node that is gone."""
        _release(self._nodes, name or "")


def _release(taken: Counter[str], name: str) -> None:
    taken[name] -= 1
    if taken[name] <= 0:
        del taken[name]
