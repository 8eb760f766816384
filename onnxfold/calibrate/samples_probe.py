"""Compares samples with what the first BatchNormalization remembers of the training data.

Its running variance is that of the first convolution's outputs. Samples that were normalised
otherwise make other ones: 19 times smaller without the division by ImageNet's deviation, 65025
times larger as pixels.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxfold.calibrate.images import Values
from onnxfold.calibrate.samples_model import ImageInput
from onnxfold.calibrate.samples_stem import FirstNorm

_UNLIKE = 8.0
"""A variance that is off by this factor in nine channels of ten is not the training data's."""

_NOTHING = 1e-12
"""A variance of this share is the rounding of samples that do not vary at all."""

_FEEDS, _WINDOWS = 16, 64
"""Samples that are looked at, and places in each."""

_COMMON = (
    ("--scale 1", Values(1.0, (0.0,), (1.0,))),
    ("--scale 0.0039216", Values(1 / 255, (0.0,), (1.0,))),
    ("--mean 0.5 --std 0.5", Values(1 / 255, (0.5,), (0.5,))),
    (
        "--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225",
        Values(1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ),
)

Array = NDArray[Any]


def about_the_norm(
    norm: FirstNorm, image: ImageInput, feeds: Sequence[Array], values: Values | None
) -> list[str]:
    """Warn where the samples vary unlike those that the first BatchNormalization was trained on.

    Args:
        norm: It.
        image: The image input; channels first.
        feeds: Arrays of the image input; as many as there are, a few are looked at.
        values: How pixels were normalised, to name another normalisation that would fit; None
            where that is not known.
    """
    windows = np.concatenate([_windows(norm, feed, index) for index, feed in enumerate(feeds)])
    low, high = _variance_ratios(norm, windows)
    if high < _NOTHING or (high >= 1.0 / _UNLIKE and low <= _UNLIKE):
        return []
    ratio = f"{1.0 / high:.3g} times less" if high < 1.0 else f"{low:.3g} times more"
    text = f"the samples vary {ratio} than those that the model's {norm.name} was trained on"
    if values is None:
        return [text]
    pixels = values.undone(np.moveaxis(windows, 1, -1))
    distances: dict[str, float] = {}
    for option, other in _COMMON:
        if len(other.mean) in (1, image.channels):
            made = np.moveaxis(other.applied(pixels), -1, 1)
            low, high = _variance_ratios(norm, made)
            distances[option] = abs(math.log(low * high)) if low > 0.0 else math.inf
    best = min(distances, key=lambda option: distances[option])
    fits = distances[best] < 2.0 * math.log(_UNLIKE)
    return [f"{text}: {best} would fit better" if fits else text]


def probed(total: int) -> range:
    """Indices of the feeds that `about_the_norm` looks at."""
    return range(0, total, max(1, -(-total // _FEEDS)))


def _windows(norm: FirstNorm, feed: Array, index: int) -> NDArray[np.float64]:
    """Windows (n, channels, height, width) at places drawn from `index`, if there is room."""
    taps = norm.weight.shape[2:]
    spans = [(tap - 1) * step + 1 for tap, step in zip(taps, norm.dilations, strict=True)]
    room = [feed.shape[axis + 2] - spans[axis] + 1 for axis in (0, 1)]
    if min(room) < 1:
        return np.empty((0, *norm.weight.shape[1:]))
    rng = np.random.default_rng(index)
    rows, columns = (rng.integers(0, size, (_WINDOWS, 1)) for size in room)
    down, across = (
        places + np.arange(tap) * step
        for places, tap, step in zip((rows, columns), taps, norm.dilations, strict=True)
    )
    found = feed[0][:, down[:, :, None], across[:, None, :]]
    return np.moveaxis(np.asarray(found, np.float64), 1, 0)


def _variance_ratios(norm: FirstNorm, windows: Array) -> tuple[float, float]:
    """Tenth and ninetieth percentile over channels of the variance, relative to the trained one."""
    alive = norm.variance > 1e-3 * norm.variance.max(initial=0.0)
    if len(windows) < 2 or not alive.any():
        return 1.0, 1.0
    kernel = norm.weight.reshape(len(norm.weight), -1)[alive]
    found = (windows.reshape(len(windows), -1) @ kernel.T).var(axis=0)
    low, high = np.quantile(found / norm.variance[alive], (0.1, 0.9))
    return float(low), float(high)
