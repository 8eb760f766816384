"""The calibration of the model that is quantized, kept in files where that is asked for."""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import onnx

from onnxfold.calibrate import store
from onnxfold.calibrate.calibrate import calibrate, fingerprint
from onnxfold.calibrate.identity import graph_hash
from onnxfold.calibrate.statistics import Calibration
from onnxfold.errors import BadOptionError
from onnxfold.quantization.samples import Subset

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Calibrator:
    """Calibrates models, and goes on where an interrupted run stopped.

    Attributes:
        workers: Processes.
        progress: Told what is being done.
        beside: The output, beside which what is done is kept until all is; None keeps nothing.
        file: Where the calibration is kept for later runs; None: nowhere.
    """

    workers: int
    progress: Progress
    beside: Path | None
    file: Path | None

    def channels(
        self, model: onnx.ModelProto, values: Sequence[str], samples: Subset
    ) -> Calibration:
        """What equalizing needs to know."""
        return self._calibrated(model, values, samples, "channels")

    def ranges(self, model: onnx.ModelProto, values: Sequence[str], samples: Subset) -> Calibration:
        """What quantizing needs to know, from the samples.

        Raises:
            BadOptionError: There is a file, and it belongs to another graph: see `known`.
        """
        if self.file is not None and self.file.exists():
            raise self._of_another_graph()
        return self._calibrated(model, values, samples, "ranges")

    def keep(self, calibration: Calibration) -> None:
        """Write the file, unless it is there.

        Raises:
            BadOptionError: There is a file, and it belongs to another graph.
        """
        if self.file is None:
            return
        if not self.file.exists():
            store.save(calibration, self.file)
        elif store.load(self.file).graph_hash != calibration.graph_hash:
            raise self._of_another_graph()

    def _of_another_graph(self) -> BadOptionError:
        return BadOptionError(
            f"the calibration {self.file} belongs to another graph than the one that is "
            "quantized, which is the model after folding, lowering and equalization",
            "name a file that is not there yet, and it is written",
        )

    def known(self, model: onnx.ModelProto, values: Sequence[str]) -> Calibration | None:
        """What the file says, None when there is none or it belongs to another graph.

        Raises:
            BadOptionError: It cannot be read, or lacks a value.
        """
        if self.file is None or not self.file.exists():
            return None
        calibration = store.load(self.file)
        if calibration.graph_hash != graph_hash(model):
            return None
        missing = [name for name in values if name not in calibration.tensors]
        if missing:
            raise BadOptionError(
                f"the calibration {self.file} says nothing about '{missing[0]}', which this target "
                "quantizes",
                "name a file that is not there yet, and it is written",
            )
        return calibration

    def _calibrated(
        self, model: onnx.ModelProto, values: Sequence[str], samples: Subset, what: str
    ) -> Calibration:
        partial = self._partial(what)
        if partial is not None and partial.exists() and not _fits(partial, model, values, samples):
            partial.unlink()
        return calibrate(
            model,
            samples,
            values,
            workers=self.workers,
            checkpoint=partial,
            progress=self.progress,
        )

    def _partial(self, what: str) -> Path | None:
        return None if self.beside is None else Path(f"{os.fspath(self.beside)}.{what}.partial")

    def forget(self) -> None:
        """Remove what was kept for a run that was interrupted."""
        for what in ("channels", "ranges"):
            partial = self._partial(what)
            if partial is not None:
                with suppress(OSError):
                    partial.unlink(missing_ok=True)


def _fits(file: Path, model: onnx.ModelProto, values: Sequence[str], samples: Subset) -> bool:
    """Whether a run with the same model and the same samples left that file."""
    try:
        known = store.load(file, graph_hash(model))
    except BadOptionError:
        return False
    if known.data != fingerprint(samples) or known.samples[-1] >= len(samples):
        return False
    return set(known.tensors) == set(values)
