"""Second moments of what layers read: which errors of a weight show at its output.

A layer computes `y = W x` for every window x that it reads, so that an error E of its weights makes
the noise `tr(E H Eᵀ)` with `H = E[x xᵀ]`, the second moments of its input. They are gathered from
a few windows of a few samples. Wide kernels are cut into blocks of columns, whose moments among
each other are left out: the memory for a layer then grows with its weights, not with their square.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from onnxfold.calibrate.chunks import Samples
from onnxfold.ir.constants import constant_tensor, is_constant
from onnxfold.ir.graph import input_at, int_attribute, ints_attribute, is_op, string_attribute
from onnxfold.ir.shapes import infer_shapes
from onnxfold.model import load
from onnxfold.quantize.evaluation import Feed, RuntimeModel, held

Floats = NDArray[np.float32]

_BLOCK = 288
"""Columns of a block: 32 channels of a 3×3 kernel."""
_WINDOWS_PER_COLUMN = 4
_LEAST_WINDOWS = 1024
_MOST_AT_ONCE = 1 << 26
"""Elements that the runtime hands out in one run."""
_UNKNOWN = 1 << 22


@dataclass(frozen=True, slots=True)
class Block:
    """Some columns of a kernel, and their second moments.

    Attributes:
        columns: Which, out of those that the kernel has per group.
        moments: float32, (groups, columns, columns), per window.
    """

    columns: slice
    moments: Floats


Moments = Mapping[str, Sequence[Block]]
"""By the name of the layer."""


def second_moments(
    model: onnx.ModelProto, samples: Samples | Sequence[Feed], threads: int = 1
) -> Moments:
    """Run the model on samples and gather the moments of every layer that allows it.

    Those are Conv of any rank, Gemm and MatMul with constant weights; others are left out.

    Args:
        model: The float model.
        samples: A dozen is enough.
        threads: Threads per operator.

    Raises:
        CannotRunError: The runtime does not take the model or a sample.
    """
    graph = load(model).model
    infer_shapes(graph)
    readers = [each for node in graph.graph if (each := _reader_of(node)) is not None]
    source = held(samples)
    found: dict[str, list[Block]] = {}
    for some in _in_portions(readers):
        found |= _gathered(model, some, source, threads)
    return found


@dataclass(frozen=True, slots=True)
class _Reader:
    """A layer and how it reads windows.

    Attributes:
        layer: Its name.
        x: The value that it reads.
        size: How many elements that has, as far as is known.
        groups: Of a convolution; 1 otherwise.
        width: Columns of its kernel per group.
        taps: Extents of its kernel, if it is a convolution.
        node: Itself.
    """

    layer: str
    x: str
    size: int
    groups: int
    width: int
    taps: tuple[int, ...]
    node: ir.Node

    @property
    def blocks(self) -> Iterator[slice]:
        """The columns, cut up evenly."""
        count = -(-self.width // _BLOCK)
        ends = [self.width * index // count for index in range(count + 1)]
        return (slice(*each) for each in pairwise(ends))

    def windows(self, x: Floats, count: int, generator: np.random.Generator) -> Floats:
        """Some of the windows that the layer reads of `x`: (groups, at most `count`, columns)."""
        if not is_op(self.node, "Conv"):
            rows = x.T if int_attribute(self.node, "transA", 0) else x.reshape(-1, x.shape[-1])
            return np.ascontiguousarray(_some(rows, count, generator)[None])
        views = _views(self.node, self.taps, x)
        extents = (views.shape[0], *views.shape[2 : 2 + (x.ndim - 2)])
        total = prod(extents)
        chosen = np.arange(total)
        if total > count:
            chosen = generator.choice(total, count, replace=False)
        sample, *place = np.unravel_index(chosen, extents)
        taken = np.moveaxis(views, 1, x.ndim - 1)[(sample, *place)]
        windows = taken.reshape(len(chosen), self.groups, self.width)
        return np.ascontiguousarray(windows.transpose(1, 0, 2))


def _reader_of(node: ir.Node) -> _Reader | None:
    if node.domain != "" or not is_op(node, "Conv", "Gemm", "MatMul"):
        return None
    x, weight = node.inputs[0], constant_tensor(input_at(node, 1))
    if x is None or weight is None or is_constant(x):
        return None
    extents = tuple(weight.shape.numpy())
    groups = 1
    if is_op(node, "Conv"):
        if string_attribute(node, "auto_pad", "NOTSET") != "NOTSET":
            return None
        groups, width = int_attribute(node, "group", 1), prod(extents[1:])
    elif len(extents) == 2:
        width = extents[1] if int_attribute(node, "transB", 0) else extents[0]
    else:
        return None
    size = _UNKNOWN if x.shape is None or x.shape.is_dynamic() else prod(x.shape.numpy())
    taps = extents[2:]
    return _Reader(node.outputs[0].name or "", x.name or "", size, groups, width, taps, node)


def _in_portions(readers: Sequence[_Reader]) -> Iterator[list[_Reader]]:
    """Layers whose inputs one run hands out."""
    portion: list[_Reader] = []
    sizes: dict[str, int] = {}
    for reader in readers:
        if portion and sum(sizes.values()) + reader.size > _MOST_AT_ONCE:
            yield portion
            portion, sizes = [], {}
        portion.append(reader)
        sizes[reader.x] = reader.size
    if portion:
        yield portion


def _gathered(
    model: onnx.ModelProto, readers: Sequence[_Reader], samples: Samples, threads: int
) -> dict[str, list[Block]]:
    names = list(dict.fromkeys(reader.x for reader in readers))
    inputs = {value.name for value in model.graph.input}
    runner = RuntimeModel(
        _with_outputs(model, [name for name in names if name not in inputs]), threads
    )
    sums: dict[str, list[Floats]] = {}
    counts: dict[str, int] = {}
    for index in range(len(samples)):
        feed = samples.feed(index)
        values: dict[str, Any] = {**feed, **runner.run(feed)}
        for place, reader in enumerate(readers):
            wanted = max(_LEAST_WINDOWS, _WINDOWS_PER_COLUMN * reader.width)
            generator = np.random.default_rng((index, place))
            x = np.asarray(values[reader.x], np.float32)
            windows = reader.windows(x, -(-wanted // len(samples)), generator)
            own = [_products(windows[:, :, columns]) for columns in reader.blocks]
            before = sums.get(reader.layer)
            sums[reader.layer] = (
                own if before is None else [a + b for a, b in zip(before, own, strict=True)]
            )
            counts[reader.layer] = counts.get(reader.layer, 0) + windows.shape[1]
    return {
        reader.layer: [
            Block(columns, total / np.float32(max(counts[reader.layer], 1)))
            for columns, total in zip(reader.blocks, sums[reader.layer], strict=True)
        ]
        for reader in readers
        if reader.layer in sums
    }


def _products(windows: Floats) -> Floats:
    return np.asarray(windows.transpose(0, 2, 1) @ windows, np.float32)


def _with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    result = onnx.ModelProto()
    result.CopyFrom(model)
    known = {value.name for value in model.graph.output}
    result.graph.output.extend(
        onnx.ValueInfoProto(name=name) for name in names if name not in known
    )
    return result


def _views(node: ir.Node, taps: tuple[int, ...], x: Floats) -> NDArray[np.float32]:
    """Every window that a convolution reads, without copying: (N, C, *places, *taps)."""
    rank = len(taps)
    steps = ints_attribute(node, "strides", (1,) * rank)
    gaps = ints_attribute(node, "dilations", (1,) * rank)
    pads = ints_attribute(node, "pads", (0,) * (2 * rank))
    padded = np.pad(x, [(0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)])
    reach = [(tap - 1) * gap + 1 for tap, gap in zip(taps, gaps, strict=True)]
    views = sliding_window_view(padded, reach, axis=tuple(range(2, 2 + rank)))
    strided = (slice(None, None, each) for each in (*steps, *gaps))
    return np.asarray(views[(slice(None), slice(None), *strided)])


def _some(rows: Floats, count: int, generator: np.random.Generator) -> Floats:
    if len(rows) <= count:
        return rows
    return rows[generator.choice(len(rows), count, replace=False)]
