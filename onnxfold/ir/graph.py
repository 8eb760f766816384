"""Read-only questions about nodes, values and their readers."""

from collections.abc import Iterable, Iterator

import onnx_ir as ir

ONNX_DOMAINS = ("", "ai.onnx")


def is_op(node: ir.Node | None, *op_types: str) -> bool:
    """Whether `node` is one of these operators of the default ONNX domain."""
    return node is not None and node.op_type in op_types and node.domain == ""


def producer(value: ir.Value | None) -> ir.Node | None:
    """The node that computes `value`; None for inputs, initializers and absent values."""
    return None if value is None else value.producer()


def reader_count(value: ir.Value) -> int:
    """How many node inputs read `value`.

    `Value.uses()` copies its readers; over a constant that every node reads, that is quadratic.
    """
    readers = getattr(value, "_uses", None)
    return len(value.uses()) if readers is None else len(readers)


def has_other_readers(value: ir.Value) -> bool:
    """Whether anything besides one single node input reads `value`.

    A graph output is a reader; so is a node in a nested graph that captures the value by name.
    """
    return value.is_graph_output() or reader_count(value) != 1


def sole_reader(value: ir.Value) -> ir.Node | None:
    """The one node that reads `value` once, in the same graph; None when there are others."""
    if has_other_readers(value):
        return None
    ((reader, _),) = value.uses()
    producing = value.producer()
    if producing is not None and reader.graph is not producing.graph:
        return None
    return reader


def input_at(node: ir.Node, index: int) -> ir.Value | None:
    """Input `index` of `node`; None when it is absent, left out, or the empty string."""
    if index >= len(node.inputs):
        return None
    return node.inputs[index]


def used_outputs(node: ir.Node) -> list[int]:
    """The indices of the outputs that somebody reads."""
    return [
        index
        for index, output in enumerate(node.outputs)
        if reader_count(output) or output.is_graph_output()
    ]


def is_read(node: ir.Node) -> bool:
    """Whether anybody reads an output of `node`."""
    return any(reader_count(output) or output.is_graph_output() for output in node.outputs)


def captured_values(node: ir.Node) -> list[ir.Value]:
    """The values that the nested graphs of `node` read from outside themselves."""
    nested = list(subgraphs(node))
    captured: list[ir.Value] = []
    while nested:
        graph = nested.pop()
        own = {*graph.inputs, *graph.initializers.values()}
        own.update(output for inner in graph for output in inner.outputs)
        for inner in graph:
            captured += [v for v in inner.inputs if v is not None and v not in own]
            captured += [v for v in captured_values(inner) if v not in own]
        captured += [v for v in graph.outputs if v not in own]
    return list(dict.fromkeys(captured))


def int_attribute(node: ir.Node, name: str, default: int) -> int:
    """Integer attribute `name`, or `default` when the node does not have it."""
    attribute = node.attributes.data.get(name)
    return default if attribute is None else attribute.as_int()


def float_attribute(node: ir.Node, name: str, default: float) -> float:
    """Float attribute `name`, or `default` when the node does not have it."""
    attribute = node.attributes.data.get(name)
    return default if attribute is None else attribute.as_float()


def string_attribute(node: ir.Node, name: str, default: str) -> str:
    """String attribute `name`, or `default` when the node does not have it."""
    attribute = node.attributes.data.get(name)
    return default if attribute is None else attribute.as_string()


def ints_attribute(node: ir.Node, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    """Integer-list attribute `name`, or `default` when the node does not have it."""
    attribute = node.attributes.data.get(name)
    return default if attribute is None else tuple(attribute.as_ints())


def subgraphs(node: ir.Node) -> Iterator[ir.Graph]:
    """The graphs held by attributes of `node` (bodies of If, Loop, Scan)."""
    for attribute in node.attributes.data.values():  # the view of a UserDict is slow
        if attribute.type is ir.AttributeType.GRAPH and not attribute.is_ref():
            yield attribute.as_graph()
        elif attribute.type is ir.AttributeType.GRAPHS and not attribute.is_ref():
            yield from attribute.as_graphs()


def opset_version(model: ir.Model) -> int:
    """The version of the default ONNX operator set that `model` imports; 0 when it has none."""
    for domain in ONNX_DOMAINS:
        if (version := model.opset_imports.get(domain)) is not None:
            return version
    return 0


def nested_graphs(nodes: Iterable[ir.Node]) -> Iterator[ir.Graph]:
    """The graphs that `nodes` hold and all that are nested in them, each before its own."""
    for node in nodes:
        for graph in subgraphs(node):
            yield graph
            yield from nested_graphs(graph)


def every_node(graph: ir.Graph) -> Iterator[ir.Node]:
    """The nodes of `graph`, each followed by those of the graphs that it holds."""
    for node in graph:
        yield node
        for nested in subgraphs(node):
            yield from every_node(nested)


def stamp_opset_versions(model: ir.Model) -> None:
    """Note on every default-domain node which operator set version it follows.

    A rule sees one node and no model, and the meaning of a node (training-mode BatchNormalization
    before opset 7, say) depends on the version.
    """
    version = opset_version(model)
    for node in every_node(model.graph):
        if node.domain == "":
            node.version = version


def describe(node: ir.Node) -> str:
    """The name by which a user finds `node`: its own, or that of its first output."""
    if node.name:
        return f"{node.op_type} '{node.name}'"
    return f"{node.op_type} of '{node.outputs[0].name}'" if node.outputs else node.op_type
