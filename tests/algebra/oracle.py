"""Straight readings of the ONNX definitions, sharing no code and no idea with the algebra."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from onnxfold.algebra.convmap import ConvMap

Array = npt.NDArray[np.float64]


def conv(
    x: Array,
    weight: Array,
    bias: Array,
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    group: int,
) -> Array:
    """ONNX Conv of one image: pad, then one dot product per output position."""
    rank = x.ndim - 1
    padded = np.pad(x, [(0, 0), *zip(pads[:rank], pads[rank:], strict=True)])
    reach = [d * (k - 1) + 1 for d, k in zip(dilations, weight.shape[2:], strict=True)]
    extents = [(n - r) // s + 1 for n, r, s in zip(padded.shape[1:], reach, strides, strict=True)]
    y = np.zeros((weight.shape[0], *extents))
    rows, columns = weight.shape[0] // group, weight.shape[1]
    for position in np.ndindex(*extents):
        window = tuple(
            slice(o * s, o * s + r, d)
            for o, s, r, d in zip(position, strides, reach, dilations, strict=True)
        )
        patch = padded[(slice(None), *window)]
        for o in range(weight.shape[0]):
            first = o // rows * columns
            value = bias[o] + (weight[o] * patch[first : first + columns]).sum()
            y[(o, *position)] = value
    return y


def conv_transpose(
    x: Array,
    weight: Array,
    bias: Array,
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    group: int,
    output_padding: Sequence[int],
) -> Array:
    """ONNX ConvTranspose of one image: every input sample stamps the kernel, then crop."""
    rank = x.ndim - 1
    reach = [d * (k - 1) + 1 for d, k in zip(dilations, weight.shape[2:], strict=True)]
    full = [
        (n - 1) * s + r + p
        for n, s, r, p in zip(x.shape[1:], strides, reach, output_padding, strict=True)
    ]
    columns = weight.shape[1]
    per_group = x.shape[0] // group
    stamped = np.zeros((columns * group, *full))
    for position in np.ndindex(*x.shape[1:]):
        window = tuple(
            slice(i * s, i * s + r, d)
            for i, s, r, d in zip(position, strides, reach, dilations, strict=True)
        )
        for i in range(x.shape[0]):
            first = i // per_group * columns
            stamped[(slice(first, first + columns), *window)] += weight[i] * x[(i, *position)]
    crop = tuple(slice(b, n - e) for b, e, n in zip(pads[:rank], pads[rank:], full, strict=True))
    return stamped[(slice(None), *crop)] + bias.reshape(-1, *(1,) * rank)


def dense(conv_map: ConvMap) -> Array:
    """The kernel without groups, one entry at a time."""
    rows = conv_map.out_channels // conv_map.groups
    width = conv_map.kernel.shape[1]
    kernel = np.zeros((conv_map.out_channels, conv_map.in_channels, *conv_map.taps))
    for o in range(conv_map.out_channels):
        for j in range(width):
            kernel[o, o // rows * width + j] = conv_map.kernel[o, j]
    return kernel


def on_a_line(
    conv_map: ConvMap, x: Array, x_first: Sequence[int], first: Sequence[int], count: Sequence[int]
) -> Array:
    """Outputs first … first + count − 1 by the definition, from samples that start at x_first.

    Samples that were not given are zero. Every output position and tap is visited on its own.
    """
    kernel = dense(conv_map)
    y = np.zeros((conv_map.out_channels, *count))
    for position in np.ndindex(*count):
        y[(slice(None), *position)] = conv_map.bias
        for k in np.ndindex(*conv_map.taps):
            index, inside = [], True
            for axis in range(conv_map.rank):
                o, t = position[axis] + first[axis], k[axis] + conv_map.origin[axis]
                i, rest = divmod(t + conv_map.stride[axis] * o, conv_map.up[axis])
                i -= x_first[axis]
                inside = inside and rest == 0 and 0 <= i < x.shape[axis + 1]
                index.append(i)
            if inside:
                y[(slice(None), *position)] += kernel[(..., *k)] @ x[(slice(None), *index)]
    return y


def outputs(conv_map: ConvMap, x: Array, extents: Sequence[int]) -> Array:
    """Outputs 0 … extents − 1 of a whole image, by the definition."""
    zero = (0,) * conv_map.rank
    return on_a_line(conv_map, x, zero, zero, extents)


def samples_read(
    conv_map: ConvMap, first: Sequence[int], count: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """First sample and number of samples that the outputs first … first + count − 1 can read."""
    starts, counts = [], []
    for axis in range(conv_map.rank):
        u, s, t = conv_map.up[axis], conv_map.stride[axis], conv_map.origin[axis]
        low = (t + s * first[axis]) // u
        high = (t + conv_map.taps[axis] - 1 + s * (first[axis] + count[axis] - 1)) // u
        starts.append(low)
        counts.append(high - low + 1)
    return tuple(starts), tuple(counts)
