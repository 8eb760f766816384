import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxfold.algebra import operators
from onnxfold.algebra.convmap import ConvMap, is_zero
from onnxfold.algebra.refusal import AlgebraError, Cause, Refusal
from onnxfold.algebra.sum import sum_of
from tests.algebra import oracle, strategies
from tests.algebra.strategies import accepted, refused


@settings(max_examples=150, deadline=None)
@given(strategies.maps(), strategies.rngs(), st.data())
def test_sum_adds_outputs_at_every_border(
    first: ConvMap, rng: np.random.Generator, data: st.DataObject
) -> None:
    maps = [first]
    for _ in range(data.draw(st.integers(0, 3))):
        other = data.draw(
            strategies.maps(
                rank=first.rank, out_channels=first.out_channels, in_channels=first.in_channels
            )
        )
        maps.append(
            ConvMap(other.kernel, other.bias, other.groups, other.origin, first.up, first.stride)
        )
    total = accepted(sum_of(maps))
    extents = (5,) * first.rank
    x = strategies.image(rng, first.in_channels, extents)
    expected = np.sum([oracle.outputs(m, x, extents) for m in maps], axis=0)
    np.testing.assert_array_equal(oracle.outputs(total, x, extents), expected)


def test_repvgg_block_is_one_kernel() -> None:
    rng = np.random.default_rng(1)
    three = operators.conv(strategies.integers(rng, (4, 4, 3, 3)), np.ones(4), pads_begin=[1, 1])
    one = operators.conv(strategies.integers(rng, (4, 4, 1, 1)), np.ones(4))
    total = accepted(sum_of([three, one, operators.identity(4, 2)]))
    assert (total.taps, total.origin, total.groups) == ((3, 3), (-1, -1), 1)
    centre = three.kernel[:, :, 1, 1] + one.kernel[:, :, 0, 0] + np.eye(4)
    np.testing.assert_array_equal(total.kernel[:, :, 1, 1], centre)
    np.testing.assert_array_equal(total.bias, np.full(4, 2.0))


def test_depthwise_and_skip_stay_depthwise() -> None:
    depthwise = operators.conv(np.ones((20_000, 1, 7)), pads_begin=[3], group=20_000)
    total = accepted(sum_of([depthwise, operators.identity(20_000, 1)]))
    assert total.groups == 20_000


def test_cancelling_maps_leave_one_zero_tap() -> None:
    plus = operators.conv(np.ones((1, 1, 5)), [1.0], pads_begin=[2])
    minus = operators.conv(-np.ones((1, 1, 5)), [1.0], pads_begin=[2])
    total = accepted(sum_of([plus, minus]))
    assert is_zero(total)
    assert (total.taps, total.bias.tolist()) == ((1,), [2.0])


def test_different_rates_are_refused_unless_nothing_is_read() -> None:
    one, two = operators.identity(2, 1), operators.strided_slice(2, [0], [2])
    assert refused(sum_of([one, two])).cause is Cause.RATES
    constant = operators.zero_map(2, 2, 1, [5.0, 6.0])
    for maps in ([two, constant], [constant, two]):
        total = sum_of(maps)
        assert not isinstance(total, Refusal)
        assert (total.stride, total.bias.tolist()) == ((2,), [5.0, 6.0])


@pytest.mark.parametrize(
    "maps",
    [
        [],
        [operators.identity(2, 1), operators.identity(2, 2)],
        [operators.identity(2, 1), operators.identity(3, 1)],
        [operators.identity(2, 1), operators.matrix(np.ones((2, 3)), rank=1)],
    ],
)
def test_maps_that_do_not_fit_are_an_error(maps: list[ConvMap]) -> None:
    with pytest.raises(AlgebraError):
        sum_of(maps)
