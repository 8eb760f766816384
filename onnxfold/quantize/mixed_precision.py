"""Leaves layers in float: as few as keep a budget of accuracy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnxfold.errors import BadOptionError
from onnxfold.quantize.metrics import Comparison
from onnxfold.quantize.sensitivity import Effect, Trials, rank_layers

DEFAULT_BUDGET = 0.3
"""Points of mean IoU or of label agreement that quantization may cost."""


@dataclass(frozen=True, slots=True)
class Mixed:
    """A choice of layers that stay float.

    Attributes:
        excluded: Their names.
        comparison: The model with them in float, beside the float model.
        within_budget: Whether it keeps the budget.
        effects: What was left in float on the way, in that order, and what that gained.
        trials: How many models were built.
    """

    excluded: frozenset[str]
    comparison: Comparison
    within_budget: bool
    effects: tuple[Effect, ...]
    trials: int


def search(
    trials: Trials,
    layers: Sequence[str],
    budget: float = DEFAULT_BUDGET,
    seconds: Mapping[str, float] | None = None,
    most: int = 96,
) -> Mixed:
    """Find few layers to leave in float so that accuracy keeps a budget.

    Layers are ranked by what they gain for the time that they cost; those that make up half of all
    that can be gained stay float, and the rest is ranked anew, because large errors hide others,
    until the budget is kept. Then whatever is not needed after all is quantized again, the least
    useful first.

    Args:
        trials: Where models are built and compared.
        layers: Names of what is quantized, in the order of the network.
        budget: Points that `Comparison.drop` may reach.
        seconds: What leaving a layer in float costs, by its name; all the same when None.
        most: About how many models may be built.

    Raises:
        BadOptionError: There are neither true labels nor an output with classes to judge by.
    """
    start = trials.without(frozenset())
    if start.drop is None:
        raise BadOptionError(
            "there is nothing to measure a drop of accuracy by",
            "no output looks like a class map; give labels, or leave the budget out",
        )
    judge = _Judge(trials, budget)
    chosen: list[Effect] = []
    while not judge.keeps(chosen):
        rest = [layer for layer in layers if layer not in _union(chosen)]
        left = most - len(trials)
        if not rest:
            break
        ranked = rank_layers(trials, rest, max(left, 1), _union(chosen))
        ranked.sort(key=lambda effect: -_worth(effect, seconds))
        chosen += ranked if left < len(ranked) else judge.shortest(chosen, _useful(ranked))
    kept = judge.thinned(chosen)
    comparison = trials.without(_union(kept))
    return Mixed(_union(kept), comparison, judge.keeps(kept), tuple(chosen), len(trials))


def _useful(ranked: Sequence[Effect]) -> Sequence[Effect]:
    """The beginning of a ranking that makes up half of all that can be gained, at least one."""
    total = sum(max(effect.gain, 0.0) for effect in ranked)
    reached = 0.0
    for count, effect in enumerate(ranked, start=1):
        reached += max(effect.gain, 0.0)
        if reached >= 0.5 * total > 0:
            return ranked[:count]
    return ranked


def _worth(effect: Effect, seconds: Mapping[str, float] | None) -> float:
    """What a group gains for its price; a group that costs no time is worth most."""
    if seconds is None:
        return effect.gain / len(effect.layers)
    price = sum(max(seconds.get(layer, 0.0), 0.0) for layer in effect.layers)
    average = sum(max(each, 0.0) for each in seconds.values()) / max(len(seconds), 1)
    return effect.gain / (price + 0.1 * average) if price + average > 0 else effect.gain


def _union(effects: Sequence[Effect]) -> frozenset[str]:
    return frozenset().union(*(effect.layers for effect in effects))


@dataclass(frozen=True, slots=True)
class _Judge:
    trials: Trials
    budget: float

    def keeps(self, effects: Sequence[Effect]) -> bool:
        drop = self.trials.without(_union(effects)).drop
        return drop is not None and drop <= self.budget

    def shortest(self, chosen: Sequence[Effect], more: Sequence[Effect]) -> Sequence[Effect]:
        """The shortest beginning of `more` that keeps the budget; all of it when none does."""
        low, high = 0, len(more)
        if not self.keeps([*chosen, *more]):
            return more
        while high - low > 1:
            middle = (low + high) // 2
            if self.keeps([*chosen, *more[:middle]]):
                high = middle
            else:
                low = middle
        return more[:high]

    def thinned(self, effects: Sequence[Effect]) -> Sequence[Effect]:
        """Without the groups that the budget does not need; the last that were added go first."""
        kept = list(effects)
        if not self.keeps(kept):
            return kept
        for effect in reversed(effects):
            fewer = [each for each in kept if each is not effect]
            if self.keeps(fewer):
                kept = fewer
        return kept
