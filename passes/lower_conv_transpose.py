"""Compute a ConvTranspose as convolutions, one for each phase of its stride, and a DepthToSpace.

    y[s·m + a] = Σ_t W[r + s·t] · x[m + q − t]   with s·q + r = a + pad and 0 ≤ r < s:
    every phase a of the output is a convolution of x with every s-th tap of the kernel

What it does:
    Replaces the ConvTranspose by convolutions, which have integer kernels on every backend, and a
    DepthToSpace, which only moves integers. A kernel as large as the stride gives one convolution
    with a 1×1 kernel, or one for each phase where there are groups. A larger one gives one for each
    phase and a Concat, with as many multiply-adds as before, when option `overlapping` asks for it.
    A ReLU or another activation behind it is taken in front of the DepthToSpace, so that it stays
    behind a convolution.
When it applies:
    Two spatial axes of the same stride, and constant weights.
When it refuses:
    A kernel that leaves gaps, or overlaps itself without being asked for; strides that differ or
    are above 4; dilation; padding that is chosen automatically; an output whose extent is given or
    no multiple of the stride; one or three spatial axes; weights that are computed at run time.
Exactness:
    reassociated: the same products, summed by another kernel.
Example:
    before: y = ConvTranspose<strides = [2, 2]>(x, w, b)
    after:  c = Conv(x, w.folded, b.folded)  y = DepthToSpace<blocksize = 2>(c)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxfold.ir.constants import constant_array, is_constant
from onnxfold.ir.graph import ints_attribute, is_op, sole_reader
from onnxfold.ir.ops import ConvTranspose
from onnxfold.ir.shapes import dim
from onnxfold.pipeline.passes import RulePass
from onnxfold.rewrite.builder import AttributeValue, Builder
from onnxfold.rewrite.rule import AnyRule, Reject, Rule

_LARGEST_STRIDE = 4
_ACTIVATIONS = ("Relu", "Clip", "LeakyRelu", "PRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Elu")

Weight = NDArray[Any]


@dataclass(frozen=True, slots=True)
class LowerOptions:
    """Options of the pass.

    Attributes:
        overlapping: Whether kernels larger than the stride are lowered too.
    """

    overlapping: bool = False


@dataclass(frozen=True, slots=True)
class Phase:
    """How one phase of the output is computed along one axis.

    Attributes:
        taps: The taps of the kernel, in the order in which a convolution reads; None for a zero.
        begin: Padding in front.
        end: Padding behind.
    """

    taps: tuple[int | None, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Unfolding:
    """A ConvTranspose and the phases of its two axes.

    Attributes:
        view: The operator.
        rows: The phases along the first spatial axis.
        columns: Those along the second.
        activation: A pointwise operator that alone reads the result, or None.
    """

    view: ConvTranspose
    rows: tuple[Phase, ...]
    columns: tuple[Phase, ...]
    activation: ir.Node | None

    @property
    def is_single(self) -> bool:
        """Whether every phase reads one pixel, the same one, and all channels of it."""
        return self.view.group == 1 and all(
            len(phase.taps) == 1 and not (phase.begin or phase.end)
            for phase in (*self.rows, *self.columns)
        )


def match(node: ir.Node, options: LowerOptions) -> Unfolding | Reject | None:
    """A ConvTranspose, or the activation behind one."""
    activation = node if is_op(node, *_ACTIVATIONS) and _reads_constants(node) else None
    source = node if activation is None else _producer(node)
    found = ConvTranspose.of(source)
    if found is None or (activation is None and _has_activation(node)):
        return None
    reason = _refusal(found, options)
    if reason is not None:
        return Reject(reason, found.node)
    phases = [_phases(found, axis) for axis in range(2)]
    if phases[0] is None or phases[1] is None:
        return Reject("its output is no multiple of its stride", found.node)
    return Unfolding(found, phases[0], phases[1], activation)


def _producer(node: ir.Node) -> ir.Node | None:
    x = node.inputs[0]
    above = None if x is None else x.producer()
    return above if above is not None and sole_reader(above.outputs[0]) is node else None


def _reads_constants(node: ir.Node) -> bool:
    return all(value is None or is_constant(value) for value in node.inputs[1:])


def _has_activation(node: ir.Node) -> bool:
    reader = sole_reader(node.outputs[0])
    return reader is not None and is_op(reader, *_ACTIVATIONS) and _reads_constants(reader)


def _refusal(found: ConvTranspose, options: LowerOptions) -> str | None:
    window = found.window
    if len(window.kernel_shape) != 2:
        return "DepthToSpace has two spatial axes"
    stride = window.strides[0]
    if window.strides != (stride, stride) or stride > _LARGEST_STRIDE:
        return f"its strides differ or are above {_LARGEST_STRIDE}"
    if window.spans != window.kernel_shape:
        return "its kernel is dilated"
    if min(window.kernel_shape) < stride:
        return "its kernel leaves gaps"
    overlaps = window.kernel_shape != window.strides
    if overlaps and not options.overlapping:
        return "its kernel overlaps itself"
    if "output_shape" in found.node.attributes or (overlaps and window.auto_pad != "NOTSET"):
        return "its padding is chosen automatically"
    if any(constant_array(v) is None for v in (found.weight, found.bias) if v is not None):
        return "its weight or bias is computed at run time"
    return None


def _phases(found: ConvTranspose, axis: int) -> tuple[Phase, ...] | None:
    """The phases along a spatial axis; None when they are not equally long."""
    window = found.window
    kernel, stride = window.kernel_shape[axis], window.strides[axis]
    begin, end = (
        (0, 0) if window.auto_pad != "NOTSET" else (window.pads[axis], window.pads[axis + 2])
    )
    extra = ints_attribute(found.node, "output_padding", (0, 0))[axis]
    growth, rest = divmod(kernel - stride - begin - end + extra, stride)
    if rest:
        return None
    return tuple(_phase(kernel, stride, phase + begin, growth) for phase in range(stride))


def _phase(kernel: int, stride: int, position: int, growth: int) -> Phase:
    """The phase that begins at `position` of the output with its padding."""
    shift, first = divmod(position, stride)
    taps: list[int | None] = [*reversed(range(first, kernel, stride))]
    before, behind = len(taps) - 1 - shift, growth + shift
    # A convolution cannot read from further inside: zeros in its kernel do that.
    taps = [None] * max(0, -before) + taps + [None] * max(0, -behind)
    return Phase(tuple(taps), max(0, before), max(0, behind))


def rewrite(found: Unfolding, build: Builder) -> ir.Value:
    """Record the convolutions and the DepthToSpace."""
    phases = list(product(found.rows, found.columns))
    if found.is_single:
        stacked = np.concatenate([_kernel(found.view, *each) for each in phases])
        joined = _convolution(found, stacked, len(phases), phases[0], build)
    else:
        parts = [_convolution(found, _kernel(found.view, *p), 1, p, build) for p in phases]
        joined = build.op("Concat", parts, {"axis": 1})
        joined.type, shape = parts[0].type, parts[0].shape
        if shape is not None and isinstance(shape[1], int):
            joined.shape = ir.Shape([shape[0], shape[1] * len(parts), *shape[2:]])
    if len(phases) == 1:
        return joined
    return build.op("DepthToSpace", [joined], {"blocksize": len(found.rows)})


def _convolution(
    found: Unfolding, kernel: Weight, copies: int, phase: tuple[Phase, Phase], build: Builder
) -> ir.Value:
    view, (row, column) = found.view, phase
    inputs = [view.x, _constant(view.weight, kernel, build)]
    if view.bias is not None:
        bias = constant_array(view.bias)
        assert bias is not None
        inputs.append(_constant(view.bias, np.tile(bias, copies), build))
    attributes: dict[str, AttributeValue] = {
        "kernel_shape": kernel.shape[2:],
        "pads": (row.begin, column.begin, row.end, column.end),
        "group": view.group,
    }
    value = build.op("Conv", inputs, attributes, name=view.node.name)
    value.type, value.shape = view.node.outputs[0].type, _shape(view.x, kernel, phase)
    if found.activation is None:
        return value
    active = build.like(found.activation, [value, *found.activation.inputs[1:]])
    active.shape = value.shape  # that of a phase, not of the whole
    return active


def _shape(x: ir.Value, kernel: Weight, phase: tuple[Phase, Phase]) -> ir.Shape | None:
    """The shape of what the convolution of one phase computes."""
    if x.shape is None:
        return None
    extents = [
        None if extent is None else extent + axis.begin + axis.end - len(axis.taps) + 1
        for extent, axis in zip((dim(x, 2), dim(x, 3)), phase, strict=True)
    ]
    return ir.Shape([x.shape[0], len(kernel), *extents])


def _kernel(view: ConvTranspose, row: Phase, column: Phase) -> Weight:
    """The kernel of one phase, (O, I/group, rows, columns)."""
    weight = constant_array(view.weight)
    assert weight is not None
    grouped = weight.reshape(view.group, -1, *weight.shape[1:]).swapaxes(1, 2)
    kernel = grouped.reshape(-1, grouped.shape[2], *weight.shape[2:])
    # One row and one column of zeros more, for taps that are none.
    padded = np.pad(kernel, ((0, 0), (0, 0), (0, 1), (0, 1)))
    rows = [-1 if tap is None else tap for tap in row.taps]
    columns = [-1 if tap is None else tap for tap in column.taps]
    return np.ascontiguousarray(padded[:, :, rows][:, :, :, columns])


def _constant(value: ir.Value, array: Weight, build: Builder) -> ir.Value:
    return build.tensor(array, ir.DataType.from_numpy(array.dtype), value.name)


def rules(options: LowerOptions) -> Sequence[AnyRule]:
    """The one rule, with these options."""
    roots = frozenset({"ConvTranspose", *_ACTIVATIONS})
    return (Rule("phases", roots, lambda node: match(node, options), rewrite),)


PASS = RulePass("lower_conv_transpose", rules, __doc__ or "", options_type=LowerOptions)
