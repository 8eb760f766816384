import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxfold.algebra import channels, operators
from onnxfold.algebra.convmap import ConvMap
from onnxfold.algebra.refusal import AlgebraError, Cause
from tests.algebra import oracle, strategies
from tests.algebra.strategies import accepted, refused

RANKS = st.integers(0, 2)


@st.composite
def _alike(
    draw: st.DrawFn, *, same_inputs: bool = False, same_outputs: bool = False
) -> list[ConvMap]:
    """One to three maps of the same rates."""
    first = draw(strategies.maps(rank=draw(RANKS)))
    maps = [first]
    for _ in range(draw(st.integers(0, 2))):
        other = draw(
            strategies.maps(
                rank=first.rank,
                in_channels=first.in_channels if same_inputs else None,
                out_channels=first.out_channels if same_outputs else None,
            )
        )
        maps.append(
            ConvMap(other.kernel, other.bias, other.groups, other.origin, first.up, first.stride)
        )
    return maps


def _images(rng: np.random.Generator, maps: list[ConvMap]) -> list[np.ndarray]:
    return [strategies.image(rng, m.in_channels, (4,) * m.rank) for m in maps]


@settings(max_examples=60, deadline=None)
@given(_alike(same_inputs=True), strategies.rngs())
def test_stacked_outputs_are_the_concat(maps: list[ConvMap], rng: np.random.Generator) -> None:
    extents = (5,) * maps[0].rank
    x = _images(rng, maps)[0]
    expected = np.concatenate([oracle.outputs(m, x, extents) for m in maps])
    stacked = accepted(channels.stack_outputs(maps))
    np.testing.assert_array_equal(oracle.outputs(stacked, x, extents), expected)


@settings(max_examples=60, deadline=None)
@given(_alike(), strategies.rngs())
def test_block_diagonal_is_the_concat_of_both_sides(
    maps: list[ConvMap], rng: np.random.Generator
) -> None:
    extents = (5,) * maps[0].rank
    xs = _images(rng, maps)
    expected = [oracle.outputs(m, x, extents) for m, x in zip(maps, xs, strict=True)]
    joint = accepted(channels.block_diagonal(maps))
    actual = oracle.outputs(joint, np.concatenate(xs), extents)
    np.testing.assert_array_equal(actual, np.concatenate(expected))


@settings(max_examples=60, deadline=None)
@given(_alike(same_outputs=True), strategies.rngs())
def test_joined_inputs_are_the_sum_over_operands(
    maps: list[ConvMap], rng: np.random.Generator
) -> None:
    extents = (5,) * maps[0].rank
    xs = _images(rng, maps)
    expected = [oracle.outputs(m, x, extents) for m, x in zip(maps, xs, strict=True)]
    joined = accepted(channels.join_inputs(maps))
    actual = oracle.outputs(joined, np.concatenate(xs), extents)
    np.testing.assert_array_equal(actual, np.sum(expected, axis=0))


@settings(max_examples=80, deadline=None)
@given(strategies.maps(), strategies.rngs(), st.data())
def test_split_inputs_are_column_blocks(
    conv_map: ConvMap, rng: np.random.Generator, data: st.DataObject
) -> None:
    cut = data.draw(st.integers(1, conv_map.in_channels))
    sizes = [n for n in (cut, conv_map.in_channels - cut) if n]
    blocks = channels.split_inputs(conv_map, sizes)
    extents = (4,) * conv_map.rank
    x = strategies.image(rng, conv_map.in_channels, extents)
    parts = np.split(x, np.cumsum(sizes)[:-1])
    summed = sum(oracle.outputs(m, part, extents) for m, part in zip(blocks, parts, strict=True))
    np.testing.assert_array_equal(summed, oracle.outputs(conv_map, x, extents))
    np.testing.assert_array_equal(blocks[0].bias, conv_map.bias)
    assert not any(block.has_bias for block in blocks[1:])


@settings(max_examples=80, deadline=None)
@given(strategies.maps(), strategies.rngs(), st.data())
def test_selected_and_gathered_channels(
    conv_map: ConvMap, rng: np.random.Generator, data: st.DataObject
) -> None:
    extents = (4,) * conv_map.rank
    x = strategies.image(rng, conv_map.in_channels, extents)
    y = oracle.outputs(conv_map, x, extents)
    rows = data.draw(st.lists(st.integers(0, conv_map.out_channels - 1), min_size=1, max_size=9))
    chosen = channels.select_outputs(conv_map, rows)
    np.testing.assert_array_equal(oracle.outputs(chosen, x, extents), y[rows])
    cut = data.draw(st.integers(1, conv_map.out_channels))
    sizes = [n for n in (cut, conv_map.out_channels - cut) if n]
    parts = [oracle.outputs(m, x, extents) for m in channels.split_outputs(conv_map, sizes)]
    np.testing.assert_array_equal(np.concatenate(parts), y)
    count = conv_map.in_channels
    sources = data.draw(st.lists(st.integers(0, 4), min_size=count, max_size=count))
    wide = strategies.image(rng, 5, extents)
    gathered = channels.gather_inputs(conv_map, sources, 5)
    np.testing.assert_array_equal(
        oracle.outputs(gathered, wide, extents), oracle.outputs(conv_map, wide[sources], extents)
    )


def test_wide_depthwise_maps_stay_small() -> None:
    wide = operators.conv(np.ones((20_000, 1, 3)), pads_begin=[1], group=20_000)
    both = accepted(channels.block_diagonal([wide, wide]))
    assert both.groups == 40_000
    assert accepted(channels.join_inputs([operators.identity(8, 1)] * 2)).groups == 1


def test_a_shuffle_and_its_inverse_cancel() -> None:
    order = np.random.default_rng(0).permutation(12)
    inverse = np.argsort(order)
    shuffled = channels.select_outputs(operators.identity(12, 1), order.tolist())
    whole = channels.select_outputs(shuffled, inverse.tolist())
    assert whole.groups == 12
    assert (whole.kernel == 1).all()


def test_different_rates_are_refused() -> None:
    maps = [operators.identity(2, 1), operators.strided_slice(2, [0], [2])]
    for combine in (channels.stack_outputs, channels.join_inputs, channels.block_diagonal):
        assert refused(combine(maps)).cause is Cause.RATES


def test_what_does_not_fit_is_an_error() -> None:
    two, three = operators.identity(2, 1), operators.identity(3, 1)
    for combine in (channels.stack_outputs, channels.join_inputs):
        with pytest.raises(AlgebraError, match="same"):
            combine([two, three])
    for combine in (channels.stack_outputs, channels.join_inputs, channels.block_diagonal):
        with pytest.raises(AlgebraError):
            combine([])
    with pytest.raises(AlgebraError, match="3 input channels"):
        channels.split_inputs(three, [1, 1])
    with pytest.raises(AlgebraError, match="3 output channels"):
        channels.split_outputs(three, [4, -1])
    with pytest.raises(AlgebraError, match=r"\[0, 3\)"):
        channels.select_outputs(three, [3])
    with pytest.raises(AlgebraError, match=r"\[0, 3\)"):
        channels.select_outputs(three, [])
    with pytest.raises(AlgebraError, match="2 indices"):
        channels.gather_inputs(three, [0, 1], 4)
