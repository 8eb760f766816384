"""Convolutions, pooling, matrices and channel arithmetic as `ConvMap`s."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from onnxfold.algebra.convmap import Array, ConvMap, trimmed
from onnxfold.algebra.refusal import AlgebraError


def conv(
    weight: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    *,
    strides: Sequence[int] | None = None,
    pads_begin: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    group: int = 1,
) -> ConvMap:
    """ONNX Conv: u = 1, tap k sits at t = d·k − p.

    The pads at the end only decide how many outputs there are, so they are not asked for here.

    Args:
        weight: Shape (out_channels, in_channels / group, *kernel).
        bias: Shape (out_channels,), or None for zeros.
        strides: Per axis; ones when None.
        pads_begin: Per axis; zeros when None. Negative ones crop.
        dilations: Per axis; ones when None.
        group: The `group` attribute.

    Raises:
        AlgebraError: If shapes and attributes do not fit.
    """
    taps = np.asarray(weight, np.float64)
    rank = taps.ndim - 2
    stride, pads, dilation = _per_axis(rank, (strides, 1), (pads_begin, 0), (dilations, 1))
    kernel = dilated(taps, dilation)
    origin = tuple(-p for p in pads)
    return ConvMap(kernel, _bias(bias, taps.shape[0]), group, origin, (1,) * rank, stride)


def conv_transpose(
    weight: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    *,
    strides: Sequence[int] | None = None,
    pads_begin: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    group: int = 1,
) -> ConvMap:
    """ONNX ConvTranspose: s = 1, tap k sits at t = p − d·k, so the kernel is stored reversed.

    The pads at the end and `output_padding` only decide how many outputs there are.

    Args:
        weight: Shape (in_channels, out_channels / group, *kernel).
        bias: Shape (out_channels,), or None for zeros.
        strides: Per axis, the upsampling rate; ones when None.
        pads_begin: Per axis; zeros when None. Negative ones add outputs in front.
        dilations: Per axis; ones when None.
        group: The `group` attribute.

    Raises:
        AlgebraError: If shapes and attributes do not fit.
    """
    taps = np.asarray(weight, np.float64)
    rank = taps.ndim - 2
    up, pads, dilation = _per_axis(rank, (strides, 1), (pads_begin, 0), (dilations, 1))
    if group < 1 or taps.shape[0] % group:
        raise AlgebraError(f"{taps.shape[0]} input channels in {group} groups")
    kernel = np.flip(dilated(transposed_channels(taps, group), dilation), tuple(range(2, 2 + rank)))
    origin = tuple(p - (n - 1) for p, n in zip(pads, kernel.shape[2:], strict=True))
    one = (1,) * rank
    # A stride that leaves output positions between the taps is coprime with s = 1 all the same.
    return ConvMap(kernel, _bias(bias, kernel.shape[0]), group, origin, up, one)


def transposed_channels(weight: Array, group: int) -> Array:
    """Swap the channel axes within every group: (g·I, O, …) becomes (g·O, I, …), and back."""
    rows, columns = weight.shape[:2]
    blocks = weight.reshape(group, rows // group, columns, *weight.shape[2:])
    return blocks.swapaxes(1, 2).reshape(group * columns, rows // group, *weight.shape[2:])


def dilated(taps: Array, dilation: Sequence[int]) -> Array:
    """Put d − 1 zeros between the taps of every axis; channels come first."""
    if all(d == 1 for d in dilation):
        return taps
    shape = [d * (n - 1) + 1 for n, d in zip(taps.shape[2:], dilation, strict=True)]
    kernel = np.zeros((*taps.shape[:2], *shape))
    kernel[(slice(None), slice(None), *(slice(None, None, d) for d in dilation))] = taps
    return kernel


def identity(channels: int, rank: int) -> ConvMap:
    """`y = x`: one tap of 1 at 0, one group per channel."""
    return channel_affine(np.ones(channels), np.zeros(channels), rank)


def channel_affine(scale: npt.ArrayLike, shift: npt.ArrayLike, rank: int) -> ConvMap:
    """`y[c] = scale[c] · x[c] + shift[c]`: a BatchNormalization, a layer scale, Mul, Add, Div.

    Args:
        scale: Shape (channels,).
        shift: Shape (channels,).
        rank: Number of spatial axes.
    """
    factor = np.asarray(scale, np.float64)
    one = (1,) * rank
    kernel = factor.reshape(-1, 1, *one)
    return ConvMap(kernel, np.asarray(shift, np.float64), factor.size, (0,) * rank, one, one)


def matrix(weight: npt.ArrayLike, bias: npt.ArrayLike | None = None, *, rank: int = 0) -> ConvMap:
    """`y = W x + b` at every position: Gemm, MatMul or a 1×1 convolution.

    Args:
        weight: Shape (out_channels, in_channels); `transB` and `alpha` are already applied.
        bias: Shape (out_channels,), or None for zeros.
        rank: Number of spatial axes.
    """
    taps = np.asarray(weight, np.float64)
    one = (1,) * rank
    if taps.ndim != 2:
        raise AlgebraError(f"a matrix has two axes, not shape {taps.shape}")
    kernel = taps.reshape(*taps.shape, *one)
    return ConvMap(kernel, _bias(bias, taps.shape[0]), 1, (0,) * rank, one, one)


def channel_selection(indices: Sequence[int], in_channels: int, rank: int) -> ConvMap:
    """`y[c] = x[indices[c]]`: Gather, Split, Slice or shuffle of channels; repeats are allowed.

    For wide maps `channels.select_outputs` and `channels.gather_inputs` give the composed result
    without this dense matrix.
    """
    chosen = np.asarray(indices, np.int64)
    if chosen.ndim != 1 or ((chosen < 0) | (chosen >= in_channels)).any():
        raise AlgebraError(f"channel indices must lie in [0, {in_channels})")
    weight = np.zeros((chosen.size, in_channels))
    weight[np.arange(chosen.size), chosen] = 1.0
    return matrix(weight, rank=rank)


def average_pool(
    channels: int,
    kernel: Sequence[int],
    *,
    strides: Sequence[int] | None = None,
    pads_begin: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
) -> ConvMap:
    """AveragePool as a depthwise convolution with taps 1 / prod(kernel).

    It is that only where every output divides by the whole kernel: `count_include_pad = 1`, or no
    window touches padding; and no window is cut short by `ceil_mode`. The caller checks.
    """
    share = 1.0 / float(np.prod(kernel, dtype=np.int64))
    return conv(
        np.full((channels, 1, *kernel), share),
        strides=strides,
        pads_begin=pads_begin,
        dilations=dilations,
        group=channels,
    )


def strided_slice(channels: int, starts: Sequence[int], steps: Sequence[int]) -> ConvMap:
    """`y[o] = x[start + step·o]` on every axis: one tap at `start`, s = step.

    Args:
        channels: Channels, each kept to itself.
        starts: Per axis, not negative-from-the-end; a negative start reads zeros in front, which
            makes this a zero Pad.
        steps: Per axis, positive.

    Raises:
        AlgebraError: If a step is not positive (a reversed axis is no convolution).
    """
    if any(step < 1 for step in steps):
        raise AlgebraError(f"steps {tuple(steps)} must be positive")
    rank = len(tuple(starts))
    kernel = np.ones((channels, 1, *(1,) * rank))
    return ConvMap(kernel, np.zeros(channels), channels, tuple(starts), (1,) * rank, tuple(steps))


def zero_pad(channels: int, begin: Sequence[int]) -> ConvMap:
    """Pad with zeros (or crop, where negative) in front of every axis: `y[o] = x[o − begin]`."""
    return strided_slice(channels, [-b for b in begin], [1] * len(tuple(begin)))


def zero_map(out_channels: int, in_channels: int, rank: int, bias: npt.ArrayLike) -> ConvMap:
    """A constant that reads no input; `bias` has shape (out_channels,)."""
    return trimmed(matrix(np.zeros((out_channels, in_channels)), bias, rank=rank))


def _bias(bias: npt.ArrayLike | None, channels: int) -> Array:
    return np.zeros(channels) if bias is None else np.asarray(bias, np.float64)


def _per_axis(
    rank: int, *attributes: tuple[Sequence[int] | None, int]
) -> tuple[tuple[int, ...], ...]:
    filled = tuple(
        (default,) * rank if given is None else tuple(int(value) for value in given)
        for given, default in attributes
    )
    if any(len(values) != rank for values in filled):
        raise AlgebraError(f"attributes need {rank} entries, one per spatial axis")
    return filled
