"""Orders, rounds and when to stop."""

import random
from collections import Counter
from itertools import pairwise

import pytest

from onnxfold.bench.sittings import (
    LEAST_SITTINGS,
    SITTINGS_FOR_ROUNDS,
    FixedRounds,
    Stop,
    UntilNarrow,
    run_rounds,
)

NAMES = ("a", "b", "c")


def run_three(seed: int, warm_up: int, rounds: int) -> tuple[list[str], list[tuple[str, ...]]]:
    """What really ran, one after the other, and the orders that were told."""
    ran: list[str] = []
    orders, run_ms = run_rounds(
        {name: lambda name=name: ran.append(name) for name in NAMES},  # type: ignore[misc]
        random.Random(seed),
        warm_up,
        lambda done, _: done >= rounds,
    )
    assert {name: len(values) for name, values in run_ms.items()} == dict.fromkeys(NAMES, rounds)
    assert all(value >= 0 for values in run_ms.values() for value in values)
    return ran, list(orders)


def test_orders_are_told_as_they_were_and_warm_up_is_left_out() -> None:
    ran, orders = run_three(seed=1, warm_up=4, rounds=20)
    assert len(ran) == 24 * 3
    assert ran[4 * 3 :] == [name for order in orders for name in order]
    for index in range(0, len(ran), 3):  # warm-up included
        assert sorted(ran[index : index + 3]) == list(NAMES)


def test_orders_are_drawn_for_every_round() -> None:
    _, orders = run_three(seed=2, warm_up=0, rounds=600)
    counts = Counter(orders)
    assert len(counts) == 6
    assert all(70 <= count <= 130 for count in counts.values())
    changed = sum(before != after for before, after in pairwise(orders))
    assert 0.75 < changed / 599 < 0.9  # 5 of 6 when they are independent


def test_the_seed_decides() -> None:
    assert run_three(5, 2, 9) == run_three(5, 2, 9)
    assert run_three(5, 2, 9) != run_three(6, 2, 9)


def rounds_by_sitting(rounds: int) -> list[int]:
    schedule = FixedRounds(rounds)
    held: list[int] = []
    while True:
        done = 0
        while not schedule.is_sitting_done(len(held), done, 0.0, 0.0):
            done += 1
        held.append(done)
        if schedule.stop(len(held), 1e9, 0.0) is not None:
            return held


@pytest.mark.parametrize(
    ("rounds", "held"),
    [(1, [1]), (5, [1] * 5), (9, [1] * 9), (20, [3, 3, 2, 2, 2, 2, 2, 2, 2]), (90, [10] * 9)],
)
def test_rounds_are_spread_over_sittings(rounds: int, held: list[int]) -> None:
    assert rounds_by_sitting(rounds) == held
    assert len(held) <= SITTINGS_FOR_ROUNDS


def test_a_sitting_lasts_as_long_as_its_loading() -> None:
    schedule = UntilNarrow(20)
    assert not schedule.is_sitting_done(0, rounds=50, seconds=0.9, loading=1.0)
    assert schedule.is_sitting_done(0, rounds=50, seconds=1.0, loading=1.0)
    assert not schedule.is_sitting_done(0, rounds=2, seconds=9.0, loading=1.0)
    assert not schedule.is_sitting_done(0, rounds=50, seconds=0.01, loading=0.001)


@pytest.mark.parametrize(
    ("sittings", "seconds", "width", "stopped"),
    [
        (LEAST_SITTINGS - 1, 1.0, 0.0, None),
        (LEAST_SITTINGS - 1, 99.0, 0.5, None),  # the least that give an interval
        (LEAST_SITTINGS, 1.0, 0.0199, Stop.NARROW),
        (LEAST_SITTINGS, 1.0, 0.0201, None),
        (LEAST_SITTINGS, 20.0, 0.0201, Stop.TIME),
        (LEAST_SITTINGS, 20.0, float("inf"), Stop.TIME),
    ],
)
def test_when_to_stop(sittings: int, seconds: float, width: float, stopped: Stop | None) -> None:
    assert UntilNarrow(20.0).stop(sittings, seconds, width) is stopped
