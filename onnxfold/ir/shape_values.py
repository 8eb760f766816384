"""What is known about small integer tensors: shapes, axes and sizes that a graph computes.

A `Shape` of a partly dynamic tensor is partly known; so is what Gather, Slice, Concat and integer
arithmetic make of it. An extent with a name is known by it; other elements are None.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxfold.ir.constants import constant_array
from onnxfold.ir.graph import input_at, int_attribute, ints_attribute
from onnxfold.ir.shapes import repeated_names

_MAX_ELEMENTS = 64
"""Larger integer tensors are no shapes."""

_INTEGERS = frozenset({ir.DataType.INT64, ir.DataType.INT32})


@dataclass(frozen=True, slots=True)
class PartialTensor:
    """An integer tensor of rank 0 or 1 with some elements known.

    Attributes:
        items: The elements; the name of an extent that inputs share, None where nothing is known.
        is_scalar: Whether the rank is 0.
    """

    items: tuple[int | str | None, ...]
    is_scalar: bool = False

    def known(self) -> NDArray[np.int64] | None:
        """All elements as an int64 array of the right rank, or None."""
        numbers = [item for item in self.items if isinstance(item, int)]
        if len(numbers) != len(self.items):
            return None
        array = np.asarray(numbers, np.int64)
        return array.reshape(()) if self.is_scalar else array


Known = dict[ir.Value, PartialTensor]


def shape_values(nodes: Iterable[ir.Node]) -> Known:
    """Everything known about the small integer tensors that `nodes`, in order, compute."""
    known: Known = {}
    for node in nodes:
        handler = _HANDLERS.get(node.op_type) if node.domain == "" else None
        if handler is None or not node.outputs:
            continue
        found = handler(node, known)
        if found is not None and len(found.items) <= _MAX_ELEMENTS:
            known[node.outputs[0]] = _without_overflow(found, node.outputs[0].dtype)
    return known


def _without_overflow(tensor: PartialTensor, dtype: ir.DataType | None) -> PartialTensor:
    """The tensor with every element unknown that wraps around in its type."""
    limits = np.iinfo(np.int32 if dtype == ir.DataType.INT32 else np.int64)
    items = tuple(
        item if not isinstance(item, int) or limits.min <= item <= limits.max else None
        for item in tensor.items
    )
    return PartialTensor(items, tensor.is_scalar)


def _read(value: ir.Value | None, known: Known) -> PartialTensor | None:
    if value is None:
        return None
    if value in known:
        return known[value]
    if value.dtype not in _INTEGERS:
        return None
    array = constant_array(value)
    if array is None or array.ndim > 1 or array.size > _MAX_ELEMENTS:
        return None
    return PartialTensor(tuple(int(item) for item in array.reshape(-1)), array.ndim == 0)


def _exact(value: ir.Value | None, known: Known) -> tuple[int, ...] | None:
    found = _read(value, known)
    if found is None:
        return None
    numbers = tuple(item for item in found.items if isinstance(item, int))
    return numbers if len(numbers) == len(found.items) else None


def _shape(node: ir.Node, _: Known) -> PartialTensor | None:
    x = node.inputs[0]
    if x is None or x.shape is None:
        return None
    shared = repeated_names(x.shape)
    named = [extent if isinstance(extent, int) else extent.value for extent in x.shape]
    extents = [None if extent in shared else extent for extent in named]
    start = int_attribute(node, "start", 0)
    end = int_attribute(node, "end", len(extents))
    return PartialTensor(tuple(extents[start:end]))


def _size(node: ir.Node, _: Known) -> PartialTensor | None:
    x = node.inputs[0]
    if x is None or x.shape is None:
        return None
    total = 1
    for extent in x.shape:
        if not isinstance(extent, int):
            return None
        total *= extent
    return PartialTensor((total,), is_scalar=True)


def _gather(node: ir.Node, known: Known) -> PartialTensor | None:
    data, indices = _read(node.inputs[0], known), _read(node.inputs[1], known)
    if data is None or indices is None or data.is_scalar or int_attribute(node, "axis", 0):
        return None
    chosen: list[int | str | None] = []
    for index in indices.items:
        if not isinstance(index, int) or not -len(data.items) <= index < len(data.items):
            return None
        chosen.append(data.items[index])
    return PartialTensor(tuple(chosen), indices.is_scalar)


def _slice(node: ir.Node, known: Known) -> PartialTensor | None:
    data = _read(node.inputs[0], known)
    if data is None or data.is_scalar:
        return None
    if "starts" in node.attributes:
        starts: tuple[int, ...] | None = ints_attribute(node, "starts", ())
        ends: tuple[int, ...] | None = ints_attribute(node, "ends", ())
        steps: tuple[int, ...] | None = (1,)
    else:
        starts, ends = _exact(input_at(node, 1), known), _exact(input_at(node, 2), known)
        given = input_at(node, 4)
        steps = (1,) if given is None else _exact(given, known)
    if starts is None or ends is None or steps is None or len(starts) != 1 or steps[0] < 1:
        return None
    return PartialTensor(data.items[slice(starts[0], ends[0], steps[0])])


def _concat(node: ir.Node, known: Known) -> PartialTensor | None:
    parts = [_read(value, known) for value in node.inputs]
    items: list[int | str | None] = []
    for value, part in zip(node.inputs, parts, strict=True):
        if part is not None and not part.is_scalar:
            items += part.items
            continue
        # An operand of known length but unknown content keeps the others in their places.
        if value is None or value.shape is None or len(value.shape) != 1:
            return None
        extent = value.shape[0]
        if not isinstance(extent, int) or value.dtype not in _INTEGERS:
            return None
        items += [None] * extent
    return PartialTensor(tuple(items))


def _unsqueeze(node: ir.Node, known: Known) -> PartialTensor | None:
    data = _read(node.inputs[0], known)
    if data is None or not data.is_scalar:
        return None
    axes = ints_attribute(node, "axes", ()) or _exact(input_at(node, 1), known)
    return PartialTensor(data.items) if axes is not None and len(axes) == 1 else None


def _squeeze(node: ir.Node, known: Known) -> PartialTensor | None:
    data = _read(node.inputs[0], known)
    if data is None or len(data.items) != 1:
        return None
    return PartialTensor(data.items, is_scalar=True)


def _cast(node: ir.Node, known: Known) -> PartialTensor | None:
    target = node.attributes.get("to")
    if target is None or ir.DataType(target.as_int()) not in _INTEGERS:
        return None
    return _read(node.inputs[0], known)


def _identity(node: ir.Node, known: Known) -> PartialTensor | None:
    return _read(node.inputs[0], known)


def _elementwise(
    compute: Callable[[int, int], int | None],
) -> Callable[[ir.Node, Known], PartialTensor | None]:
    def handler(node: ir.Node, known: Known) -> PartialTensor | None:
        left, right = _read(node.inputs[0], known), _read(node.inputs[1], known)
        if left is None or right is None:
            return None
        length = max(len(left.items), len(right.items))
        if {len(left.items), len(right.items)} - {1, length}:
            return None
        pairs = zip(_stretched(left, length), _stretched(right, length), strict=True)
        items = tuple(
            compute(a, b) if isinstance(a, int) and isinstance(b, int) else None for a, b in pairs
        )
        return PartialTensor(items, left.is_scalar and right.is_scalar)

    return handler


def _stretched(tensor: PartialTensor, length: int) -> tuple[int | str | None, ...]:
    return tensor.items * length if len(tensor.items) == 1 else tensor.items


def _truncated_quotient(a: int, b: int) -> int | None:
    """ONNX integer division truncates towards zero."""
    if b == 0:
        return None
    quotient = abs(a) // abs(b)
    return quotient if (a < 0) == (b < 0) else -quotient


_HANDLERS: dict[str, Callable[[ir.Node, Known], PartialTensor | None]] = {
    "Shape": _shape,
    "Size": _size,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Cast": _cast,
    "Identity": _identity,
    "Add": _elementwise(lambda a, b: a + b),
    "Sub": _elementwise(lambda a, b: a - b),
    "Mul": _elementwise(lambda a, b: a * b),
    "Div": _elementwise(_truncated_quotient),
}
