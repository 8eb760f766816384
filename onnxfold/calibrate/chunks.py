"""The unit of work that goes to a worker: a model and a few samples."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Protocol, runtime_checkable

from onnxfold.calibrate.collect import Feed, Observer
from onnxfold.calibrate.instrument import InstrumentedModel
from onnxfold.calibrate.statistics import TensorStatistics

Tensors = dict[str, TensorStatistics]

_SAMPLES_IN_CHUNK = 8
"""Small enough to lose little with a worker, large enough that merging costs little."""


@runtime_checkable
class Samples(Protocol):
    """Samples that are read when they are asked for.

    To go to other processes they have to be picklable; each process then reads for itself.
    """

    def __len__(self) -> int: ...

    def feed(self, index: int) -> Feed:
        """An array for each input of the model, by name."""
        ...


@dataclass(frozen=True, slots=True)
class HeldSamples:
    """Samples in memory, of which a worker is sent its own only."""

    feeds: Mapping[int, Feed]
    count: int

    @staticmethod
    def of(feeds: Iterable[Feed]) -> "HeldSamples":
        """All of them."""
        held = dict(enumerate(feeds))
        return HeldSamples(held, len(held))

    def __len__(self) -> int:
        return self.count

    def feed(self, index: int) -> Feed:
        """The sample as it was given."""
        return self.feeds[index]


@dataclass(frozen=True, slots=True)
class Chunk:
    """What a worker does at once.

    Attributes:
        model: To run.
        samples: To run it on.
        indices: Which of them.
        attempt: How often it was begun; Dask takes equal work for the same, and would not begin.
    """

    model: InstrumentedModel
    samples: Samples
    indices: tuple[int, ...]
    attempt: int = 1

    def again(self) -> "Chunk":
        """The same, to be begun once more."""
        return replace(self, attempt=self.attempt + 1)

    def with_model(self) -> "Chunk":
        """The same with the model in it, for a worker that cannot read this machine's files."""
        source = self.model.source
        data = source if isinstance(source, bytes) else source.read_bytes()
        return replace(self, model=replace(self.model, source=data))


def chunks_of(model: InstrumentedModel, samples: Samples, indices: Sequence[int]) -> list[Chunk]:
    """The work on these samples, in order."""
    parts = [
        tuple(indices[start : start + _SAMPLES_IN_CHUNK])
        for start in range(0, len(indices), _SAMPLES_IN_CHUNK)
    ]
    return [Chunk(model, _only(samples, part), part) for part in parts]


def observe_chunk(chunk: Chunk, observer: Observer) -> Tensors:
    """Run the model on the samples of a chunk, one after the other.

    Raises:
        OnnxfoldError: As `Observer.observe`, and what reading a sample raises.
    """
    return observer.observe((index, chunk.samples.feed(index)) for index in chunk.indices)


def observe_remotely(chunk: Chunk) -> Tensors | None:
    """The same in a worker, which keeps the session for its next chunk.

    Returns:
        None when the model's file is not to be found there.

    Raises:
        OnnxfoldError: As `observe_chunk`.
    """
    try:
        observer = _observer(chunk.model)
    except FileNotFoundError:
        return None
    return observe_chunk(chunk, observer)


def forget_session() -> None:
    """Release what `observe_remotely` kept, in case it ran in this process."""
    _observer.cache_clear()


@lru_cache(maxsize=1)
def _observer(model: InstrumentedModel) -> Observer:
    if isinstance(model.source, Path) and not model.source.exists():
        raise FileNotFoundError
    return Observer(model)


def _only(samples: Samples, indices: tuple[int, ...]) -> Samples:
    if isinstance(samples, HeldSamples):
        return HeldSamples({index: samples.feeds[index] for index in indices}, len(samples))
    return samples
