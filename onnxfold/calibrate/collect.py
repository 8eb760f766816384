"""Runs a model on samples and collects what is known about its values.

The graph optimizations of the runtime stay on, or it would take twice as long, but for one whose
result is wrong. A run always has one thread: the same sample then gives the same bits, whatever
machine share it ran with. Memory holds one run, and of the samples of a chunk the small outputs.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from onnxfold.calibrate.histogram import Histogram
from onnxfold.calibrate.instrument import FedTensor, InstrumentedModel, ObservedValue
from onnxfold.calibrate.statistics import ChannelStatistics, TensorStatistics
from onnxfold.calibrate.sums import ExactSums
from onnxfold.errors import BadModelError, BadOptionError, CannotRunError
from onnxfold.verify.session import RUNTIME_ERRORS, explain

Array = NDArray[Any]
Feed = Mapping[str, Array]

_WRONG_FUSIONS = ("Pad_Fusion",)
"""Lets MaxPool pad with -∞ what Pad filled with zeros: wrong wherever a window is negative."""


class NonFiniteError(BadModelError):
    """A value is NaN or infinite.

    Attributes:
        index: The sample.
        value: Name of the first such value among those observed.
    """

    def __init__(self, message: str, hint: str = "", index: int = -1, value: str = "") -> None:
        super().__init__(message, hint)
        self.index = index
        self.value = value


class Observer:
    """A session that observes the values of a model."""

    def __init__(self, model: InstrumentedModel, *, optimized: bool = True) -> None:
        """Load the model.

        Args:
            model: Made by `onnxfold.calibrate.instrument`.
            optimized: Whether the runtime may optimize the graph.

        Raises:
            CannotRunError: The runtime does not take the model.
        """
        self._model = model
        self._names = [name for value in model.values for name in value.outputs]
        try:
            self._session = ort.InferenceSession(
                model.source,
                _options(model.folder, optimized),
                providers=["CPUExecutionProvider"],
                disabled_optimizers=list(_WRONG_FUSIONS),
            )
        except RUNTIME_ERRORS as error:
            raise CannotRunError(*explain(error)) from error
        self._run_options = ort.RunOptions()
        self._run_options.log_severity_level = 4

    def observe(self, samples: Iterable[tuple[int, Feed]]) -> dict[str, TensorStatistics]:
        """Run the model on samples.

        Args:
            samples: The index of each in the whole data set, which decides what elements are
                looked at, and its feed; at least one.

        Returns:
            Statistics by name of value, in topological order.

        Raises:
            BadOptionError: A feed does not fit the model.
            CannotRunError: The runtime refuses a feed.
            NonFiniteError: A value is NaN or infinite.
        """
        runs = [self._run(index, feed) for index, feed in samples]
        return {
            value.name: _statistics(value, [run[value.name] for run in runs])
            for value in self._model.values
        }

    def _run(self, index: int, feed: Feed) -> dict[str, list[Array]]:
        checked: dict[str, Array] = {
            each.name: _checked(each, feed, index) for each in self._model.inputs
        }
        checked[self._model.phase] = np.array([phase_of(index)], np.int64)
        try:
            arrays: Any = self._session.run(self._names, checked, self._run_options)
        except RUNTIME_ERRORS as error:
            message, hint = explain(error)
            raise CannotRunError(f"sample {index} cannot be run: {message}", hint) from error
        outputs = iter(arrays)
        found = {value.name: [next(outputs) for _ in value.outputs] for value in self._model.values}
        _refuse_non_finite(found, index)
        return found


def phase_of(index: int) -> int:
    """A number below 2**62 that looks drawn at random, another one for each sample.

    The finaliser of splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number
    generators, 2014).
    """
    mask = (1 << 64) - 1
    state = (index + 1) * 0x9E3779B97F4A7C15 & mask
    state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & mask
    state = (state ^ state >> 27) * 0x94D049BB133111EB & mask
    return (state ^ state >> 31) >> 2


def _options(folder: Path | None, optimized: bool) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    # The pattern would keep every observed value in a place of its own: twice the memory.
    options.enable_mem_pattern = False
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimized else level.ORT_DISABLE_ALL
    if folder is not None:
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(folder)
        )
    return options


def _checked(expected: FedTensor, feed: Feed, index: int) -> Array:
    """The array for an input.

    Raises:
        BadOptionError: It is missing, or of another shape or type.
    """
    hint = "give an array for each input of the model, by name"
    if expected.name not in feed:
        raise BadOptionError(f"sample {index} has no array for the input {expected.name}", hint)
    array = np.asarray(feed[expected.name])
    dims = expected.dims
    if dims is not None and not _fits(array.shape, dims):
        wanted = "x".join("?" if extent is None else str(extent) for extent in dims)
        given = "x".join(map(str, array.shape)) or "scalar"
        raise BadOptionError(
            f"sample {index} gives {expected.name} the shape {given}, and the model takes "
            f"{wanted or 'scalar'}",
            hint,
        )
    if not np.can_cast(array.dtype, expected.dtype, "same_kind"):
        raise BadOptionError(
            f"sample {index} gives {expected.name} as {array.dtype}, and the model takes "
            f"{expected.dtype}",
            hint,
        )
    return np.ascontiguousarray(array, expected.dtype)


def _fits(shape: Sequence[int], dims: Sequence[int | None]) -> bool:
    return len(shape) == len(dims) and all(
        wanted is None or extent == wanted for extent, wanted in zip(shape, dims, strict=True)
    )


def _refuse_non_finite(found: Mapping[str, list[Array]], index: int) -> None:
    """Find NaN and infinity by the means: a sum with one of them in it is never finite."""
    means = [arrays[2].ravel() for arrays in found.values()]
    if np.isfinite(np.concatenate(means)).all():
        return
    name = next(
        name for name, mean in zip(found, means, strict=True) if not np.isfinite(mean).all()
    )
    raise NonFiniteError(
        f"the value {name} is NaN or infinite on sample {index}",
        "check the sample and the weights of the model",
        index,
        name,
    )


def _statistics(value: ObservedValue, runs: Sequence[Sequence[Array]]) -> TensorStatistics:
    minima, maxima, means, sampled, *sizes = zip(*runs, strict=True)
    elements = np.concatenate(sampled)
    return TensorStatistics(
        count=len(runs) * value.size if value.size is not None else int(np.sum(sizes)),
        minimum=min(float(each.min()) for each in minima) + 0.0,
        maximum=max(float(each.max()) for each in maxima) + 0.0,
        zeros=elements.size - int(np.count_nonzero(elements)),
        histogram=Histogram.of(elements),
        channels=_channels(minima, maxima, means) if value.has_channels else None,
    )


def _channels(
    minima: Sequence[Array], maxima: Sequence[Array], means: Sequence[Array]
) -> ChannelStatistics | None:
    if len({len(each) for each in minima}) != 1:
        return None
    return ChannelStatistics(
        np.min(minima, axis=0) + np.float32(0),
        np.max(maxima, axis=0) + np.float32(0),
        ExactSums.of(np.stack(means)),
    )
