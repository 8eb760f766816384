"""A map that is not multiplied out yet: its footprint now, its numbers when they are wanted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import onnx_ir as ir

from onnxfold.algebra.borders import (
    AxisRules,
    AxisSizes,
    Inexact,
    composition_is_exact,
)
from onnxfold.algebra.compose import compose
from onnxfold.algebra.convmap import ConvMap
from onnxfold.algebra.cost import Footprint, composed_footprint, summed_footprint
from onnxfold.algebra.extents import AxisExtent, ExtentRule, Extents
from onnxfold.algebra.groups import with_groups
from onnxfold.algebra.operators import identity
from onnxfold.algebra.refusal import Cause, Refusal
from onnxfold.algebra.sum import sum_of
from onnxfold.ir.shapes import dim


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why a map cannot be multiplied out exactly.

    Attributes:
        reason: One clause for people, without a full stop.
        at: The value through which the two maps that do not compose are joined.
    """

    reason: str
    at: ir.Value


_AS_LARGE = ExtentRule()
"""Where the result is as large as what is read."""

Numbers = Callable[[], ConvMap | Obstacle]


@dataclass(frozen=True, eq=False)
class Expression:
    """How one tensor depends linearly on another.

    Attributes:
        footprint: Channels, taps and rates, which is all that a cost needs.
        rules: Per spatial axis, the size of the result from the size of what it reads.
        numbers: Multiplies the map out, or says what stands in the way.
        shifts: Whether it may add a constant.
        sign: 1 or -1 where the map is known to be that multiple of the identity, else 0; a
            constant may come on top.
        picks: Where the map only picks channels, the input channel of each output channel, -1 for
            none; None where it does more than that, or is not known to do so little.
        is_aligned: Whether the model runs at those sizes only at which the result has the extents
            of what it is added to, as a Concat makes sure of.
    """

    footprint: Footprint
    rules: tuple[ExtentRule, ...]
    numbers: Numbers
    shifts: bool
    sign: int = 0
    is_aligned: bool = False
    picks: tuple[int, ...] | None = None

    @cached_property
    def value(self) -> ConvMap | Obstacle:
        """The map itself, multiplied out once."""
        return self.numbers()

    @property
    def is_identity(self) -> bool:
        """Whether it is known to give what it reads."""
        return self.sign == 1 and not self.shifts

    @cached_property
    def is_pointwise(self) -> bool:
        """Whether an output reads the same position of the input, and there are no others."""
        return all(offsets == (0,) for offsets in self.footprint.offsets) and all(
            rule == _AS_LARGE for rule in self.rules
        )

    @cached_property
    def is_channelwise(self) -> bool:
        """Whether it only scales and shifts every channel."""
        shape = self.footprint
        return shape.groups == shape.in_channels == shape.out_channels and self.is_pointwise

    def without_constant(self) -> "Expression":
        """The linear part alone."""
        if not self.shifts:
            return self

        def numbers() -> ConvMap | Obstacle:
            found = self.value
            return found if isinstance(found, Obstacle) else found.without_bias()

        return replace(self, numbers=numbers, shifts=False)


Operands = Sequence[tuple[ir.Value, Expression]]
"""Tensors, each with the map that is applied to it; the maps add up."""


def composed(
    outer: Expression,
    inner: Expression,
    source: ir.Value,
    middle: ir.Value,
    result: ir.Value,
) -> Expression | Refusal:
    """`outer` after `inner`, with the border between them checked when it is multiplied out.

    Args:
        outer: From `middle` to `result`.
        inner: From `source` to `middle`.
        source: What the inner map reads.
        middle: What it gives, and the outer map reads.
        result: What the outer map gives.

    Returns:
        The composition, or a refusal when its rates or extents are those of no single map.
    """
    if outer.is_identity and not outer.is_aligned:
        return inner
    if inner.is_identity:
        return outer
    footprint = composed_footprint(outer.footprint, inner.footprint)
    if isinstance(footprint, Refusal):
        return footprint
    rules: list[ExtentRule] = []
    for first, second in zip(inner.rules, outer.rules, strict=True):
        rule = first.then(second)
        if isinstance(rule, Refusal):
            return rule
        rules.append(rule)
    axes = [_axis(axis, outer, inner, source, middle, result) for axis in range(len(outer.rules))]

    def numbers() -> ConvMap | Obstacle:
        found = _multiplied_out(outer.value, inner.value, axes, middle)
        return found if isinstance(found, Obstacle) else _grouped(found, footprint)

    shifts, sign = outer.shifts or inner.shifts, outer.sign * inner.sign
    aligned = outer.is_aligned or inner.is_aligned
    picks = _composed_picks(outer.picks, inner.picks)
    found = Expression(footprint, tuple(rules), numbers, shifts, sign, aligned, picks)
    return _identity_if_it_is(found)


def _axis(
    axis: int,
    outer: Expression,
    inner: Expression,
    source: ir.Value,
    middle: ir.Value,
    result: ir.Value,
) -> AxisSizes | AxisRules:
    n_in, n_mid, n_out = (dim(value, axis + 2) for value in (source, middle, result))
    if n_in is None or n_mid is None or n_out is None:
        return AxisRules(inner.rules[axis], outer.rules[axis])
    return AxisSizes(n_in, n_mid, n_out)


def summed(parts: Sequence[Expression], source: ir.Value, result: ir.Value) -> Expression | Refusal:
    """The sum of maps from `source` to `result`.

    Extents that are not known must follow the same rule in every part, because an addition would
    otherwise broadcast or fail at some sizes.

    Returns:
        The sum, or a refusal when rates or extents differ.
    """
    footprint = summed_footprint([part.footprint for part in parts])
    if isinstance(footprint, Refusal):
        return footprint
    aligned = all(part.is_aligned for part in parts)
    joint: list[ExtentRule] = []
    for axis, rules in enumerate(zip(*(part.rules for part in parts), strict=True)):
        n_in, n_out = dim(source, axis + 2), dim(result, axis + 2)
        known = n_in is not None and n_out is not None
        distinct = {rule(n_in) if known and n_in is not None else rule for rule in rules}
        if len(distinct) > 1 and not aligned:
            return Refusal(Cause.EXTENTS, "the branches may have different extents")
        # All hold wherever the model runs; the smallest needs the least padding.
        joint.append(min(rules, key=lambda rule: rule.offset))

    def numbers() -> ConvMap | Obstacle:
        maps: list[ConvMap] = []
        for part in parts:
            found = part.value
            if isinstance(found, Obstacle):
                return found
            maps.append(found)
        total = sum_of(maps)
        assert not isinstance(total, Refusal)  # the footprints have the same rates
        return _grouped(total, footprint)

    shifts = any(part.shifts for part in parts)
    picks = _joint_picks([part.picks for part in parts])
    found = Expression(footprint, tuple(joint), numbers, shifts, is_aligned=aligned, picks=picks)
    return _identity_if_it_is(found)


def _multiplied_out(
    outer: ConvMap | Obstacle,
    inner: ConvMap | Obstacle,
    axes: Sequence[AxisSizes | AxisRules],
    middle: ir.Value,
) -> ConvMap | Obstacle:
    if isinstance(outer, Obstacle):
        return outer
    if isinstance(inner, Obstacle):
        return inner
    verdict = composition_is_exact(outer, inner, axes)
    if isinstance(verdict, Inexact):
        return Obstacle(verdict.reason, middle)
    found = compose(outer, inner)
    return Obstacle(found.reason, middle) if isinstance(found, Refusal) else found


def _grouped(found: ConvMap, shape: Footprint) -> ConvMap:
    """The map in the groups that its blocks show, where these are finer."""
    return with_groups(found, shape.groups) if shape.groups > found.groups else found


def _composed_picks(
    outer: tuple[int, ...] | None, inner: tuple[int, ...] | None
) -> tuple[int, ...] | None:
    if outer is None or inner is None:
        return None
    return tuple(-1 if channel < 0 else inner[channel] for channel in outer)


def _joint_picks(all_picks: Sequence[tuple[int, ...] | None]) -> tuple[int, ...] | None:
    """The picks of a sum, where no two parts write the same channel."""
    joint: list[int] = []
    for channels in zip(*(picks or () for picks in all_picks), strict=False):
        picked = [channel for channel in channels if channel >= 0]
        if len(picked) > 1:
            return None
        joint += picked or [-1]
    return tuple(joint) if joint and None not in all_picks else None


def _identity_if_it_is(found: Expression) -> Expression:
    """The identity where every channel is picked in its place; else what was found."""
    channels = found.footprint.in_channels
    if found.picks != tuple(range(channels)) or found.shifts:
        return found
    spatial = len(found.rules)
    one = (1,) * spatial
    footprint = Footprint(channels, channels, channels, ((0,),) * spatial, one, one)
    return replace(found, footprint=footprint, numbers=lambda: identity(channels, spatial), sign=1)


def extents(expression: Expression, source: ir.Value, result: ir.Value) -> list[AxisExtent]:
    """Per axis, the known sizes, or the rule where one of them is not known."""
    found: list[AxisExtent] = []
    for axis, rule in enumerate(expression.rules):
        n_in, n_out = dim(source, axis + 2), dim(result, axis + 2)
        found.append(rule if n_in is None or n_out is None else Extents(n_in, n_out))
    return found
