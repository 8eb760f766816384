"""Random maps with small integer taps, so that float64 arithmetic is exact and equality is `==`."""

import math
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from onnxfold.algebra.convmap import ConvMap
from onnxfold.algebra.refusal import Refusal

Array = npt.NDArray[np.float64]

GROUPS = (1, 1, 2, 4)


def integers(rng: np.random.Generator, shape: tuple[int, ...], zeros: float = 0.0) -> Array:
    """Whole numbers in [-3, 3], a share of them replaced by zero."""
    values = rng.integers(-3, 4, shape).astype(np.float64)
    return np.where(rng.random(shape) < zeros, 0.0, values)


def rngs() -> st.SearchStrategy[np.random.Generator]:
    return st.integers(0, 2**32 - 1).map(np.random.default_rng)


@st.composite
def maps(
    draw: st.DrawFn,
    *,
    rank: int | None = None,
    out_channels: int | None = None,
    in_channels: int | None = None,
    up: bool = True,
    stride: bool = True,
    bias: bool = True,
    most_taps: int = 3,
) -> ConvMap:
    """Any map: groups, origins of either sign, zero taps, coprime rates up to 3."""
    axes = draw(st.integers(0, 3)) if rank is None else rank
    groups = draw(st.sampled_from(GROUPS))
    rows = groups * draw(st.integers(1, 2)) if out_channels is None else out_channels
    columns = groups * draw(st.integers(1, 2)) if in_channels is None else in_channels
    groups = math.gcd(groups, rows, columns)
    taps = tuple(draw(st.integers(1, most_taps if axes < 3 else 2)) for _ in range(axes))
    rates = [
        draw(
            st.tuples(st.integers(1, 3 if up else 1), st.integers(1, 3 if stride else 1)).filter(
                lambda pair: math.gcd(*pair) == 1
            )
        )
        for _ in range(axes)
    ]
    rng = draw(rngs())
    return ConvMap(
        integers(rng, (rows, columns // groups, *taps), zeros=draw(st.sampled_from([0.0, 0.5]))),
        integers(rng, (rows,)) * bias,
        groups,
        tuple(draw(st.integers(-2, 2)) for _ in range(axes)),
        tuple(u for u, _ in rates),
        tuple(s for _, s in rates),
    )


def image(rng: np.random.Generator, channels: int, extents: tuple[int, ...]) -> Array:
    """An integer image with nothing zero at its border by design."""
    values = rng.integers(1, 5, (channels, *extents)) * rng.choice([-1, 1], (channels, *extents))
    return np.asarray(values, np.float64)


T = TypeVar("T")


def accepted(result: T | Refusal) -> T:
    """The result; a refusal fails the test with its reason."""
    assert not isinstance(result, Refusal), result
    return result


def refused(result: Any) -> Refusal:
    """The refusal; a result fails the test."""
    assert isinstance(result, Refusal), f"not refused: {result}"
    assert result.reason
    assert not result.reason.endswith(".")
    return result
