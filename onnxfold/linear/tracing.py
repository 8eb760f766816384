"""What a chain of operators that only move elements does to an image, found by following each one.

Space-to-depth, depth-to-space, pixel (un)shuffle and channel shuffles are written in many ways, and
two that look alike may order their phases differently. So nothing is recognised by name: one image
of element numbers goes through the chain, and where it ends up says what the chain is.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxfold.algebra.convmap import ConvMap
from onnxfold.algebra.cost import footprint
from onnxfold.algebra.extents import ExtentRule
from onnxfold.ir.graph import (
    has_other_readers,
    int_attribute,
    is_op,
    producer,
    string_attribute,
)
from onnxfold.ir.shapes import dim, rank, static_shape
from onnxfold.linear.expression import Expression

REARRANGEMENTS = frozenset({"Reshape", "Transpose", "SpaceToDepth", "DepthToSpace"})
_MAX_CHAIN = 8
_MAX_ELEMENTS = 1 << 24
"""A larger image is not followed; its chain stays as it is."""

_MAX_TAPS = 1 << 24
"""A map with more entries than this is not written out: flattening a whole image has that many."""

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Rearrangement:
    """A chain that moves the elements of each image as one multirate convolution would.

    Attributes:
        source: What the chain reads, (N, C, spatial…).
        nodes: The nodes of the chain, the last one first.
        expression: One-hot taps; `s > 1` for space-to-depth, `u > 1` for depth-to-space.
    """

    source: ir.Value
    nodes: tuple[ir.Node, ...]
    expression: Expression


def rearrangement_of(node: ir.Node) -> Rearrangement | None:
    """The rearrangement of images that ends in `node`; the shortest chain that is one."""
    output = node.outputs[0]
    if not is_op(node, *REARRANGEMENTS) or (rank(output) or 0) < 3:
        return None
    chain: list[ir.Node] = []
    current: ir.Node | None = node
    while current is not None and is_op(current, *REARRANGEMENTS) and len(chain) < _MAX_CHAIN:
        chain.insert(0, current)
        source = current.inputs[0]
        if source is None:
            return None
        if rank(source) == rank(output) and (found := _traced(source, chain)) is not None:
            return Rearrangement(source, tuple(reversed(chain)), _expression(found))
        if has_other_readers(source):
            return None
        current = producer(source)
    return None


def _traced(source: ir.Value, chain: Sequence[ir.Node]) -> ConvMap | None:
    """Follow the elements of one image, when the chain keeps the images of a batch apart."""
    shapes = [_image_shape(value) for value in (source, *(node.outputs[0] for node in chain))]
    if any(shape is None for shape in shapes):
        return None
    known = [shape for shape in shapes if shape is not None]
    elements = int(np.prod(known[0]))
    if elements == 0 or elements > _MAX_ELEMENTS or not _keeps_batch(source, chain):
        return None
    image = np.arange(elements).reshape(known[0])
    for node, shape in zip(chain, known[1:], strict=True):
        image = _moved(node, image).reshape(shape)
    return _strided(image, known[0]) or _upsampled(image, known[0])


def _expression(found: ConvMap) -> Expression:
    rates = zip(found.up, found.stride, strict=True)
    rules = tuple(ExtentRule(up, 0, stride) for up, stride in rates)
    picks = None
    if found.is_pointwise:
        matrix = found.kernel.reshape(found.out_channels, found.in_channels)
        picks = tuple(int(channel) for channel in matrix.argmax(axis=1))
    return Expression(footprint(found), rules, lambda: found, shifts=False, picks=picks)


def _moved(node: ir.Node, image: Indices) -> Indices:
    """One image behind `node`, up to its final shape.

    Source of the layouts of SpaceToDepth and DepthToSpace: the ONNX operator specification.
    """
    if is_op(node, "Transpose"):
        permutation = node.attributes["perm"].as_ints()
        return image.transpose([axis - 1 for axis in permutation[1:]])
    if is_op(node, "Reshape"):
        return image
    block = int_attribute(node, "blocksize", 1)
    channels, height, width = image.shape
    if is_op(node, "SpaceToDepth"):
        blocks = image.reshape(channels, height // block, block, width // block, block)
        return blocks.transpose(2, 4, 0, 1, 3)
    if string_attribute(node, "mode", "DCR") == "DCR":
        return image.reshape(block, block, -1, height, width).transpose(2, 3, 0, 4, 1)
    return image.reshape(-1, block, block, height, width).transpose(0, 3, 1, 4, 2)


def _image_shape(value: ir.Value) -> tuple[int, ...] | None:
    """The extents behind the batch, when they are known."""
    known = rank(value)
    if known is None or known < 2:
        return None
    extents = [dim(value, axis) for axis in range(1, known)]
    numbers = [extent for extent in extents if extent is not None]
    return tuple(numbers) if len(numbers) == len(extents) else None


def _keeps_batch(source: ir.Value, chain: Sequence[ir.Node]) -> bool:
    """Whether axis 0 stays the batch: element counts behind it agree, and no Transpose moves it."""
    counts = {int(np.prod(_image_shape(v) or ())) for v in (source, *(n.outputs[0] for n in chain))}
    if len(counts) != 1:
        return False
    for node in chain:
        if is_op(node, "Transpose"):
            attribute = node.attributes.get("perm")
            if attribute is None or attribute.as_ints()[0] != 0:
                return False
    batches = [static_shape(value) for value in (source, *(node.outputs[0] for node in chain))]
    known = {shape[0] for shape in batches if shape is not None}
    return len(known) <= 1


def _strided(image: Indices, shape: tuple[int, ...]) -> ConvMap | None:
    """Read as `out[c, o] = in[channel(c), start(c) + stride · o]`."""
    positions = np.unravel_index(image, shape)
    channel, places = positions[0], positions[1:]
    corner = (slice(None), *(slice(0, 1) for _ in places))
    if (channel != channel[corner]).any():
        return None
    strides: list[int] = []
    for axis, place in enumerate(places):
        ahead = np.moveaxis(place, axis + 1, -1)
        stride = int(ahead.flat[1] - ahead.flat[0]) if ahead.shape[-1] > 1 else shape[axis + 1]
        steps = np.arange(place.shape[axis + 1]).reshape(
            [-1 if other == axis + 1 else 1 for other in range(place.ndim)]
        )
        if stride < 1 or (place != place[corner] + stride * steps).any():
            return None
        strides.append(stride)
    starts = [place[corner].reshape(-1) for place in places]
    taps = [int(start.max()) + 1 for start in starts]
    if image.shape[0] * shape[0] * math.prod(taps) > _MAX_TAPS:
        return None
    kernel = np.zeros((image.shape[0], shape[0], *taps))
    kernel[(np.arange(image.shape[0]), channel[corner].reshape(-1), *starts)] = 1.0
    ones = (1,) * len(strides)
    return ConvMap(kernel, np.zeros(image.shape[0]), 1, (0,) * len(strides), ones, tuple(strides))


def _upsampled(image: Indices, shape: tuple[int, ...]) -> ConvMap | None:
    """Read as `out[c, u · i + p] = in[channel(c, p), i]`."""
    factors = [out // extent for out, extent in zip(image.shape[1:], shape[1:], strict=True)]
    if any(
        extent * factor != out or factor < 1
        for out, extent, factor in zip(image.shape[1:], shape[1:], factors, strict=True)
    ):
        return None
    if image.shape[0] * shape[0] * math.prod(factors) > _MAX_TAPS:
        return None
    kernel = np.zeros((image.shape[0], shape[0], *factors))
    place = np.arange(int(np.prod(shape[1:]))).reshape(shape[1:])
    for phase in np.ndindex(*factors):
        part = image[
            (slice(None), *(slice(p, None, f) for p, f in zip(phase, factors, strict=True)))
        ]
        channel, behind = np.divmod(part, place.size)
        first = channel.reshape(channel.shape[0], -1)[:, 0]
        if (behind != place).any() or (channel.reshape(len(first), -1) != first[:, None]).any():
            return None
        # Phase p is the tap at −p, and the first stored tap is the last phase.
        taps = tuple(f - 1 - p for p, f in zip(phase, factors, strict=True))
        kernel[(np.arange(len(first)), first, *taps)] = 1.0
    origin = tuple(1 - factor for factor in factors)
    ones = (1,) * len(factors)
    return ConvMap(kernel, np.zeros(image.shape[0]), 1, origin, tuple(factors), ones)
