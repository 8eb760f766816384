"""An upsampling map as a plain convolution followed by depth-to-space."""

import math

import numpy as np

from onnxfold.algebra.convmap import Array, ConvMap, trimmed
from onnxfold.algebra.groups import with_groups
from onnxfold.algebra.rearrangement import Order


def output_phases(conv_map: ConvMap, order: Order = "DCR") -> ConvMap:
    """The map N with u = 1 such that `M = depth_to_space(out_channels, up, order) ∘ N`.

    Output o = u·q + φ reads `K[u·i − s·o] = K[u·(i − s·q) − s·φ]`, so phase φ has the kernel
    `K_φ[t] = K[u·t − s·φ]` and the stride s. N may write a few outputs more than M needs; the
    caller's extents say how many.

    Args:
        conv_map: The map M.
        order: Order of the phase channels, as `rearrangement.depth_to_space` reads it.

    Returns:
        N, with out_channels · prod(up) output channels, in the groups of M where `order` is "CRD",
        else in one group.
    """
    parts = [_phase(conv_map, phase) for phase in np.ndindex(*conv_map.up)]
    first = tuple(min(column) for column in zip(*(origin for _, origin in parts), strict=True))
    last = tuple(
        max(ends)
        for ends in zip(
            *([t + n - 1 for t, n in zip(o, k.shape[2:], strict=True)] for k, o in parts),
            strict=True,
        )
    )
    kernels = [_placed(kernel, origin, first, last) for kernel, origin in parts]
    phases = math.prod(conv_map.up)
    rank = conv_map.rank
    origin, one = tuple(first), (1,) * rank
    if order == "CRD":
        kernel = np.stack(kernels, axis=1).reshape(-1, *kernels[0].shape[1:])
        bias = np.repeat(conv_map.bias, phases)
        groups = conv_map.groups
    else:
        dense = with_groups(conv_map, 1)
        if dense is not conv_map:
            return output_phases(dense, order)
        kernel = np.concatenate(kernels)
        bias, groups = np.tile(conv_map.bias, phases), 1
    return trimmed(ConvMap(kernel, bias, groups, origin, one, conv_map.stride))


def _phase(conv_map: ConvMap, phase: tuple[int, ...]) -> tuple[Array, tuple[int, ...]]:
    kernel, origin = conv_map.kernel, []
    for axis, offset in enumerate(phase):
        u, s, first = conv_map.up[axis], conv_map.stride[axis], conv_map.origin[axis]
        t = -(-(first + s * offset) // u)
        index = [slice(None)] * kernel.ndim
        index[axis + 2] = slice(u * t - s * offset - first, None, u)
        kernel = kernel[tuple(index)]
        origin.append(t)
    return kernel, tuple(origin)


def _placed(
    kernel: Array, origin: tuple[int, ...], first: tuple[int, ...], last: tuple[int, ...]
) -> Array:
    widths = [(0, 0), (0, 0)]
    for axis, (start, low, high) in enumerate(zip(origin, first, last, strict=True)):
        widths.append((start - low, high - (start + kernel.shape[axis + 2] - 1)))
    return np.pad(kernel, widths)
