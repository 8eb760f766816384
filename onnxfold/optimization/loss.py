"""What lossy passes cost: their result is measured, since it cannot be proven equal."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxfold.errors import NotEqualError
from onnxfold.pipeline.report import Loss
from onnxfold.quantize.metrics import Comparison
from onnxfold.verify import ModelSource, Verifier
from onnxfold.verify.session import FeedRefusedError, Session

Outputs = Mapping[str, NDArray[Any]]

_ORDINARY = ("data", "normal (", "normal")
"""How the labels of feeds begin that say something about a loss, the best ones first. Zeros and
huge values do not, and heavy borders little: quantization clips them."""


def check_loss(
    verifier: Verifier, candidate: ModelSource, passes: Sequence[str], threads: int | None
) -> Loss:
    """Run the result of lossy passes on the feeds of the verifier.

    Judged by the user's own data if there are any, else by plain normal values.

    Args:
        verifier: Of the model as it came.
        candidate: The result.
        passes: The names of the passes.
        threads: Threads per operator.

    Raises:
        CannotRunError: The runtime refuses the result.
        NotEqualError: It does not run on a feed, changed its outputs, or is not finite where it
            was.
    """
    session = Session(candidate, threads=threads)
    cases = list(zip(verifier.feeds(), verifier.expected(), strict=True))
    labels = [feed.label for feed, _ in cases if feed.label.startswith(_ORDINARY)]
    judged = _best(labels)
    found: Comparison | None = None
    notes = []
    for feed, expected in cases:
        try:
            outputs = session.run(feed.arrays)
        except FeedRefusedError as error:
            raise _broken(passes, f"it does not run on {feed.label}: {error}") from error
        problem = _problem(expected, outputs)
        if problem is not None and feed.label in labels:
            raise _broken(passes, f"{problem} on {feed.label}")
        if problem is not None:
            notes.append(f"{problem} on {feed.label}")
        if feed.label in judged:
            one = Comparison.of(expected, outputs)
            found = one if found is None else found.merged(one)
    sqnr = None if found is None else found.sqnr
    agreement = None if found is None else found.agreement
    return Loss(tuple(passes), sqnr, agreement, tuple(judged), tuple(notes))


def _best(labels: Sequence[str]) -> list[str]:
    by_kind = ([label for label in labels if label.startswith(kind)] for kind in _ORDINARY)
    return next((found for found in by_kind if found), [])


def _broken(passes: Sequence[str], problem: str) -> NotEqualError:
    return NotEqualError(
        f"the result of {', '.join(passes)} is broken: {problem}",
        "leave the pass out, or change its options",
    )


def _problem(expected: Outputs, outputs: Outputs) -> str | None:
    """What no loss of digits excuses."""
    if list(expected) != list(outputs):
        return f"its outputs are {', '.join(outputs)} and were {', '.join(expected)}"
    for name, before in expected.items():
        after = outputs[name]
        if after.dtype != before.dtype or after.shape != before.shape:
            return f"'{name}' became {after.dtype} {after.shape}"
        if before.dtype.kind == "f" and not np.isfinite(after[np.isfinite(before)]).all():
            return f"'{name}' is not finite where it was"
    return None
