"""Chooses the channel scales of a graph: cross-layer equalization, over any topology.

The groups come from `channel_scales`, the noise that scales save from `step_noise`, and the
ranges of channels from a calibration. Ranges guessed from weights alone would not do: on real
topologies they cost up to 30 dB, because what a Relu lets through and what a pooling averages is
not in them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxfold.calibrate.statistics import Calibration
from onnxfold.ir.graph import is_op, producer
from onnxfold.quantize.channel_scales import channel_scales
from onnxfold.quantize.channel_variables import ChannelScales, HostSides, Pin, Variables
from onnxfold.quantize.scaled_weights import ConstantScales, LayerScales
from onnxfold.quantize.step_noise import (
    LEAST_GAIN,
    Floats,
    Ids,
    ReaderNoise,
    ScaleGroup,
    TensorNoise,
)

ChannelRanges = Mapping[str, tuple[Floats, Floats]]
"""Smallest and largest value of each channel of a tensor, by its name: float64, (channels,)."""

_HEADROOM = 1.25
"""How far above its calibrated maximum a lifted channel may rise before a Clip cuts it off."""
_JOINS = ("Add", "Sub", "Sum", "Concat")


@dataclass(frozen=True, slots=True)
class Equalization:
    """The scales of a graph.

    Attributes:
        changes: The layers whose weights change, and other constants that do.
        refused: Layers none of whose output channels can be scaled, each with what pins them.
        groups: How many groups of channels are scaled.
        noise: Predicted noise of these groups, as a share of what it was: the geometric mean.
    """

    changes: tuple[LayerScales | ConstantScales, ...]
    refused: tuple[tuple[ir.Node, Pin], ...]
    groups: int
    noise: float


def values_to_observe(graph: ir.Graph) -> list[str]:
    """The tensors whose channel ranges decide, by name; the shapes of the graph are inferred."""
    found = channel_scales(graph)
    return [value.name for value in found.placements if value.name and _has_step(value)]


def channel_ranges(calibration: Calibration) -> ChannelRanges:
    """The ranges of channels that a calibration holds."""
    return {
        name: (
            each.channels.minimum.astype(np.float64),
            each.channels.maximum.astype(np.float64),
        )
        for name, each in calibration.tensors.items()
        if each.channels is not None
    }


def equalization(
    graph: ir.Graph, ranges: ChannelRanges, *, lift_clipped: bool = False
) -> Equalization:
    """Choose scales for a graph whose shapes are inferred.

    Args:
        graph: The float graph; left as it is.
        ranges: What the channels of `values_to_observe` reach on real inputs.
        lift_clipped: Whether channels behind a Clip from zero may be lifted until their measured
            maximum, with a quarter to spare, meets its ceiling. Not exact beyond that.
    """
    found = channel_scales(graph)
    if not lift_clipped:
        found.pin_clipped()
    groups = _Groups(found, ranges)
    scale = np.ones(len(found.variables))
    gains = []
    for label in groups.labels():
        group, variables = groups.group(label)
        if group is None:
            continue
        best, noise = group.best_scales()
        if noise < 1 - LEAST_GAIN:
            scale[variables] = np.where(group.pinned, scale[variables], best)
            gains.append(noise)
    full = scale[groups.roots]
    layers = [_layer_scales(side, full) for side in found.sides]
    constants = [
        ConstantScales(side.node, side.index, side.axis, full[side.ids])
        for side in found.constants
        if (full[side.ids] != 1).any()
    ]
    changed = [each for each in layers if each.inputs is not None or each.outputs is not None]
    return Equalization(
        (*changed, *constants),
        tuple(_refusals(found, groups)),
        len(gains),
        float(np.exp(np.mean(np.log(np.maximum(gains, 1e-12))))) if gains else 1.0,
    )


def _layer_scales(side: HostSides, scale: Floats) -> LayerScales:
    inputs = None if side.inputs is None else scale[side.inputs]
    outputs = None if side.outputs is None else scale[side.outputs]
    return LayerScales(
        side.host.node,
        None if inputs is None or (inputs == 1).all() else inputs,
        None if outputs is None or (outputs == 1).all() else outputs,
    )


def _has_step(value: ir.Value) -> bool:
    """Whether quantization gives the tensor a step of its own: layers, sums and Concats read it."""
    readers = [use.node for use in value.uses()]
    weighted = ("Conv", "ConvTranspose", "Gemm", "MatMul", *_JOINS)
    return is_op(producer(value), *_JOINS) or any(is_op(node, *weighted) for node in readers)


class _Groups:
    """The free variables of a graph in groups that share tensors."""

    def __init__(self, found: ChannelScales, ranges: ChannelRanges) -> None:
        self._found = found
        self._ranges = ranges
        self.roots = found.variables.find(np.arange(len(found.variables)))
        self.free = found.free()
        self._least = self._least_scales()
        self._labels = self._joined()
        self._readers: dict[ir.Value, list[HostSides]] = {}
        for side in found.sides:
            if side.inputs is not None:
                self._readers.setdefault(side.host.x, []).append(side)
        self._tensors: dict[int, list[ir.Value]] = {}
        for value, placement in found.placements.items():
            if value.name in ranges and _has_step(value):
                for label in np.unique(self._labels[placement.ids[self.free[placement.ids]]]):
                    self._tensors.setdefault(int(label), []).append(value)

    def labels(self) -> list[int]:
        """One number for each group."""
        return list(self._tensors)

    def group(self, label: int) -> tuple[ScaleGroup | None, Ids]:
        """The group, None when nothing reads it; and its variables."""
        values = self._tensors[label]
        columns = [self.roots[self._found.placements[value].ids] for value in values]
        variables = np.unique(np.concatenate(columns))
        pinned = ~self.free[variables] | (self._labels[variables] != label)
        readers: list[ReaderNoise] = []
        parts: list[tuple[Ids, Floats, Floats, Floats]] = []
        for value, column in zip(values, columns, strict=True):
            ids = np.searchsorted(variables, column)
            low, high = (np.asarray(each, np.float64) for each in self._ranges[value.name or ""])
            low, high = np.minimum(low, 0), np.maximum(high, 0)
            own = [
                ReaderNoise.of(ids, side.host.kernel, side.host.group, low, high)
                for side in self._readers.get(value, [])
            ]
            readers += own
            parts.append((ids, low, high, np.sum([each.cost for each in own], axis=0)))
        if not readers:
            return None, variables
        total = np.zeros(variables.size)
        for reader in readers:
            np.add.at(total, reader.ids, reader.cost)
        tensors = tuple(
            TensorNoise(ids, low, high, cost if np.ndim(cost) else total[ids])
            for ids, low, high, cost in parts
        )
        return ScaleGroup(tensors, tuple(readers), self._least[variables], pinned), variables

    def _least_scales(self) -> Floats:
        least = np.zeros(self.roots.size)
        for ceiling in self._found.ceilings:
            limits = self._ranges.get(ceiling.value.name or "")
            reached = np.inf if limits is None else limits[1] * _HEADROOM / ceiling.maximum
            np.maximum.at(least, self.roots[ceiling.ids], np.minimum(reached, 1.0))
        return least

    def _joined(self) -> Ids:
        """A label per variable: equal where a tensor holds both."""
        joined = Variables()
        joined.fresh(self.roots.size)
        for placement in self._found.placements.values():
            ids = self.roots[placement.ids[self.free[placement.ids]]]
            if ids.size:
                joined.unite(np.broadcast_to(ids[:1], ids.shape), ids)
        return joined.find(self.roots)


def _refusals(found: ChannelScales, groups: _Groups) -> list[tuple[ir.Node, Pin]]:
    """Layers none of whose output channels can be scaled, though somebody reads them."""
    causes: dict[int, Pin] = {}
    for pin in found.pins:
        for root in groups.roots[pin.ids].tolist():
            causes.setdefault(root, pin)
    refused = []
    for side in found.sides:
        node = side.host.node
        if side.outputs is None or groups.free[side.outputs].any() or not node.outputs[0].uses():
            continue
        refused.append((node, causes[int(groups.roots[side.outputs[0]])]))
    return refused
