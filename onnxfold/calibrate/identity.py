"""Tells graphs apart by what they compute, and not by how they were written."""

import hashlib
import os
import struct
from collections.abc import Iterable

import numpy as np
import onnx
import onnx_ir as ir

from onnxfold.model import load


def graph_hash(model: ir.Model | onnx.ModelProto | bytes | str | os.PathLike[str]) -> str:
    """A hash of everything that decides what a model computes, weights included.

    It does not change when the model is written again, in another order of its nodes or with its
    weights elsewhere, and knows nothing of metadata, documentation, names of nodes or the shapes of
    interior values. Names of values count, because calibrations are kept by them.

    Args:
        model: In memory, or as `onnxfold.model.load` takes it.

    Raises:
        BadModelError: It cannot be read.
    """
    graph = model if isinstance(model, ir.Model) else load(model).model
    opsets = sorted((domain, str(version)) for domain, version in graph.opset_imports.items())
    digest = hashlib.sha256()
    _add(digest, *(part for pair in opsets for part in pair))
    digest.update(_graph_digest(graph.graph))
    return digest.hexdigest()


def _graph_digest(graph: ir.Graph) -> bytes:
    digest = hashlib.sha256()
    for value in graph.inputs:
        _add(digest, "input", value.name, str(value.dtype), *_extents(value))
    for value in graph.outputs:
        _add(digest, "output", value.name)
    for name, value in sorted(graph.initializers.items()):
        _add(digest, "initializer", name)
        if value.const_value is not None:
            digest.update(_tensor_digest(value.const_value))
    for node in sorted(_node_digest(node) for node in graph):
        digest.update(node)
    return digest.digest()


def _extents(value: ir.Value) -> list[str]:
    """The extents that are known; how an open one is called does not matter."""
    shape = value.shape or ()
    return [str(extent) if isinstance(extent, int) else "?" for extent in shape]


def _node_digest(node: ir.Node) -> bytes:
    digest = hashlib.sha256()
    _add(digest, node.domain, node.op_type, node.overload)
    for value in node.inputs:
        _add(digest, "in", None if value is None else value.name)
    for value in node.outputs:
        _add(digest, "out", value.name)
    for name, attribute in sorted(node.attributes.items()):
        _add(digest, "attribute", name, attribute.type.name)
        digest.update(_attribute_digest(attribute))
    return digest.digest()


def _attribute_digest(attribute: ir.Attr) -> bytes:
    digest = hashlib.sha256()
    value = attribute.value
    match attribute.type:
        case ir.AttributeType.TENSOR:
            digest.update(_tensor_digest(value))
        case ir.AttributeType.TENSORS:
            digest.update(b"".join(_tensor_digest(each) for each in value))
        case ir.AttributeType.GRAPH:
            digest.update(_graph_digest(value))
        case ir.AttributeType.GRAPHS:
            digest.update(b"".join(_graph_digest(each) for each in value))
        case _:
            items = value if isinstance(value, Iterable) and not isinstance(value, str) else [value]
            _add(digest, *(repr(each) for each in items))
    return digest.digest()


def _tensor_digest(tensor: ir.TensorProtocol) -> bytes:
    digest = hashlib.sha256()
    _add(digest, tensor.dtype.name, *(str(extent) for extent in tensor.shape))
    if tensor.dtype == ir.DataType.STRING:
        _add(digest, *(repr(each) for each in tensor.numpy().ravel().tolist()))
    else:
        flat = np.ascontiguousarray(tensor.numpy()).reshape(-1)
        digest.update(flat.astype(flat.dtype.newbyteorder("<"), copy=False).view(np.uint8).data)
    return digest.digest()


def _add(digest: "hashlib._Hash", *texts: str | None) -> None:
    """Add texts so that no two different lists of them look alike."""
    for text in texts:
        data = b"" if text is None else text.encode()
        digest.update(struct.pack("<q", -1 if text is None else len(data)))
        digest.update(data)
