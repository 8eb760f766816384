"""Collapses the linear operators in front of a node into as few as the cost model likes.

Every tensor of a linear region is a sum of maps of others: `t = Σ_j M_j(base_j)`. A move inlines
one base, replacing it by what it is made of; maps of the same base are added up. Moves are compared
by footprint alone; kernels are multiplied out for the outcome only, and a border that forbids a
move sends the search back without it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from onnxfold.algebra.refusal import Refusal
from onnxfold.cost.machine import CostModel
from onnxfold.ir.graph import is_op, producer, sole_reader
from onnxfold.ir.shapes import dim
from onnxfold.linear.affine import AFFINE_OPS
from onnxfold.linear.expression import Expression, Obstacle, composed, summed
from onnxfold.linear.paths import operands, paths_above
from onnxfold.linear.reading import SUM_OPS, WINDOW_OPS, Reading, reading_of
from onnxfold.rewrite.rule import Reject

_LOOKAHEAD = 32
"""How many values further a move that loses by itself is followed."""

_MAX_MOVES = 400
"""How many moves are looked at in one region; tangled ones would take time without end."""

_MAX_CHAIN = 16
"""How many constants in a row are looked through in search of an addition."""

_NOMINAL_EXTENT = 64
"""What a dynamic extent of the result counts as; what it reads follows from the rates."""

_GAIN = 1e-3
"""A rewrite must save this share of the cost, so that equal forms do not chase each other."""

_SPLIT_GAIN = 0.1
"""The share that must be saved where a rewrite adds convolutions: no model is that precise."""

_ROUNDING = 1e-9
"""Sums of the same costs in another order are equal."""

Terms = Mapping[ir.Value, Expression]


@dataclass(frozen=True, slots=True)
class Collapse:
    """A cheaper way to compute the output of `node`.

    Attributes:
        node: The last node of the region.
        terms: The maps whose sum is its output, by what they read.
        dtype: The floating-point type of all of it.
    """

    node: ir.Node
    terms: Terms
    dtype: ir.DataType


@dataclass(frozen=True, slots=True)
class Steps:
    """What a pass lets the region engine do.

    Attributes:
        inlined: The operators that may be inlined into what reads them.
        composed: Whether a convolution may be inlined into a convolution.
    """

    inlined: frozenset[str]
    composed: bool = False


@dataclass(frozen=True, slots=True)
class _Price:
    """What a way to compute the region costs.

    Attributes:
        seconds: By the cost model.
        convolutions: How many Conv and ConvTranspose nodes it needs.
    """

    seconds: float
    convolutions: int

    def is_no_worse_than(self, other: "_Price") -> bool:
        """Whether a move from the other price to this one may be made."""
        if self.convolutions > other.convolutions:
            return self.seconds < other.seconds * (1 - _SPLIT_GAIN)
        return self.seconds <= other.seconds * (1 + _ROUNDING)

    def gains_over(self, other: "_Price") -> bool:
        """Whether a rewrite from the other price to this one is worth making."""
        return self.is_no_worse_than(other) and self.seconds < other.seconds * (1 - _GAIN)


def collapse(
    node: ir.Node, steps: Steps, costs: CostModel | None = None
) -> Collapse | Reject | None:
    """Search for a cheaper way to compute the output of `node`, a sum or constants behind one.

    Returns:
        What was found; None when there is nothing to merge; a `Reject` when a merge would gain but
        is not exact, or when there are branches of one input which nothing is gained by merging.
    """
    if not _ends_in_sum(node):
        return None
    reading = reading_of(node)
    if isinstance(reading, Reject):
        return reading if _has_parallel_operands(node) else None
    if reading is None:
        return None
    return _Search(reading, steps, costs or CostModel()).run()


def is_inside_larger(node: ir.Node) -> bool:
    """Whether `node` is part of the region of its only reader, which then does all at once.

    So a region is multiplied out and rounded once. A chain too long for one region is cut.
    """
    if not _ends_in_sum(node):
        return False
    inner: ir.Node | None = node
    for _ in range(_MAX_CHAIN):
        reader = None if inner is None else sole_reader(inner.outputs[0])
        if reader is None or not is_op(reader, *SUM_OPS, *AFFINE_OPS):
            return inner is not node
        if not isinstance(reading_of(reader), Reading):
            return inner is not node
        inner = reader
    return False


def _ends_in_sum(root: ir.Node) -> bool:
    """Whether `root` is an addition of variables, or constants behind one."""
    node: ir.Node | None = root
    for _ in range(_MAX_CHAIN):
        if node is None or not is_op(node, *SUM_OPS, *AFFINE_OPS):
            return False
        variable = list(operands(node))
        if len(variable) != 1:
            return is_op(node, *SUM_OPS)
        node = producer(variable[0])
    return False


def _has_parallel_operands(node: ir.Node) -> bool:
    """Whether two operands of a sum are computed from the same tensor."""
    feeding = [producer(value) for value in node.inputs]
    sources = [
        each.inputs[0]
        for each in feeding
        if is_op(each, *WINDOW_OPS, "BatchNormalization") and each
    ]
    return len(set(sources)) < len(sources)


class _Search:
    """The moves of one region, from the operands of its last node upwards."""

    def __init__(self, root: Reading, steps: Steps, costs: CostModel) -> None:
        self._root = root
        self._steps = steps
        self._costs = costs
        self._refused: Reject | None = None
        spatial = len(root.operands[0][1].rules)
        self._out_extents = tuple(
            dim(root.output, axis + 2) or _NOMINAL_EXTENT for axis in range(spatial)
        )
        paths = paths_above(root.node, steps.inlined, composed=steps.composed)
        self._meeting = paths.meeting
        self._judged = {value: reading_of(producer(value)) for value in paths.values}
        self._readings = {
            value: reading
            for value, reading in self._judged.items()
            if isinstance(reading, Reading) and reading.dtype == root.dtype
        }
        self._region = list(self._readings)
        self._owned = self._find_owned()
        self._moves_left = 0
        self._seconds_made: dict[Expression, float] = {}
        self._seconds_kept: dict[ir.Value, float] = {}

    def run(self) -> Collapse | Reject | None:
        start = self._terms_of_root()
        if not self._region or start is None:
            return self._refused or self._near_miss()
        original = self._original_price(start)
        while True:
            self._moves_left = _MAX_MOVES
            best = self._cheapest(start)
            if best is start or not self._price(best).gains_over(original):
                return self._refused or self._near_miss()
            obstacle = _first_obstacle(best)
            if obstacle is None:
                return Collapse(self._root.node, best, self._root.dtype)
            del self._readings[obstacle.at]
            self._refused = Reject(obstacle.reason, producer(obstacle.at) or self._root.node)

    def _find_owned(self) -> dict[ir.Value, Reading]:
        """Values that nobody needs any more when the root no longer reads them."""
        nodes = {self._root.node}
        owned: dict[ir.Value, Reading] = {}
        for value, reading in self._readings.items():
            if value.is_graph_output() or any(use.node not in nodes for use in value.uses()):
                continue
            nodes.add(reading.node)
            owned[value] = reading
        return owned

    # The moves

    def _cheapest(self, start: Terms) -> Terms:
        """Inline what does not make it worse, readers first, until nothing is left.

        Equal cost is welcome: inlining a branch gains nothing before its sibling is inlined too.
        Readers come first so that a value is inlined only when all that could merge at it has.
        """
        best, price, again = start, self._price(start), True
        while again:
            again = False
            for position in range(len(self._region)):
                trial = self._tried(best, position, price)
                if trial is not None:
                    best, price, again = trial, self._price(trial), True
        return best

    def _tried(self, terms: Terms, position: int, price: _Price) -> Terms | None:
        """The terms with one value inlined, and what it is made of as long as that still loses."""
        trial = self._inlined(terms, self._region[position])
        if trial is None or self._price(trial).is_no_worse_than(price):
            return trial
        for value in self._region[position + 1 : position + _LOOKAHEAD]:
            further = None if value in terms else self._inlined(trial, value)
            if further is None:
                continue
            trial = further
            if self._price(trial).is_no_worse_than(price):
                return trial
        return None

    def _inlined(self, terms: Terms, base: ir.Value) -> Terms | None:
        """The terms with `base` replaced by what it is made of; None when that is no move."""
        reading = self._readings.get(base)
        if base not in terms or reading is None or not self._moves_left:
            return None
        self._moves_left -= 1
        outer = terms[base]
        if not self._may_compose(outer, reading):
            return None
        result = dict(terms)
        del result[base]
        for value, inner in reading.operands:
            part = composed(outer, inner, value, base, self._root.output)
            if isinstance(part, Refusal) or not self._add(result, value, part):
                return None
            outer = outer.without_constant()  # it comes once, not with every operand
        return result

    def _may_compose(self, outer: Expression, reading: Reading) -> bool:
        if outer.is_channelwise:
            return True
        if not self._steps.composed:
            return len(reading.operands) == 1 and reading.operands[0][1].is_channelwise
        return outer.is_pointwise or reading.is_in_place

    def _add(self, terms: dict[ir.Value, Expression], value: ir.Value, part: Expression) -> bool:
        """Add a map of `value`; False when it is no single map with the one that is there."""
        if value not in terms:
            terms[value] = part
            return True
        joined = summed([terms[value], part], value, self._root.output)
        if isinstance(joined, Refusal):
            self._refused = self._refused or Reject(joined.reason, self._root.node)
            return False
        terms[value] = joined
        return True

    def _terms_of_root(self) -> Terms | None:
        terms: dict[ir.Value, Expression] = {}
        fits = [self._add(terms, value, expression) for value, expression in self._root.operands]
        return terms if all(fits) else None

    # Prices

    def _price(self, terms: Terms) -> _Price:
        """What the new operators cost, and those that compute what these read."""
        made, kept = self._made(terms), self._kept(terms)
        return _Price(made.seconds + kept.seconds, made.convolutions + kept.convolutions)

    def _original_price(self, start: Terms) -> _Price:
        kept = self._kept(start)
        return _Price(self._seconds(self._root) + kept.seconds, kept.convolutions)

    def _made(self, terms: Terms) -> _Price:
        """One operator for each map, the additions between them, and one of what is left over."""
        maps = terms.values()
        kernels = [each for each in maps if not each.is_channelwise]
        scaled = sum(each.is_channelwise and not each.sign for each in maps)
        if not kernels:
            scaled += any(each.shifts for each in maps)  # no bias to take the constant
            scaled += all(each.sign < 0 for each in maps)  # nothing to subtract from
        once = self._elementwise(1)
        seconds = scaled * once + (len(maps) - 1) * self._elementwise(2)
        return _Price(seconds + sum(map(self._convolution, kernels)), len(kernels))

    def _elementwise(self, read: int) -> float:
        channels = self._root.operands[0][1].footprint.out_channels
        return self._costs.elementwise(channels, self._out_extents, read)

    def _convolution(self, expression: Expression) -> float:
        if expression not in self._seconds_made:
            seconds = self._costs.convolution(expression.footprint, self._out_extents)
            self._seconds_made[expression] = seconds
        return self._seconds_made[expression]

    def _kept(self, bases: Iterable[ir.Value]) -> _Price:
        """What the nodes cost that stay for no other reason than that a base needs them."""
        seconds, convolutions = 0.0, 0
        seen: set[ir.Value] = set()
        pending = list(bases)
        while pending:
            value = pending.pop()
            reading = self._owned.get(value)
            if value in seen or reading is None:
                continue
            seen.add(value)
            if value not in self._seconds_kept:
                self._seconds_kept[value] = self._seconds(reading)
            seconds += self._seconds_kept[value]
            convolutions += is_op(reading.node, "Conv", "ConvTranspose")
            pending += [operand for operand, _ in reading.operands]
        return _Price(seconds, convolutions)

    def _seconds(self, reading: Reading) -> float:
        first = reading.operands[0][1]
        at = self._extents(reading.output)
        if len(reading.operands) == 1 and not first.is_channelwise:
            return self._costs.convolution(first.footprint, at)
        return self._costs.elementwise(first.footprint.out_channels, at, len(reading.operands))

    def _extents(self, value: ir.Value) -> tuple[int, ...]:
        """Extents of a value; where they are dynamic, as large as those of the result."""
        known = [dim(value, axis + 2) for axis in range(len(self._out_extents))]
        return tuple(
            found if found is not None else out
            for found, out in zip(known, self._out_extents, strict=True)
        )

    # Why not

    def _near_miss(self) -> Reject | None:
        """Why branches that read the same tensor stay apart; None when there are none."""
        parallel = self._parallel_branches()
        if not parallel:
            return None
        for branch in parallel:
            judged = self._judged.get(branch)
            if isinstance(judged, Reject):
                return judged
        for branch in parallel:
            node = producer(branch)
            if node is not None and branch not in self._owned:
                return Reject("its result is read elsewhere too, so merging loses", node)
        return Reject("merging its branches would cost more than it saves", self._root.node)

    def _parallel_branches(self) -> list[ir.Value]:
        """Results of convolutions that read a tensor on which another path begins too."""
        return [
            value
            for value in self._judged
            if is_op(node := producer(value), *WINDOW_OPS)
            and node is not None
            and any(operand in self._meeting for operand in operands(node))
        ]


def _first_obstacle(terms: Terms) -> Obstacle | None:
    """Multiply out; what stands in the way, if anything does."""
    found = (expression.value for expression in terms.values())
    return next((each for each in found if isinstance(each, Obstacle)), None)
