"""What a way to compute a linear region costs, and which changes are worth making."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxfold.cost.machine import CostModel
from onnxfold.ir.graph import is_op
from onnxfold.ir.shapes import dim
from onnxfold.linear.expression import Expression
from onnxfold.linear.reading import Reading

_NOMINAL_EXTENT = 64
"""What a dynamic extent of the result counts as; what it reads follows from the rates."""

_GAIN = 1e-3
"""A rewrite must save this share of the cost, so that equal forms do not chase each other."""

MARGIN = 0.1
"""The share that must be saved where a rewrite does more of anything: multiplies more, or adds
convolutions. It is more than the median error of a predicted ratio: 7 % on ONNX Runtime and 5 % on
OpenVINO (`python -m tests.bench.unit_costs`)."""

_ROUNDING = 1e-9
"""Sums of the same costs in another order are equal."""

Terms = Mapping[ir.Value, Expression]
"""The maps whose sum is a tensor, by what they read."""


@dataclass(frozen=True, slots=True)
class Price:
    """What a way to compute the region costs.

    Attributes:
        seconds: By the cost model.
        convolutions: How many Conv and ConvTranspose nodes it needs.
        multiply_adds: Of these nodes.
    """

    seconds: float
    convolutions: int
    multiply_adds: int

    def is_no_worse_than(self, other: "Price") -> bool:
        """Whether a move from the other price to this one may be made."""
        if self.convolutions > other.convolutions:
            # Runtimes fuse a sum or a Concat with what stands beside it better than any such model
            # knows, so that saving traffic alone is no reason to split a convolution.
            less = self.multiply_adds < other.multiply_adds
            return less and self.seconds < other.seconds * (1 - MARGIN)
        return self.seconds <= other.seconds * (1 + _ROUNDING)

    def gains_over(self, other: "Price") -> bool:
        """Whether a rewrite from the other price to this one is worth making."""
        least = MARGIN if self.multiply_adds > other.multiply_adds else _GAIN
        return self.is_no_worse_than(other) and self.seconds < other.seconds * (1 - least)

    def plus(self, other: "Price") -> "Price":
        """Both together."""
        return Price(
            self.seconds + other.seconds,
            self.convolutions + other.convolutions,
            self.multiply_adds + other.multiply_adds,
        )


class Pricing:
    """The prices of one region, each looked up once.

    Args:
        root: The last node of the region.
        owned: The values that nobody needs any more when the root no longer reads them.
        costs: The machine.
    """

    def __init__(self, root: Reading, owned: Mapping[ir.Value, Reading], costs: CostModel) -> None:
        self._root = root
        self._owned = owned
        self._costs = costs
        spatial = len(root.operands[0][1].rules)
        self._out_extents = tuple(
            dim(root.output, axis + 2) or _NOMINAL_EXTENT for axis in range(spatial)
        )
        self._seconds_made: dict[Expression, float] = {}
        self._prices_kept: dict[ir.Value, Price] = {}

    def price(self, terms: Terms) -> Price:
        """What the new operators cost, and those that compute what these read."""
        return self._made(terms).plus(self._kept(terms))

    def original_price(self, start: Terms) -> Price:
        """What the region costs as it stands."""
        root = price_as_it_stands(self._root, self._costs, self._out_extents)
        return root.plus(self._kept(start))

    def _made(self, terms: Terms) -> Price:
        """One operator for each map, the additions between them, and one of what is left over."""
        maps = terms.values()
        kernels = [each for each in maps if not each.is_channelwise]
        scaled = sum(each.is_channelwise and not each.sign for each in maps)
        if not kernels:
            scaled += any(each.shifts for each in maps)  # no bias to take the constant
            scaled += all(each.sign < 0 for each in maps)  # nothing to subtract from
        once = self._elementwise(1)
        seconds = scaled * once + (len(maps) - 1) * self._elementwise(2)
        work = sum(each.footprint.multiply_adds(self._out_extents) for each in kernels)
        return Price(seconds + sum(map(self._convolution, kernels)), len(kernels), work)

    def _elementwise(self, read: int) -> float:
        channels = self._root.operands[0][1].footprint.out_channels
        return self._costs.elementwise(channels, self._out_extents, read)

    def _convolution(self, expression: Expression) -> float:
        if expression not in self._seconds_made:
            seconds = self._costs.convolution(expression.footprint, self._out_extents)
            self._seconds_made[expression] = seconds
        return self._seconds_made[expression]

    def _kept(self, bases: Iterable[ir.Value]) -> Price:
        """What the nodes cost that stay for no other reason than that a base needs them."""
        total = Price(0.0, 0, 0)
        seen: set[ir.Value] = set()
        pending = list(bases)
        while pending:
            value = pending.pop()
            reading = self._owned.get(value)
            if value in seen or reading is None:
                continue
            seen.add(value)
            if value not in self._prices_kept:
                self._prices_kept[value] = price_as_it_stands(
                    reading, self._costs, self._out_extents
                )
            total = total.plus(self._prices_kept[value])
            pending += [operand for operand, _ in reading.operands]
        return total


def price_as_it_stands(reading: Reading, costs: CostModel, otherwise: Sequence[int] = ()) -> Price:
    """What it costs to compute a reading as it stands.

    Args:
        reading: What is computed.
        costs: The machine.
        otherwise: Extents to count where those of the result are dynamic, per axis.
    """
    first = reading.operands[0][1]
    at = tuple(
        dim(reading.output, axis + 2) or nominal
        for axis, nominal in enumerate(otherwise or (_NOMINAL_EXTENT,) * len(first.rules))
    )
    channels = first.footprint.out_channels
    if reading.copies is not None:
        return Price(reading.copies * costs.elementwise(channels, at), 0, 0)
    if len(reading.operands) > 1 or first.is_channelwise:
        return Price(costs.elementwise(channels, at, len(reading.operands)), 0, 0)
    if is_op(reading.node, "AveragePool"):
        return Price(costs.pooling(first.footprint, at), 0, 0)
    seconds = costs.convolution(first.footprint, at)
    return Price(seconds, 1, first.footprint.multiply_adds(at))
