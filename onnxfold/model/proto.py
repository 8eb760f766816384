"""Between `onnx.ModelProto` and the graph in memory, losing nothing on the way.

`onnx_ir` keeps almost everything. What it does not is put aside in the `meta` of graphs and values
(which is never written, and is copied when they are cloned) and put back by `to_proto`: sparse
initializers, which values had a `value_info` entry and in which order, and, below IR version 4,
where in the list of inputs each initializer stood.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import onnx
import onnx_ir as ir
from google.protobuf.message import Message

from onnxfold.errors import BadModelError
from onnxfold.model.causes import first_cause, first_line
from onnxfold.model.collector import garbage_collection_paused
from onnxfold.model.contents import graphs_of, tensors_of
from onnxfold.model.slots import TensorSlot, nested_graphs, tensor_slots

FIRST_IR_WITH_CONSTANT_INITIALIZERS = 4
"""Below IR version 4 every initializer of a graph has to be one of its inputs as well."""

_WRITTEN = "onnxfold.written"
_SPARSE = "onnxfold.sparse"


@dataclass(frozen=True, slots=True)
class Written:
    """How a graph was written in the file that it came from.

    Attributes:
        inputs: Names of its inputs, initializers among them, in order.
        described: Names that had a `value_info` entry, in order.
        annotated: Names that had a quantization annotation, in order.
        external_data: Whether the model had external data; known at the outermost graph.
    """

    inputs: tuple[str, ...] = ()
    described: tuple[str, ...] = ()
    annotated: tuple[str, ...] = ()
    external_data: bool = False


def written_form(graph: ir.Graph) -> Written:
    """How `graph` was written when it was loaded; the default for a graph made in memory."""
    form = graph.meta.get(_WRITTEN)
    return form if isinstance(form, Written) else Written()


def from_proto(proto: onnx.ModelProto, label: str) -> ir.Model:
    """The graph in memory; it shares the tensors of `proto`.

    Args:
        proto: A checked model. Its sparse initializers are replaced.
        label: What messages call it.

    Raises:
        BadModelError: It holds something that cannot be represented.
    """
    sources = list(graphs_of(proto))
    sparse = [_stand_in(graph) for graph in sources]
    try:
        model = ir.from_proto(proto)
    except (ir.serde.SerdeError, ValueError, TypeError, KeyError, NotImplementedError) as error:
        raise BadModelError(
            f"{label} cannot be represented: {first_line(first_cause(error))}",
            "onnx.checker.check_model tells more",
        ) from error
    graphs = _model_graphs(model)
    for graph, source, parts in zip(graphs, sources, sparse, strict=True):
        graph.meta[_WRITTEN] = Written(
            tuple(value.name for value in source.input),
            tuple(value.name for value in source.value_info),
            tuple(annotation.tensor_name for annotation in source.quantization_annotation),
        )
        for name, tensor in parts.items():
            graph.initializers[name].const_value = None
            graph.initializers[name].meta[_SPARSE] = tensor
    return model


def mark_external(graph: ir.Graph) -> None:
    """Remember that the model was loaded with external data."""
    graph.meta[_WRITTEN] = replace(written_form(graph), external_data=True)


def to_proto(model: ir.Model) -> onnx.ModelProto:
    """The model as one message with all its weights inside.

    Args:
        model: Not changed.

    Returns:
        A message of its own. Beyond 2 GB it can be held in memory but not serialised.
    """
    with tensors_replaced(model, embedded):
        return serialized_form(model)


def embedded(slot: TensorSlot) -> ir.TensorProtocol | None:
    """What makes `ir.to_proto` write an external tensor into the model; None for any other."""
    tensor = slot.tensor
    if not isinstance(tensor, ir.ExternalTensor):
        return None

    def read() -> ir.TensorProtocol:
        data = tensor.tobytes() if tensor.nbytes else b""
        tensor.release()
        dims = tensor.shape.numpy()
        return ir.serde.TensorProtoTensor(
            onnx.TensorProto(data_type=tensor.dtype.value, dims=dims, raw_data=data)
        )

    return ir.LazyTensor(
        read,
        tensor.dtype,
        ir.Shape(tensor.shape.numpy()),
        name=tensor.name,
        doc_string=tensor.doc_string,
        metadata_props=dict(tensor.metadata_props),
    )


@contextmanager
def tensors_replaced(
    model: ir.Model, replacement: Callable[[TensorSlot], ir.TensorProtocol | None]
) -> Iterator[None]:
    """Exchange tensors of a model for the time of a block.

    Args:
        model: Restored at the end.
        replacement: What to hold in a slot instead; None leaves it as it is.
    """
    exchanged: list[TensorSlot] = []
    try:
        for slot in tensor_slots(model):
            tensor = replacement(slot)
            if tensor is not None:
                exchanged.append(slot)
                slot.put(tensor)
        yield
    finally:
        for slot in exchanged:
            slot.put(slot.tensor)


def serialized_form(model: ir.Model) -> onnx.ModelProto:
    """The model as a message that refers to external tensors by the locations they state."""
    try:
        with garbage_collection_paused():
            proto = ir.to_proto(model)
    except ir.serde.SerdeError as error:
        # A tensor may be read or computed here; what that raises is not onnx_ir's to rename.
        cause = first_cause(error)
        if isinstance(cause, ir.serde.SerdeError):
            raise
        raise cause from None
    for tensor in tensors_of(proto):
        _drop_repeated_metadata(tensor)
    graphs = _model_graphs(model)
    for graph, target in zip(graphs, graphs_of(proto), strict=True):
        _restore_written_form(graph, target)
    if model.ir_version < FIRST_IR_WITH_CONSTANT_INITIALIZERS:
        _list_initializers_as_inputs(model.graph, proto.graph)
        for nested in list(graphs_of(proto))[1:]:
            _initializers_to_constant_nodes(nested)
    return proto


def _restore_written_form(graph: ir.Graph, target: onnx.GraphProto) -> None:
    form = written_form(graph)
    for name, value in graph.initializers.items():
        sparse = value.meta.get(_SPARSE)
        if value.const_value is None and isinstance(sparse, onnx.SparseTensorProto):
            restored = target.sparse_initializer.add()
            restored.CopyFrom(sparse)
            restored.values.name = name
    # onnx_ir describes every initializer in value_info, and no input or output.
    redundant = graph.initializers.keys() - set(form.described)
    infos = {info.name: info for info in target.value_info if info.name not in redundant}
    for info in (*target.input, *target.output):
        if info.name in form.described:
            infos.setdefault(info.name, info)
    _rewrite(target.value_info, infos, form.described)
    annotations = {item.tensor_name: item for item in target.quantization_annotation}
    _rewrite(target.quantization_annotation, annotations, form.annotated)


def _rewrite(field: Any, items: Mapping[str, Message], order: Iterable[str]) -> None:
    """Let a repeated field hold `items`, those named in `order` first and in that order."""
    place = {name: index for index, name in enumerate(order)}
    names = sorted(items, key=lambda name: place.get(name, len(place)))
    if len(field) == len(items) and names == list(items):
        return
    copies = []
    for name in names:
        copy = type(items[name])()
        copy.CopyFrom(items[name])
        copies.append(copy)
    del field[:]
    field.extend(copies)


def _drop_repeated_metadata(tensor: onnx.TensorProto) -> None:
    """Undo that onnx_ir writes the metadata of a tensor twice when it copies its message."""
    if len(tensor.metadata_props) < 2:
        return
    entries = {entry.key: entry.value for entry in tensor.metadata_props}
    if len(entries) < len(tensor.metadata_props):
        del tensor.metadata_props[:]
        for key, value in entries.items():
            tensor.metadata_props.add(key=key, value=value)


def _list_initializers_as_inputs(graph: ir.Graph, target: onnx.GraphProto) -> None:
    inputs = {value.name: value for value in target.input}
    for tensor in target.initializer:
        if tensor.name not in inputs:
            value = graph.initializers[tensor.name]
            info = onnx.helper.make_tensor_value_info(
                tensor.name, tensor.data_type, tensor.dims, doc_string=value.doc_string or ""
            )
            inputs[tensor.name] = info
    _rewrite(target.input, inputs, written_form(graph).inputs)


def _initializers_to_constant_nodes(target: onnx.GraphProto) -> None:
    """The only way for a subgraph to hold a tensor where initializers have to be inputs."""
    inputs = {value.name for value in target.input}
    loose = [tensor for tensor in target.initializer if tensor.name not in inputs]
    if not loose:
        return
    nodes = [onnx.helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in loose]
    nodes += list(target.node)
    kept = [tensor for tensor in target.initializer if tensor.name in inputs]
    fresh = onnx.GraphProto(node=nodes, initializer=kept)
    target.ClearField("node")
    target.ClearField("initializer")
    target.MergeFrom(fresh)


def _stand_in(graph: onnx.GraphProto) -> dict[str, onnx.SparseTensorProto]:
    """Put a dense initializer without data in the place of each sparse one."""
    sparse: dict[str, onnx.SparseTensorProto] = {}
    for tensor in graph.sparse_initializer:
        name = tensor.values.name
        sparse[name] = onnx.SparseTensorProto()
        sparse[name].CopyFrom(tensor)
        graph.initializer.add(name=name, data_type=tensor.values.data_type, dims=tensor.dims)
    graph.ClearField("sparse_initializer")
    return sparse


def _model_graphs(model: ir.Model) -> Iterator[ir.Graph]:
    """The graph and its subgraphs in the order of `graphs_of`, those in functions last."""
    yield model.graph
    yield from nested_graphs(model.graph)
    for function in model.functions.values():
        yield from nested_graphs(function)
