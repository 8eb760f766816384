"""Where composing is exact: what a padded map reads beyond the end of the map before it.

`compose` extends the inner formula beyond its outputs; the graph has zeros there. The two agree
where the outer map reads nothing outside, or the inner formula is zero there: no constant that the
outer taps pass on, and no tap of it that reaches back inside its input.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from onnxfold.algebra.compose import bias_taps, passed_constant
from onnxfold.algebra.convmap import (
    Array,
    ConvMap,
    Mask,
    describe,
    joint_mask,
    nonzero,
    tap_indices,
)
from onnxfold.algebra.extents import ExtentRule
from onnxfold.algebra.operators import channel_affine
from onnxfold.algebra.refusal import AlgebraError, Cause, Refusal


@dataclass(frozen=True, slots=True)
class AxisSizes:
    """Known sizes of one axis through both maps.

    Attributes:
        n_in: Input of the inner map.
        n_mid: Output of the inner map, which the outer one reads.
        n_out: Output of the outer map.
    """

    n_in: int
    n_mid: int
    n_out: int


@dataclass(frozen=True, slots=True)
class AxisRules:
    """Unknown sizes of one axis: every input size in {first, first + step, …}.

    Attributes:
        inner: From the inner map's input size to its output size.
        outer: From there to the outer map's output size.
        first: Smallest input size.
        step: Distance of the possible input sizes, for example the block of a space-to-depth.
    """

    inner: ExtentRule
    outer: ExtentRule
    first: int = 1
    step: int = 1


class Culprit(StrEnum):
    """Why the inner formula is not zero beyond its output."""

    BIAS = "bias"
    REACH_BACK = "reach_back"


class Side(StrEnum):
    """Which end of the axis."""

    BEGIN = "begin"
    END = "end"


@dataclass(frozen=True, slots=True, order=True)
class Leak:
    """One way in which the composed formula differs from the graph."""

    axis: int
    side: Side
    culprit: Culprit


@dataclass(frozen=True, slots=True)
class Exact:
    """The composition is exact at every size asked about."""


@dataclass(frozen=True, slots=True)
class Inexact:
    """The composition is wrong somewhere at the border.

    Attributes:
        leaks: Every axis, side and culprit, in order.
        outer: What people call the outer kernel, for example "3x3".
        inner: What people call the inner kernel.
    """

    leaks: tuple[Leak, ...]
    outer: str
    inner: str

    @property
    def only_bias(self) -> bool:
        """Whether `border_correction` can mend it."""
        return all(leak.culprit is Culprit.BIAS for leak in self.leaks)

    @property
    def reason(self) -> str:
        """One clause for people, without a full stop."""
        worst = min(self.leaks, key=lambda leak: (leak.culprit is Culprit.BIAS, leak))
        where = f"the {worst.side} of axis {worst.axis}"
        if worst.culprit is Culprit.BIAS:
            return (
                f"the {self.inner}'s bias is non-zero and the {self.outer} pads the border "
                f"({where})"
            )
        return (
            f"the {self.outer} pads the border, where the {self.inner} before it would still "
            f"reach its input ({where})"
        )


def composition_is_exact(
    outer: ConvMap, inner: ConvMap, axes: Sequence[AxisSizes | AxisRules]
) -> Exact | Inexact:
    """Whether `compose(outer, inner)` gives the graph's numbers at every output.

    For known sizes the answer is tight up to weights that cancel. Unknown sizes are decided for
    all of them: what is read at an end repeats with n_in mod s1·s2, and a larger input of the same
    residue reads whatever a smaller one does, so one huge representative per residue decides.

    Args:
        outer: Applied second; reads zeros outside [0, n_mid).
        inner: Applied first; reads zeros outside [0, n_in).
        axes: Per spatial axis, the sizes or the rules.

    Raises:
        AlgebraError: If channels, ranks or the rates of a rule do not fit the maps.
    """
    if outer.in_channels != inner.out_channels or not outer.rank == inner.rank == len(axes):
        raise AlgebraError("outer map, inner map and axes do not fit together")
    leaks: set[Leak] = set()
    for axis, sizes in enumerate(axes):
        if isinstance(sizes, AxisRules):
            _check_rules(outer, inner, axis, sizes)
            for known in _representatives(sizes, inner.stride[axis] * outer.stride[axis]):
                leaks |= _leaks(outer, inner, axis, known)
        else:
            leaks |= _leaks(outer, inner, axis, sizes)
    if not leaks:
        return Exact()
    return Inexact(tuple(sorted(leaks)), describe(outer), describe(inner))


def shift_is_exact(
    outer: ConvMap, shift: npt.ArrayLike, axes: Sequence[AxisSizes | AxisRules]
) -> Exact | Inexact:
    """Whether a constant per channel in front of `outer` may go into its bias.

    Args:
        outer: The map that reads `x + shift`.
        shift: Shape (in_channels,) or ().
        axes: Per spatial axis; n_in equals n_mid, or the inner rule is the identity.
    """
    return composition_is_exact(outer, _shift(outer, shift), axes)


def border_correction(
    outer: ConvMap, inner: ConvMap, axes: Sequence[AxisSizes | AxisRules]
) -> Array | Refusal:
    """What to add to the composed map's output so that it equals the graph's: a constant image.

    Returns:
        float64, shape (out_channels, *n_out), exactly zero away from the border; or a refusal:
        `UNKNOWN_EXTENTS`, `REACH_BACK` where the difference depends on the input, `UNEVEN_BIAS`
        where there is no composed map to correct.

    Raises:
        AlgebraError: If the maps and axes do not fit together.
    """
    verdict = composition_is_exact(outer, inner, axes)
    known = [sizes for sizes in axes if isinstance(sizes, AxisSizes)]
    if len(known) != len(axes):
        return Refusal(Cause.UNKNOWN_EXTENTS, "a correction of the border needs known sizes")
    if isinstance(verdict, Inexact) and not verdict.only_bias:
        return Refusal(Cause.REACH_BACK, verdict.reason)
    passed = passed_constant(outer, inner.bias)
    if isinstance(passed, Refusal):
        return passed
    correction = np.zeros((outer.out_channels, *(sizes.n_out for sizes in known)))
    if isinstance(verdict, Exact):
        return correction
    taps = bias_taps(outer, inner.bias)
    reads = [_reads(outer, axis, sizes) for axis, sizes in enumerate(known)]
    for index in np.ndindex(*outer.taps):
        anywhere = joint_mask([every[k] for (every, _), k in zip(reads, index, strict=True)])
        inside = joint_mask([within[k] for (_, within), k in zip(reads, index, strict=True)])
        value = taps[(slice(None), *index)]
        correction[:, anywhere & ~inside] -= value[:, None]
    return correction


def shift_correction(
    outer: ConvMap, shift: npt.ArrayLike, axes: Sequence[AxisSizes | AxisRules]
) -> Array | Refusal:
    """`border_correction` for a constant per channel in front of `outer`."""
    return border_correction(outer, _shift(outer, shift), axes)


def _shift(outer: ConvMap, shift: npt.ArrayLike) -> ConvMap:
    constant = np.broadcast_to(np.asarray(shift, np.float64), (outer.in_channels,))
    return channel_affine(np.ones(outer.in_channels), constant, outer.rank)


def _check_rules(outer: ConvMap, inner: ConvMap, axis: int, rules: AxisRules) -> None:
    for conv_map, rule in ((inner, rules.inner), (outer, rules.outer)):
        if (rule.up, rule.stride) != (conv_map.up[axis], conv_map.stride[axis]):
            raise AlgebraError(f"the rule of axis {axis} has other rates than its map")
    if rules.first < 0 or rules.step < 1:
        raise AlgebraError("the first size must not be negative and the step positive")


def _representatives(rules: AxisRules, period: int) -> Iterator[AxisSizes]:
    far = (1 << 40) // period * period
    for residue in range(period):
        n_in = rules.first + rules.step * (far + residue)
        n_mid = rules.inner(n_in)
        yield AxisSizes(n_in, n_mid, rules.outer(n_mid))


def _leaks(outer: ConvMap, inner: ConvMap, axis: int, sizes: AxisSizes) -> set[Leak]:
    """Everything that goes wrong on one axis at known sizes."""
    u2, s2 = outer.up[axis], outer.stride[axis]
    t2 = tap_indices(outer, axis)
    lowest = -(-int(t2[0]) // u2)
    highest = (int(t2[-1]) + s2 * (sizes.n_out - 1)) // u2
    outside = np.concatenate(
        [
            np.arange(min(lowest, 0), min(highest + 1, 0), dtype=np.int64),
            np.arange(max(lowest, sizes.n_mid), highest + 1, dtype=np.int64),
        ]
    )
    if sizes.n_out < 1 or not outside.size:
        return set()
    reads = _solves(u2 * outside - t2[:, None], s2, sizes.n_out)
    t1 = tap_indices(inner, axis)
    reaches = _solves(inner.stride[axis] * outside + t1[:, None], inner.up[axis], sizes.n_in)
    read = _any_product(_middle_taps_read(outer, axis), reads)
    reached = _any_product(_middle_taps_written(inner, axis), reaches)
    constant = _any_product(_bias_taps_read(outer, inner, axis), reads)[0]
    begin = outside < 0
    found = {
        Culprit.REACH_BACK: np.asarray((read & reached).any(axis=0)),
        Culprit.BIAS: constant,
    }
    return {
        Leak(axis, side, culprit)
        for culprit, where in found.items()
        for side, mask in ((Side.BEGIN, begin), (Side.END, ~begin))
        if (where & mask).any()
    }


def _solves(multiple: npt.NDArray[np.int64], divisor: int, count: int) -> Mask:
    """Whether multiple / divisor is an integer in [0, count)."""
    whole = multiple % divisor == 0
    return np.asarray(whole & (multiple >= 0) & (multiple < divisor * count))


def _any_product(left: Mask, right: Mask) -> Mask:
    return np.asarray(left.astype(np.float64) @ right.astype(np.float64) > 0)


def _along(used: Mask, axis: int) -> Mask:
    """(rows, *taps) to (rows, taps of one axis): is there a nonzero tap with this index."""
    others = tuple(a + 1 for a in range(used.ndim - 1) if a != axis)
    return np.asarray(used.any(axis=others))


def _middle_taps_read(outer: ConvMap, axis: int) -> Mask:
    """(middle channels, taps): the outer taps on this axis that read each middle channel."""
    width, groups = outer.kernel.shape[1], outer.groups
    used = nonzero(outer.kernel).reshape(groups, -1, width, *outer.taps)
    merged = np.asarray(used.any(axis=1)).reshape(outer.in_channels, *outer.taps)
    return _along(merged, axis)


def _middle_taps_written(inner: ConvMap, axis: int) -> Mask:
    """(middle channels, taps): the inner taps on this axis that feed each middle channel."""
    return _along(np.asarray(nonzero(inner.kernel).any(axis=1)), axis)


def _bias_taps_read(outer: ConvMap, inner: ConvMap, axis: int) -> Mask:
    """(1, taps): the outer taps on this axis that pass the inner constant on."""
    if not inner.has_bias:
        return np.zeros((1, outer.taps[axis]), np.bool_)
    used = np.asarray(nonzero(bias_taps(outer, inner.bias)).any(axis=0))
    return _along(used[None], axis)


def _reads(outer: ConvMap, axis: int, sizes: AxisSizes) -> tuple[Mask, Mask]:
    """(taps, outputs): does the tap read any middle sample there, and one inside [0, n_mid)."""
    u2, s2 = outer.up[axis], outer.stride[axis]
    position = tap_indices(outer, axis)[:, None] + s2 * np.arange(sizes.n_out)
    return np.asarray(position % u2 == 0), _solves(position, u2, sizes.n_mid)
