"""Which samples serve what: some to calibrate with, others to judge by."""

import time
from dataclasses import dataclass
from typing import Any

import onnx
from numpy.typing import NDArray

from onnxfold.calibrate.samples import Samples
from onnxfold.quantize.evaluation import RuntimeModel

_ENOUGH_TO_SPLIT = 32
_MOST_HELD = 32
_LEAST = 4
_SECONDS = 10.0
"""How long one look at a model may take."""


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

    def affordable(self, model: onnx.ModelProto, threads: int) -> int:
        """On how many samples a model runs in a few seconds; a few at least.

        Raises:
            CannotRunError: The runtime does not run the model.
        """
        runner = RuntimeModel(model, threads)
        feed = self.judged.feed(0)
        seconds = []
        for _ in range(2):
            started = time.perf_counter()
            runner.run(feed)
            seconds.append(time.perf_counter() - started)
        return max(_LEAST, int(_SECONDS / max(min(seconds), 1e-6)))


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
