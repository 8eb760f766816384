"""What a model holds besides its wiring: every tensor is whole, every type can be represented."""

import math
from collections.abc import Iterable, Iterator

import onnx

from onnxfold.errors import BadModelError

_DAMAGED_HINT = "export, copy or download the model again"

_ITEM_BITS: dict[int, int] = {
    onnx.TensorProto.FLOAT: 32,
    onnx.TensorProto.UINT8: 8,
    onnx.TensorProto.INT8: 8,
    onnx.TensorProto.UINT16: 16,
    onnx.TensorProto.INT16: 16,
    onnx.TensorProto.INT32: 32,
    onnx.TensorProto.INT64: 64,
    onnx.TensorProto.BOOL: 8,
    onnx.TensorProto.FLOAT16: 16,
    onnx.TensorProto.DOUBLE: 64,
    onnx.TensorProto.UINT32: 32,
    onnx.TensorProto.UINT64: 64,
    onnx.TensorProto.COMPLEX64: 64,
    onnx.TensorProto.COMPLEX128: 128,
    onnx.TensorProto.BFLOAT16: 16,
    **dict.fromkeys(range(17, 21), 8),  # FLOAT8E4M3FN, E4M3FNUZ, E5M2, E5M2FNUZ
    **dict.fromkeys((21, 22, 23), 4),  # UINT4, INT4, FLOAT4E2M1
    24: 8,  # FLOAT8E8M0
    **dict.fromkeys((25, 26), 2),  # UINT2, INT2
    **dict.fromkeys((27, 28), 6),  # FLOAT6E2M3, FLOAT6E3M2
}
"""Bits of one item, by `TensorProto.DataType` (by number where older onnx packages lack the name).

Items narrower than a byte are packed without gaps, and the last byte is filled up.
"""

_TYPED_FIELDS: dict[int, tuple[str, int]] = {
    onnx.TensorProto.FLOAT: ("float_data", 1),
    onnx.TensorProto.COMPLEX64: ("float_data", 2),
    onnx.TensorProto.DOUBLE: ("double_data", 1),
    onnx.TensorProto.COMPLEX128: ("double_data", 2),
    onnx.TensorProto.INT64: ("int64_data", 1),
    onnx.TensorProto.UINT32: ("uint64_data", 1),
    onnx.TensorProto.UINT64: ("uint64_data", 1),
}
"""Where a tensor without raw_data keeps its items, and how many entries one item takes; all other
types use int32_data."""


def check_contents(proto: onnx.ModelProto, label: str) -> list[onnx.TensorProto]:
    """Check tensors and types throughout a model, functions and subgraphs included.

    Returns:
        The tensors with external data, which are left to `onnxfold.model.external` to check.

    Raises:
        BadModelError: A tensor's data do not fit its shape, or a type cannot be represented.
    """
    external = []
    for tensor in tensors_of(proto):
        if is_external(tensor):
            external.append(tensor)
            continue
        problem = _tensor_problem(tensor)
        if problem:
            raise BadModelError(f"{label} has a tensor {tensor.name!r} {problem}", _DAMAGED_HINT)
    graphs = list(graphs_of(proto))
    for graph in graphs:
        for value in (*graph.input, *graph.output, *graph.value_info):
            _refuse_maps(value.type, value.name, label)
        for sparse in graph.sparse_initializer:
            if is_external(sparse.values) or is_external(sparse.indices):
                raise BadModelError(
                    f"{label} keeps the sparse tensor {sparse.values.name!r} as external data",
                    "keep it in the model file",
                )
    for node in _nodes_in(graphs, proto.functions):
        for attribute in node.attribute:
            _check_attribute(attribute, node, label)
    return external


def _check_attribute(attribute: onnx.AttributeProto, node: onnx.NodeProto, label: str) -> None:
    owner = f"node {node.name!r} ({node.op_type})"
    if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
        raise BadModelError(
            f"{label} has a sparse tensor in attribute {attribute.name!r} of {owner}, which "
            "onnxfold cannot keep",
            "make it a dense tensor, or a sparse initializer",
        )
    for text in attribute.strings:
        try:
            text.decode()
        except UnicodeDecodeError:
            raise BadModelError(
                f"{label} has text that is not UTF-8 in attribute {attribute.name!r} of {owner}",
                "ONNX demands UTF-8; export the model again",
            ) from None


def _refuse_maps(kind: onnx.TypeProto, name: str, label: str) -> None:
    while True:
        which = kind.WhichOneof("value")
        if which == "sequence_type":
            kind = kind.sequence_type.elem_type
        elif which == "optional_type":
            kind = kind.optional_type.elem_type
        elif which in ("map_type", "opaque_type"):
            raise BadModelError(
                f"{label} has a value {name!r} of a {which.removesuffix('_type')} type, which "
                "onnxfold cannot represent",
                "end the model before it, as with zipmap=False in skl2onnx",
            )
        else:
            return


def is_external(tensor: onnx.TensorProto) -> bool:
    """Whether the tensor's data lie in another file."""
    return tensor.data_location == onnx.TensorProto.EXTERNAL


def byte_size(tensor: onnx.TensorProto) -> int | None:
    """Bytes that a dense tensor's items take; None for strings and unknown types."""
    bits = _ITEM_BITS.get(tensor.data_type)
    return None if bits is None else (math.prod(tensor.dims) * bits + 7) // 8


def _tensor_problem(tensor: onnx.TensorProto) -> str | None:
    """What is wrong with a tensor that holds its own data, None when nothing is."""
    shape = list(tensor.dims)
    if any(size < 0 for size in shape):
        return f"of the impossible shape {shape}"
    count = math.prod(shape)
    if tensor.data_type == onnx.TensorProto.STRING:
        held = len(tensor.string_data)
        return None if held == count else f"of shape {shape} with {held} strings"
    size = byte_size(tensor)
    if size is None:
        return f"of the unknown type {tensor.data_type}"
    if tensor.HasField("raw_data"):
        held = len(tensor.raw_data)
        return None if held == size else f"of shape {shape} with {held:,} bytes, not {size:,}"
    field, entries = _TYPED_FIELDS.get(tensor.data_type, ("int32_data", 1))
    held = len(getattr(tensor, field))
    # int32_data holds packed bytes for 2 and 4 bits, and one item per entry for all else.
    needed = size if _ITEM_BITS[tensor.data_type] in (2, 4) else count * entries
    return None if held == needed else f"of shape {shape} with {held:,} items, not {needed:,}"


def tensors_of(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor: initializers and attributes, in subgraphs and functions too."""
    graphs = list(graphs_of(proto))
    for graph in graphs:
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield sparse.values
            yield sparse.indices
    for node in _nodes_in(graphs, proto.functions):
        yield from _attribute_tensors(node.attribute)
    for function in proto.functions:
        yield from _attribute_tensors(function.attribute_proto)


def _attribute_tensors(attributes: Iterable[onnx.AttributeProto]) -> Iterator[onnx.TensorProto]:
    for attribute in attributes:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors


def graphs_of(proto: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """The graph and all subgraphs, those in functions included, outer before inner."""
    yield proto.graph
    yield from _subgraphs(proto.graph.node)
    for function in proto.functions:
        yield from _subgraphs(function.node)


def _subgraphs(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.GraphProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield attribute.g
                yield from _subgraphs(attribute.g.node)
            elif attribute.type == onnx.AttributeProto.GRAPHS:
                for graph in attribute.graphs:
                    yield graph
                    yield from _subgraphs(graph.node)


def nodes_of(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node of every graph and function."""
    return _nodes_in(graphs_of(proto), proto.functions)


def _nodes_in(
    graphs: Iterable[onnx.GraphProto], functions: Iterable[onnx.FunctionProto]
) -> Iterator[onnx.NodeProto]:
    for graph in graphs:
        yield from graph.node
    for function in functions:
        yield from function.node
