"""How long models take to run, beside each other in one process."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

from onnxfold.bench.inputs import Feed, choose_feed, common_inputs, doubts
from onnxfold.bench.memory import peak_memory
from onnxfold.bench.runners import (
    Content,
    Precision,
    Runner,
    Runtime,
    Settings,
    content_of,
    open_runtime,
)
from onnxfold.bench.sittings import (
    TIME_LIMIT,
    FixedRounds,
    Schedule,
    Sitting,
    Stop,
    UntilNarrow,
    run_rounds,
    shuffled,
)
from onnxfold.bench.statistics import Summary, relative_width, speed_ups, summarize
from onnxfold.errors import BadOptionError, CannotRunError
from onnxfold.verify.feeds import Outputs
from onnxfold.verify.interface import Interface
from onnxfold.verify.session import Array, FeedRefusedError
from onnxfold.verify.sources import ModelSource, read_skeleton

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Timing:
    """One model's figures.

    Attributes:
        name: The model.
        run_ms: Milliseconds of one run.
        speed_up: How many times faster than the first model, round by round; None for the first.
        load_ms: Milliseconds that loading took, median over all sittings.
        peak_bytes: What loading and running it adds to a process at its peak; None if not
            measured.
    """

    name: str
    run_ms: Summary
    speed_up: Summary | None
    load_ms: float
    peak_bytes: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """The figures as JSON-ready data."""
        return {
            "name": self.name,
            "run_ms": _as_dict(self.run_ms),
            "speed_up": None if self.speed_up is None else _as_dict(self.speed_up),
            "load_ms": self.load_ms,
            "peak_bytes": self.peak_bytes,
        }


def _as_dict(summary: Summary) -> dict[str, Any]:
    return {
        "median": summary.median,
        "quartiles": list(summary.quartiles),
        "interval": None if summary.interval is None else list(summary.interval),
        "medians": list(summary.medians),
    }


@dataclass(frozen=True, slots=True)
class Measurement:
    """How models ran on one runtime.

    Attributes:
        runtime: Its name, as options call it.
        title: Its name for people.
        version: Its version.
        threads: Threads per operator, None for the runtime's own choice where it does not tell.
        precision: In which precision floats were computed, None for the types of the models.
        seed: Of the orders and of made-up inputs.
        warm_up: Rounds before those that count, in every sitting.
        sittings: Everything that was timed.
        timings: The figures, in the order in which the models were given.
        stopped: Why it ended.
        seconds: What all sittings took.
        feed: The inputs that every model ran on.
        notes: What to know about the figures.
    """

    runtime: str
    title: str
    version: str
    threads: int | None
    precision: str | None
    seed: int
    warm_up: int
    sittings: tuple[Sitting, ...]
    timings: tuple[Timing, ...]
    stopped: Stop
    seconds: float
    feed: Feed = field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def rounds(self) -> int:
        """How often every model ran, warm-up left out."""
        return sum(len(sitting.orders) for sitting in self.sittings)

    def __getitem__(self, name: str) -> Timing:
        """The figures of one model.

        Raises:
            KeyError: There is none of that name.
        """
        for timing in self.timings:
            if timing.name == name:
                return timing
        raise KeyError(name)

    def to_dict(self) -> dict[str, Any]:
        """The measurement as JSON-ready data; of the rounds, the medians of every sitting."""
        return {
            "runtime": self.runtime,
            "version": self.version,
            "threads": self.threads,
            "precision": self.precision,
            "seed": self.seed,
            "warm_up": self.warm_up,
            "rounds": self.rounds,
            "rounds_by_sitting": [len(sitting.orders) for sitting in self.sittings],
            "seconds": self.seconds,
            "stopped": str(self.stopped),
            "inputs": {
                name: {"shape": list(array.shape), "dtype": str(array.dtype)}
                for name, array in self.feed.items()
            },
            "models": [timing.to_dict() for timing in self.timings],
            "notes": list(self.notes),
        }


def measure(
    models: Mapping[str, ModelSource],
    runtime: str = "ort",
    *,
    rounds: int | None = None,
    seconds: float = TIME_LIMIT,
    warm_up: int = 3,
    threads: int | None = None,
    feed: Feed | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    precision: Precision = "f32",
    seed: int = 0,
    memory: bool = False,
    progress: Progress | None = None,
) -> Measurement:
    """Time models against the first of them.

    All are loaded, run once each per round in an order drawn for every round, and loaded again in
    another order for the next sitting (see `sittings`), until every interval is narrower than 2 %
    or time is up; at least six times, because fewer give no interval.

    Args:
        models: Paths or messages, by name. The first is what the others are compared with.
        runtime: `ort` or `openvino`.
        rounds: Run exactly so many instead.
        seconds: When to stop if the intervals stay wide.
        warm_up: Rounds in every sitting that do not count.
        threads: Threads per operator, None for the runtime's own choice.
        feed: Inputs for all models; None makes them up, as `onnxfold verify` does.
        input_shapes: Shapes of made-up inputs, by name.
        precision: `f32`, or `default` to let OpenVINO compute in bfloat16 where it likes.
        seed: Of the orders and of made-up inputs.
        memory: Measure every model's peak memory too, in a process of its own.
        progress: Called with a few words between sittings.

    Raises:
        BadModelError: A file is not a model that can be read.
        BadOptionError: An option makes no sense, the models take different inputs, or the inputs
            given do not fit.
        CannotRunError: The runtime is not installed, or does not run one of the models.
    """
    _check(models, rounds, seconds, warm_up, threads)
    bench = _Bench(
        runtime=open_runtime(runtime),
        contents={name: content_of(source) for name, source in models.items()},
        settings=Settings(threads, precision),
        warm_up=warm_up,
        generator=random.Random(seed),
        progress=progress or (lambda _text: None),
    )
    ports = common_inputs({n: Interface.of(read_skeleton(s)) for n, s in models.items()})
    bench.rehearse(lambda run: choose_feed(ports, run, feed, input_shapes or {}, seed))
    began = perf_counter()
    stopped = bench.sit(UntilNarrow(seconds) if rounds is None else FixedRounds(rounds))
    took = perf_counter() - began
    peaks = bench.peaks(runtime) if memory else {}
    return Measurement(
        runtime=runtime,
        title=bench.runtime.title,
        version=bench.runtime.version,
        threads=bench.threads,
        precision=bench.precision,
        seed=seed,
        warm_up=warm_up,
        sittings=tuple(bench.sittings),
        timings=tuple(_timings(bench.sittings, list(models), peaks)),
        stopped=stopped,
        seconds=took,
        feed=bench.feed,
        notes=tuple(bench.notes),
    )


def _check(
    models: Mapping[str, ModelSource],
    rounds: int | None,
    seconds: float,
    warm_up: int,
    threads: int | None,
) -> None:
    if not models:
        raise BadOptionError("there is no model to measure", "give at least one")
    for name, value, least in (
        ("rounds", rounds, 1),
        ("warm-up", warm_up, 0),
        ("threads", threads, 1),
    ):
        if value is not None and value < least:
            raise BadOptionError(f"{name} is {value}", f"give {least} or more")
    if not seconds > 0:
        raise BadOptionError(f"seconds is {seconds:g}", "give a positive number")


@dataclass(slots=True)
class _Bench:
    """The steps of `measure`, with what they share."""

    runtime: Runtime
    contents: Mapping[str, Content]
    settings: Settings
    warm_up: int
    generator: random.Random
    progress: Progress
    threads: int | None = None
    precision: str | None = None
    feed: Feed = field(default_factory=dict)
    sittings: list[Sitting] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def rehearse(self, choose: Callable[[Callable[[Feed], Outputs]], Feed]) -> None:
        """Run every model once, alone: choose the inputs, and see that all can run on them."""
        outputs: dict[str, list[Array]] = {}
        first, *_ = self.contents
        for name in self.contents:
            self.progress(f"trying {name} on {self.runtime.title}")
            runner = self._load(name)
            if name == first:
                self.threads, self.precision = runner.threads, runner.precision
                self.feed = choose(partial(_outputs, runner))
            try:
                outputs[name] = list(_outputs(runner, self.feed).values())
            except FeedRefusedError as error:
                raise CannotRunError(
                    f"{name} does not run on the inputs that {first} runs on: {error}",
                    "give the sizes of the inputs (--input-shape) or data",
                ) from error
        self.notes += doubts(outputs)

    def sit(self, schedule: Schedule) -> Stop:
        """Hold sittings until the schedule says stop; why it did."""
        began = perf_counter()
        medians: dict[str, list[float]] = {}
        while True:
            sitting = self._sitting(schedule)
            self.sittings.append(sitting)
            for name, values in _telling(sitting, list(self.contents)).items():
                medians.setdefault(name, []).append(median(values))
            width = max(map(relative_width, medians.values()))
            stopped = schedule.stop(len(self.sittings), perf_counter() - began, width)
            if stopped is not None:
                return stopped

    def _sitting(self, schedule: Schedule) -> Sitting:
        number = len(self.sittings)
        self.progress(f"measuring on {self.runtime.title}, sitting {number + 1}")
        runners: dict[str, Runner] = {}
        load_ms: dict[str, float] = {}
        for name in shuffled(self.contents, self.generator):
            started = perf_counter()
            runners[name] = self._load(name)
            load_ms[name] = 1e3 * (perf_counter() - started)
            runners[name].bind(self.feed)
        loading = sum(load_ms.values()) / 1e3
        orders, run_ms = run_rounds(
            {name: runners[name].run for name in self.contents},
            self.generator,
            self.warm_up,
            lambda rounds, seconds: schedule.is_sitting_done(number, rounds, seconds, loading),
        )
        return Sitting(load_ms, orders, run_ms)

    def _load(self, name: str) -> Runner:
        try:
            return self.runtime.load(self.contents[name], self.settings)
        except CannotRunError as error:
            raise CannotRunError(f"{name}: {error.message}", error.hint) from error

    def peaks(self, runtime: str) -> dict[str, int]:
        """The peak memory of every model; a note where it cannot be measured."""
        found: dict[str, int] = {}
        for name, content in self.contents.items():
            self.progress(f"measuring the memory of {name} on {self.runtime.title}")
            try:
                found[name] = peak_memory(content, runtime, self.feed, self.settings)
            except CannotRunError as error:
                self.notes.append(f"the peak memory of {name} is not known: {error.message}")
        return found


def _outputs(runner: Runner, feed: Feed) -> Outputs:
    runner.bind(feed)
    return {str(index): array for index, array in enumerate(runner.outputs())}


def _telling(sitting: Sitting, names: Sequence[str]) -> dict[str, Sequence[float]]:
    """The samples whose intervals matter: speed-ups, or the times of a model that is alone."""
    first, *others = names
    if not others:
        return {first: sitting.run_ms[first]}
    return {name: speed_ups(sitting.run_ms[first], sitting.run_ms[name]) for name in others}


def _timings(
    sittings: Sequence[Sitting], names: Sequence[str], peaks: Mapping[str, int]
) -> Iterator[Timing]:
    first = names[0]
    for name in names:
        ratios = [speed_ups(sitting.run_ms[first], sitting.run_ms[name]) for sitting in sittings]
        yield Timing(
            name=name,
            run_ms=summarize([sitting.run_ms[name] for sitting in sittings]),
            speed_up=summarize(ratios) if name != first else None,
            load_ms=median(sitting.load_ms[name] for sitting in sittings),
            peak_bytes=peaks.get(name),
        )
