"""Which layers the error of a quantized model comes from, by leaving them in float and looking.

Taking the quantization of a group *out* and measuring what the output gains tells more than putting
it in alone: errors that later layers hide, or make worse, count as they do in the end. Layers are
tried in blocks of neighbours; the blocks that matter are halved until single layers are left.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import onnx

from onnxfold.quantize.metrics import Comparison

Build = Callable[[frozenset[str]], onnx.ModelProto]
"""Makes the Q/DQ model in which these layers stay float."""
Compare = Callable[[onnx.ModelProto], Comparison]
"""Runs a Q/DQ model beside the float one: `Evaluation.compare`."""

_BLOCKS = 8
_SHARE = 0.9
"""Blocks are halved while they are among those that make up this share of all that is gained."""


@dataclass(frozen=True, slots=True)
class Effect:
    """What leaving some layers in float gains.

    Attributes:
        layers: Neighbours in the network.
        gain: By how much the noise at the outputs falls, as a share of that with all quantized.
    """

    layers: frozenset[str]
    gain: float


class Trials:
    """Builds and compares quantized models, each set of float layers once."""

    def __init__(self, build: Build, compare: Compare) -> None:
        self._build = build
        self._compare = compare
        self._known: dict[frozenset[str], Comparison] = {}

    def __len__(self) -> int:
        """How many models were built."""
        return len(self._known)

    def without(self, layers: frozenset[str]) -> Comparison:
        """The model in which these layers stay float."""
        if layers not in self._known:
            self._known[layers] = self._compare(self._build(layers))
        return self._known[layers]

    def noise(self, layers: frozenset[str]) -> float:
        """Noise over signal of the output that suffers most, when these layers stay float."""
        return float(10 ** (-self.without(layers).sqnr / 10))


def rank_layers(
    trials: Trials,
    layers: Sequence[str],
    most: int = 64,
    excluded: frozenset[str] = frozenset(),
) -> list[Effect]:
    """Rank layers by what leaving them in float gains.

    Args:
        trials: Where models are built and compared.
        layers: Names of what is quantized, in the order of the network.
        most: How many models may be built; what is not told apart by then stays together.
        excluded: What stays float anyway: errors that larger ones hid show when those are gone.

    Returns:
        Disjoint groups that hold all layers, the one that gains most first.
    """
    whole = trials.noise(excluded)
    if not layers or whole == 0:
        return [Effect(frozenset(layers), 0.0)] if layers else []

    def gain(block: Iterable[str]) -> float:
        return 1 - trials.noise(excluded.union(block)) / whole

    stop = len(trials) + most
    effects = {block: gain(block) for block in _parts(layers, min(_BLOCKS, most))}
    while len(trials) + 2 <= stop:
        block = _most_wanted(effects)
        if block is None:
            break
        del effects[block]
        effects.update({half: gain(half) for half in _parts(block, 2)})
    ranked = sorted(effects.items(), key=lambda item: -item[1])
    return [Effect(frozenset(block), gained) for block, gained in ranked]


def _parts(layers: Sequence[str], count: int) -> list[tuple[str, ...]]:
    """At most `count` runs of neighbours of about one length."""
    bounds = [round(len(layers) * part / count) for part in range(count + 1)]
    return [tuple(layers[start:stop]) for start, stop in pairwise(bounds) if stop > start]


def _most_wanted(effects: dict[tuple[str, ...], float]) -> tuple[str, ...] | None:
    """The block of several layers that gains most, among those that matter."""
    total = sum(max(gain, 0.0) for gain in effects.values())
    reached = 0.0
    for block, gain in sorted(effects.items(), key=lambda item: -item[1]):
        if gain <= 0 or reached >= _SHARE * total:
            return None
        if len(block) > 1:
            return block
        reached += gain
    return None
