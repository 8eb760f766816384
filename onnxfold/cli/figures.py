"""How figures are written for people, on a terminal as in a page."""

import math

from onnxfold.bench import Summary


def agreement(share: float) -> str:
    """A share that is not shown as 100 % unless it is."""
    text = f"{share:.4%}"
    return "above 99.9999%" if share < 1 and text == "100.0000%" else text


def decibels(ratio: float | None) -> str:
    """A signal to noise ratio."""
    if ratio is None or math.isnan(ratio):
        return "not known"
    return "no error" if ratio == math.inf else f"{ratio:.1f} dB"


def milliseconds(value: float) -> str:
    """Three digits that count."""
    return f"{value:,.1f}" if value >= 100 else f"{value:.3g}"


def interval(summary: Summary, digits: int = 3) -> str:
    """From where to where the true value lies."""
    if summary.interval is None:
        return "not known"
    low, high = summary.interval
    return f"{low:.{digits}f} to {high:.{digits}f}"
