import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxfold.algebra import cost, operators, rearrangement
from onnxfold.algebra.compose import compose
from onnxfold.algebra.convmap import ConvMap
from onnxfold.algebra.refusal import AlgebraError, Cause, Refusal
from onnxfold.algebra.sum import sum_of
from tests.algebra import strategies
from tests.algebra.strategies import accepted, refused


def test_counts_of_known_layers() -> None:
    stem = operators.conv(np.ones((64, 3, 7, 7)), np.ones(64), strides=[2, 2], pads_begin=[3, 3])
    assert cost.parameter_count(stem) == 64 * 3 * 49 + 64
    assert cost.multiply_adds(stem, (112, 112)) == 118_013_952
    atrous = operators.conv(np.ones((8, 8, 3, 3)), dilations=[12, 12])
    assert cost.parameter_count(atrous) == 8 * 8 * 9 + 8
    depthwise = operators.conv(np.ones((32, 1, 3, 3)), group=32)
    assert cost.multiply_adds(depthwise, (10, 10)) == 32 * 9 * 100
    up = operators.conv_transpose(np.ones((16, 8, 4, 4)), strides=[2, 2], pads_begin=[1, 1])
    assert cost.multiply_adds(up, (20, 20)) == 16 * 8 * 16 * 10 * 10
    assert cost.multiply_adds(operators.matrix(np.ones((10, 20))), ()) == 200


@settings(max_examples=150, deadline=None)
@given(strategies.maps(), st.data())
def test_composed_footprints_cover_the_composed_map(inner: ConvMap, data: st.DataObject) -> None:
    outer = data.draw(strategies.maps(rank=inner.rank, in_channels=inner.out_channels, bias=False))
    predicted = cost.composed_footprint(cost.footprint(outer), cost.footprint(inner))
    if isinstance(predicted, Refusal):
        assert predicted.cause is Cause.PERIODIC
        return
    actual = cost.footprint(accepted(compose(outer, inner.without_bias())))
    assert (actual.groups, actual.up, actual.stride) == (
        predicted.groups,
        predicted.up,
        predicted.stride,
    )
    for found, allowed in zip(actual.offsets, predicted.offsets, strict=True):
        assert set(found) <= set(allowed) | {0}


def test_positive_taps_are_predicted_exactly() -> None:
    inner = rearrangement.space_to_depth(3, (2, 2))
    outer = operators.conv(np.ones((8, 12, 3, 3)), pads_begin=[1, 1], dilations=[2, 2])
    predicted = accepted(cost.composed_footprint(cost.footprint(outer), cost.footprint(inner)))
    assert predicted == cost.footprint(accepted(compose(outer, inner)))
    assert predicted.taps == (10, 10)
    up, down = (
        rearrangement.nearest_upsample(2, (4,)),
        operators.conv(np.ones((2, 2, 3)), strides=[2], pads_begin=[1]),
    )
    halved = accepted(cost.composed_footprint(cost.footprint(down), cost.footprint(up)))
    assert halved == cost.footprint(accepted(compose(down, up)))
    assert (halved.up, halved.stride, halved.offsets) == ((2,), (1,), ((-2, -1, 0),))
    skip = operators.conv(np.ones((8, 3, 1, 1)), strides=[2, 2])
    parts = [accepted(compose(outer, inner)), skip]
    total = accepted(cost.summed_footprint([cost.footprint(m) for m in parts]))
    assert total == cost.footprint(accepted(sum_of(parts)))


def test_refusals_and_errors() -> None:
    one, two = (
        cost.footprint(m) for m in (operators.identity(2, 1), operators.strided_slice(2, [0], [2]))
    )
    assert refused(cost.summed_footprint([one, two])).cause is Cause.RATES
    up = cost.footprint(rearrangement.nearest_upsample(2, (2,)))
    assert refused(cost.composed_footprint(up, two)).cause is Cause.PERIODIC
    three = cost.footprint(operators.identity(3, 1))
    with pytest.raises(AlgebraError, match="same channels"):
        cost.summed_footprint([one, three])
    with pytest.raises(AlgebraError, match="at least one"):
        cost.summed_footprint([])
    with pytest.raises(AlgebraError, match="fit together"):
        cost.composed_footprint(one, three)


def test_blocks_show_groups_that_counts_do_not() -> None:
    """Split, a convolution of each half, Concat: `[A 0; 0 B]`, dense by counts alone."""

    def part(start: int) -> cost.Footprint:
        one = ((0,), (1,), (1,))
        pick = cost.Footprint(4, 8, 1, (one[0],), one[1], one[2], ((0, 4, start, start + 4),))
        kernel = cost.Footprint(6, 4, 1, ((-1, 0, 1),), one[1], one[2])
        rows = start // 4 * 6
        embed = cost.Footprint(12, 6, 1, (one[0],), one[1], one[2], ((rows, rows + 6, 0, 6),))
        inner = accepted(cost.composed_footprint(kernel, pick))
        return accepted(cost.composed_footprint(embed, inner))

    assert part(4).blocks == ((6, 12, 4, 8),)
    total = accepted(cost.summed_footprint([part(0), part(4)]))
    assert (total.groups, total.weights) == (2, 12 * 4 * 3)
    dense = cost.Footprint(12, 8, 1, ((0,),), (1,), (1,))
    assert accepted(cost.summed_footprint([part(0), part(4), dense])).groups == 1
