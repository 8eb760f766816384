"""The calibration of a model: every sample runs once, somewhere, and what is known is merged."""

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Executor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from onnxfold.calibrate import store
from onnxfold.calibrate.chunks import (
    Chunk,
    HeldSamples,
    Samples,
    Tensors,
    chunks_of,
    observe_chunk,
)
from onnxfold.calibrate.collect import Feed, NonFiniteError, Observer
from onnxfold.calibrate.identity import graph_hash
from onnxfold.calibrate.instrument import InstrumentedModel, instrument
from onnxfold.calibrate.nonfinite import explained
from onnxfold.calibrate.statistics import Calibration
from onnxfold.calibrate.workers import Workers
from onnxfold.errors import BadOptionError
from onnxfold.model import check_target, load

Source = str | os.PathLike[str] | bytes | onnx.ModelProto
Progress = Callable[[str], None]

_SHARE_OF_TIME = 20
"""Checkpoints are written so seldom that one part in so many of the time goes into them."""


def calibrate(
    model: Source,
    samples: Samples | Iterable[Feed],
    values: Sequence[str] | None = None,
    *,
    executor: Executor | None = None,
    workers: int = 1,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Calibration:
    """Run a model on samples and collect what is known about its values.

    The result is the same to the bit whatever does the work and in whatever order, also after
    workers died or the run was interrupted.

    Args:
        model: A path, a serialised model, or a message.
        samples: `onnxfold.calibrate.samples.open_samples` makes them from files and iterables; or
            feeds by name of input, which are then held in memory.
        values: Names of the values to observe, of a floating-point type; None for all that change
            with the inputs.
        executor: Where to run, such as a process pool or `distributed.Client.get_executor()`; it is
            left running. None: in processes of its own, or in this one if there is one worker.
        workers: How many run at a time, each with one thread. With more than one and no executor,
            a script has to begin under `if __name__ == "__main__":`, because processes import it.
        checkpoint: A file that keeps what is done; if it is there, what is in it is not done again.
        progress: Called with what is being done.

    Raises:
        BadModelError: The model cannot be read, or a value of it is NaN or infinite.
        BadOptionError: There are no samples, one does not fit the model, a name is unknown, or the
            checkpoint belongs to something else.
        CannotRunError: The runtime does not take the model, or workers die again and again.
        CannotWriteError: The checkpoint cannot be written.
    """
    source = samples if isinstance(samples, Samples) else HeldSamples.of(samples)
    if not len(source):
        raise BadOptionError("there are no samples to calibrate with", "give at least one")
    if workers < 1:
        raise BadOptionError(f"{workers} workers can do nothing", "use one or more")
    loaded = load(model)
    identity = graph_hash(loaded.model)
    instrumented = instrument(loaded, values)
    file = None if checkpoint is None else check_target(checkpoint)
    record = _Record(identity, fingerprint(source), instrumented, file)
    record.resume(len(source))
    report = progress or (lambda _: None)
    results = _results(instrumented, source, record.missing(len(source)), executor, workers)
    try:
        with closing(results):
            for chunk, tensors in results:
                record.add(chunk.indices, tensors)
                report(f"calibrating: sample {record.done}/{len(source)}")
    except NonFiniteError as error:
        raise explained(
            error, loaded, source.feed(error.index), _label(source, error.index)
        ) from error
    finally:
        record.write()
    return record.calibration()


def fingerprint(samples: Samples) -> str:
    """What tells one data set from another: how many samples, and three of them entirely."""
    digest = hashlib.sha256(str(len(samples)).encode())
    for index in sorted({0, len(samples) // 2, len(samples) - 1}):
        for name, array in sorted(samples.feed(index).items()):
            whole = np.ascontiguousarray(array)
            digest.update(f"{name} {whole.dtype.str} {whole.shape}".encode())
            digest.update(whole.tobytes())
    return digest.hexdigest()


def _results(
    model: InstrumentedModel,
    samples: Samples,
    indices: Sequence[int],
    executor: Executor | None,
    workers: int,
) -> Generator[tuple[Chunk, Tensors]]:
    if not indices:
        return
    if executor is None and workers == 1:
        observer = Observer(model)
        for chunk in chunks_of(model, samples, indices):
            yield chunk, observe_chunk(chunk, observer)
        return
    with tempfile.TemporaryDirectory(prefix="onnxfold-") as folder:
        if isinstance(model.source, bytes):
            path = Path(folder, "observed.onnx")
            path.write_bytes(model.source)
            model = replace(model, source=path)
        chunks = chunks_of(model, samples, indices)
        with Workers(executor, min(workers, len(chunks))) as crew:
            yield from crew.finish(chunks)


def _label(samples: Samples, index: int) -> str:
    label = getattr(samples, "label", None)
    return f"sample {index}" if label is None else f"sample {index} ({label(index)})"


class _Record:
    """What is known so far, and the file that keeps it."""

    def __init__(
        self, identity: str, data: str, model: InstrumentedModel, file: Path | None
    ) -> None:
        self._identity, self._data, self._file = identity, data, file
        self._values = [value.name for value in model.values]
        self._known: Calibration | None = None
        self._written: Calibration | None = None
        self._next = 0.0

    @property
    def done(self) -> int:
        """How many samples were seen."""
        return 0 if self._known is None else len(self._known.samples)

    def missing(self, count: int) -> list[int]:
        """The indices below `count` that were not seen."""
        seen = set() if self._known is None else set(self._known.samples)
        return [index for index in range(count) if index not in seen]

    def resume(self, count: int) -> None:
        """Begin with what the file holds.

        Raises:
            BadOptionError: It belongs to something else.
        """
        if self._file is None or not self._file.exists():
            return
        known = store.load(self._file, self._identity)
        hint = f"remove {self._file} to begin again"
        if known.data != self._data or known.samples[-1] >= count:
            raise BadOptionError(f"{self._file} holds a calibration with other samples", hint)
        if list(known.tensors) != self._values:
            raise BadOptionError(f"{self._file} holds a calibration of other values", hint)
        self._known = self._written = known

    def add(self, indices: tuple[int, ...], tensors: Tensors) -> None:
        """Take in what a chunk gave."""
        part = Calibration(self._identity, self._data, tuple(sorted(indices)), tensors)
        self._known = part if self._known is None else self._known.merged(part)
        if time.monotonic() >= self._next:
            started = time.monotonic()
            self.write()
            ended = time.monotonic()
            self._next = ended + _SHARE_OF_TIME * (ended - started)

    def write(self) -> None:
        """Bring the file up to date."""
        if self._file is None or self._known is None or self._known is self._written:
            return
        store.save(self._known, self._file)
        self._written = self._known

    def calibration(self) -> Calibration:
        """All that is known."""
        if self._known is None:
            raise RuntimeError("no sample was seen")
        return self._known
