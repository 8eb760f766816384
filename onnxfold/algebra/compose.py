"""`outer ∘ inner` as one map, wherever nothing is cut off in between (see `borders`)."""

import math
from collections.abc import Callable, Iterator
from itertools import product

import numpy as np

from onnxfold.algebra.convmap import (
    Array,
    ConvMap,
    Mask,
    joint_mask,
    nonzero,
    reduced_map,
    tap_indices,
)
from onnxfold.algebra.groups import with_groups
from onnxfold.algebra.refusal import AlgebraError, Cause, Refusal, by_axis


def compose(outer: ConvMap, inner: ConvMap) -> ConvMap | Refusal:
    """The map `x ↦ outer(inner(x))` over unbounded signals.

    `K[T] = Σ K2[t2] · K1[t1]` over all `u2·t1 + s1·t2 = T`, with u = u1·u2 and s = s1·s2, then
    reduced by their common factor. Every such pair (t1, t2) really meets in a middle sample exactly
    where gcd(s1, u2) = 1. Otherwise only the pairs of one residue t1 mod s1 meet at a given output,
    the composition repeats with period gcd(s1, u2), and it is one map where all residues agree.

    Args:
        outer: Applied second.
        inner: Applied first; its output channels are the outer map's inputs.

    Returns:
        The composition, in gcd(groups) groups; or a refusal: `PERIODIC` where it is no single
        multirate convolution, `UNEVEN_BIAS` where the inner constant arrives differently at
        different output phases.

    Raises:
        AlgebraError: If channels or ranks do not fit.
    """
    if outer.in_channels != inner.out_channels or outer.rank != inner.rank:
        raise AlgebraError(
            f"{inner.out_channels} channels of rank {inner.rank} into a map of "
            f"{outer.in_channels} channels of rank {outer.rank}"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        passed = passed_constant(outer, inner.bias)
        if isinstance(passed, Refusal):
            return passed
        groups = _joint_groups(outer, inner)
        kernel = _agreeing_kernel(outer, inner)
    if isinstance(kernel, Refusal):
        return kernel
    return reduced_map(
        kernel,
        outer.bias + passed,
        groups,
        _origin(outer, inner),
        [u1 * u2 for u1, u2 in zip(inner.up, outer.up, strict=True)],
        [s1 * s2 for s1, s2 in zip(inner.stride, outer.stride, strict=True)],
    )


def bias_taps(outer: ConvMap, constant: Array) -> Array:
    """What every tap makes of a constant input: `B[o, t] = Σ_c K[o, c, t] · constant[c]`.

    Args:
        outer: The map that reads the constant.
        constant: Shape (in_channels,).

    Returns:
        Shape (out_channels, *taps).
    """
    groups = outer.groups
    kernel = outer.kernel.reshape(groups, outer.out_channels // groups, -1, *outer.taps)
    sums = np.einsum("goi...,gi->go...", kernel, constant.reshape(groups, -1))
    return np.asarray(sums.reshape(outer.out_channels, *outer.taps))


def passed_constant(outer: ConvMap, constant: Array) -> Array | Refusal:
    """What a constant input adds to the output away from borders, without the outer bias.

    With u > 1 an output reads only the taps of its own phase, so the sum over the taps must be the
    same for each of the u phases, or the result is no constant.

    Returns:
        Shape (out_channels,), or a refusal (`UNEVEN_BIAS`).
    """
    if not constant.any():
        return np.zeros(outer.out_channels)
    sums = bias_taps(outer, constant)
    for axis, u in enumerate(outer.up):
        # Which phase comes first does not matter, so the origin plays no part.
        widths = [(0, 0)] * sums.ndim
        widths[axis + 1] = (0, -sums.shape[axis + 1] % u)
        padded = np.pad(sums, widths)
        split = (*padded.shape[: axis + 1], -1, u, *padded.shape[axis + 2 :])
        sums = padded.reshape(split).sum(axis=axis + 1)
    phases = sums.reshape(outer.out_channels, -1)
    if (phases != phases[:, :1]).any():
        return Refusal(
            Cause.UNEVEN_BIAS,
            f"the constant in front of a map that upsamples by {by_axis(outer.up)} reaches its "
            "output phases with different weights",
        )
    return np.asarray(phases[:, 0])


def _joint_groups(outer: ConvMap, inner: ConvMap) -> int:
    if _one_input_per_group(outer):
        return inner.groups
    if _diagonal(inner):
        return outer.groups
    return math.gcd(outer.groups, inner.groups)


def _one_input_per_group(conv_map: ConvMap) -> bool:
    return bool(conv_map.kernel.shape[1] == 1)


def _diagonal(conv_map: ConvMap) -> bool:
    return _one_input_per_group(conv_map) and conv_map.groups == conv_map.out_channels


def _origin(outer: ConvMap, inner: ConvMap) -> tuple[int, ...]:
    rates = zip(outer.up, inner.origin, inner.stride, outer.origin, strict=True)
    return tuple(u2 * t1 + s1 * t2 for u2, t1, s1, t2 in rates)


def _agreeing_kernel(outer: ConvMap, inner: ConvMap) -> Array | Refusal:
    """The kernel over T, or the refusal when the residue classes of t1 disagree."""
    shared = [math.gcd(s1, u2) for s1, u2 in zip(inner.stride, outer.up, strict=True)]
    if all(g == 1 for g in shared):
        return _kernel(outer, inner, inner.kernel)
    kernel: Array | None = None
    known: Mask | None = None
    for residues in product(*(range(s1) for s1 in inner.stride)):
        meets = _meeting_taps(outer, inner, residues)
        part = _kernel(outer, inner, inner.kernel * _residue_mask(inner, residues))
        if kernel is None or known is None:
            kernel, known = np.zeros_like(part), np.zeros_like(meets)
        if (part != kernel)[:, :, known & meets].any():
            return Refusal(
                Cause.PERIODIC,
                f"striding by {by_axis(inner.stride)} and then upsampling by "
                f"{by_axis(outer.up)} repeats with period {by_axis(shared)}, which no single "
                "convolution does",
            )
        kernel = np.where(meets, part, kernel)
        known |= meets
    assert kernel is not None
    return kernel


def _meeting_taps(outer: ConvMap, inner: ConvMap, residues: tuple[int, ...]) -> Mask:
    """Where on the grid of T the outputs exist whose middle samples have t1 ≡ residue mod s1.

    T must be a multiple of the whole common factor of u1·u2 and s1·s2, and T ≡ u2·t1 mod s1.
    """
    axes = []
    for axis, residue in enumerate(residues):
        s1, u2 = inner.stride[axis], outer.up[axis]
        factor = math.gcd(inner.up[axis] * u2, s1 * outer.stride[axis])
        count = _composed_taps(outer, inner)[axis]
        t = _origin(outer, inner)[axis] + np.arange(count, dtype=np.int64)
        axes.append((t % factor == 0) & ((t - u2 * residue) % s1 == 0))
    return joint_mask(axes)


def _residue_mask(inner: ConvMap, residues: tuple[int, ...]) -> Mask:
    axes = [
        tap_indices(inner, axis) % inner.stride[axis] == residue
        for axis, residue in enumerate(residues)
    ]
    return joint_mask(axes)


def _composed_taps(outer: ConvMap, inner: ConvMap) -> tuple[int, ...]:
    rates = zip(outer.up, inner.taps, inner.stride, outer.taps, strict=True)
    return tuple(u2 * (n1 - 1) + s1 * (n2 - 1) + 1 for u2, n1, s1, n2 in rates)


def _kernel(outer: ConvMap, inner: ConvMap, inner_kernel: Array) -> Array:
    """Multiply every pair of taps out; channels by matrix product, or elementwise where enough."""
    if _one_input_per_group(outer):
        repeats = outer.out_channels // outer.groups
        right = np.repeat(inner_kernel, repeats, axis=0)
        return _all_pairs(outer, inner, outer.kernel, right, np.multiply)
    if _diagonal(inner):
        middle = np.arange(inner.out_channels).reshape(outer.groups, 1, -1)
        rows = outer.out_channels // outer.groups
        reader = np.broadcast_to(middle, (outer.groups, rows, middle.shape[2]))
        right = inner_kernel[:, 0][reader.reshape(outer.out_channels, -1)]
        return _all_pairs(outer, inner, outer.kernel, right, np.multiply)
    groups = math.gcd(outer.groups, inner.groups)
    masked = ConvMap(inner_kernel, inner.bias, inner.groups, inner.origin, inner.up, inner.stride)
    left = _by_group(with_groups(outer, groups))
    right = _by_group(with_groups(masked, groups))
    kernel = _all_pairs(outer, inner, left, right, _matrix_product)
    return kernel.reshape(outer.out_channels, -1, *kernel.shape[3:])


def _by_group(conv_map: ConvMap) -> Array:
    rows = conv_map.out_channels // conv_map.groups
    return conv_map.kernel.reshape(conv_map.groups, rows, -1, *conv_map.taps)


def _matrix_product(left: Array, right: Array) -> Array:
    """Per group (O, M, *a) by (M, I, *b), where either a or b is all ones: (O, I, *a or b)."""
    groups, rows, middle = left.shape[:3]
    columns, many = right.shape[2], right.shape[3:]
    if math.prod(many) > 1 or math.prod(left.shape[3:]) == 1:
        flat = left.reshape(groups, rows, middle) @ right.reshape(groups, middle, -1)
        return flat.reshape(groups, rows, columns, *many)
    taps = left.shape[3:]
    tap_rows = np.moveaxis(left, 2, -1).reshape(groups, -1, middle)
    flat = tap_rows @ right.reshape(groups, middle, columns)
    return np.moveaxis(flat.reshape(groups, rows, *taps, columns), -1, 2)


def _all_pairs(
    outer: ConvMap,
    inner: ConvMap,
    left: Array,
    right: Array,
    contract: Callable[[Array, Array], Array],
) -> Array:
    """Add K2[t2]·K1[t1] at T = u2·t1 + s1·t2, looping over the taps of the smaller kernel."""
    rank = outer.rank
    few_left = math.prod(outer.taps) <= math.prod(inner.taps)
    few, step_few = (left, inner.stride) if few_left else (right, outer.up)
    step_many, many = (outer.up, inner.taps) if few_left else (inner.stride, outer.taps)
    first = contract(_tap(left, (0,) * rank), _tap(right, (0,) * rank))
    channels = first.shape[: first.ndim - rank]
    kernel = np.zeros((*channels, *_composed_taps(outer, inner)))
    everything = (slice(None),) * len(channels)
    for index in _nonzero_taps(few, rank):
        one = _tap(few, index)
        rates = zip(index, step_few, many, step_many, strict=True)
        target = tuple(slice(a * k, a * k + b * (n - 1) + 1, b) for k, a, n, b in rates)
        kernel[everything + target] += contract(one, right) if few_left else contract(left, one)
    return kernel


def _tap(array: Array, index: tuple[int, ...]) -> Array:
    """One tap, with its axes kept; taps come last."""
    everything = (slice(None),) * (array.ndim - len(index))
    return array[everything + tuple(slice(k, k + 1) for k in index)]


def _nonzero_taps(array: Array, rank: int) -> Iterator[tuple[int, ...]]:
    used = nonzero(array).any(axis=tuple(range(array.ndim - rank)))
    for index in np.argwhere(used):
        yield tuple(int(k) for k in index)
