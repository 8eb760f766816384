"""A border filled with the constant that a normalization makes of zero, found by following it.

Branches of re-parameterized blocks normalize between a 1×1 and a padded kernel. To stay mergeable
they pad with what the normalization makes of zero, and exporters write that as a Pad whose border
ScatterND nodes overwrite. So `fill(W x + b)` with b in the border is `W pad(x) + b`: the same map
of an image that is padded with zeros.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxfold.algebra.convmap import ConvMap
from onnxfold.algebra.extents import ExtentRule
from onnxfold.algebra.rounding import cancels
from onnxfold.ir.constants import FLOAT_TYPES, constant_array, float_constant
from onnxfold.ir.graph import has_other_readers, input_at, is_op, producer, string_attribute
from onnxfold.ir.ops import Conv
from onnxfold.ir.shapes import static_shape
from onnxfold.linear.expression import Expression, Obstacle
from onnxfold.linear.movement import pads_of
from onnxfold.linear.windows import of_convolution
from onnxfold.rewrite.rule import Reject

FILLING_OPS = frozenset({"ScatterND"})

_MAX_CHAIN = 12
_MAX_ELEMENTS = 1 << 24
"""A larger image is not followed."""

Image = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Filling:
    """A pointwise convolution whose result is padded with its own bias.

    Attributes:
        source: What the convolution reads.
        nodes: The nodes of the chain, the last one first, the convolution last.
        expression: The convolution of the zero-padded source.
    """

    source: ir.Value
    nodes: tuple[ir.Node, ...]
    expression: Expression


def filling_of(node: ir.Node) -> Filling | Reject | None:
    """The filled border that is complete behind `node`; None when it is nothing of the kind."""
    chain = _chain(node)
    if chain is None:
        return None
    x = chain[-1].inputs[0]
    view = Conv.of(producer(x))
    if x is None or view is None or has_other_readers(x):
        return Reject("the border that it fills is not that of a convolution", node)
    image = _simulated(chain)
    if image is None:
        return None
    operands = of_convolution(view)
    if isinstance(operands, Reject):
        return operands
    ((source, inner),) = operands
    begin, fill = _begin(image, static_shape(x) or ()), _fill(image)
    if begin is None or fill is None or not inner.is_pointwise:
        return Reject("the border is not the same constant all around", node)
    if not _is_bias(fill, view):
        return Reject("the border is not what the convolution makes of zeros", node)
    shape = static_shape(node.outputs[0]) or ()
    sizes = zip(shape[2:], (static_shape(x) or ())[2:], strict=True)
    rules = tuple(ExtentRule(1, large - small, 1) for large, small in sizes)
    return Filling(source, (*chain, view.node), _padded(inner, begin, rules))


def _chain(node: ir.Node) -> list[ir.Node] | None:
    """From `node` up to the Pad; None when no ScatterND stands in between."""
    chain: list[ir.Node] = []
    current: ir.Node | None = node
    while current is not None and is_op(current, "ScatterND", "Transpose"):
        value = current.inputs[0]
        if len(chain) == _MAX_CHAIN or value is None or has_other_readers(value):
            return None
        chain.append(current)
        current = producer(value)
    if current is None or not is_op(current, "Pad"):
        return None
    if not any(is_op(each, "ScatterND") for each in chain):
        return None
    return [*chain, current]


def _simulated(chain: Sequence[ir.Node]) -> Image | None:
    """What the chain makes of an image of NaN; None when that cannot be known."""
    pad = chain[-1]
    x, shape = static_shape(pad.inputs[0]), static_shape(pad.outputs[0])
    if x is None or shape is None or np.prod(shape) > _MAX_ELEMENTS or len(x) < 3:
        return None
    pads = pads_of(pad, len(x))
    if pads is None or string_attribute(pad, "mode", "constant") != "constant":
        return None
    value = float_constant(input_at(pad, 2))
    if input_at(pad, 2) is not None and value is None:
        return None
    if any(begin < 0 or end < 0 for begin, end in pads):
        return None
    number = 0.0 if value is None else float(value.reshape(-1)[0])
    image = np.pad(np.full(x, np.nan), pads, constant_values=number)
    for node in reversed(chain[:-1]):
        moved = _moved(node, image)
        if moved is None:
            return None
        image = moved
    return image if image.shape == static_shape(chain[0].outputs[0]) else None


def _moved(node: ir.Node, image: Image) -> Image | None:
    if is_op(node, "Transpose"):
        permutation = node.attributes.get("perm")
        return image.transpose(None if permutation is None else permutation.as_ints())
    indices, updates = constant_array(node.inputs[1]), float_constant(node.inputs[2])
    if indices is None or updates is None:
        return None
    if string_attribute(node, "reduction", "none") != "none":
        return None
    written = image.copy()
    written[tuple(np.moveaxis(indices, -1, 0))] = updates
    return written


def _begin(image: Image, extents: tuple[int, ...]) -> tuple[int, ...] | None:
    """How far in the image itself begins; None when it is not one whole block."""
    is_image = np.isnan(image)
    if image.ndim != len(extents) or not is_image.any():
        return None
    spans = [
        np.flatnonzero(is_image.any(axis=tuple(a for a in range(image.ndim) if a != axis)))
        for axis in range(image.ndim)
    ]
    # As many places as the block has, and none outside it.
    covered = tuple(int(span[-1] - span[0]) + 1 for span in spans)
    whole = covered == extents and np.count_nonzero(is_image) == np.prod(extents)
    first = tuple(int(span[0]) for span in spans)
    if not whole or any(first[:2]) or image.shape[:2] != extents[:2]:
        return None
    return first[2:]


def _fill(image: Image) -> Image | None:
    """The constant of each channel around the image, shape (C,)."""
    by_channel = np.moveaxis(image, 1, 0).reshape(image.shape[1], -1)
    around = by_channel[:, ~np.isnan(by_channel).any(axis=0)]
    if not around.size or (around != around[:, :1]).any():
        return None
    return np.asarray(around[:, 0])


def _is_bias(fill: Image, view: Conv) -> bool:
    dtype = view.weight.dtype
    bias = np.zeros_like(fill) if view.bias is None else float_constant(view.bias)
    if bias is None or dtype is None or dtype not in FLOAT_TYPES:
        return False
    return cancels(bias, -fill, dtype.numpy())


def _padded(inner: Expression, begin: tuple[int, ...], rules: tuple[ExtentRule, ...]) -> Expression:
    footprint = inner.footprint
    moved = type(footprint)(
        footprint.out_channels,
        footprint.in_channels,
        footprint.groups,
        tuple((-pad,) for pad in begin),
        footprint.up,
        footprint.stride,
    )

    def numbers() -> ConvMap | Obstacle:
        found = inner.value
        if isinstance(found, Obstacle):
            return found
        origin = tuple(-pad for pad in begin)
        return ConvMap(found.kernel, found.bias, found.groups, origin, found.up, found.stride)

    return Expression(moved, rules, numbers, inner.shifts)
