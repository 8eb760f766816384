"""Medians with distribution-free intervals, from samples that come in groups.

Samples of one loading of a model share whatever that loading did to them (where its weights came
to lie, mostly), so they are not independent of each other; the medians of several loadings are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

CONFIDENCE = 0.95
"""Probability with which an interval covers the true median, at least."""


@dataclass(frozen=True, slots=True)
class Summary:
    """Samples in a few numbers, in the unit of the samples.

    Attributes:
        median: The median of the groups' medians.
        quartiles: Where the middle half of all samples lies.
        interval: Covers the true median with `CONFIDENCE`; None when there are fewer than six
            groups, whose medians then say too little.
        medians: The median of every group.
    """

    median: float
    quartiles: tuple[float, float]
    interval: tuple[float, float] | None
    medians: tuple[float, ...]


def summarize(groups: Sequence[Sequence[float]]) -> Summary:
    """Summarize positive samples that come in groups, none of them empty."""
    medians = tuple(median(group) for group in groups)
    low, high = np.quantile(np.concatenate([np.asarray(group) for group in groups]), (0.25, 0.75))
    return Summary(
        median=median(medians),
        quartiles=(float(low), float(high)),
        interval=median_interval(medians),
        medians=medians,
    )


def median_interval(
    values: Sequence[float], confidence: float = CONFIDENCE
) -> tuple[float, float] | None:
    """Two of the values between which the true median lies with `confidence`, or a little more.

    How many of n independent samples fall below the true median is binomial with probability 1/2
    whatever their distribution, so the k-th smallest and the k-th largest enclose it unless fewer
    than k fall on one side. The largest k is taken for which that is rare enough (order-statistic
    or sign-test interval; Thompson 1936).

    Args:
        values: Independent samples of one continuous distribution.
        confidence: Between 0 and 1.

    Returns:
        The interval, None when even the smallest and the largest value are not far enough out.
    """
    count = len(values)
    allowed = (1 - confidence) / 2 * 2**count
    rank, at_most, ways = 0, 1, 1
    while at_most <= allowed:
        rank += 1
        ways = ways * (count - rank + 1) // rank
        at_most += ways
    if rank == 0:
        return None
    ordered = sorted(values)
    return ordered[rank - 1], ordered[count - rank]


def relative_width(values: Sequence[float]) -> float:
    """Width of `median_interval` as a share of the median, infinite when there is none."""
    interval = median_interval(values)
    return float("inf") if interval is None else (interval[1] - interval[0]) / median(values)


def speed_ups(first: Sequence[float], other: Sequence[float]) -> list[float]:
    """How many times faster than the first the other was, round by round."""
    return [a / b for a, b in zip(first, other, strict=True)]
