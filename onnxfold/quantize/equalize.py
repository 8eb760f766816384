"""Chooses the channel scales of a graph: cross-layer equalization, over any topology.

The groups come from `channel_scales`, the noise that scales save from `step_noise`, and the
ranges of channels from a calibration. Ranges guessed from weights alone would not do: on real
topologies they cost up to 30 dB, because what a Relu lets through and what a pooling averages is
not in them.
"""

from collections.abc import Mapping, Sequence
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
    headroom,
)


@dataclass(frozen=True, slots=True, eq=False)
class ChannelRange:
    """What the channels of one tensor reach.

    Attributes:
        low: Smallest value of each channel, float64, (channels,).
        high: Largest value of each channel, float64, (channels,).
        count: How many values of each channel were seen.
    """

    low: Floats
    high: Floats
    count: int


ChannelRanges = Mapping[str, ChannelRange]
"""By the name of the tensor."""

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
        name: ChannelRange(
            each.channels.minimum.astype(np.float64),
            each.channels.maximum.astype(np.float64),
            each.count // max(each.channels.minimum.size, 1),
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
            maximum, with some headroom, meets its ceiling. Not exact beyond that.
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
            reached = ranges.get(value.name or "")
            if reached is None or reached.low.size != placement.ids.size:
                continue
            if _has_step(value):
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
        columns = [np.searchsorted(variables, column) for column in columns]
        by_tensor = [
            self._reader_noises(value, ids) for value, ids in zip(values, columns, strict=True)
        ]
        readers = tuple(reader for own in by_tensor for reader in own)
        if not readers:
            return None, variables
        total = np.zeros(variables.size)
        for reader in readers:
            np.add.at(total, reader.ids, reader.cost)
        tensors = tuple(
            self._tensor_noise(value, ids, own, total)
            for value, ids, own in zip(values, columns, by_tensor, strict=True)
        )
        return ScaleGroup(tensors, readers, self._least[variables], pinned), variables

    def _reader_noises(self, value: ir.Value, ids: Ids) -> list[ReaderNoise]:
        low, high = self._reached(value)
        return [
            ReaderNoise.of(ids, side.host.kernel, side.host.group, low, high)
            for side in self._readers.get(value, [])
        ]

    def _tensor_noise(
        self, value: ir.Value, ids: Ids, readers: Sequence[ReaderNoise], total: Floats
    ) -> TensorNoise:
        """The noise of a tensor; where no layer reads it, it reaches all readers of the group."""
        low, high = self._reached(value)
        cost = np.sum([each.cost for each in readers], axis=0) if readers else total[ids]
        return TensorNoise(ids, low, high, cost, headroom(self._ranges[value.name or ""].count))

    def _reached(self, value: ir.Value) -> tuple[Floats, Floats]:
        """The range of each channel, with zero in it."""
        reached = self._ranges[value.name or ""]
        return np.minimum(reached.low, 0), np.maximum(reached.high, 0)

    def _least_scales(self) -> Floats:
        least = np.zeros(self.roots.size)
        for ceiling in self._found.ceilings:
            reached = self._ranges.get(ceiling.value.name or "")
            share = np.ones(ceiling.ids.size)
            if reached is not None:
                share = reached.high * headroom(reached.count) / ceiling.maximum
            np.maximum.at(least, self.roots[ceiling.ids], np.minimum(share, 1.0))
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
