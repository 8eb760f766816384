"""The search for the range of least cost, starting at everything and narrowing it."""

from collections.abc import Callable, Iterator

import numpy as np

from onnxfold.calibrate.scheme import Floats, Range, Scheme

Cost = Callable[[Floats, Floats], Floats]
"""From the lower and the upper limits (K,) of ranges to what each of them costs (K,)."""

_OCTAVES = 12
_STEPS_PER_OCTAVE = 4
_ROUNDS = 2


def best_range(whole: Range, scheme: Scheme, cost: Cost, narrowest: float = 0.0) -> Range:
    """The range of least cost that the search finds; never one that costs more than `whole`.

    First both limits are narrowed together, then either alone over its whole extent, then each in
    small steps around the best. The order is fixed, and of equal costs the first wins.

    Args:
        whole: Where to begin.
        scheme: With a fixed zero point the limits are only moved together: the wider one decides.
        cost: What is to be least.
        narrowest: Least fraction of `whole` that is tried.
    """
    least_width = narrowest * (whole.high - whole.low)
    best, least = whole, float(cost(np.array([whole.low]), np.array([whole.high]))[0])
    for step in _steps(scheme.zero_point is None and whole.low < 0.0 < whole.high):
        lows, highs = step(whole, best)
        allowed = (lows >= whole.low) & (highs <= whole.high) & (highs - lows >= least_width)
        if not allowed.any():
            continue
        lows, highs = lows[allowed], highs[allowed]
        costs = cost(lows, highs)
        index = int(np.argmin(costs))
        if costs[index] < least:
            least = float(costs[index])
            best = Range(float(lows[index]), float(highs[index]))
    return best


_Step = Callable[[Range, Range], tuple[Floats, Floats]]
"""From the whole range and the best one so far to the limits of those to try next."""


def _steps(each_alone: bool) -> Iterator[_Step]:
    coarse = 2.0 ** (-np.arange(_OCTAVES * _STEPS_PER_OCTAVE + 1) / _STEPS_PER_OCTAVE)
    spread = np.arange(-7, 8) / 8.0
    fine = 2.0 ** (spread[spread != 0.0] / _STEPS_PER_OCTAVE)
    yield lambda whole, _: (whole.low * coarse, whole.high * coarse)
    if each_alone:
        yield lambda whole, best: (np.full_like(coarse, best.low), whole.high * coarse)
        yield lambda whole, best: (whole.low * coarse, np.full_like(coarse, best.high))
    for _ in range(_ROUNDS):
        yield lambda _, best: (best.low * fine, best.high * fine)
        if each_alone:
            yield lambda _, best: (np.full_like(fine, best.low), best.high * fine)
            yield lambda _, best: (best.low * fine, np.full_like(fine, best.high))
