"""Evaluate a map on numbers: constant folding, and what a border really receives."""

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
import numpy.typing as npt

from onnxfold.algebra.convmap import Array, ConvMap
from onnxfold.algebra.refusal import AlgebraError


def apply(conv_map: ConvMap, x: npt.ArrayLike, out_extents: Sequence[int]) -> Array:
    """The outputs of a map on one zero-extended input.

    Args:
        conv_map: The map.
        x: Shape (in_channels, *in_extents).
        out_extents: Outputs wanted per axis; they start at position 0.

    Returns:
        float64, shape (out_channels, *out_extents).

    Raises:
        AlgebraError: If the input does not have the map's channels and rank.
    """
    data = np.asarray(x, np.float64)
    if data.ndim != conv_map.rank + 1 or data.shape[0] != conv_map.in_channels:
        raise AlgebraError(f"an input of shape {data.shape} for {conv_map.in_channels} channels")
    groups, out_per_group = conv_map.groups, conv_map.out_channels // conv_map.groups
    grouped = data.reshape(groups, -1, *data.shape[1:])
    kernel = conv_map.kernel.reshape(groups, out_per_group, -1, *conv_map.taps)
    y = np.zeros((groups, out_per_group, *out_extents))
    spots = [
        list(_readers(conv_map, axis, data.shape[axis + 1], out_extents[axis]))
        for axis in range(conv_map.rank)
    ]
    everything = (slice(None),) * 3
    for choice in product(*spots):
        at: tuple[slice | int, ...] = (*everything, *(k for k, _, _ in choice))
        tap = kernel[at]
        source = grouped[(slice(None), slice(None), *(i for _, _, i in choice))]
        flat = tap @ source.reshape(groups, source.shape[1], -1)
        target = (slice(None), slice(None), *(o for _, o, _ in choice))
        y[target] += flat.reshape(y[target].shape)
    bias = conv_map.bias.reshape(-1, *(1,) * conv_map.rank)
    return np.asarray(y.reshape(conv_map.out_channels, *out_extents) + bias)


def _readers(
    conv_map: ConvMap, axis: int, n_in: int, n_out: int
) -> Iterator[tuple[int, slice, slice]]:
    """Per stored tap k: the outputs o that read through it, and the inputs i = (t + s·o) / u."""
    u, s = conv_map.up[axis], conv_map.stride[axis]
    inverse = pow(s, -1, u) if u > 1 else 0
    for k in range(conv_map.taps[axis]):
        t = conv_map.origin[axis] + k
        o = -t * inverse % u
        below = max(0, -(-(-t - s * o) // (s * u)))
        o += below * u
        i = (t + s * o) // u
        count = min(-(-(n_out - o) // u), -(-(n_in - i) // s))
        if count > 0:
            yield k, slice(o, o + (count - 1) * u + 1, u), slice(i, i + (count - 1) * s + 1, s)
