"""Whether a model that a pass hands over whole is sound, and what in it is new."""

import copy
from collections import ChainMap, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from onnxfold.ir.constants import release
from onnxfold.ir.graph import describe, subgraphs

_Scope = ChainMap[str, ir.Value]


@dataclass(frozen=True, slots=True)
class Change:
    """How one model differs from another, node order and doc strings aside.

    Attributes:
        sources: Names of nodes and initializers that are gone or not the same any more, sorted.
        created: Nodes that are new or not the same any more.
        is_empty: Whether the models compute the same in the same way.
    """

    sources: tuple[str, ...]
    created: tuple[ir.Node, ...]
    is_empty: bool


def independent_copy(model: ir.Model) -> ir.Model:
    """A copy that can be changed at will; it shares tensors, which nobody changes.

    `Model.clone` shares the objects that hold types, and setting the type of a value changes them.
    """
    clone = model.clone()
    for graph in (clone.graph, *clone.graph.subgraphs()):
        for value in (*graph.inputs, *graph.initializers.values()):
            value.type = copy.deepcopy(value.type)
        for node in graph:
            for output in node.outputs:
                output.type = copy.deepcopy(output.type)
    return clone


def flaw(model: ir.Model) -> str | None:
    """What makes the graph unsound, in words: a dangling read, a name used twice; else None."""
    return _graph_flaw(model.graph, ChainMap())


def _graph_flaw(graph: ir.Graph, scope: _Scope) -> str | None:
    inside = scope.new_child()
    given = dict.fromkeys((*graph.inputs, *graph.initializers.values()))
    for value in given:
        if (reason := _define(value, inside)) is not None:
            return reason
    for node in graph:
        if (reason := _node_flaw(node, inside)) is not None:
            return reason
    for value in graph.outputs:
        if not _is_defined(value, inside):
            return f"nothing computes the output '{value.name}'"
    return None


def _node_flaw(node: ir.Node, scope: _Scope) -> str | None:
    for value in node.inputs:
        if value is not None and not _is_defined(value, scope):
            return f"{describe(node)} reads '{value.name}', which nothing before it computes"
    for graph in subgraphs(node):
        if (reason := _graph_flaw(graph, scope)) is not None:
            return reason
    reasons = (_define(output, scope) for output in node.outputs if output.name or output.uses())
    return next((reason for reason in reasons if reason is not None), None)


def _define(value: ir.Value, scope: _Scope) -> str | None:
    if not value.name:
        return "a value that is read has no name"
    if scope.setdefault(value.name, value) is not value:
        return f"two values are called '{value.name}'"
    return None


def _is_defined(value: ir.Value, scope: _Scope) -> bool:
    return bool(value.name) and scope.get(value.name or "") is value


def change(before: ir.Model, after: ir.Model) -> Change:
    """How `after` differs from `before`; tensors are read only where they are not identical."""
    same, created = _match_nodes(before, after)
    gone = [node for node in before.graph.all_nodes() if node not in same]
    initializers = _changed_initializers(before, after)
    names = [node.name or (node.outputs[0].name if node.outputs else "") for node in gone]
    sources = tuple(sorted({name for name in (*names, *initializers) if name}))
    imports = before.opset_imports == after.opset_imports
    return Change(sources, created, imports and not (gone or created or initializers))


def _match_nodes(before: ir.Model, after: ir.Model) -> tuple[set[ir.Node], tuple[ir.Node, ...]]:
    """Nodes of `before` that are in `after` too, and nodes of `after` that are new."""
    olds: dict[str, list[ir.Node]] = defaultdict(list)
    for node in before.graph.all_nodes():
        olds[_place(node)].append(node)
    same: set[ir.Node] = set()
    created: list[ir.Node] = []
    for node in after.graph.all_nodes():
        candidates = olds[_place(node)]
        match = next((old for old in candidates if _is_same_node(old, node)), None)
        if match is None:
            created.append(node)
        else:
            candidates.remove(match)
            same.add(match)
    return same, tuple(created)


def _place(node: ir.Node) -> str:
    return next((output.name for output in node.outputs if output.name), node.name or "")


def _is_same_node(old: ir.Node, new: ir.Node) -> bool:
    if old.op_identifier() != new.op_identifier() or _names(old) != _names(new):
        return False
    if old.attributes.keys() != new.attributes.keys():
        return False
    return all(
        _is_same_attribute(attribute, new.attributes[name])
        for name, attribute in old.attributes.items()
    )


def _names(owner: ir.Node | ir.Graph) -> tuple[list[str], list[str]]:
    inputs = [(value.name or "") if value is not None else "" for value in owner.inputs]
    return inputs, [output.name or "" for output in owner.outputs]


def _is_same_attribute(old: ir.Attr, new: ir.Attr) -> bool:
    if old is new:
        return True
    if old.type != new.type or old.ref_attr_name != new.ref_attr_name:
        return False
    if old.type is ir.AttributeType.TENSOR:
        return _is_same_tensor(old.as_tensor(), new.as_tensor())
    if old.type is ir.AttributeType.TENSORS:
        olds, news = old.as_tensors(), new.as_tensors()
        return len(olds) == len(news) and all(map(_is_same_tensor, olds, news))
    if old.type is ir.AttributeType.GRAPH:
        return _names(old.as_graph()) == _names(new.as_graph())  # its nodes are compared anyway
    if old.type is ir.AttributeType.GRAPHS:
        return list(map(_names, old.as_graphs())) == list(map(_names, new.as_graphs()))
    return repr(old.value) == repr(new.value)  # not equal: 0.0 and -0.0; equal: nan and nan


def _changed_initializers(before: ir.Model, after: ir.Model) -> list[str]:
    olds, news = dict(_initializers(before)), dict(_initializers(after))
    changed = [name for _, name in olds.keys() ^ news.keys()]
    for key in olds.keys() & news.keys():
        old, new = olds[key].const_value, news[key].const_value
        if old is None or new is None:
            if old is not new:
                changed.append(key[1])
        elif not _is_same_tensor(old, new):
            changed.append(key[1])
    return changed


def _initializers(model: ir.Model) -> Iterator[tuple[tuple[str, str], ir.Value]]:
    """Initializers by the place of their graph and their name."""
    yield from ((("", name), value) for name, value in model.graph.initializers.items())
    for node in model.graph.all_nodes():
        for graph in subgraphs(node):
            place = _place(node)
            yield from (((place, name), value) for name, value in graph.initializers.items())


def _is_same_tensor(old: ir.TensorProtocol, new: ir.TensorProtocol) -> bool:
    if old is new:
        return True
    if old.dtype != new.dtype or old.shape != new.shape:
        return False
    if old.dtype == ir.DataType.STRING:
        return list(old.numpy().reshape(-1)) == list(new.numpy().reshape(-1))
    same = old.tobytes() == new.tobytes()
    release(old)
    release(new)
    return same
