"""Collapses the linear operators in front of a node into as few as the cost model likes.

Every tensor of a linear region is a sum of maps of others: `t = Σ_j M_j(base_j)`. A move inlines
one base, replacing it by what it is made of; maps of the same base are added up. Moves are compared
by footprint alone; kernels are multiplied out for the outcome only, and a border that forbids a
move sends the search back without it.
"""

from dataclasses import dataclass

import onnx_ir as ir

from onnxfold.algebra.refusal import Refusal
from onnxfold.cost.machine import CostModel
from onnxfold.ir.graph import is_op, producer
from onnxfold.linear.expression import Expression, Obstacle, composed, summed
from onnxfold.linear.paths import Paths, operands, paths_above
from onnxfold.linear.pricing import Price, Pricing, Terms
from onnxfold.linear.reading import MOVING_OPS, SUM_OPS, WINDOW_OPS, Reading, reading_of
from onnxfold.linear.roots import ends_in_sum, has_parallel_operands, is_near
from onnxfold.rewrite.rule import Reject

_LOOKAHEAD = 32
"""How many values further a move that loses by itself is followed."""

_MAX_MOVES = 400
"""How many moves are looked at in one region; tangled ones would take time without end."""


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
        into_kernels: Those of them that may be inlined where a kernel reads them; all others only
            where nothing but constants per channel stands between them and the sum.
        only_meeting: Whether only paths that meet again are of interest, so that a region ends in
            a sum and something is added up.
        joins_kernels: Whether two kernels over the same tensor may be added up; when not, only
            the tensor itself, scaled, may join one.
    """

    inlined: frozenset[str]
    into_kernels: frozenset[str] = frozenset()
    only_meeting: bool = True
    joins_kernels: bool = True


def collapse(
    node: ir.Node,
    steps: Steps,
    costs: CostModel | None = None,
    wanted: frozenset[str] | None = None,
) -> Collapse | Reject | None:
    """Search for a cheaper way to compute the output of `node`.

    Args:
        node: The last node of the region.
        steps: What may be done.
        costs: What it is worth.
        wanted: Operators of which at least one must be inlined; those of `steps` when None.

    Returns:
        What was found; None when there is nothing to merge; a `Reject` when a merge would gain but
        is not exact, or when there are branches of one input which nothing is gained by merging.
    """
    if steps.only_meeting and not ends_in_sum(node):
        return None
    if not any(is_op(producer(value), *steps.inlined) for value in operands(node)):
        return None
    if wanted is not None and not is_near(node, steps.inlined, wanted):
        return None
    paths = paths_above(node, steps.inlined, steps.into_kernels, only_meeting=steps.only_meeting)
    if _is_plain_sum(node, paths):
        return None
    reading = reading_of(node.outputs[0])
    if isinstance(reading, Reject):
        return reading if has_parallel_operands(node) else None
    if reading is None:
        return None
    return _Search(reading, paths, steps, costs or CostModel()).run()


def _is_plain_sum(node: ir.Node, paths: Paths) -> bool:
    """Whether it only adds convolutions up that have nothing in common, as most additions do."""
    if not is_op(node, *SUM_OPS) or paths.meeting:
        return False
    inlined = set(paths.values)
    makers = [producer(value) for value in paths.values]
    return all(
        maker is not None and is_op(maker, *WINDOW_OPS) and inlined.isdisjoint(operands(maker))
        for maker in makers
    )


class _Search:
    """The moves of one region, from the operands of its last node upwards."""

    def __init__(self, root: Reading, paths: Paths, steps: Steps, costs: CostModel) -> None:
        self._root = root
        self._steps = steps
        self._refused: Reject | None = None
        self._meeting = paths.meeting
        self._judged = {value: reading_of(value) for value in paths.values}
        self._readings = {
            value: reading
            for value, reading in self._judged.items()
            if isinstance(reading, Reading) and reading.dtype == root.dtype
        }
        self._region = list(self._readings)
        self._owned = self._find_owned()
        self._moves_left = 0
        self._may_copy = True
        self._pricing = Pricing(root, self._owned, costs)

    def run(self) -> Collapse | Reject | None:
        start = self._terms_of_root()
        if not self._region or start is None:
            return self._refused or self._near_miss()
        original = self._pricing.original_price(start)
        while True:
            self._moves_left = _MAX_MOVES
            best = self._cheapest(start)
            price = self._pricing.price(best)
            if self._may_copy and price.convolutions > original.convolutions:
                self._may_copy = False
                continue
            if best is start or not self._is_worth_making(price, original):
                return self._refused or self._near_miss()
            obstacle = _first_obstacle(best)
            if obstacle is None:
                return Collapse(self._root.node, best, self._root.dtype)
            del self._readings[obstacle.at]
            self._refused = Reject(obstacle.reason, producer(obstacle.at) or self._root.node)

    def _find_owned(self) -> dict[ir.Value, Reading]:
        """Values that nobody needs any more when the root no longer reads them."""
        nodes = set(self._root.nodes)
        owned: dict[ir.Value, Reading] = {}
        for value, reading in self._readings.items():
            if value.is_graph_output() or any(use.node not in nodes for use in value.uses()):
                continue
            nodes.update(reading.nodes)
            owned[value] = reading
        return owned

    # The moves

    def _cheapest(self, start: Terms) -> Terms:
        """Inline what does not make it worse, readers first, until nothing is left.

        Equal cost is welcome: inlining a branch gains nothing before its sibling is inlined too.
        Readers come first so that a value is inlined only when all that could merge at it has.
        """
        best, price, again = start, self._pricing.price(start), True
        while again:
            again = False
            for position in range(len(self._region)):
                trial = self._tried(best, position, price)
                if trial is not None:
                    best, price, again = *trial, True
        return best

    def _tried(self, terms: Terms, position: int, price: Price) -> tuple[Terms, Price] | None:
        """The terms with one value inlined, and what it is made of as long as that still loses."""
        trial = self._inlined(terms, self._region[position])
        if trial is None:
            return None
        tried = self._pricing.price(trial)
        if tried.is_no_worse_than(price):
            return trial, tried
        for value in self._region[position + 1 : position + _LOOKAHEAD]:
            beside = value in terms and self._root.copies is None
            further = None if beside else self._inlined(trial, value)
            if further is None:
                continue
            trial = further
            tried = self._pricing.price(trial)
            if tried.is_no_worse_than(price):
                return trial, tried
        return None

    def _inlined(self, terms: Terms, base: ir.Value) -> Terms | None:
        """The terms with `base` replaced by what it is made of; None when that is no move."""
        reading = self._readings.get(base)
        if base not in terms or reading is None or not self._moves_left:
            return None
        self._moves_left -= 1
        outer = terms[base]
        if not self._may_compose(outer, reading) or self._would_copy(base, reading):
            return None
        result = dict(terms)
        del result[base]
        for value, inner in reading.operands:
            part = composed(outer, inner, value, base, self._root.output)
            if isinstance(part, Refusal) or not self._add(result, value, part):
                return None
            outer = outer.without_constant()  # it comes once, not with every operand
        return result

    def _would_copy(self, base: ir.Value, reading: Reading) -> bool:
        """Whether a convolution would be computed again, because somebody else needs it too.

        That is free only where it merges with another one.
        """
        if self._may_copy or base in self._owned:
            return False
        return is_op(reading.node, *WINDOW_OPS)

    def _may_compose(self, outer: Expression, reading: Reading) -> bool:
        if outer.is_channelwise:
            return True
        if not is_op(reading.node, *self._steps.into_kernels):
            return len(reading.operands) == 1 and reading.operands[0][1].is_channelwise
        return outer.is_pointwise or reading.is_in_place

    def _add(self, terms: dict[ir.Value, Expression], value: ir.Value, part: Expression) -> bool:
        """Add a map of `value`; False when it is no single map with the one that is there."""
        if value not in terms:
            terms[value] = part
            return True
        kernels = [each for each in (terms[value], part) if not each.is_channelwise]
        if len(kernels) == 2 and not self._steps.joins_kernels:
            return False
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

    def _is_worth_making(self, price: Price, original: Price) -> bool:
        if self._root.copies is not None and price.convolutions > original.convolutions:
            return False  # to copy by multiplying with one only hides what is copied
        return price.gains_over(original)

    # Why not

    def _near_miss(self) -> Reject | None:
        """Why what could be merged stays apart; None when there is nothing of the kind."""
        nearly = self._parallel_branches() if self._steps.only_meeting else self._kernels()
        for value in nearly:
            judged = self._judged.get(value)
            if isinstance(judged, Reject):
                return judged
        readable = [value for value in nearly if value in self._readings]
        for value in readable:
            node = producer(value)
            if node is not None and value not in self._owned:
                return Reject("its result is read elsewhere too, so merging loses", node)
        if not readable:
            return None
        return Reject(
            "merging it with what it reads would cost more than it saves", self._root.node
        )

    def _kernels(self) -> list[ir.Value]:
        """Results of operators with a kernel; a Concat or Split is nothing to be rid of."""
        wanted = (WINDOW_OPS | MOVING_OPS) - {"Concat", "Split"}
        return [value for value in self._judged if is_op(producer(value), *wanted)]

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
