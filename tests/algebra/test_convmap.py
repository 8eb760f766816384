import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxfold.algebra.convmap import (
    ConvMap,
    describe,
    is_zero,
    nonzero_on_axis,
    reduced_map,
    trimmed,
)
from onnxfold.algebra.evaluate import apply
from onnxfold.algebra.refusal import AlgebraError
from tests.algebra import oracle, strategies


@settings(max_examples=150, deadline=None)
@given(strategies.maps(), strategies.rngs(), st.data())
def test_apply_is_the_definition(
    conv_map: ConvMap, rng: np.random.Generator, data: st.DataObject
) -> None:
    sizes = st.tuples(*[st.integers(1, 6)] * conv_map.rank)
    x = strategies.image(rng, conv_map.in_channels, data.draw(sizes))
    extents = data.draw(sizes)
    np.testing.assert_array_equal(apply(conv_map, x, extents), oracle.outputs(conv_map, x, extents))


@settings(max_examples=80, deadline=None)
@given(strategies.maps(), strategies.rngs())
def test_trimming_keeps_the_map(conv_map: ConvMap, rng: np.random.Generator) -> None:
    cut = trimmed(conv_map)
    extents = (5,) * conv_map.rank
    x = strategies.image(rng, conv_map.in_channels, extents)
    np.testing.assert_array_equal(
        oracle.outputs(cut, x, extents), oracle.outputs(conv_map, x, extents)
    )
    for axis in range(cut.rank):
        ends = nonzero_on_axis(cut, axis)[[0, -1]]
        assert is_zero(cut) or ends.all()


@settings(max_examples=80, deadline=None)
@given(
    strategies.rngs(),
    st.integers(1, 6),
    st.integers(1, 6),
    st.integers(1, 7),
    st.integers(-4, 4),
)
def test_shared_rate_factors_are_divided_out(
    rng: np.random.Generator, u: int, s: int, taps: int, origin: int
) -> None:
    kernel = strategies.integers(rng, (2, 1, taps))
    conv_map = reduced_map(kernel, np.ones(2), 1, [origin], [u], [s])
    x = strategies.image(rng, 1, (9,))
    y = np.ones((2, 9))
    for o in range(9):
        for i in range(9):
            t = u * i - s * o - origin
            if 0 <= t < taps:
                y[:, o] += kernel[:, :, t] @ x[:, i]
    np.testing.assert_array_equal(oracle.outputs(conv_map, x, (9,)), y)


def test_a_wrong_origin_is_noticed() -> None:
    """Sabotage: the comparisons of this suite must fail on a map that is off by one."""
    rng = np.random.default_rng(0)
    kernel = rng.integers(1, 5, (2, 2, 3, 3)).astype(np.float64)
    right = ConvMap(kernel, np.zeros(2), 1, (-1, -1), (1, 1), (1, 1))
    wrong = ConvMap(kernel, np.zeros(2), 1, (-1, 0), (1, 1), (1, 1))
    x = strategies.image(rng, 2, (5, 5))
    expected = oracle.conv(x, kernel, np.zeros(2), (1, 1), (1, 1, 1, 1), (1, 1), 1)
    np.testing.assert_array_equal(apply(right, x, (5, 5)), expected)
    with pytest.raises(AssertionError):
        np.testing.assert_array_equal(apply(wrong, x, (5, 5)), expected)


def test_arrays_are_read_only_and_the_callers_stay_writable() -> None:
    mine = np.ones((2, 1, 3))
    conv_map = ConvMap(mine, np.zeros(2), 2, (0,), (1,), (1,))
    with pytest.raises(ValueError, match="read-only"):
        conv_map.kernel[0, 0, 0] = 2.0
    mine[0, 0, 0] = 2.0
    assert conv_map.kernel[0, 0, 0] == 2.0


def test_properties() -> None:
    conv_map = ConvMap(np.ones((4, 2, 3, 1)), np.zeros(4), 2, (-1, 0), (1, 1), (2, 1))
    assert (conv_map.out_channels, conv_map.in_channels, conv_map.rank) == (4, 4, 2)
    assert (conv_map.taps, conv_map.last) == ((3, 1), (1, 0))
    assert not conv_map.has_bias
    assert conv_map.with_bias(np.arange(4)).has_bias
    assert not conv_map.with_bias(np.arange(4)).without_bias().has_bias
    assert not conv_map.is_pointwise
    assert ConvMap(np.ones((4, 2, 1)), np.zeros(4), 2, (0,), (1,), (1,)).is_pointwise
    assert describe(conv_map) == "3x1"
    assert describe(ConvMap(np.ones((1, 1)), np.zeros(1), 1, (), (), ())) == "matrix"


@pytest.mark.parametrize(
    ("kernel", "bias", "groups", "axes", "rates", "message"),
    [
        ((3,), 3, 1, (), (1, 1), "output and input channels"),
        ((2, 0, 1), 2, 1, (0,), (1, 1), "at least one"),
        ((2, 1, 1), 3, 1, (0,), (1, 1), "bias"),
        ((2, 1, 1), 2, 3, (0,), (1, 1), "groups"),
        ((2, 1, 1), 2, 0, (0,), (1, 1), "groups"),
        ((2, 1, 1), 2, 1, (0, 0), (1, 1), "one per spatial axis"),
        ((2, 1, 1), 2, 1, (0,), (0, 1), "coprime"),
        ((2, 1, 1), 2, 1, (0,), (2, 4), "coprime"),
    ],
)
def test_what_does_not_fit_is_an_error(
    kernel: tuple[int, ...],
    bias: int,
    groups: int,
    axes: tuple[int, ...],
    rates: tuple[int, int],
    message: str,
) -> None:
    with pytest.raises(AlgebraError, match=message):
        ConvMap(
            np.ones(kernel),
            np.zeros(bias),
            groups,
            axes,
            (rates[0],) * len(axes),
            (rates[1],) * len(axes),
        )


def test_apply_checks_its_input() -> None:
    conv_map = ConvMap(np.ones((2, 1, 1)), np.zeros(2), 2, (0,), (1,), (1,))
    with pytest.raises(AlgebraError, match="2 channels"):
        apply(conv_map, np.ones((3, 4)), (4,))
