"""The places of a model in memory where tensors are kept."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import onnx_ir as ir


@dataclass(frozen=True, slots=True)
class TensorSlot:
    """A place that holds a tensor: an initializer or a node's attribute.

    Attributes:
        owner: The initializer, or the node.
        attribute: Name of the node's attribute; empty for an initializer.
        index: Position in an attribute that holds a list of tensors.
        tensor: What is held.
    """

    owner: ir.Value | ir.Node
    attribute: str
    index: int
    tensor: ir.TensorProtocol

    def put(self, tensor: ir.TensorProtocol) -> None:
        """Hold `tensor` instead."""
        if isinstance(self.owner, ir.Value):
            self.owner.const_value = tensor
            return
        old = self.owner.attributes[self.attribute]
        if old.type == ir.AttributeType.TENSOR:
            new = ir.AttrTensor(old.name, tensor, doc_string=old.doc_string)
        else:
            tensors = list(old.as_tensors())
            tensors[self.index] = tensor
            new = ir.AttrTensors(old.name, tensors, doc_string=old.doc_string)
        self.owner.attributes[self.attribute] = new

    @property
    def is_initializer(self) -> bool:
        """Whether the place is an initializer and not an attribute."""
        return isinstance(self.owner, ir.Value)


def tensor_slots(model: ir.Model) -> Iterator[TensorSlot]:
    """Every tensor of the model, its subgraphs and its functions, always in the same order."""
    yield from _graph_slots([model.graph, *nested_graphs(model.graph)])
    for function in model.functions.values():
        yield from _node_slots(function)
        yield from _graph_slots(nested_graphs(function))


def nested_graphs(nodes: Iterable[ir.Node]) -> Iterator[ir.Graph]:
    """The subgraphs of `nodes` and all that are nested in them, each before its own."""
    for node in nodes:
        for attribute in node.attributes.values():
            if attribute.is_ref():
                continue
            graphs: Iterable[ir.Graph] = ()
            if attribute.type == ir.AttributeType.GRAPH:
                graphs = (attribute.as_graph(),)
            elif attribute.type == ir.AttributeType.GRAPHS:
                graphs = attribute.as_graphs()
            for graph in graphs:
                yield graph
                yield from nested_graphs(graph)


def _graph_slots(graphs: Iterable[ir.Graph]) -> Iterator[TensorSlot]:
    for graph in graphs:
        for value in list(graph.initializers.values()):
            if value.const_value is not None:
                yield TensorSlot(value, "", 0, value.const_value)
        yield from _node_slots(graph)


def _node_slots(nodes: Iterable[ir.Node]) -> Iterator[TensorSlot]:
    for node in nodes:
        for name, attribute in list(node.attributes.items()):
            if attribute.is_ref():
                continue
            if attribute.type == ir.AttributeType.TENSOR:
                # `as_tensor` checks a protocol, slowly.
                yield TensorSlot(node, name, 0, attribute.value)
            elif attribute.type == ir.AttributeType.TENSORS:
                for index, tensor in enumerate(attribute.as_tensors()):
                    yield TensorSlot(node, name, index, tensor)
