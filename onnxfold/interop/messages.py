"""Repairs on ONNX messages around graphsurgeon, which cannot carry all that a message holds."""

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import onnx
from google.protobuf.message import Message

from onnxfold.errors import BadModelError
from onnxfold.model.contents import graphs_of, nodes_of

_Message = TypeVar("_Message", bound=Message)

_Attributes = onnx.AttributeProto

_CARRIED = frozenset(
    {
        _Attributes.FLOAT,
        _Attributes.INT,
        _Attributes.STRING,
        _Attributes.TENSOR,
        _Attributes.GRAPH,
        _Attributes.FLOATS,
        _Attributes.INTS,
        _Attributes.STRINGS,
    }
)
"""The kinds of attributes that graphsurgeon reads; it drops the others with a warning."""

DetachedAttributes = dict[tuple[str, str], list[onnx.AttributeProto]]
"""Attributes by the operator and the first output of the node that they belong to."""


def refuse_untellable(proto: onnx.ModelProto) -> None:
    """Refuse what graphsurgeon can neither carry nor do without.

    Raises:
        BadModelError: An input or output is of an optional type, or a node has a list of graphs.
    """
    hint = "leave out the graphsurgeon passes for this model"
    for graph in graphs_of(proto):
        for value in (*graph.input, *graph.output):
            if value.type.HasField("optional_type"):
                raise BadModelError(
                    f"'{value.name}' is of an optional type, which graphsurgeon cannot keep", hint
                )
    for node in nodes_of(proto):
        if any(attribute.type == _Attributes.GRAPHS for attribute in node.attribute):
            raise BadModelError(
                f"{node.op_type} '{node.name}' has a list of graphs, which graphsurgeon drops", hint
            )


def detach_attributes(proto: onnx.ModelProto) -> DetachedAttributes:
    """Take away what graphsurgeon stumbles over: attributes, and descriptions of no tensors."""
    for graph in graphs_of(proto):
        tensors = [info for info in graph.value_info if info.type.HasField("tensor_type")]
        if len(tensors) < len(graph.value_info):
            _assign(graph.value_info, tensors)
    detached: DetachedAttributes = {}
    for node in nodes_of(proto):
        loose = [attribute for attribute in node.attribute if not _is_carried(attribute)]
        if loose:
            kept = [attribute for attribute in node.attribute if _is_carried(attribute)]
            detached[_key(node)] = [_copy(attribute) for attribute in loose]
            _assign(node.attribute, kept)
    return detached


def attach_attributes(proto: onnx.ModelProto, detached: DetachedAttributes) -> None:
    """Give the nodes that are still there what `detach_attributes` took from them."""
    if not detached:
        return
    for node in nodes_of(proto):
        present = {attribute.name for attribute in node.attribute}
        missing = [entry for entry in detached.get(_key(node), ()) if entry.name not in present]
        node.attribute.extend(missing)


def _is_carried(attribute: onnx.AttributeProto) -> bool:
    if attribute.type not in _CARRIED:
        return False
    lists = {
        _Attributes.FLOATS: attribute.floats,
        _Attributes.INTS: attribute.ints,
        _Attributes.STRINGS: attribute.strings,
    }
    if attribute.type in lists and not lists[attribute.type]:
        return False  # a list without items has lost its type when it is written again
    return all(_is_text(text) for text in (attribute.s, *attribute.strings))


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _key(node: onnx.NodeProto) -> tuple[str, str]:
    return node.op_type, next((name for name in node.output if name), node.name)


def lift_initializers(graph: onnx.GraphProto, outer: set[str]) -> None:
    """Define every constant once: graphsurgeon repeats it in each nested graph that reads it.

    Args:
        graph: The outermost graph; changed.
        outer: Names of constants that belong there.
    """
    defined = {tensor.name for tensor in graph.initializer}
    nested = [inner for node in graph.node for inner in _all_nested(node)]
    for inner in nested:
        for tensor in inner.initializer:
            if tensor.name in outer and tensor.name not in defined:
                graph.initializer.append(tensor)
                defined.add(tensor.name)
    _drop_repeated(graph, set())


def _drop_repeated(graph: onnx.GraphProto, around: set[str]) -> None:
    kept = [tensor for tensor in graph.initializer if tensor.name not in around]
    if len(kept) < len(graph.initializer):
        _assign(graph.initializer, kept)
    inside = around | {tensor.name for tensor in kept}
    for node in graph.node:
        for inner in _nested(node):
            _drop_repeated(inner, inside)


def keep_unread_initializers(graph: onnx.GraphProto, source: onnx.GraphProto) -> None:
    """Bring back constants that no node had read before either: graphsurgeon forgets them.

    Some are outputs themselves, or the scales that a quantization annotation names.
    """
    read = set(_read_anywhere(source.node))
    defined = {tensor.name for tensor in graph.initializer}
    defined.update(value.name for value in graph.input)
    defined.update(name for node in graph.node for name in node.output)
    for tensor in source.initializer:
        if tensor.name not in defined and tensor.name not in read:
            graph.initializer.append(tensor)


def unread_names(graph: onnx.GraphProto) -> set[str]:
    """Names that nothing reads, in the graph and in those nested in it."""
    names: set[str] = set()
    for inner in _with_nested(graph):
        needed = _needed(inner)
        for node in inner.node:
            names.update(name for name in node.output if name and name not in needed)
        names.update(tensor.name for tensor in inner.initializer if tensor.name not in needed)
    return names


def prune(graph: onnx.GraphProto, kept: set[str]) -> None:
    """Remove nodes and constants that no output depends on, in nested graphs too.

    Args:
        graph: Its nodes may stand in any order.
        kept: Names that stay although nothing reads them.
    """
    needed = _needed(graph, kept)
    nodes = [node for node in graph.node if not node.output or needed.intersection(node.output)]
    if len(nodes) < len(graph.node):
        _assign(graph.node, nodes)
    tensors = [tensor for tensor in graph.initializer if tensor.name in needed]
    if len(tensors) < len(graph.initializer):
        _assign(graph.initializer, tensors)
    for node in graph.node:
        for inner in _nested(node):
            prune(inner, kept)


def _needed(graph: onnx.GraphProto, kept: Iterable[str] = ()) -> set[str]:
    """Names that the outputs of `graph` depend on, those of outer graphs among them."""
    producers = {name: node for node in graph.node for name in node.output if name}
    pending = [value.name for value in graph.output] + list(kept)
    pending += [name for node in graph.node if not node.output for name in _read_by(node)]
    needed: set[str] = set()
    while pending:
        name = pending.pop()
        if name in needed:
            continue
        needed.add(name)
        if name in producers:
            pending += _read_by(producers[name])
    return needed


def _read_by(node: onnx.NodeProto) -> list[str]:
    names = [name for name in node.input if name]
    for inner in _nested(node):
        names += _read_anywhere(inner.node)
        names += [value.name for value in inner.output]
    return names


def _read_anywhere(nodes: Iterable[onnx.NodeProto]) -> Iterator[str]:
    for node in nodes:
        yield from _read_by(node)


def _nested(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [attribute.g for attribute in node.attribute if attribute.type == _Attributes.GRAPH]


def _all_nested(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for inner in _nested(node):
        yield from _with_nested(inner)


def _with_nested(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        yield from _all_nested(node)


def _assign(field: Any, items: Iterable[Message]) -> None:
    copies = [_copy(item) for item in items]
    del field[:]
    field.extend(copies)


def _copy(message: _Message) -> _Message:
    copy: _Message = type(message)()
    copy.CopyFrom(message)
    return copy
