"""What a model does to its image before anything else, and which values it takes from that.

Exporters often put the normalisation into the graph. Then pixels must be fed as they are, and
normalising once more ruins every range. Only what can be shown counts:

- `y = a·x + b` per channel maps `-b/a` to zero. Nobody centres values 0 to 1 on 2 or more.
- Division by some 21 or more would leave values 0 to 1 within a twentieth: it is made for pixels.
- A BatchNormalization holds mean and variance of what it was trained on. For values within
  [l, h] the mean lies in it, and the variance is at most (h - l)²/4 (Popoviciu's inequality).
  Behind a convolution l and h are the least and greatest sums that its weights can form.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxfold.calibrate.images import WHITE
from onnxfold.calibrate.samples_model import ImageInput, next_node
from onnxfold.ir.constants import float_constant
from onnxfold.ir.graph import describe, ints_attribute, is_op, stamp_opset_versions
from onnxfold.ir.ops import BatchNormalization, Conv

Floats = NDArray[np.float64]

_BEYOND_UNIT = 2.0
"""A centre from here on is none of values 0 to 1, whatever their mean is."""

_MADE_FOR_PIXELS = 0.047
"""A factor up to this (255 · 0.047 = 12) would squeeze values 0 to 1 to nothing."""

_CENTRED = 0.3
"""The least factor beside a centre within 0 to 1; one below may well be made for pixels."""

_SLACK = 2.0
"""Variance over the proven bound that still counts as within it: augmentation leaves 0 to 1."""

_TENTH = 0.1
"""Share of channels that must be out of reach; a broken channel proves nothing."""


class Takes(StrEnum):
    """The values that a model takes for the pixels 0 to 255."""

    PIXELS = "0 to 255"
    UNIT = "0 to 1"


@dataclass(frozen=True, slots=True, eq=False)
class FirstNorm:
    """The first BatchNormalization, as a function of the model's input.

    Attributes:
        name: How a user finds it.
        weight: (outputs, channels, height, width) of what stands before it.
        bias: (outputs,).
        dilations: Distance between taps, per axis.
        mean: (outputs,) running mean.
        variance: (outputs,) running variance.
    """

    name: str
    weight: Floats
    bias: Floats
    dilations: tuple[int, int]
    mean: Floats
    variance: Floats

    def allows(self, low: float, high: float) -> bool:
        """Whether inputs within these limits can have had these means and variances."""
        kernel = self.weight.reshape(len(self.weight), -1)
        ends = np.sort([low * kernel, high * kernel], axis=0).sum(axis=2) + self.bias
        half = (ends[1] - ends[0]) / 2.0
        far = np.abs(self.mean - ends.mean(axis=0)) > half * 1.1
        wide = self.variance > half**2 * _SLACK
        return float(np.mean(far | wide)) < _TENTH


@dataclass(frozen=True, slots=True, eq=False)
class Stem:
    """What a model does to its image before the first convolution: `a·x + b`.

    Attributes:
        steps: The nodes that do it, as a user finds them.
        factor: (channels,) a.
        offset: (channels,) b.
        norm: The first BatchNormalization, if only a convolution stands before it.
        takes: The values that the model takes, None where nothing shows it.
        reason: What shows it.
    """

    steps: tuple[str, ...]
    factor: Floats
    offset: Floats
    norm: FirstNorm | None
    takes: Takes | None
    reason: str

    @property
    def centre(self) -> Floats:
        """(channels,) the input that it maps to zero."""
        return np.asarray(-self.offset / self.factor)


def read_stem(model: ir.Model, image: ImageInput) -> Stem:
    """Follow the image from the model's input up to the first BatchNormalization.

    Nodes of the model are told their operator set version; nothing else about it changes.
    """
    stamp_opset_versions(model)
    (value,) = (each for each in model.graph.inputs if each.name == image.name)
    axis = image.channel_axis
    factor, offset = np.ones(image.channels), np.zeros(image.channels)
    steps: list[str] = []
    while (node := next_node(value)) is not None:
        if is_op(node, "Transpose"):
            axis = _moved(node, axis)
        elif not is_op(node, "Identity", "Cast"):
            step = _affine(node, value, axis, image.channels)
            if step is None:
                break
            factor, offset = factor * step[0], offset * step[0] + step[1]
            steps.append(describe(node))
        value = node.outputs[0]
    norm = _first_norm(node, factor, offset) if axis == 1 else None
    takes, reason = _taken(tuple(steps), factor, offset, norm)
    return Stem(tuple(steps), factor, offset, norm, takes, reason)


def _moved(node: ir.Node, axis: int) -> int:
    order = ints_attribute(node, "perm", (3, 2, 1, 0))
    return order.index(axis) if axis in order else -1


def _affine(
    node: ir.Node, value: ir.Value, axis: int, channels: int
) -> tuple[Floats, Floats] | None:
    """Factor and offset per channel of an elementwise node, None for anything else."""
    if not is_op(node, "Add", "Sub", "Mul", "Div") or len(node.inputs) != 2:
        return None
    first = node.inputs[0] is value
    constant = _per_channel(node.inputs[1] if first else node.inputs[0], axis, channels)
    if constant is None:
        return None
    one, zero = np.ones(channels), np.zeros(channels)
    match node.op_type, first:
        case "Add", _:
            return one, constant
        case "Sub", True:
            return one, -constant
        case "Sub", False:
            return -one, constant
        case "Mul", _ if constant.all():
            return constant, zero
        case "Div", True if constant.all():
            return 1.0 / constant, zero
    return None


def _per_channel(value: ir.Value | None, axis: int, channels: int) -> Floats | None:
    constant = float_constant(value)
    if constant is None or constant.ndim > 4 or not np.isfinite(constant).all():
        return None
    shape = (1,) * (4 - constant.ndim) + constant.shape
    if constant.size not in (1, channels) or shape[axis] != constant.size:
        return None
    return np.broadcast_to(constant.ravel(), (channels,)).copy()


def _first_norm(node: ir.Node | None, factor: Floats, offset: Floats) -> FirstNorm | None:
    weight, bias, dilations = np.diag(factor)[:, :, None, None], offset, (1, 1)
    conv = Conv.of(node)
    if conv is not None:
        kernel, shift = float_constant(conv.weight), float_constant(conv.bias)
        if kernel is None or (conv.bias is not None and shift is None):
            return None
        if kernel.ndim != 4 or kernel.shape[1] != len(factor) or conv.group != 1:
            return None
        weight = kernel * factor[:, None, None]
        bias = (kernel * offset[:, None, None]).sum(axis=(1, 2, 3))
        bias = bias if shift is None else bias + shift
        dilations = (conv.window.dilations[0], conv.window.dilations[1])
        node = next_node(conv.node.outputs[0])
    norm = BatchNormalization.of(node)
    if norm is None or norm.training:
        return None
    mean, variance = float_constant(norm.mean), float_constant(norm.variance)
    if mean is None or variance is None or len(mean) != len(weight):
        return None
    return FirstNorm(describe(norm.node), weight, bias, dilations, mean, variance)


def _taken(
    steps: tuple[str, ...], factor: Floats, offset: Floats, norm: FirstNorm | None
) -> tuple[Takes | None, str]:
    """Which values the model takes, and what shows it."""
    own = f"the model normalises its input itself ({', '.join(steps)})"
    centre = -offset / factor
    if steps and np.abs(centre).max() >= _BEYOND_UNIT:
        return Takes.PIXELS, f"{own}, around {_listed(centre)}"
    if steps and not offset.any() and np.abs(factor).max() <= _MADE_FOR_PIXELS:
        return Takes.PIXELS, f"{own}, by a factor of {_listed(factor)}"
    if steps and _is_for_unit(factor, offset):
        return Takes.UNIT, f"{own}, around {_listed(centre)}"
    # Three deviations beyond 0 to 1 hold whatever normalisation is in use.
    if norm is not None and not norm.allows(-3.0, 3.0) and norm.allows(0.0, WHITE):
        return Takes.PIXELS, f"{norm.name} was trained on values that only pixels 0 to 255 give"
    return None, own if steps else ""


def _is_for_unit(factor: Floats, offset: Floats) -> bool:
    centre = -offset / factor
    within = bool((centre >= 0.0).all() and (centre <= 1.0).all())
    least = _CENTRED if offset.any() else WHITE / _BEYOND_UNIT
    return within and bool(np.abs(factor).min() >= least)


def _listed(numbers: Floats) -> str:
    alike = bool(np.ptp(numbers) == 0.0)
    return ", ".join(f"{number:.4g}" for number in (numbers[:1] if alike else numbers))
