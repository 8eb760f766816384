"""Times the models that `quantization_make` made, beside each other in one process."""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count
from pathlib import Path
from time import perf_counter

import numpy as np
import onnx

from onnxfold.bench.runners import Precision, Runner, Runtime, Settings, open_runtime
from onnxfold.bench.sittings import LEAST_SITTINGS, Stop, run_rounds, shuffled
from onnxfold.bench.statistics import Summary, speed_ups, summarize
from tests.bench.quantization_accuracy import candidates, verdicts
from tests.bench.quantization_make import Shelf
from tests.bench.quantization_networks import FLOAT, OURS, UNMERGED, Array, feeds

Say = Callable[[str], None]

_LEAST_ROUNDS = 5
_WARM_UP = 3


@dataclass(slots=True)
class Pace:
    """How fast one model runs.

    Attributes:
        milliseconds: Median of a run.
        speed: How many times faster than float32: the median, and where it lies with 95 %.
        behind: How many times faster ours is, round by round; None where ours did not run.
        rounds: How often it ran.
    """

    milliseconds: float
    speed: tuple[float, float, float]
    behind: tuple[float, float, float] | None
    rounds: int


def paces(shelf: Shelf, runtime: str) -> dict[str, Pace]:
    """What was measured, by variant; nothing before it was."""
    file = _file(shelf, runtime)
    listed = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return {name: Pace(**fields) for name, fields in listed.items()}


def _file(shelf: Shelf, runtime: str) -> Path:
    return shelf.folder / f"speed.{runtime}.json"


@dataclass(frozen=True, slots=True)
class _Sittings:
    """So many sittings that there is an interval, in a given time with loading and all."""

    seconds: float

    def is_sitting_done(self, sitting: int, rounds: int, seconds: float, loading: float) -> bool:
        """As `onnxfold.bench.sittings.Schedule`."""
        return rounds >= _LEAST_ROUNDS and seconds + loading >= self.seconds / LEAST_SITTINGS

    def stop(self, sittings: int, seconds: float, width: float) -> Stop | None:
        """As `onnxfold.bench.sittings.Schedule`."""
        return Stop.TIME if sittings >= LEAST_SITTINGS else None


def time_models(
    network: str, shelf: Shelf, runtime: str, seconds: float, threads: int, say: Say
) -> None:
    """Time every model that the stage `accuracy` saw running, and write what was found.

    `onnxfold.bench.measure` runs all models in one precision; here float32 and bfloat16 run beside
    each other on OpenVINO, so its parts are put together anew.

    Args:
        network: Its name.
        shelf: Its models.
        runtime: On which runtime.
        seconds: How long, about.
        threads: Of the runtime.
        say: Told what is being done.
    """
    judged = verdicts(shelf, runtime)
    files = {
        name: each
        for name, each in candidates(network, shelf, runtime).items()
        if name != UNMERGED and name in judged and not judged[name].error
    }
    if FLOAT not in files:
        say(f"nothing was judged on {runtime} yet: run the stage accuracy first")
        return
    say(f"timing {', '.join(files)} on {runtime}")
    groups = _measured(open_runtime(runtime), files, _feed(shelf), seconds, threads)
    found = {name: asdict(each) for name, each in _paces(groups).items()}
    _file(shelf, runtime).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _feed(shelf: Shelf) -> dict[str, Array]:
    graph = onnx.load(shelf.folded, load_external_data=False).graph
    held = {tensor.name for tensor in graph.initializer}
    (name,) = (value.name for value in graph.input if value.name not in held)
    return next(feeds(name, np.load(shelf.samples, mmap_mode="r", allow_pickle=False)[:1]))


def _measured(
    runtime: Runtime,
    files: Mapping[str, tuple[Path, Precision]],
    feed: Mapping[str, Array],
    seconds: float,
    threads: int,
) -> dict[str, list[Sequence[float]]]:
    """Milliseconds of every run by model and sitting."""
    generator, schedule, began = random.Random(0), _Sittings(seconds), perf_counter()
    groups: dict[str, list[Sequence[float]]] = {name: [] for name in files}
    for sitting in count():
        started = perf_counter()
        runners: dict[str, Runner] = {}
        for name in shuffled(files, generator):
            path, precision = files[name]
            runners[name] = runtime.load(str(path), Settings(threads, precision))
            runners[name].bind(feed)
        _, run_ms = run_rounds(
            {name: runners[name].run for name in files},
            generator,
            _WARM_UP,
            partial(schedule.is_sitting_done, sitting, loading=perf_counter() - started),
        )
        for name, values in run_ms.items():
            groups[name].append(values)
        if schedule.stop(sitting + 1, perf_counter() - began, 0.0):
            return groups
    raise AssertionError("a schedule ends")


def _paces(groups: Mapping[str, list[Sequence[float]]]) -> dict[str, Pace]:
    found = {}
    for name, own in groups.items():
        behind = _ratio(own, groups[OURS]) if OURS in groups else None
        found[name] = Pace(
            summarize(own).median, _ratio(groups[FLOAT], own), behind, sum(map(len, own))
        )
    return found


def _ratio(
    first: Sequence[Sequence[float]], other: Sequence[Sequence[float]]
) -> tuple[float, float, float]:
    summary: Summary = summarize([speed_ups(a, b) for a, b in zip(first, other, strict=True)])
    low, high = summary.interval or summary.quartiles
    return summary.median, low, high
