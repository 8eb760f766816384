"""Medians, intervals and ratios, on samples whose truth is known."""

import math

import numpy as np
import pytest

from onnxfold.bench.sittings import LEAST_SITTINGS, UntilNarrow
from onnxfold.bench.statistics import median_interval, relative_width, speed_ups, summarize

SPEED_UP = 1.3


def sittings(
    generator: np.random.Generator, count: int, rounds: int = 8, spread: float = 0.015
) -> list[list[float]]:
    """Speed-ups of rounds: what loading did to the models, and noise with bursts on top."""
    found = []
    for _ in range(count):
        luck = math.exp(spread * generator.standard_normal())
        noise = np.exp(0.02 * generator.standard_t(3, rounds))
        found.append([float(value) for value in SPEED_UP * luck * noise])
    return found


@pytest.mark.parametrize(
    ("count", "rank"), [(6, 1), (8, 1), (9, 2), (11, 2), (12, 3), (20, 6), (100, 40), (1000, 469)]
)
def test_ranks_are_those_of_the_binomial_distribution(count: int, rank: int) -> None:
    values = list(np.random.default_rng(0).permutation(count).astype(float))
    assert median_interval(values) == (rank - 1, count - rank)
    below = [math.comb(count, k) for k in range(rank + 1)]
    assert 2 * sum(below[:rank]) <= 0.05 * 2**count < 2 * sum(below)


@pytest.mark.parametrize("count", range(1, LEAST_SITTINGS))
def test_too_few_values_give_no_interval(count: int) -> None:
    values = [float(value) for value in range(count)]
    assert median_interval(values) is None
    assert relative_width(values) == float("inf")
    assert summarize([values]).interval is None


def test_the_fewest_sittings_give_an_interval() -> None:
    assert median_interval([float(value) for value in range(LEAST_SITTINGS)]) == (0, 5)


def test_relative_width() -> None:
    assert relative_width([98.0, 99.0, 100.0, 100.0, 101.0, 102.0]) == pytest.approx(0.04)


def test_a_summary_in_numbers() -> None:
    summary = summarize([[1.0, 2.0, 9.0], [4.0], [3.0, 5.0]])
    assert summary.medians == (2.0, 4.0, 4.0)
    assert summary.median == 4.0
    assert summary.quartiles == (2.25, 4.75)
    assert summary.interval is None


def test_speed_ups_are_paired() -> None:
    # The machine was slow in the second round, for both.
    assert speed_ups([2.0, 20.0], [1.0, 10.0]) == [2.0, 2.0]
    with pytest.raises(ValueError, match="shorter"):
        speed_ups([1.0, 2.0], [1.0])


def test_a_known_speed_up_is_recovered() -> None:
    summary = summarize(sittings(np.random.default_rng(1), 200))
    assert summary.median == pytest.approx(SPEED_UP, rel=0.005)
    assert summary.interval is not None
    assert summary.interval[0] <= summary.median <= summary.interval[1]
    assert summary.quartiles[0] < summary.median < summary.quartiles[1]


def covers(interval: tuple[float, float] | None) -> bool:
    return interval is not None and interval[0] <= SPEED_UP <= interval[1]


@pytest.mark.parametrize("count", [6, 9, 15, 40])
def test_intervals_cover_as_often_as_they_say(count: int) -> None:
    generator = np.random.default_rng(count)
    trials = 1500
    hits = sum(covers(summarize(sittings(generator, count)).interval) for _ in range(trials))
    # The binomial's steps make it cover a little more often; 0.935 is 2.7 standard errors below.
    assert 0.935 <= hits / trials <= 0.985


def test_rounds_of_one_loading_do_not_count_as_independent() -> None:
    generator = np.random.default_rng(3)
    hits = pooled = 0
    for _ in range(300):
        groups = sittings(generator, 12, rounds=40)
        hits += covers(summarize(groups).interval)
        pooled += covers(median_interval([value for group in groups for value in group]))
    assert hits / 300 > 0.93
    assert pooled / 300 < 0.7


def test_stopping_when_narrow_hardly_costs_coverage() -> None:
    generator = np.random.default_rng(4)
    schedule = UntilNarrow(seconds=60)
    hits, trials = 0, 400
    for _ in range(trials):
        medians: list[float] = []
        while True:
            medians.append(float(np.median(sittings(generator, 1)[0])))
            if schedule.stop(len(medians), len(medians), relative_width(medians)) is not None:
                break
        hits += covers(median_interval(medians))
    assert hits / trials > 0.9
