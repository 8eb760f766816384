"""Rounds in which every model runs once, in sittings for which every model is loaded anew.

What always runs first looks different, so the order is drawn again for every round. What is loaded
last, or happens to get better aligned memory, is faster too, by up to a few percent for as long as
it lives; so the models are loaded again, in another order, for every sitting.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from time import perf_counter_ns
from typing import Protocol

Run = Callable[[], object]
Order = tuple[str, ...]

LEAST_SITTINGS = 6
"""With fewer there is no interval (`statistics.median_interval`)."""

SITTINGS_FOR_ROUNDS = 9
"""Into how many sittings a given number of rounds is split: the fewest whose interval leaves out
the best and the worst sitting."""

TIME_LIMIT = 20.0
"""Seconds after which a measurement ends whose intervals stay wide, if nothing else is said."""

NARROW = 0.02
"""An interval narrower than this share of its median is narrow enough."""

_LEAST_ROUNDS = 3
_LEAST_SECONDS = 0.1


class Stop(StrEnum):
    """Why a measurement ended."""

    ROUNDS = "all rounds asked for were run"
    NARROW = "every 95 % interval is narrower than 2 %"
    TIME = "the time limit was reached"


@dataclass(frozen=True, slots=True)
class Sitting:
    """One loading of all models, and the rounds that were run on it.

    Attributes:
        load_ms: Milliseconds that loading took by model, in the order of loading.
        orders: In which order the models ran, round by round; warm-up rounds are left out.
        run_ms: Milliseconds of every round, by model.
    """

    load_ms: Mapping[str, float]
    orders: tuple[Order, ...]
    run_ms: Mapping[str, tuple[float, ...]]


class Schedule(Protocol):
    """Decides how long to go on."""

    def is_sitting_done(self, sitting: int, rounds: int, seconds: float, loading: float) -> bool:
        """Whether a sitting has enough rounds.

        Args:
            sitting: Its number, from 0.
            rounds: How many it has.
            seconds: What they took.
            loading: Seconds that loading the models for it took.
        """
        ...

    def stop(self, sittings: int, seconds: float, width: float) -> Stop | None:
        """Why to stop now, None to go on.

        Args:
            sittings: How many there have been.
            seconds: What they took with everything.
            width: Relative width of the widest interval.
        """
        ...


@dataclass(frozen=True, slots=True)
class FixedRounds:
    """So many rounds, spread evenly over the sittings."""

    rounds: int

    def is_sitting_done(self, sitting: int, rounds: int, seconds: float, loading: float) -> bool:
        """As `Schedule`."""
        whole, rest = divmod(self.rounds, self._sittings)
        return rounds >= whole + (sitting < rest)

    def stop(self, sittings: int, seconds: float, width: float) -> Stop | None:
        """As `Schedule`."""
        return Stop.ROUNDS if sittings >= self._sittings else None

    @property
    def _sittings(self) -> int:
        return min(self.rounds, SITTINGS_FOR_ROUNDS)


@dataclass(frozen=True, slots=True)
class UntilNarrow:
    """Until all intervals are narrow or time is up; in a sitting, as long as its loading took."""

    seconds: float

    def is_sitting_done(self, sitting: int, rounds: int, seconds: float, loading: float) -> bool:
        """As `Schedule`."""
        return rounds >= _LEAST_ROUNDS and seconds >= max(loading, _LEAST_SECONDS)

    def stop(self, sittings: int, seconds: float, width: float) -> Stop | None:
        """As `Schedule`."""
        if sittings < LEAST_SITTINGS:
            return None
        if width < NARROW:
            return Stop.NARROW
        return Stop.TIME if seconds >= self.seconds else None


def run_rounds(
    runs: Mapping[str, Run],
    generator: random.Random,
    warm_up: int,
    is_done: Callable[[int, float], bool],
) -> tuple[tuple[Order, ...], dict[str, tuple[float, ...]]]:
    """Run rounds; in each, everything runs once, in an order of its own.

    Args:
        runs: What to run, by name.
        generator: Draws the orders.
        warm_up: Rounds that are run before and not counted.
        is_done: Whether so many rounds in so many seconds are enough.

    Returns:
        The order of every round, and what it took in milliseconds, by name.
    """
    for _ in range(warm_up):
        for name in shuffled(runs, generator):
            runs[name]()
    orders: list[Order] = []
    samples: dict[str, list[float]] = {name: [] for name in runs}
    began = perf_counter_ns()
    while not is_done(len(orders), (perf_counter_ns() - began) / 1e9):
        order = shuffled(runs, generator)
        for name in order:
            run, started = runs[name], perf_counter_ns()
            run()
            samples[name].append((perf_counter_ns() - started) / 1e6)
        orders.append(order)
    return tuple(orders), {name: tuple(values) for name, values in samples.items()}


def shuffled(names: Mapping[str, object] | Sequence[str], generator: random.Random) -> Order:
    """The names in an order drawn anew."""
    return tuple(generator.sample(list(names), len(names)))
