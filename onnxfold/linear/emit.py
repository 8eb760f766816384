"""Records the operators that compute a collapsed region."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxfold.algebra.convmap import ConvMap
from onnxfold.algebra.groups import with_finest_groups
from onnxfold.algebra.lowering import ConvTransposeParameters, to_conv, to_conv_transpose
from onnxfold.algebra.refusal import Refusal
from onnxfold.ir.ops import Conv, ConvTranspose
from onnxfold.linear.expression import Obstacle, extents
from onnxfold.linear.region import Collapse
from onnxfold.rewrite.builder import AttributeValue, Builder
from onnxfold.rewrite.rule import Reject

Extent = int | ir.SymbolicDim | None

_NARROW = 4
"""Channels per group from which on runtimes have kernels for groups, as a rule."""


@dataclass(frozen=True, slots=True)
class _Term:
    """One map of the sum.

    Attributes:
        base: What it reads.
        numbers: The map.
        is_channelwise: Whether it only scales every channel.
        sign: 1 or -1 where the base is added or subtracted as it is, else 0.
    """

    base: ir.Value
    numbers: ConvMap
    is_channelwise: bool
    sign: int


def emit_collapse(found: Collapse, build: Builder) -> ir.Value | Reject:
    """Record one operator for each map of the region, and the additions between them.

    The constants of all maps go into the first convolution. What the region adds unchanged is added
    last, where runtimes fuse the addition with the convolution in front of it.
    """
    terms: list[_Term] = []
    for base in found.terms:
        term = _term(found, base)
        if isinstance(term, Obstacle):
            return Reject(term.reason, found.node)
        terms.append(term)
    terms.sort(key=lambda term: (term.is_channelwise, -term.sign))
    constant = np.sum([term.numbers.bias for term in terms], axis=0)
    total: ir.Value | None = None
    for term in terms:
        if not term.is_channelwise:
            part = _convolved(found, term, constant, build)
            if isinstance(part, Reject):
                return part
            constant = np.zeros_like(constant)
        else:
            part = _scaled(found, term, build, subtracted=total is not None)
        total = part if total is None else _combined(found, total, term, part, build)
    assert total is not None
    if constant.any():
        shifted = build.op("Add", [total, _per_channel(found, constant, build)])
        total = _typed(shifted, found, total.shape)
    return total


def _term(found: Collapse, base: ir.Value) -> _Term | Obstacle:
    expression = found.terms[base]
    numbers = expression.value
    if isinstance(numbers, Obstacle):
        return numbers
    depthwise = numbers.groups == numbers.in_channels == numbers.out_channels
    # A single tap may be all that is left of a kernel that crops the image.
    keeps_extents = all(rule.offset == 0 for rule in expression.rules)
    is_channelwise = depthwise and numbers.is_pointwise and keeps_extents
    sign = 0
    if is_channelwise and (np.abs(numbers.kernel) == 1).all():
        first = int(numbers.kernel.flat[0])
        sign = first if (numbers.kernel == first).all() else 0
    return _Term(base, numbers, is_channelwise, sign)


def _combined(
    found: Collapse, total: ir.Value, term: _Term, part: ir.Value, build: Builder
) -> ir.Value:
    operator = "Sub" if term.sign < 0 else "Add"
    return _typed(build.op(operator, [total, part]), found, _broadcast(total, part))


def _scaled(found: Collapse, term: _Term, build: Builder, *, subtracted: bool) -> ir.Value:
    if term.sign > 0 or (term.sign < 0 and subtracted):
        return term.base
    scale = term.numbers.kernel.reshape(-1)
    scaled = build.op("Mul", [term.base, _per_channel(found, scale, build)])
    return _typed(scaled, found, term.base.shape)


def _per_channel(found: Collapse, numbers: NDArray[np.float64], build: Builder) -> ir.Value:
    spatial = len(next(iter(found.terms.values())).rules)
    shape = (1, numbers.size, *(1,) * spatial)
    return build.constant(numbers.reshape(shape), found.dtype, found.node.outputs[0].name)


def _in_groups(numbers: ConvMap) -> ConvMap:
    """The map in its finest groups; a dense one only where these are wide enough to be faster."""
    found = with_finest_groups(numbers)
    narrow = min(found.in_channels, found.out_channels) < _NARROW * found.groups
    return numbers if numbers.groups == 1 and narrow else found


def _convolved(
    found: Collapse, term: _Term, bias: NDArray[np.float64], build: Builder
) -> ir.Value | Reject:
    numbers = term.numbers.with_bias(bias)
    finest = _in_groups(numbers)
    sizes = extents(found.terms[term.base], term.base, found.node.outputs[0])
    strided = all(up == 1 for up in finest.up)
    parameters = to_conv(finest, sizes) if strided else to_conv_transpose(finest, sizes)
    if isinstance(parameters, Refusal):
        return Reject(parameters.reason, found.node)
    weight_name, bias_name, name = _names(found)
    inputs = [term.base, build.constant(parameters.weight, found.dtype, weight_name)]
    if parameters.bias.any():
        inputs.append(build.constant(parameters.bias, found.dtype, bias_name))
    attributes: dict[str, AttributeValue] = {
        "kernel_shape": parameters.weight.shape[2:],
        "strides": parameters.strides,
        "pads": parameters.pads,
        "dilations": parameters.dilations,
        "group": parameters.group,
    }
    operator = "Conv"
    if isinstance(parameters, ConvTransposeParameters):
        operator = "ConvTranspose"
        if any(parameters.output_padding):
            attributes["output_padding"] = parameters.output_padding
    convolved = build.op(operator, inputs, attributes, name=name)
    return _typed(convolved, found, _convolved_extents(found, term))


def _typed(value: ir.Value, found: Collapse, extents: Iterable[Extent] | None) -> ir.Value:
    """Note what shape inference would find, so that the next look can read the value."""
    value.type = ir.TensorType(found.dtype)
    value.shape = None if extents is None else ir.Shape(list(extents))
    return value


def _convolved_extents(found: Collapse, term: _Term) -> list[Extent] | None:
    output, base = found.node.outputs[0].shape, term.base.shape
    if output is None or base is None:
        return None
    known = [extent if isinstance(extent, int) else None for extent in output[1:]]
    return [base[0], *known]


def _broadcast(left: ir.Value, right: ir.Value) -> list[Extent] | None:
    if left.shape is None or right.shape is None:
        return None
    pairs = zip(left.shape, right.shape, strict=True)
    return [_broadcast_extent(a, b) for a, b in pairs]


def _broadcast_extent(left: Extent, right: Extent) -> Extent:
    if left == right or right == 1:
        return left
    if left == 1:
        return right
    return next((each for each in (left, right) if isinstance(each, int)), None)


def _names(found: Collapse) -> tuple[str | None, str | None, str | None]:
    """Wishes for the names of weight, bias and node: those of a convolution that is folded."""
    for value in found.terms:
        for use in value.uses():
            view = Conv.of(use.node) or ConvTranspose.of(use.node)
            if view is not None and view.node.name:
                bias = view.bias.name if view.bias is not None else f"{view.node.name}.bias"
                return view.weight.name, bias, view.node.name
    label = found.node.name or found.node.outputs[0].name
    return f"{label}.weight", f"{label}.bias", label
