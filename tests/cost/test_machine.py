"""The cost model: what is more work costs more, and everything costs a start."""

from __future__ import annotations

from dataclasses import replace

import pytest

from onnxfold.algebra.cost import Footprint
from onnxfold.cost.machine import CostModel, source_extents

DENSE = Footprint(32, 32, 1, ((-1, 0, 1),) * 2, (1, 1), (1, 1))
POINTWISE = replace(DENSE, offsets=((0,), (0,)))
DEPTHWISE = replace(DENSE, groups=32)


@pytest.mark.parametrize("extent", [1, 7, 64, 512])
def test_more_work_costs_more(extent: int) -> None:
    costs, at = CostModel(), (extent, extent)
    assert costs.convolution(POINTWISE, at) <= costs.convolution(DENSE, at)
    assert costs.convolution(DEPTHWISE, at) <= costs.convolution(DENSE, at)
    assert costs.elementwise(32, at) < costs.elementwise(32, at, 2)
    assert costs.start_seconds < costs.elementwise(32, at)


def test_dense_arithmetic_and_pointwise_traffic_decide() -> None:
    slow_memory = CostModel(bytes_per_second=1e6)
    slow_arithmetic = CostModel(multiply_adds_per_second=1e6)
    at = (64, 64)
    assert slow_memory.convolution(DENSE, at) == pytest.approx(
        slow_memory.convolution(POINTWISE, at), rel=0.1
    )
    assert slow_arithmetic.convolution(DENSE, at) == pytest.approx(
        9 * slow_arithmetic.convolution(POINTWISE, at), rel=0.01
    )


def test_merging_a_pointwise_branch_gains_and_making_depthwise_dense_loses() -> None:
    costs, at = CostModel(), (32, 32)
    addition = costs.elementwise(32, at, 2)
    merged = costs.convolution(DENSE, at)
    assert merged < merged + costs.convolution(POINTWISE, at) + addition
    wide = replace(DENSE, in_channels=256, out_channels=256)
    apart = costs.convolution(replace(wide, groups=256), at) + costs.convolution(
        replace(wide, offsets=((0,), (0,))), at
    )
    assert costs.convolution(wide, at) > apart + addition


def test_source_extents_follow_the_rates() -> None:
    assert source_extents(replace(DENSE, stride=(2, 1)), (8, 8)) == (16, 8)
    assert source_extents(replace(DENSE, up=(2, 4)), (8, 8)) == (4, 2)
    assert source_extents(replace(DENSE, up=(16, 1)), (8, 8)) == (1, 8)
