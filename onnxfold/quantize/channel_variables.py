"""Variables for the channels of tensors: united, pinned, or free to be chosen."""

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxfold.ir.shapes import dim
from onnxfold.linear.hosts import Host

Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Placement:
    """The variables of the channels of one tensor.

    Attributes:
        axis: The channel axis.
        ids: The variable of each channel, shape (channels,).
    """

    axis: int
    ids: Ids


@dataclass(frozen=True, slots=True)
class Pin:
    """Why channels cannot be scaled.

    Attributes:
        ids: Their variables.
        reason: One clause.
        node: The node that stands in the way.
    """

    ids: Ids
    reason: str
    node: ir.Node


@dataclass(frozen=True, slots=True)
class Ceiling:
    """Channels that a Clip cuts off at zero and at `maximum`: no value may be lifted above it."""

    value: ir.Value
    ids: Ids
    maximum: float


@dataclass(frozen=True, slots=True)
class HostSides:
    """A linear operator whose weights can be scaled; None for a side that cannot be followed."""

    host: Host
    inputs: Ids | None
    outputs: Ids | None


@dataclass(frozen=True, slots=True)
class ConstantSide:
    """A constant that is divided like the output of the operator that reads it.

    Attributes:
        node: The operator.
        index: Which of its inputs the constant is.
        axis: Its channel axis, counted from its end.
        ids: The variable of each channel, shape (channels,).
    """

    node: ir.Node
    index: int
    axis: int
    ids: Ids


class Variables:
    """Numbers for channels, some of them united."""

    def __init__(self) -> None:
        self._parents = np.empty(0, np.int64)

    def __len__(self) -> int:
        """How many were given out, united or not."""
        return self._parents.size

    def fresh(self, count: int) -> Ids:
        """`count` new ones."""
        start = self._parents.size
        ids = np.arange(start, start + count, dtype=np.int64)
        self._parents = np.concatenate([self._parents, ids])
        return ids

    def find(self, ids: Ids) -> Ids:
        """The representatives of `ids`: equal where they are united."""
        while True:
            above = self._parents[ids]
            if (above == ids).all():
                return above
            ids = above

    def unite(self, left: Ids, right: Ids) -> None:
        """Let the variables of two arrays of one shape be the same, pair by pair."""
        while True:
            one, other = self.find(left), self.find(right)
            differing = one != other
            if not differing.any():
                return
            low, high = np.minimum(one, other)[differing], np.maximum(one, other)[differing]
            np.minimum.at(self._parents, high, low)


@dataclass(slots=True)
class ChannelScales:
    """The variables of a graph.

    Attributes:
        variables: What is united with what.
        placements: The variables of each tensor that has any.
        sides: The operators whose weights take scales.
        constants: Other constants that take scales.
        pins: Channels that stay as they are, and why.
        ceilings: Channels behind a Clip from zero.
    """

    variables: Variables = field(default_factory=Variables)
    placements: dict[ir.Value, Placement] = field(default_factory=dict)
    sides: list[HostSides] = field(default_factory=list)
    constants: list[ConstantSide] = field(default_factory=list)
    pins: list[Pin] = field(default_factory=list)
    ceilings: list[Ceiling] = field(default_factory=list)

    def free(self) -> NDArray[np.bool_]:
        """Per variable, whether its representative may be scaled."""
        pinned = np.zeros(len(self.variables), np.bool_)
        for pin in self.pins:
            pinned[self.variables.find(pin.ids)] = True
        return ~pinned[self.variables.find(np.arange(len(self.variables)))]

    def pin(self, value: ir.Value | None, reason: str, node: ir.Node) -> None:
        """Note that a tensor must stay as it is."""
        if value is not None and value in self.placements:
            self.pins.append(Pin(self.placements[value].ids, reason, node))

    def pin_clipped(self) -> None:
        """Leave the channels behind a Clip from zero as they are."""
        for ceiling in self.ceilings:
            node = ceiling.value.producer()
            assert node is not None
            self.pins.append(Pin(ceiling.ids, f"a Clip cuts it off at {ceiling.maximum:g}", node))
        self.ceilings.clear()

    def along(self, value: ir.Value, axis: int, node: ir.Node) -> Ids | None:
        """The variables of `value` along `axis`; pinned ones where it has none there.

        None when the extent is not known.
        """
        placement = self.placements.get(value)
        if placement is not None and placement.axis == axis:
            return placement.ids
        extent = dim(value, axis)
        if extent is None:
            return None
        self.pin(value, "its channels lie along another axis", node)
        ids = self.variables.fresh(extent)
        self.pins.append(Pin(ids, "it joins a tensor that cannot be scaled", node))
        return ids
