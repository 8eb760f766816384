"""Leave the weights out of an ONNX model, and note how each is to be drawn again.

A float tensor that was left out keeps its name, dims and element type; its data location says
``EXTERNAL`` and the external entries hold, instead of a file's name, how to draw it:

* ``draw``: ``uniform`` (entries ``mean``, ``spread``), ``positive``, ``gain`` (entry ``scale``);
* ``location``: always ``drawn``, as the format demands one.

`tests/zoo.py` reads these. What stays: integers, booleans, single numbers, and float tensors with
a structure (grids, masks, evenly spaced values).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

_PASSED_THROUGH = frozenset({"Identity", "Reshape", "Transpose", "Cast", "Unsqueeze", "Squeeze"})
_ROLES = {
    ("BatchNormalization", 1): "gain",
    ("BatchNormalization", 2): "uniform",
    ("BatchNormalization", 3): "uniform",
    ("BatchNormalization", 4): "positive",
    ("InstanceNormalization", 1): "positive",
    ("LayerNormalization", 1): "positive",
    ("GroupNormalization", 1): "positive",
    ("Conv", 1): "uniform",
    ("Conv", 2): "uniform",
    ("ConvTranspose", 1): "uniform",
    ("ConvTranspose", 2): "uniform",
    ("Gemm", 1): "uniform",
    ("Gemm", 2): "uniform",
    ("MatMul", 0): "uniform",
    ("MatMul", 1): "uniform",
}
_FLOATS = frozenset({onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE})
_SMALL = 8
_DIGITS = 4


@dataclass(frozen=True, slots=True)
class _Held:
    """A tensor of the model and the value name under which nodes read it."""

    value: str
    tensor: onnx.TensorProto


def strip(model: onnx.ModelProto) -> None:
    """Turn ``model`` into its skeleton, in place.

    Raises:
        ValueError: The model keeps tensors in files of their own.
    """
    roles = _roles(model.graph)
    for held in _tensors(model.graph):
        tensor = held.tensor
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise ValueError(f"tensor {held.value!r} is stored outside the model")
        if tensor.data_type in _FLOATS:
            _strip_tensor(tensor, roles.get(held.value))
    _strip_notes(model)


def _tensors(graph: onnx.GraphProto) -> Iterator[_Held]:
    for initializer in graph.initializer:
        yield _Held(initializer.name, initializer)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR and node.op_type == "Constant":
                yield _Held(node.output[0], attribute.t)
            elif attribute.type == onnx.AttributeProto.GRAPH:
                yield from _tensors(attribute.g)


def _roles(graph: onnx.GraphProto) -> dict[str, str]:
    """Map each value to the role of its first known reader, seen through reshapes and the like."""
    roles: dict[str, str] = {}
    for node in reversed(graph.node):
        if node.op_type in _PASSED_THROUGH and node.output[0] in roles:
            roles.setdefault(node.input[0], roles[node.output[0]])
        for position, name in enumerate(node.input):
            role = _ROLES.get((node.op_type, position))
            if role:
                roles.setdefault(name, role)
    return roles


def _strip_tensor(tensor: onnx.TensorProto, role: str | None) -> None:
    value = numpy_helper.to_array(tensor).astype(np.float64)
    if value.size < 2 or _is_structured(value) or (role is None and value.size <= _SMALL):
        return
    entries = {"location": "drawn", **_draw(value, role)}
    for field in ("raw_data", "float_data", "int32_data", "double_data"):
        tensor.ClearField(field)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, text in entries.items():
        tensor.external_data.add(key=key, value=text)


def _is_structured(value: np.ndarray) -> bool:
    """Tell a grid, a mask or a range from random weights."""
    flat = value.ravel()
    if np.unique(flat).size <= max(1, flat.size // 4):
        return True
    steps = np.diff(flat)
    return flat.size > 2 and bool(np.allclose(steps, steps[0], rtol=1e-3))


def _draw(value: np.ndarray, role: str | None) -> dict[str, str]:
    if role is None:
        role = "positive" if value.min() > 0 else "uniform"
    if role == "uniform":
        spread = value.std() * 3**0.5
        return {"draw": role, "mean": _short(value.mean()), "spread": _short(spread)}
    return {"draw": role, "scale": _short(np.abs(value).mean())}


def _short(number: float) -> str:
    return f"{number:.{_DIGITS}g}"


def _strip_notes(model: onnx.ModelProto) -> None:
    """Remove stack traces, doc strings and the other notes of an exporter."""
    del model.metadata_props[:]
    model.doc_string = ""
    graphs = [model.graph]
    while graphs:
        graph = graphs.pop()
        graph.doc_string = ""
        del graph.metadata_props[:]
        for held in (*graph.initializer, *graph.value_info, *graph.input, *graph.output):
            held.doc_string = ""
            del held.metadata_props[:]
        for node in graph.node:
            node.doc_string = ""
            del node.metadata_props[:]
            for attribute in node.attribute:
                attribute.doc_string = ""
                if attribute.type == onnx.AttributeProto.GRAPH:
                    graphs.append(attribute.g)
                if attribute.type == onnx.AttributeProto.TENSOR:
                    attribute.t.doc_string = ""
