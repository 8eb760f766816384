"""What is known about the shapes of values."""

import math
from collections import Counter
from collections.abc import Iterable
from collections.abc import Set as AbstractSet

import numpy as np
import onnx
import onnx_ir as ir

from onnxfold.ir.constants import constant_tensor
from onnxfold.ir.graph import every_node, subgraphs

_SMALL_BYTES = 1024
"""Initializers up to this size keep their data for inference: they may be shapes or axes."""


def rank(value: ir.Value | None) -> int | None:
    """The number of dimensions of `value`, or None when it is not known."""
    return None if value is None or value.shape is None else len(value.shape)


def dim(value: ir.Value | None, axis: int) -> int | None:
    """The extent of `value` along `axis`, or None when it is dynamic or not known."""
    shape = None if value is None else value.shape
    if shape is None or not -len(shape) <= axis < len(shape):
        return None
    extent = shape[axis]
    return extent if isinstance(extent, int) else None


def static_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    """The shape of `value` when every extent is known, else None."""
    if value is None or value.shape is None:
        return None
    extents = tuple(extent for extent in value.shape if isinstance(extent, int))
    return extents if len(extents) == len(value.shape) else None


def tensor_extents(tensor: ir.TensorProtocol) -> tuple[int, ...]:
    """The shape of a tensor, whose extents are always numbers."""
    if isinstance(tensor, ir.serde.TensorProtoTensor):  # makes a new Shape whenever it is asked
        return tuple(tensor.raw.dims)
    return tuple(extent for extent in tensor.shape if isinstance(extent, int))


def tensor_bytes(tensor: ir.TensorProtocol) -> int:
    """How many bytes the elements of a tensor take, narrow ones packed."""
    if tensor.dtype == ir.DataType.STRING:
        return tensor.nbytes
    return math.ceil(tensor.dtype.itemsize * math.prod(tensor_extents(tensor)))


def infer_shapes(model: ir.Model, skeleton: onnx.ModelProto | None = None) -> None:
    """Fill in the shapes and types of interior values with ONNX's own inference.

    Graph inputs and outputs keep what the file declares, since that is the model's interface.
    What cannot be inferred stays unknown; an inconsistent model is not an error here.

    Args:
        model: Its values are refined in place.
        skeleton: `skeleton_proto(model)`, when the caller has it already.
    """
    if skeleton is None:
        skeleton = skeleton_proto(model)
    try:
        inferred = onnx.shape_inference.infer_shapes(skeleton, data_prop=True)
    except Exception:  # any failure of inference means: nothing more is known
        return
    symbols = {
        dim.dim_param
        for info in skeleton.graph.input
        for dim in info.type.tensor_type.shape.dim
        if dim.dim_param
    }
    _merge(model.graph, inferred.graph, symbols)


def has_all_shapes(model: ir.Model) -> bool:
    """Whether every value has a type and a shape, so that there is nothing to infer."""
    return all(
        output.shape is not None and output.dtype is not None
        for node in every_node(model.graph)
        for output in node.outputs
    )


def has_static_shapes(model: ir.Model) -> bool:
    """Whether every extent of every value is a number, so that inference can find nothing more."""
    return all(
        static_shape(output) is not None and output.dtype is not None
        for node in every_node(model.graph)
        for output in node.outputs
    )


def skeleton_proto(model: ir.Model) -> onnx.ModelProto:
    """The model as a proto whose large initializers are inputs without data.

    Inference and checks need the types and shapes of weights, never their numbers; so models over
    the 2 GB limit of protobuf can be looked at too. Shapes of interior values are left out.
    """
    proto = onnx.ModelProto(ir_version=max(model.ir_version, 4))
    for domain, version in model.opset_imports.items():
        proto.opset_import.add(domain=domain, version=version)
    graph = proto.graph
    graph.name = model.graph.name or "graph"
    for node in model.graph:
        joined = _joined_constants(node)
        if joined is None:
            ir.serde.serialize_node_into(graph.node.add(), node)
        else:
            graph.initializer.append(joined)
            graph.value_info.append(
                onnx.helper.make_tensor_value_info(joined.name, joined.data_type, joined.dims)
            )
    inputs = set(model.graph.inputs)
    for value in model.graph.inputs:
        ir.serde.serialize_value_into(graph.input.add(), value)
        _tell_apart(graph.input[-1])
    for value in model.graph.outputs:
        ir.serde.serialize_value_into(graph.output.add(), value)
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is None or value in inputs:
            continue
        if tensor_bytes(tensor) <= _SMALL_BYTES:
            _write(tensor, graph.initializer.add())
        else:
            _describe(value.name or "", tensor, graph.input.add())
    return proto


def repeated_names(extents: Iterable[int | str | ir.SymbolicDim | None]) -> frozenset[str]:
    """Names that stand for several extents of one shape.

    Whoever writes "?" or "dynamic" for every open extent does not mean that all are equal.
    """
    names = [extent.value if isinstance(extent, ir.SymbolicDim) else extent for extent in extents]
    counts = Counter(name for name in names if isinstance(name, str))
    return frozenset(name for name, count in counts.items() if count > 1)


def _tell_apart(info: onnx.ValueInfoProto) -> None:
    """Give extents of an input names of their own where they share one."""
    extents = info.type.tensor_type.shape.dim
    shared = repeated_names(extent.dim_param or None for extent in extents)
    for axis, extent in enumerate(extents):
        if extent.dim_param in shared:
            extent.dim_param = f"{info.name}.{axis}"


def _describe(name: str, tensor: ir.TensorProtocol, info: onnx.ValueInfoProto) -> None:
    info.name = name
    kind = info.type.tensor_type
    kind.elem_type = int(tensor.dtype)
    kind.shape.SetInParent()  # a scalar has a shape too
    for extent in tensor_extents(tensor):
        kind.shape.dim.add(dim_value=extent)


def _joined_constants(node: ir.Node) -> onnx.TensorProto | None:
    """A Concat of small constants as a constant.

    Exporters write the scales of a Resize so, and inference, which follows integers only, would
    lose every shape behind it.
    """
    if node.domain != "" or node.op_type != "Concat" or node.outputs[0].is_graph_output():
        return None
    tensors = [constant_tensor(value) for value in node.inputs]
    small = [t for t in tensors if t is not None and t.nbytes <= _SMALL_BYTES and len(t.shape) == 1]
    if len(small) != len(tensors) or len({t.dtype for t in small}) != 1:
        return None
    array = np.concatenate([t.numpy() for t in small])
    joined = ir.Tensor(array, dtype=small[0].dtype, name=node.outputs[0].name)
    return ir.serde.serialize_tensor(joined)


def _write(tensor: ir.TensorProtocol, proto: onnx.TensorProto) -> None:
    """Write a tensor with its numbers: a message does not say in which folder a file lies."""
    if not isinstance(tensor, ir.ExternalTensor):
        ir.serde.serialize_tensor_into(proto, tensor)
        return
    proto.name, proto.data_type = tensor.name or "", int(tensor.dtype)
    proto.raw_data = tensor.tobytes() if tensor.nbytes else b""
    proto.dims.extend(tensor_extents(tensor))
    tensor.release()


def _merge(graph: ir.Graph, inferred: onnx.GraphProto, symbols: AbstractSet[str]) -> None:
    known = {info.name: info for info in inferred.value_info}
    holders: list[ir.Node] = []
    for node in graph:
        for output in node.outputs:
            if output.name in known and not output.is_graph_output():
                _refine(output, known[output.name], symbols)
        if node.outputs and any(True for _ in subgraphs(node)):
            holders.append(node)
    if not holders:
        return
    twins = {node.output[0]: node for node in inferred.node if node.output}
    for node in holders:
        if (twin := twins.get(node.outputs[0].name or "")) is not None:
            _merge_subgraphs(node, twin, symbols)


def _merge_subgraphs(node: ir.Node, twin: onnx.NodeProto, symbols: AbstractSet[str]) -> None:
    for attribute in twin.attribute:
        own = node.attributes.get(attribute.name)
        if own is not None and own.type is ir.AttributeType.GRAPH and attribute.HasField("g"):
            _merge(own.as_graph(), attribute.g, symbols)


def _refine(value: ir.Value, info: onnx.ValueInfoProto, symbols: AbstractSet[str]) -> None:
    """Take over what inference found, where it is more than what is known already.

    Inference starts from the inputs of the model alone. Where it contradicts what the file says
    about an interior value, the file is out of date: somebody changed the inputs afterwards.
    """
    if value.type is None:
        value.type = ir.serde.deserialize_type_proto_for_type(info.type)
    fresh = _inferred_extents(info.type, symbols)
    if fresh is None:
        return
    if value.shape is None or len(value.shape) != len(fresh):
        value.shape = ir.Shape(fresh)
        return
    shared = repeated_names(value.shape) if None in fresh else frozenset()
    known = [None if _name(own) in shared else own for own in value.shape]
    refined = [own if new is None else new for own, new in zip(known, fresh, strict=True)]
    if any(own != new for own, new in zip(value.shape, refined, strict=True)):
        value.shape = ir.Shape(refined)


def _name(extent: int | ir.SymbolicDim) -> str | None:
    return extent.value if isinstance(extent, ir.SymbolicDim) else None


def _inferred_extents(
    kind: onnx.TypeProto, symbols: AbstractSet[str]
) -> list[int | str | None] | None:
    """The extents of a tensor, or of what a sequence or optional holds; None: not even the rank."""
    which = kind.WhichOneof("value")
    while which in ("sequence_type", "optional_type"):
        kind = getattr(kind, which).elem_type
        which = kind.WhichOneof("value")
    if which not in ("tensor_type", "sparse_tensor_type"):
        return None
    tensor = getattr(kind, which)
    if not tensor.HasField("shape"):
        return None
    # Names that inference makes up (unk__0) mean something else in its next run.
    return [
        dim.dim_value
        if dim.HasField("dim_value")
        else (dim.dim_param if dim.dim_param in symbols else None)
        for dim in tensor.shape.dim
    ]
