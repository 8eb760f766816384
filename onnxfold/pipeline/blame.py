"""Finds the one rewrite that made a model wrong, by search over the numbered rewrites."""

from collections.abc import Callable, Sequence

from onnxfold.pipeline.passes import ConfiguredPass
from onnxfold.rewrite.ledger import AppliedRewrite


def first_bad(
    applied: tuple[AppliedRewrite, ...],
    is_good: Callable[[int], bool],
    known_good: int | None = None,
) -> AppliedRewrite:
    """The rewrite with which the model turns from right to wrong.

    Needs about log2(n) runs. When several rewrites are wrong it finds one of them.

    Args:
        applied: The rewrites of a run whose result is known to be wrong, in order; not empty.
        is_good: Whether the model is right when only that many rewrites are made; it is with none.
        known_good: With so many it is right, as an earlier search has shown. Wrong rewrites come
            in swarms, made by one broken rule, so the search then begins near there.
    """
    good, bad = known_good or 0, len(applied)
    step = 1
    while known_good is not None and good + step < bad:
        if not is_good(good + step):
            bad = good + step
            break
        good += step
        step *= 2
    while bad - good > 1:
        middle = (good + bad) // 2
        if is_good(middle):
            good = middle
        else:
            bad = middle
    return applied[bad - 1]


def first_meddler(
    passes: Sequence[ConfiguredPass], is_good: Callable[[Sequence[ConfiguredPass]], bool]
) -> ConfiguredPass:
    """The pass that makes a model wrong although no rewrite is admitted: it edits on its own.

    Args:
        passes: The passes of a run that is known to give a wrong model without any rewrite.
        is_good: Whether the model is right after these passes, no rewrite admitted.
    """
    for count in range(1, len(passes)):
        if not is_good(passes[:count]):
            return passes[count - 1]
    return passes[-1]
