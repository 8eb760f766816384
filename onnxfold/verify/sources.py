"""What can be verified: a path or a `ModelProto`, read with external weights left on disk."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import onnx
from google.protobuf.message import DecodeError, EncodeError

from onnxfold.errors import BadModelError, CannotRunError

ModelSource: TypeAlias = str | os.PathLike[str] | onnx.ModelProto

#: protobuf cannot serialise a message of 2 GiB or more.
PROTOBUF_LIMIT = 2**31 - 1


def read_skeleton(source: ModelSource) -> onnx.ModelProto:
    """The model's proto, with external tensors left on disk.

    Args:
        source: A path, or a proto, which is returned as it is (not copied: do not change it).

    Raises:
        BadModelError: The file is missing, unreadable or not an ONNX model.
    """
    if isinstance(source, onnx.ModelProto):
        return source
    try:
        proto = onnx.load(os.fspath(source), load_external_data=False)
    except (OSError, DecodeError, ValueError) as error:
        raise BadModelError(
            f"cannot read {os.fspath(source)} as an ONNX model: {first_line(error)}",
            "check that the path names a complete .onnx file",
        ) from error
    if not proto.HasField("graph"):
        raise BadModelError(
            f"{os.fspath(source)} holds no graph", "check that the path names an .onnx file"
        )
    return proto


def first_line(error: BaseException) -> str:
    """The first line of an exception's text, without a full stop."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(". ") if lines else type(error).__name__


def folder_of(source: ModelSource) -> Path | None:
    """The folder against which external data is resolved, None for a proto."""
    if isinstance(source, onnx.ModelProto):
        return None
    return Path(source).absolute().parent


def walk_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and every graph nested in its nodes' attributes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from walk_graphs(attribute.g)
            elif attribute.type == onnx.AttributeProto.GRAPHS:
                for nested in attribute.graphs:
                    yield from walk_graphs(nested)


def is_external(tensor: onnx.TensorProto) -> bool:
    """Whether the tensor's data lies in another file."""
    return tensor.data_location == onnx.TensorProto.EXTERNAL


def external_bytes(tensor: onnx.TensorProto) -> int:
    """The length that an external tensor declares, else what its shape and type come to."""
    for entry in tensor.external_data:
        if entry.key == "length":
            return int(entry.value)
    count = 1
    for dim in tensor.dims:
        count *= dim
    return count * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize


def weight_bytes(proto: onnx.ModelProto) -> int:
    """Bytes of the model's weights, inside the proto and outside it."""
    outside = sum(
        external_bytes(tensor)
        for graph in walk_graphs(proto.graph)
        for tensor in graph.initializer
        if is_external(tensor)
    )
    return int(proto.ByteSize()) + outside


def serialized(proto: onnx.ModelProto) -> bytes:
    """The proto as bytes for the runtime.

    Raises:
        CannotRunError: It is too large for protobuf.
    """
    too_large = CannotRunError(
        "the model in memory is over 2 GB and cannot be handed to the runtime",
        "save it with external data and verify it by its path",
    )
    try:
        if proto.ByteSize() > PROTOBUF_LIMIT:
            raise too_large
        return bytes(proto.SerializeToString())
    except (EncodeError, ValueError) as error:
        raise too_large from error
