"""Normalizations and channel scales in front of or behind a map."""

import numpy as np
import numpy.typing as npt

from onnxfold.algebra.compose import compose
from onnxfold.algebra.convmap import Array, ConvMap
from onnxfold.algebra.operators import channel_affine
from onnxfold.algebra.refusal import AlgebraError, Cause, Refusal


def batchnorm_as_affine(
    gamma: npt.ArrayLike,
    beta: npt.ArrayLike,
    mean: npt.ArrayLike,
    var: npt.ArrayLike,
    epsilon: float,
) -> tuple[Array, Array] | Refusal:
    """Inference BatchNormalization as `scale · x + shift`.

    `scale = gamma / sqrt(var + epsilon)`, `shift = beta − mean · scale`, in float64 whatever the
    model's type, because an epsilon that float16 rounds to zero is fine here.

    Args:
        gamma: ONNX `scale`, shape (channels,).
        beta: ONNX `B`, shape (channels,).
        mean: ONNX `input_mean`, shape (channels,).
        var: ONNX `input_var`, shape (channels,).
        epsilon: The attribute; 1e-5 where the node has none.

    Returns:
        (scale, shift), each of shape (channels,); or a refusal (`VARIANCE`) where var + epsilon
        is not positive, so that the model itself divides by zero or takes a root of a negative.

    Raises:
        AlgebraError: If the four shapes differ.
    """
    gamma, beta, mean, var = (np.asarray(a, np.float64) for a in (gamma, beta, mean, var))
    if not gamma.shape == beta.shape == mean.shape == var.shape or gamma.ndim != 1:
        raise AlgebraError("the parameters of a BatchNormalization have one shape (channels,)")
    spread = var + epsilon
    if not (spread > 0).all():
        return Refusal(Cause.VARIANCE, "var + epsilon of the BatchNormalization is not positive")
    with np.errstate(over="ignore", invalid="ignore"):
        scale = gamma / np.sqrt(spread)
        return scale, beta - mean * scale


def scale_outputs(conv_map: ConvMap, scale: npt.ArrayLike, shift: npt.ArrayLike) -> ConvMap:
    """`x ↦ scale · M(x) + shift`, per output channel; exact at every border.

    Args:
        conv_map: The map M.
        scale: Shape (out_channels,) or ().
        shift: Shape (out_channels,) or ().
    """
    factor = np.broadcast_to(np.asarray(scale, np.float64), (conv_map.out_channels,))
    column = factor.reshape(-1, 1, *(1,) * conv_map.rank)
    with np.errstate(over="ignore", invalid="ignore"):
        kernel = conv_map.kernel * column
        bias = conv_map.bias * factor + np.asarray(shift, np.float64)
    return ConvMap(kernel, bias, conv_map.groups, conv_map.origin, conv_map.up, conv_map.stride)


def scale_inputs(
    conv_map: ConvMap, scale: npt.ArrayLike, shift: npt.ArrayLike
) -> ConvMap | Refusal:
    """`x ↦ M(scale · x + shift)`, per input channel.

    The scale is exact everywhere. The shift arrives as kernel sum · shift, which is right only
    where the map reads no padding: ask `borders.shift_is_exact` first.

    Args:
        conv_map: The map M.
        scale: Shape (in_channels,) or ().
        shift: Shape (in_channels,) or ().

    Returns:
        The map, or a refusal (`UNEVEN_BIAS`) where upsampling spreads the shift unevenly.
    """
    full = (conv_map.in_channels,)
    factor = np.broadcast_to(np.asarray(scale, np.float64), full)
    constant = np.broadcast_to(np.asarray(shift, np.float64), full)
    return compose(conv_map, channel_affine(factor, constant, conv_map.rank))


def scaled_input_weights(
    weight: Array, scale: npt.ArrayLike, shift: npt.ArrayLike, group: int
) -> tuple[Array, Array]:
    """`x ↦ W * (scale · x + shift)` as a weight of the same layout, and what to add to the bias.

    Unlike `scale_inputs` it keeps every tap, zero or not, and the groups: the operator that holds
    the weight keeps its kernel shape and its pads. `W'[o, i, …] = W[o, i, …] · scale[g·I + i]` and
    `b'[o] = Σ W[o, i, …] · shift[g·I + i]`, where g is the group of o and I the inputs per group.

    Args:
        weight: Shape (out_channels, in_channels / group, *taps).
        scale: Shape (in_channels,) or ().
        shift: Shape (in_channels,) or (); right only where no padding is read.
        group: Number of contiguous, equally large channel groups.

    Returns:
        (weight, addend), of the shape of `weight` and of shape (out_channels,).

    Raises:
        AlgebraError: If the output channels do not fall into groups.
    """
    rows, columns = weight.shape[:2]
    if group < 1 or rows % group:
        raise AlgebraError(f"{rows} output channels in {group} groups")
    spatial = (1,) * (weight.ndim - 2)
    by_row = [
        np.broadcast_to(np.asarray(numbers, np.float64), (group * columns,))
        .reshape(group, columns)
        .repeat(rows // group, axis=0)
        for numbers in (scale, shift)
    ]
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = weight * by_row[0].reshape(rows, columns, *spatial)
        sums = weight.sum(axis=tuple(range(2, weight.ndim)))
        return scaled, (sums * by_row[1]).sum(axis=1)
