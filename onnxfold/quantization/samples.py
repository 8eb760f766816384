"""Which samples serve what: some to calibrate with, others to judge by."""

from dataclasses import dataclass
from typing import Any

import onnx
from numpy.typing import NDArray

from onnxfold.calibrate.samples import Samples
from onnxfold.cost.summary import multiply_adds_by_layer
from onnxfold.ir.shapes import infer_shapes
from onnxfold.model import load

_ENOUGH_TO_SPLIT = 32
_MOST_HELD = 32
_LEAST = 4
_MULTIPLY_ADDS = 300 * 10**9
"""What one look at a model may take: ten seconds of a small machine."""


@dataclass(frozen=True, slots=True)
class Subset:
    """Some of the samples, in order; as `Samples` otherwise.

    Attributes:
        samples: All of them.
        indices: Which.
    """

    samples: Samples
    indices: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.indices)

    def label(self, index: int) -> str:
        """Where sample `index` comes from."""
        return self.samples.label(self.indices[index])

    def feed(self, index: int) -> dict[str, NDArray[Any]]:
        """Every input of the model, for sample `index`."""
        return self.samples.feed(self.indices[index])

    def first(self, count: int) -> "Subset":
        """At most `count` of them, spread evenly."""
        total = len(self.indices)
        if total <= count:
            return self
        return Subset(self.samples, tuple(self.indices[i * total // count] for i in range(count)))


@dataclass(frozen=True, slots=True)
class UseOfSamples:
    """The samples by their use.

    Attributes:
        calibrated: To calibrate with.
        judged: To judge models by.
        held_out: Whether these were kept out of the calibration.
    """

    calibrated: Subset
    judged: Subset
    held_out: bool

    def affordable(self, model: onnx.ModelProto) -> int:
        """On how many samples a model runs in a few seconds; a few at least.

        It is counted, not timed, so that the same call makes the same model again.
        """
        shapes = {name: array.shape for name, array in self.judged.feed(0).items()}
        loaded = load(model).model
        infer_shapes(loaded)
        counts = multiply_adds_by_layer(loaded, shapes).values()
        known = sum(count for count in counts if count is not None)
        return max(_LEAST, _MULTIPLY_ADDS // max(known, 1))


def use_of(samples: Samples) -> UseOfSamples:
    """Keep some samples out of the calibration where there are enough."""
    count = len(samples)
    everything = tuple(range(count))
    if count < _ENOUGH_TO_SPLIT:
        whole = Subset(samples, everything)
        return UseOfSamples(whole, whole, held_out=False)
    number = min(_MOST_HELD, count // 4)
    held = {index * count // number + count // (2 * number) for index in range(number)}
    return UseOfSamples(
        Subset(samples, tuple(sorted(set(everything) - held))),
        Subset(samples, tuple(sorted(held))),
        held_out=True,
    )
