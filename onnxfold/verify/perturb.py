"""The reference with its weights moved by units in the last place.

A rewrite may round a weight that the original did not have to round, and nothing else. So the
model's own answer to such a change is the yardstick: `perturbed` moves every float weight by a
random ±n ulp (n = 1 is more than three times the standard deviation of one rounding).

Numbers that only look like weights stay as they are: sizes and scales (a `Resize` scale one ulp
below 2 loses a row), exponents, limits, thresholds, scalars in element-wise arithmetic (shape
computations are full of them).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.external_data_helper import load_external_data_for_tensor

from onnxfold.verify.session import Array, Session
from onnxfold.verify.sources import (
    ModelSource,
    external_bytes,
    folder_of,
    is_external,
    read_skeleton,
    walk_graphs,
)

#: At most this many bytes of weights are moved: the rest of a large model stays mapped on disk.
MAX_BYTES = 256 * 2**20


class Reach(IntEnum):
    """How much is moved; each is the fallback of the one before it."""

    WEIGHTS = 2  # everything that is consumed as a weight, and the inputs
    KERNELS = 1  # weights of linear and normalization operators, and the inputs
    INPUTS = 0  # the inputs alone


#: Operators and the inputs of theirs that hold weights, whatever their size.
_KERNEL_SLOTS: Mapping[str, frozenset[int]] = {
    "BatchNormalization": frozenset({1, 2, 3, 4}),
    "Conv": frozenset({1, 2}),
    "ConvTranspose": frozenset({1, 2}),
    "DequantizeLinear": frozenset({1}),
    "Gemm": frozenset({0, 1, 2}),
    "GroupNormalization": frozenset({1, 2}),
    "GRU": frozenset({1, 2, 3}),
    "InstanceNormalization": frozenset({1, 2}),
    "LayerNormalization": frozenset({1, 2}),
    "LSTM": frozenset({1, 2, 3}),
    "MatMul": frozenset({0, 1}),
    "PRelu": frozenset({1}),
    "QuantizeLinear": frozenset({1}),
    "RNN": frozenset({1, 2, 3}),
}
#: Operators that combine or pass on a weight, and in which inputs; scalars are not weights here.
_PASSING_SLOTS: Mapping[str, frozenset[int]] = {
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), frozenset({0, 1})),
    **dict.fromkeys(("Concat", "Einsum", "Sum"), frozenset(range(64))),
    **dict.fromkeys(
        (
            *("Cast", "Expand", "Flatten", "Gather", "Identity", "ReduceMean", "ReduceSum"),
            *("Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
        ),
        frozenset({0}),
    ),
    "Where": frozenset({1, 2}),
}
FLOAT_TYPES = frozenset(
    {
        onnx.TensorProto.FLOAT,
        onnx.TensorProto.DOUBLE,
        onnx.TensorProto.FLOAT16,
        onnx.TensorProto.BFLOAT16,
    }
)
_BLOCK = 2**18
_SIGNED: Mapping[int, type[np.int16 | np.int32 | np.int64]] = {
    2: np.int16,
    4: np.int32,
    8: np.int64,
}


def nudge(array: Array, ulps: int, rng: np.random.Generator) -> Array:
    """Every finite non-zero element moved by ±`ulps` units in the last place, at random.

    IEEE numbers of one sign are ordered as their bit patterns, so this is integer arithmetic and
    holds for every binary float type. Zeros, infinities and NaN stay; nothing changes its sign
    or becomes infinite.
    """
    if array.size == 0:
        return array
    signed: Any = _SIGNED[array.dtype.itemsize]
    top = np.asarray(np.inf, array.dtype).view(signed)
    result: Array = np.array(array, order="C")  # a contiguous copy
    bits = result.reshape(-1).view(signed)
    for start in range(0, bits.size, _BLOCK):  # large weights must not need scratch of their size
        block = bits[start : start + _BLOCK]
        size = block & np.iinfo(signed).max
        step = rng.integers(0, 2, block.shape, dtype=np.int8).astype(signed) * (2 * ulps) - ulps
        step[(size <= ulps) | (size >= top - ulps)] = 0
        block += step
    return result


def nudge_feed(
    arrays: Mapping[str, Array], ulps: int, rng: np.random.Generator
) -> dict[str, Array]:
    """A feed with its float inputs nudged and the others as they are."""
    return {
        name: nudge(array, ulps, rng) if array.dtype.kind == "f" else array
        for name, array in arrays.items()
    }


@dataclass(slots=True)
class Perturbed:
    """A model with moved weights, not loaded yet.

    Attributes:
        source: The model.
        folder: Where its external tensors lie.
        overrides: Moved external tensors.
        share: The share of the weights that was moved, in elements; 1 unless the model is large.
    """

    source: ModelSource
    folder: Path | None
    overrides: dict[str, Array] = field(default_factory=dict)
    share: float = 1.0

    def open(self, threads: int | None, map_weights: bool) -> Session:
        """Load it.

        Raises:
            CannotRunError: The runtime will not load it.
        """
        return Session(
            self.source,
            threads=threads,
            map_weights=map_weights,
            folder=self.folder,
            overrides=self.overrides,
        )


def perturbed(source: ModelSource, reach: Reach, ulps: int, seed: int) -> Perturbed:
    """The model with its weights moved.

    Args:
        source: The model; a proto is copied first.
        reach: What to move.
        ulps: By how many units in the last place.
        seed: Decides the signs.
    """
    if reach is Reach.INPUTS:
        return Perturbed(source, None)
    proto = read_skeleton(source)
    if isinstance(source, onnx.ModelProto):
        copied = onnx.ModelProto()
        copied.CopyFrom(proto)
        proto = copied
    result = Perturbed(proto, folder_of(source))
    weights = list(_weights(proto, reach))
    total = sum(_elements(tensor) for tensor in weights)
    rng = np.random.default_rng([seed, ulps])
    moved = 0
    for tensor in _within_budget(weights, rng):
        moved += _elements(tensor)
        if not is_external(tensor):
            array = numpy_helper.to_array(tensor)
            _replace(tensor, nudge(array, ulps, rng))
        elif result.folder is not None:
            result.overrides[tensor.name] = nudge(_read(tensor, result.folder), ulps, rng)
    if total:
        result.share = moved / total
    return result


def _elements(tensor: onnx.TensorProto) -> int:
    count = 1
    for dim in tensor.dims:
        count *= dim
    return count


def _bytes(tensor: onnx.TensorProto) -> int:
    itemsize = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return external_bytes(tensor) if is_external(tensor) else _elements(tensor) * itemsize


def _within_budget(
    weights: list[onnx.TensorProto], rng: np.random.Generator
) -> Iterator[onnx.TensorProto]:
    """All of the weights, or as many as `MAX_BYTES` holds: the small ones, then a random draw."""
    left = MAX_BYTES
    small = [tensor for tensor in weights if _bytes(tensor) <= 2**16]
    large = [tensor for tensor in weights if _bytes(tensor) > 2**16]
    for tensor in [*small, *(large[index] for index in rng.permutation(len(large)))]:
        if _bytes(tensor) <= left:
            left -= _bytes(tensor)
            yield tensor


def _read(tensor: onnx.TensorProto, folder: Path) -> Array:
    copied = onnx.TensorProto()
    copied.CopyFrom(tensor)
    load_external_data_for_tensor(copied, str(folder))
    return numpy_helper.to_array(copied)


def _replace(tensor: onnx.TensorProto, array: Array) -> None:
    for typed in ("float_data", "double_data", "int32_data"):
        tensor.ClearField(typed)
    tensor.raw_data = numpy_helper.from_array(array).raw_data


def _weights(proto: onnx.ModelProto, reach: Reach) -> Iterator[onnx.TensorProto]:
    """The float tensors that every reader consumes as a weight, constants included.

    A name that means one thing in a graph and another in a nested one is judged by all readers
    of that name together, which can only leave a tensor out.
    """
    slots = dict(_KERNEL_SLOTS)
    if reach is Reach.WEIGHTS:
        slots |= _PASSING_SLOTS
    graphs = list(walk_graphs(proto.graph))
    readings = list(_readings(graphs))
    barred = {output.name for graph in graphs for output in graph.output}
    for node, slot, name in readings:
        allowed = slots.get(node.op_type) if node.domain in _ONNX else None
        if allowed is None or slot not in allowed:
            barred.add(name)
    _bar_upstream(graphs, barred)
    passed = {name for node, _, name in readings if node.op_type in _PASSING_SLOTS}
    read = {name for _, _, name in readings}
    for graph in graphs:
        for name, tensor in _tensors(graph):
            is_weight = name in read and name not in barred and tensor.data_type in FLOAT_TYPES
            if is_weight and (name not in passed or _elements(tensor) > 1):
                yield tensor


def _readings(
    graphs: Iterable[onnx.GraphProto],
) -> Iterator[tuple[onnx.NodeProto, int, str]]:
    """Every (node, slot, name) at which a value is read."""
    for graph in graphs:
        for node in graph.node:
            for slot, name in enumerate(node.input):
                yield node, slot, name


def _bar_upstream(graphs: Iterable[onnx.GraphProto], barred: set[str]) -> None:
    """Bar what a barred value is computed from, as long as that is constants and shapes only.

    A weight that goes through a `Transpose` is still a weight; four numbers that a `Concat` turns
    into the scales of a `Resize` are not.
    """
    fixed: set[str] = {""}
    for graph in graphs:
        fixed.update(name for name, _ in _tensors(graph))
        fixed.update(tensor.name for tensor in graph.initializer)
    computed: list[onnx.NodeProto] = []
    for graph in graphs:
        for node in graph.node:  # in topological order, as the format demands
            if node.op_type in ("Shape", "Size") or fixed.issuperset(node.input):
                fixed.update(node.output)
                computed.append(node)
    for node in reversed(computed):
        if not barred.isdisjoint(node.output):
            barred.update(node.input)


_ONNX = ("", "ai.onnx")


def _tensors(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    for tensor in graph.initializer:
        yield tensor.name, tensor
    for node in graph.node:
        if node.op_type == "Constant" and node.domain in _ONNX:
            for attribute in node.attribute:
                if attribute.name == "value":
                    yield node.output[0], attribute.t
