from typing import Literal

import numpy as np
import pytest

from onnxfold.algebra import rearrangement
from onnxfold.algebra.evaluate import apply
from onnxfold.algebra.refusal import AlgebraError
from tests.algebra import strategies


def _folded(x: np.ndarray, bh: int, bw: int, order: Literal["DCR", "CRD"]) -> np.ndarray:
    """The Reshape, Transpose, Reshape that exporters write for SpaceToDepth and PixelUnshuffle."""
    channels, height, width = x.shape
    split = x.reshape(channels, height // bh, bh, width // bw, bw)
    axes = (2, 4, 0, 1, 3) if order == "DCR" else (0, 2, 4, 1, 3)
    return split.transpose(axes).reshape(-1, height // bh, width // bw)


@pytest.mark.parametrize("order", ["DCR", "CRD"])
@pytest.mark.parametrize("block", [(1, 1), (2, 2), (2, 3), (4, 4)])
def test_space_to_depth_and_depth_to_space(
    order: Literal["DCR", "CRD"], block: tuple[int, int]
) -> None:
    x = strategies.image(np.random.default_rng(1), 3, (2 * block[0], 3 * block[1]))
    folded = _folded(x, *block, order)
    fold = rearrangement.space_to_depth(3, block, order)
    unfold = rearrangement.depth_to_space(3, block, order)
    np.testing.assert_array_equal(apply(fold, x, folded.shape[1:]), folded)
    np.testing.assert_array_equal(apply(unfold, folded, x.shape[1:]), x)
    assert fold.groups == unfold.groups == (3 if order == "CRD" or block == (1, 1) else 1)


def test_focus_slices_have_their_own_phase_order() -> None:
    x = strategies.image(np.random.default_rng(2), 3, (6, 4))
    phases = [(0, 0), (1, 0), (0, 1), (1, 1)]
    expected = np.concatenate([x[:, h::2, w::2] for h, w in phases])
    positions = np.array([(c, h, w) for h, w in phases for c in range(3)])
    focus = rearrangement.phases_to_channels(3, (2, 2), positions)
    np.testing.assert_array_equal(apply(focus, x, (3, 2)), expected)


def test_channels_to_phases_leaves_unwritten_phases_zero() -> None:
    x = strategies.image(np.random.default_rng(2), 1, (3,))
    spread = rearrangement.channels_to_phases(1, (2,), np.array([(0, 1)]))
    expected = np.stack([np.zeros(3), x[0]], axis=1).reshape(1, 6)
    np.testing.assert_array_equal(apply(spread, x, (6,)), expected)


@pytest.mark.parametrize("factors", [(2,), (1, 3), (2, 3, 4)])
def test_nearest_upsample_repeats(factors: tuple[int, ...]) -> None:
    x = strategies.image(np.random.default_rng(4), 2, (2, 3, 2)[: len(factors)])
    expected = x
    for axis, factor in enumerate(factors):
        expected = expected.repeat(factor, axis + 1)
    conv_map = rearrangement.nearest_upsample(2, factors)
    np.testing.assert_array_equal(apply(conv_map, x, expected.shape[1:]), expected)


@pytest.mark.parametrize("positions", [[(2, 0)], [(0, 2)], [(0, -1)], [(0, 0, 0)]])
def test_positions_outside_are_an_error(positions: list[tuple[int, ...]]) -> None:
    with pytest.raises(AlgebraError, match="position"):
        rearrangement.phases_to_channels(2, (2,), np.array(positions))


def test_wide_pixel_shuffles_stay_small() -> None:
    """As one dense kernel, 20,000 channels by 4 phases would take 50 GB."""
    assert rearrangement.depth_to_space(20_000, (2, 2), "CRD").groups == 20_000
    assert rearrangement.space_to_depth(20_000, (2, 2), "CRD").groups == 20_000
