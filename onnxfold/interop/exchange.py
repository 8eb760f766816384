"""Lends a model to a tool that knows ONNX messages alone, and takes the tool's answer back.

Such tools drop what they have no field for: metadata, doc strings, the domain and version of the
model, quantization annotations, inputs that have a default. What is dropped is put back from the
original, wherever the thing it belongs to is still there under its name.
"""

import copy
from collections.abc import Callable, Iterator, Mapping

import onnx
import onnx_ir as ir

from onnxfold.errors import BadModelError
from onnxfold.ir.constants import release
from onnxfold.model.contents import check_contents
from onnxfold.model.inline import inline_functions
from onnxfold.model.proto import FIRST_IR_WITH_CONSTANT_INITIALIZERS, from_proto
from onnxfold.model.slots import TensorSlot, tensor_slots
from onnxfold.model.structure import check_structure

_ANNOTATION = "quant_parameter_tensor_names"
"""Where onnx_ir keeps the quantization annotation of a value in its `meta`."""

Resolve = Callable[[TensorSlot], ir.TensorProtocol | None]


def lent_copy(model: ir.Model) -> ir.Model:
    """A copy in which a tool cannot mistake a default value for a constant.

    An initializer that is also an input is a plain input in the copy. Tensors are shared.

    Args:
        model: Not changed; it has no functions, because they are inlined at load.

    Raises:
        BadModelError: An input of a nested graph has a default value.
    """
    lent = model.clone()
    lent.ir_version = max(lent.ir_version, FIRST_IR_WITH_CONSTANT_INITIALIZERS)
    for value in _inputs_with_default(lent.graph):
        lent.graph.initializers.pop(value.name or "")
    for graph in lent.graph.subgraphs():
        for value in _inputs_with_default(graph):
            raise BadModelError(f"input '{value.name}' of a nested graph has a default value")
    return lent


def _inputs_with_default(graph: ir.Graph) -> list[ir.Value]:
    return [value for value in graph.inputs if value.is_initializer() and value.const_value]


def take_back(
    proto: onnx.ModelProto, original: ir.Model, label: str, resolve: Resolve | None = None
) -> ir.Model:
    """The model that a tool made of `original`, with all that the tool dropped.

    Args:
        proto: What the tool made, its nodes in any order; its tensors are shared.
        original: What the tool was given. Not changed.
        label: What messages call the answer.
        resolve: The tensor that belongs into a slot instead of the one there; None keeps it.

    Returns:
        A model of its own; weights that are still the same are those of `original`.

    Raises:
        BadModelError: The answer is no valid model.
    """
    in_order = check_structure(proto, label)
    check_contents(proto, label)
    model = from_proto(proto, label)
    inline_functions(model, label)
    if not in_order:
        _sort(model, label)
    for slot in list(tensor_slots(model)):
        tensor = None if resolve is None else resolve(slot)
        if tensor is not None:
            slot.put(tensor)
    _restore_model(model, original)
    return model


def _sort(model: ir.Model, label: str) -> None:
    try:
        model.graph.sort()
    except ValueError as error:
        raise BadModelError(f"{label} is not a valid ONNX model: its nodes form a cycle") from error


def _restore_model(model: ir.Model, original: ir.Model) -> None:
    model.ir_version = original.ir_version
    model.producer_name = original.producer_name
    model.producer_version = original.producer_version
    model.domain = original.domain
    model.model_version = original.model_version
    model.doc_string = original.doc_string
    model.device_configurations = original.device_configurations
    model.metadata_props.clear()
    model.metadata_props.update(original.metadata_props)
    for domain, version in original.opset_imports.items():
        model.opset_imports.setdefault(domain, version)
    _restore_interface(model.graph, original.graph)
    _restore_defaults(model.graph, original.graph)
    _restore_graph(model.graph, original.graph)


def _restore_interface(graph: ir.Graph, original: ir.Graph) -> None:
    """Declared types and shapes, where the tool merely forgot or refined them.

    What it really changed stays, so that it is seen when the interfaces are compared.
    """
    for values, olds, may_refine in (
        (graph.inputs, original.inputs, False),
        (graph.outputs, original.outputs, True),
    ):
        by_name = {old.name: old for old in olds}
        for value in values:
            old = by_name.get(value.name)
            if old is None:
                continue
            if value.type is None or (old.type is not None and value.dtype == old.dtype):
                value.type = copy.deepcopy(old.type)
            if value.shape is None or _is_same_shape(value.shape, old.shape, may_refine):
                value.shape = None if old.shape is None else old.shape.copy()


def _is_same_shape(shape: ir.Shape, old: ir.Shape | None, may_refine: bool) -> bool:
    """Whether `shape` says the same as `old`; with `may_refine`, or more."""
    if old is None:
        return may_refine
    if len(shape) != len(old):
        return False
    return all(
        new == known or (may_refine and not isinstance(known, int))
        for new, known in zip(shape, old, strict=True)
    )


def _restore_defaults(graph: ir.Graph, original: ir.Graph) -> None:
    defaults = {value.name: value.const_value for value in _inputs_with_default(original)}
    for value in graph.inputs:
        if value.name in defaults and value.name not in graph.initializers:
            value.const_value = defaults[value.name]
            graph.register_initializer(value)


def _restore_graph(graph: ir.Graph, original: ir.Graph) -> None:
    graph.name = original.name
    graph.doc_string = original.doc_string
    graph.metadata_props.update(original.metadata_props)
    for key, entry in original.meta.items():
        graph.meta[key] = entry
    _restore_initializer_order(graph, original)
    olds = {value.name: value for value in _values(original) if value.name}
    known = {value.name for value in _values(graph)}
    for value in _values(graph):
        if (old := olds.get(value.name or "")) is not None:
            _restore_value(value, old, known)
    for node in graph:
        old_node = _counterpart(node, olds)
        if old_node is not None:
            _restore_node(node, old_node)


def _restore_initializer_order(graph: ir.Graph, original: ir.Graph) -> None:
    place = {name: index for index, name in enumerate(original.initializers)}
    names = sorted(graph.initializers, key=lambda name: place.get(name, len(place)))
    values = [graph.initializers.pop(name) for name in names]
    for value in values:
        graph.initializers.add(value)


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs


def _restore_value(value: ir.Value, old: ir.Value, known: set[str | None]) -> None:
    value.doc_string = value.doc_string or old.doc_string
    _add_missing(value.metadata_props, old.metadata_props)
    annotation = old.meta.get(_ANNOTATION)
    if annotation and known.issuperset(annotation.values()):
        value.meta[_ANNOTATION] = annotation
    if value.is_initializer() and old.is_initializer():
        _restore_tensor(value, old)


def _restore_tensor(value: ir.Value, old: ir.Value) -> None:
    """Hold the original tensor (mapped, documented) where the tool made an equal one."""
    tensor, kept = value.const_value, old.const_value
    if tensor is None or kept is None or tensor is kept:
        return
    if tensor.dtype != kept.dtype or tensor.shape != kept.shape:
        return
    if tensor.dtype == ir.DataType.STRING:
        same = list(tensor.numpy().reshape(-1)) == list(kept.numpy().reshape(-1))
    else:
        same = tensor.tobytes() == kept.tobytes()
    release(kept)
    if same:
        value.const_value = kept


def _counterpart(node: ir.Node, olds: Mapping[str, ir.Value]) -> ir.Node | None:
    """The node of the original that computes the same value with the same operator."""
    named = next((output.name for output in node.outputs if output.name), "")
    old = olds[named].producer() if named in olds else None
    if old is None or (old.domain, old.op_type) != (node.domain, node.op_type):
        return None
    return old


def _restore_node(node: ir.Node, old: ir.Node) -> None:
    node.doc_string = node.doc_string or old.doc_string
    node.overload = node.overload or old.overload
    _add_missing(node.metadata_props, old.metadata_props)
    for output, twin in zip(node.outputs, old.outputs, strict=False):
        if output.is_graph_output() or output.name != twin.name:
            continue
        output.type = output.type or copy.deepcopy(twin.type)
        if output.shape is None and twin.shape is not None:
            output.shape = twin.shape.copy()
    for name, attribute in list(node.attributes.items()):
        before = old.attributes.get(name)
        if before is None or attribute.type != before.type:
            continue
        if attribute.type is ir.AttributeType.GRAPH:
            _restore_nested(attribute.as_graph(), before.as_graph())
        if before.doc_string and not attribute.doc_string:
            node.attributes[name] = ir.Attr(
                name, attribute.type, attribute.value, doc_string=before.doc_string
            )


def _restore_nested(graph: ir.Graph, original: ir.Graph) -> None:
    """Nested inputs and outputs are told by place: nothing outside knows their names."""
    for values, olds in ((graph.inputs, original.inputs), (graph.outputs, original.outputs)):
        for value, old in zip(values, olds, strict=False):
            if value.name == old.name:
                value.type = value.type or copy.deepcopy(old.type)
                value.shape = value.shape or (None if old.shape is None else old.shape.copy())
    _restore_graph(graph, original)


def _add_missing(properties: dict[str, str], old: Mapping[str, str]) -> None:
    for key, entry in old.items():
        properties.setdefault(key, entry)
