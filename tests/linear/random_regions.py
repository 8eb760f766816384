"""Random linear regions whose every number float32 holds exactly, so that equality is `==`.

Weights and inputs are small integers, scales powers of two, variances powers of four with epsilon
0. Every tensor carries its unit and a bound on the sum of the magnitudes of all that adds up to it,
so that neither the graph nor any regrouping of its sums ever rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[Any]
Draw = Callable[[st.SearchStrategy[Any]], Any]

MAX_BITS = 22
"""float32 has 24; the rest is reserve for constants that are added up in another order."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A value of the graph.

    Attributes:
        name: Its name.
        channels: Its channels.
        extents: Its spatial extents at every size at which the graph is run.
        bound: The largest magnitude, counting every summand as positive.
        bits: Its unit is 2 to the power -bits.
    """

    name: str
    channels: int
    extents: tuple[tuple[int, ...], ...]
    bound: float
    bits: int

    @property
    def fits(self) -> bool:
        return self.bound * 2.0**self.bits < 2.0**MAX_BITS and min(map(min, self.extents)) > 0


@dataclass(slots=True)
class Region:
    """A graph in the making.

    Attributes:
        sizes: Spatial extents of the inputs at which the graph is run; one entry: it is static.
        fixed: Whether the extents are written into the graph.
    """

    draw: Draw
    rng: np.random.Generator
    sizes: tuple[tuple[int, ...], ...]
    fixed: bool
    tensors: list[Tensor] = field(default_factory=list)
    inputs: list[Tensor] = field(default_factory=list)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)

    @property
    def rank(self) -> int:
        return len(self.sizes[0])

    def integer(self, low: int, high: int) -> int:
        return int(self.draw(st.integers(low, high)))

    def one_of(self, options: Sequence[Any]) -> Any:
        return self.draw(st.sampled_from(list(options)))

    def add_input(self, channels: int) -> Tensor:
        tensor = Tensor(f"x{len(self.inputs)}", channels, self.sizes, 3.0, 0)
        self.inputs.append(tensor)
        self.tensors.append(tensor)
        return tensor

    def constant(self, array: Array) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array, np.float32), name))
        return name

    def node(
        self, op_type: str, inputs: Sequence[str], like: Tensor, **attributes: Any
    ) -> Tensor | None:
        """Record a node when its result fits; `like` says everything of it but the name."""
        if not like.fits:
            return None
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, list(inputs), [name], name, **attributes))
        tensor = Tensor(name, like.channels, like.extents, like.bound, like.bits)
        self.tensors.append(tensor)
        return tensor

    def integers(self, shape: Sequence[int], largest: int = 2, zeros: float = 0.4) -> Array:
        values = self.rng.integers(-largest, largest + 1, tuple(shape))
        kept = self.rng.random(tuple(shape)) >= zeros
        return np.asarray(values * kept, np.float32)

    def powers(self, count: int) -> Array:
        sign = self.rng.choice([-1.0, 1.0], count)
        return np.asarray(sign * 2.0 ** self.rng.integers(-1, 2, count), np.float32)

    # Operators

    def conv(
        self,
        x: Tensor,
        out_channels: int,
        wanted: tuple[tuple[int, ...], ...] | None = None,
        strides: tuple[int, ...] | None = None,
    ) -> Tensor | None:
        """A convolution; with `wanted` extents, its pads are chosen so that it has them."""
        kernel = [
            self.one_of([1, 1, 2, 3, 3, 4, 5] if self.rank < 3 else [1, 2, 3]) for _ in x.extents[0]
        ]
        dilations = [self.one_of([1, 1, 1, 2]) for _ in kernel]
        steps = strides or tuple(self.one_of([1, 1, 1, 2]) for _ in kernel)
        reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
        pads = self._pads(x, reach, steps, wanted)
        if pads is None:
            return None
        begin, end = pads
        shape = tuple(
            tuple(
                (n + b + e - r) // s + 1
                for n, b, e, r, s in zip(size, begin, end, reach, steps, strict=True)
            )
            for size in x.extents
        )
        if min(map(min, shape)) < 1 or (wanted is not None and shape != wanted):
            return None
        group = self._group(x.channels, out_channels)
        zeros = self.one_of([0.4, 0.4, 0.4, 0.95])
        weight = self.integers((out_channels, x.channels // group, *kernel), zeros=zeros)
        bias = self.integers((out_channels,)) if self.integer(0, 1) else None
        bound = float(np.abs(weight).reshape(out_channels, -1).sum(axis=1).max()) * x.bound + 2
        names = [x.name, self.constant(weight)]
        if bias is not None:
            names.append(self.constant(bias))
        return self.node(
            "Conv",
            names,
            Tensor("", out_channels, shape, bound, x.bits),
            kernel_shape=kernel,
            dilations=dilations,
            strides=list(steps),
            pads=[*begin, *end],
            group=group,
        )

    def _pads(
        self,
        x: Tensor,
        reach: Sequence[int],
        steps: Sequence[int],
        wanted: tuple[tuple[int, ...], ...] | None,
    ) -> tuple[list[int], list[int]] | None:
        if wanted is None:
            begin = [self.integer(0, r // 2) for r in reach]
            return begin, [self.integer(0, r // 2) for r in reach]
        begin, end = [], []
        for axis, (r, s) in enumerate(zip(reach, steps, strict=True)):
            total = s * (wanted[0][axis] - 1) + r - x.extents[0][axis] + self.integer(0, s - 1)
            if total < 0:
                return None
            # Mostly centred, as in real networks, but any alignment is legal.
            first = total // 2 if self.integer(0, 3) else self.integer(0, total)
            begin.append(first)
            end.append(total - first)
        return begin, end

    def _group(self, in_channels: int, out_channels: int) -> int:
        common = [g for g in (1, 2, 4) if in_channels % g == 0 and out_channels % g == 0]
        return int(self.one_of(common))

    def conv_transpose(self, x: Tensor) -> Tensor | None:
        kernel = [self.integer(1, 3) for _ in x.extents[0]]
        steps = [self.integer(1, 2) for _ in kernel]
        begin = [self.integer(0, k - 1) for k in kernel]
        end = [self.integer(0, k - 1) for k in kernel]
        extra = [self.integer(0, s - 1) for s in steps]
        shape = tuple(
            tuple(
                s * (n - 1) + o + k - b - e
                for n, s, o, k, b, e in zip(size, steps, extra, kernel, begin, end, strict=True)
            )
            for size in x.extents
        )
        if min(map(min, shape)) < 1:
            return None
        out_channels = self.one_of([2, 4])
        group = self._group(x.channels, out_channels)
        weight = self.integers((x.channels, out_channels // group, *kernel))
        bound = float(np.abs(weight).sum(axis=tuple(range(2, weight.ndim))).max())
        return self.node(
            "ConvTranspose",
            [x.name, self.constant(weight), self.constant(self.integers((out_channels,)))],
            Tensor("", out_channels, shape, bound * x.channels * x.bound + 2, x.bits),
            kernel_shape=kernel,
            strides=steps,
            pads=[*begin, *end],
            output_padding=extra,
            group=group,
        )

    def batch_norm(self, x: Tensor) -> Tensor | None:
        c = x.channels
        parameters = [
            self.powers(c),
            self.integers((c,)),
            self.integers((c,)),
            4.0 ** self.rng.integers(-1, 2, c),
        ]
        names = [self.constant(each) for each in parameters]
        like = Tensor("", c, x.extents, 4 * (x.bound + 2) + 2, x.bits + 2)
        return self.node("BatchNormalization", [x.name, *names], like, epsilon=0.0)

    def arithmetic(self, x: Tensor) -> Tensor | None:
        op_type = self.one_of(["Mul", "Div", "Add", "Sub"])
        count = self.one_of([1, x.channels])
        shape = self.one_of([(count, *(1,) * self.rank), (1, count, *(1,) * self.rank)])
        multiplies = op_type in ("Mul", "Div")
        numbers = self.powers(count) if multiplies else self.integers((count,))
        names = [x.name, self.constant(numbers.reshape(shape))]
        if op_type != "Div" and self.integer(0, 1):
            names.reverse()
        bound = 2 * x.bound if multiplies else x.bound + 2
        bits = x.bits + 1 if multiplies else x.bits
        return self.node(op_type, names, Tensor("", x.channels, x.extents, bound, bits))

    def average_pool(self, x: Tensor, *, same: bool = False) -> Tensor | None:
        kernel = [self.one_of([1, 2, 4]) for _ in x.extents[0]]
        steps = [1 if same else self.integer(1, 2) for _ in kernel]
        totals = [k - 1 if same else self.integer(0, 1) * (k // 2) for k in kernel]
        begin = [self.integer(0, min(t, k - 1)) for t, k in zip(totals, kernel, strict=True)]
        end = [t - b for t, b in zip(totals, begin, strict=True)]
        shape = tuple(
            tuple(
                (n + t - k) // s + 1 for n, t, k, s in zip(size, totals, kernel, steps, strict=True)
            )
            for size in x.extents
        )
        if min(map(min, shape)) < 1:
            return None
        share = int(np.log2(np.prod(kernel)))
        like = Tensor("", x.channels, shape, x.bound * float(np.prod(kernel)), x.bits + share)
        # Divided by what it counts, which is a power of two for windows of two.
        may_leave_out = all(not t or k == 2 for t, k in zip(totals, kernel, strict=True))
        counted = self.integer(0, 2) > 0 or not may_leave_out
        return self.node(
            "AveragePool",
            [x.name],
            like,
            kernel_shape=kernel,
            strides=steps,
            pads=[*begin, *end],
            count_include_pad=int(counted),
        )

    def relu(self, x: Tensor) -> Tensor | None:
        return self.node("Relu", [x.name], x)

    def add(self, parts: Sequence[Tensor]) -> Tensor | None:
        """All of them added up, in any association, some of them subtracted or by Sum."""
        left = list(parts)
        while len(left) > 1:
            count = self.one_of([2, 2, 3]) if len(left) > 2 else 2
            picked = [left.pop(self.integer(0, len(left) - 1)) for _ in range(count)]
            op_type = "Sum" if count > 2 else self.one_of(["Add", "Add", "Sum", "Sub"])
            bound = sum(each.bound for each in picked)
            bits = max(each.bits for each in picked)
            like = Tensor("", picked[0].channels, picked[0].extents, bound, bits)
            total = self.node(op_type, [each.name for each in picked], like)
            if total is None:
                return None
            left.append(total)
        return left[0]

    # Movement

    def concat(self, x: Tensor) -> Tensor | None:
        alike = [t for t in self.tensors if t.extents == x.extents and t.channels + x.channels <= 8]
        if not alike:
            return None
        parts = [x, self.one_of(alike)]
        if self.integer(0, 1):
            parts.reverse()
        bits, bound = max(t.bits for t in parts), max(t.bound for t in parts)
        like = Tensor("", sum(t.channels for t in parts), x.extents, bound, bits)
        axis = self.one_of([1, 1 - self.rank - 2])
        return self.node("Concat", [t.name for t in parts], like, axis=axis)

    def split(self, x: Tensor) -> Tensor | None:
        """Two halves, of which both are tensors that may be read."""
        if x.channels < 2 or not x.fits:
            return None
        first = self.integer(1, x.channels - 1)
        sizes = [first, x.channels - first]
        names = [f"t{len(self.nodes)}", f"t{len(self.nodes)}b"]
        given = [x.name, self.longs(sizes)]
        self.nodes.append(helper.make_node("Split", given, names, names[0], axis=1))
        for name, size in zip(names, sizes, strict=True):
            self.tensors.append(Tensor(name, size, x.extents, x.bound, x.bits))
        return self.tensors[-2 + self.integer(0, 1)]

    def longs(self, numbers: Sequence[int]) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.array(numbers, np.int64), name))
        return name

    def pick_channels(self, x: Tensor) -> Tensor | None:
        """A Gather or a Slice of channels, in any order, some of them twice."""
        if self.integer(0, 1):
            count = self.integer(1, min(x.channels + 1, 6))
            indices = [self.integer(-x.channels, x.channels - 1) for _ in range(count)]
            like = Tensor("", count, x.extents, x.bound, x.bits)
            return self.node("Gather", [x.name, self.longs(indices)], like, axis=1)
        start, step = self.integer(0, x.channels - 1), self.one_of([1, 1, 2, -1])
        end = -(2**40) if step < 0 else self.integer(start + 1, x.channels)
        count = len(range(x.channels)[slice(start, end, step)])
        cut = [self.longs([each]) for each in (start, end, 1, step)]
        like = Tensor("", count, x.extents, x.bound, x.bits)
        return self.node("Slice", [x.name, *cut], like)

    def pick_places(self, x: Tensor) -> Tensor | None:
        """A strided Slice of one spatial axis."""
        axis = self.integer(0, self.rank - 1)
        smallest = min(size[axis] for size in x.extents)
        start, step = self.integer(0, min(2, smallest - 1)), self.integer(1, 2)
        cropped = self.one_of([0, 0, 1])
        end = -cropped if cropped else 2**62
        shape = tuple(
            tuple(
                len(range(n)[slice(start, None if not cropped else end, step)]) if a == axis else n
                for a, n in enumerate(size)
            )
            for size in x.extents
        )
        if min(map(min, shape)) < 1:
            return None
        cut = [self.longs([each]) for each in (start, end, axis + 2, step)]
        return self.node("Slice", [x.name, *cut], Tensor("", x.channels, shape, x.bound, x.bits))

    def pad(self, x: Tensor) -> Tensor | None:
        begin = [self.integer(-1, 2) for _ in range(self.rank)]
        end = [self.integer(-1, 2) for _ in range(self.rank)]
        shape = tuple(
            tuple(n + b + e for n, b, e in zip(size, begin, end, strict=True)) for size in x.extents
        )
        if min(map(min, shape)) < 1:
            return None
        pads = self.longs([0, 0, *begin, 0, 0, *end])
        return self.node("Pad", [x.name, pads], Tensor("", x.channels, shape, x.bound, x.bits))

    def upsample(self, x: Tensor) -> Tensor | None:
        factors = [self.integer(1, 3) for _ in range(self.rank)]
        shape = tuple(
            tuple(n * f for n, f in zip(size, factors, strict=True)) for size in x.extents
        )
        if max(map(max, shape)) > 40:
            return None
        scales = self.constant(np.array([1, 1, *factors], np.float32))
        like = Tensor("", x.channels, shape, x.bound, x.bits)
        return self.node(
            "Resize",
            [x.name, "", scales],
            like,
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )

    def blocks(self, x: Tensor) -> Tensor | None:
        """SpaceToDepth or DepthToSpace by two, where the extents allow it."""
        if self.rank != 2:
            return None
        if self.integer(0, 1):
            if any(n % 2 for size in x.extents for n in size) or x.channels > 4:
                return None
            shape = tuple(tuple(n // 2 for n in size) for size in x.extents)
            like = Tensor("", 4 * x.channels, shape, x.bound, x.bits)
            return self.node("SpaceToDepth", [x.name], like, blocksize=2)
        if x.channels % 4:
            return None
        shape = tuple(tuple(2 * n for n in size) for size in x.extents)
        like = Tensor("", x.channels // 4, shape, x.bound, x.bits)
        mode = self.one_of(["DCR", "CRD"])
        return self.node("DepthToSpace", [x.name], like, blocksize=2, mode=mode)

    def move(self, x: Tensor) -> Tensor | None:
        kinds: list[Callable[[Tensor], Tensor | None]] = [
            self.concat,
            self.split,
            self.pick_channels,
            self.pick_places,
            self.pad,
            self.upsample,
            self.blocks,
        ]
        moved: Tensor | None = self.one_of(kinds)(x)
        return moved

    # Blocks

    def branches(self, x: Tensor) -> Tensor | None:
        """Several ways from one tensor to the same extents, added up."""
        channels = self.one_of([x.channels, x.channels, 2, 4])
        strides = tuple(self.one_of([1, 1, 1, 2]) for _ in x.extents[0])
        first = self.conv(x, channels, strides=strides)
        if first is None:
            return None
        parts = [self._dressed(first)]
        for _ in range(self.integer(1, 3)):
            part = self._branch(x, first, strides)
            if part is not None and part.extents == first.extents:
                parts.append(part)
        return self.add(parts)

    def _branch(self, x: Tensor, first: Tensor, strides: tuple[int, ...]) -> Tensor | None:
        kinds = ["conv", "conv", "conv", "dressed input"]
        if x.extents == first.extents and x.channels == first.channels:
            kinds += ["skip", "norm", "pool"]
        match self.one_of(kinds):
            case "skip":
                return x
            case "norm":
                return self.batch_norm(x)
            case "pool":
                return self.average_pool(x, same=True)
            case "dressed input":
                dressed = self._dressed(x)
                return self.conv(dressed, first.channels, first.extents, strides)
            case _:
                part = self.conv(x, first.channels, first.extents, strides)
                return None if part is None else self._dressed(part)

    def _dressed(self, x: Tensor) -> Tensor:
        """The tensor, or constants behind it."""
        match self.integer(0, 4):
            case 0:
                return self.batch_norm(x) or x
            case 1:
                return self.arithmetic(x) or x
            case _:
                return x

    def any_step(self) -> None:
        x = self.tensors[-1] if self.integer(0, 2) else self.one_of(self.tensors)
        match self.one_of(
            [
                *("branches", "branches", "sum", "conv", "norm", "scale", "pool", "up", "relu"),
                *("move", "move", "move"),
            ]
        ):
            case "move":
                moved = self.move(x)
                if moved is not None and self.integer(0, 1):
                    self.conv(moved, self.one_of([2, 4]))
            case "branches":
                self.branches(x)
            case "sum":
                alike = [
                    t for t in self.tensors if (t.channels, t.extents) == (x.channels, x.extents)
                ]
                self.add([x, *(self.one_of(alike) for _ in range(self.integer(1, 2)))])
            case "conv":
                self.conv(x, self.one_of([2, 4]))
            case "norm":
                self.batch_norm(x)
            case "scale":
                self.arithmetic(x)
            case "pool":
                self.average_pool(x)
            case "up":
                self.conv_transpose(x)
            case _:
                self.relu(x)

    # The graph

    def model(self) -> onnx.ModelProto:
        """The graph; what nobody reads is an output, and so are a few tensors in the middle."""
        read = {name for node in self.nodes for name in node.input}
        made = [t for t in self.tensors if t not in self.inputs]
        outputs = [t for t in made if t.name not in read or not self.integer(0, 7)]
        symbols = [f"S{axis}" for axis in range(self.rank)]
        where = list(self.sizes[0]) if self.fixed else symbols
        graph = helper.make_graph(
            self.nodes,
            "region",
            [
                helper.make_tensor_value_info(t.name, TensorProto.FLOAT, ["N", t.channels, *where])
                for t in self.inputs
            ],
            [
                helper.make_tensor_value_info(
                    t.name,
                    TensorProto.FLOAT,
                    ["N", t.channels, *(t.extents[0] if self.fixed else [None] * self.rank)],
                )
                for t in outputs
            ],
            self.weights,
        )
        opset = helper.make_opsetid("", 18)
        model = helper.make_model(graph, opset_imports=[opset], ir_version=9)
        onnx.checker.check_model(model, full_check=True)
        return model

    def feeds(self) -> list[dict[str, Array]]:
        """Integer inputs at every size, in batches of one and two."""
        return [
            {
                t.name: self.rng.integers(-3, 4, (1 + index % 2, t.channels, *size)).astype(
                    np.float32
                )
                for t in self.inputs
            }
            for index, size in enumerate(self.sizes)
        ]


@dataclass(frozen=True, slots=True)
class Example:
    """A model with inputs for it."""

    model: onnx.ModelProto
    feeds: list[dict[str, Array]]

    def _repr_pretty_(self, printer: Any, _: bool) -> None:
        """What hypothesis shows of a failing example."""
        printer.text(onnx.printer.to_text(self.model))


@st.composite
def regions(draw: st.DrawFn, most_steps: int = 4) -> Example:
    """Random topology, ranks 1 to 3, static or dynamic extents."""
    rank = draw(st.sampled_from([1, 2, 2, 2, 3]))
    fixed = draw(st.booleans())
    largest = 9 if rank < 3 else 6
    first = tuple(draw(st.integers(3, largest)) for _ in range(rank))
    sizes = [first]
    if fixed:
        sizes.append(first)
    else:
        sizes += [tuple(n + step for n in first) for step in (1, 2, 5)]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    region = Region(draw, rng, tuple(sizes), fixed)
    for _ in range(draw(st.sampled_from([1, 1, 2]))):
        region.add_input(draw(st.sampled_from([2, 4])))
    region.branches(region.tensors[0])
    for _ in range(draw(st.integers(0, most_steps))):
        region.any_step()
    if not region.nodes:
        region.relu(region.tensors[0])
    return Example(region.model(), region.feeds())
