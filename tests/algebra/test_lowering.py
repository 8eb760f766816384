import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxfold.algebra import lowering, operators, rearrangement
from onnxfold.algebra.extents import (
    ExtentRule,
    Extents,
    conv_extent,
    conv_transpose_extent,
)
from onnxfold.algebra.groups import with_groups
from onnxfold.algebra.refusal import AlgebraError, Cause
from tests.algebra import oracle, strategies
from tests.algebra.strategies import accepted, refused


def _run_conv(p: lowering.ConvParameters, x: np.ndarray) -> np.ndarray:
    assert min(p.pads, default=0) >= 0
    assert p.pads == p.pads_begin + p.pads_end
    return oracle.conv(x, p.weight, p.bias, p.strides, p.pads, p.dilations, p.group)


def _run_conv_transpose(p: lowering.ConvTransposeParameters, x: np.ndarray) -> np.ndarray:
    assert min(p.pads, default=0) >= 0
    assert p.pads == p.pads_begin + p.pads_end
    assert all(o < s for o, s in zip(p.output_padding, p.strides, strict=True))
    return oracle.conv_transpose(
        x, p.weight, p.bias, p.strides, p.pads, p.dilations, p.group, p.output_padding
    )


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 3), strategies.rngs(), st.data())
def test_any_map_without_upsampling_is_a_conv(
    rank: int, rng: np.random.Generator, data: st.DataObject
) -> None:
    conv_map = data.draw(strategies.maps(rank=rank, up=False))
    extents = data.draw(st.tuples(*[st.integers(1, 6)] * rank))
    wanted = data.draw(st.tuples(*[st.integers(1, 6)] * rank))
    x = strategies.image(rng, conv_map.in_channels, extents)
    pairs = [Extents(i, o) for i, o in zip(extents, wanted, strict=True)]
    y = _run_conv(accepted(lowering.to_conv(conv_map, pairs)), x)
    np.testing.assert_array_equal(y, oracle.outputs(conv_map, x, wanted))


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 3), strategies.rngs(), st.data())
def test_any_map_without_stride_is_a_conv_transpose(
    rank: int, rng: np.random.Generator, data: st.DataObject
) -> None:
    conv_map = data.draw(strategies.maps(rank=rank, stride=False))
    extents = data.draw(st.tuples(*[st.integers(1, 4)] * rank))
    wanted = data.draw(st.tuples(*[st.integers(1, 8)] * rank))
    x = strategies.image(rng, conv_map.in_channels, extents)
    pairs = [Extents(i, o) for i, o in zip(extents, wanted, strict=True)]
    y = _run_conv_transpose(accepted(lowering.to_conv_transpose(conv_map, pairs)), x)
    np.testing.assert_array_equal(y, oracle.outputs(conv_map, x, wanted))


@settings(max_examples=100, deadline=None)
@given(strategies.rngs(), st.data())
def test_unknown_sizes_lower_to_one_conv_for_all(
    rng: np.random.Generator, data: st.DataObject
) -> None:
    conv_map = data.draw(strategies.maps(rank=1, up=False))
    rule = ExtentRule(1, data.draw(st.integers(-4, 6)), conv_map.stride[0])
    parameters = accepted(lowering.to_conv(conv_map, [rule]))
    for n in range(1, 12):
        if rule(n) < 1:
            continue
        x = strategies.image(rng, conv_map.in_channels, (n,))
        y = _run_conv(parameters, x)
        np.testing.assert_array_equal(y, oracle.outputs(conv_map, x, (rule(n),)))


@settings(max_examples=100, deadline=None)
@given(strategies.rngs(), st.data())
def test_unknown_sizes_lower_to_one_conv_transpose_for_all(
    rng: np.random.Generator, data: st.DataObject
) -> None:
    conv_map = data.draw(strategies.maps(rank=1, stride=False))
    rule = ExtentRule(conv_map.up[0], data.draw(st.integers(-3, 6)), 1)
    parameters = accepted(lowering.to_conv_transpose(conv_map, [rule]))
    for n in range(1, 9):
        if rule(n) < 1:
            continue
        x = strategies.image(rng, conv_map.in_channels, (n,))
        y = _run_conv_transpose(parameters, x)
        np.testing.assert_array_equal(y, oracle.outputs(conv_map, x, (rule(n),)))


@settings(max_examples=80, deadline=None)
@given(strategies.rngs(), st.data())
def test_conv_round_trip_gives_the_attributes_back(
    rng: np.random.Generator, data: st.DataObject
) -> None:
    k, s, d = (data.draw(st.integers(1, 3)) for _ in range(3))
    begin, end = (data.draw(st.integers(0, 3)) for _ in range(2))
    weight = rng.integers(1, 5, (4, 2, k)).astype(np.float64)
    conv_map = operators.conv(
        weight, np.ones(4), strides=[s], pads_begin=[begin], dilations=[d], group=2
    )
    p = accepted(lowering.to_conv(conv_map, [conv_extent(k, s, begin, end, d)]))
    np.testing.assert_array_equal(p.weight, weight)
    assert (p.strides, p.pads, p.group) == ((s,), (begin, end), 2)
    assert p.dilations == (d if k > 1 else 1,)
    again = operators.conv_transpose(
        weight, np.ones(4), strides=[s], pads_begin=[begin], dilations=[d], group=2
    )
    q = accepted(lowering.to_conv_transpose(again, [conv_transpose_extent(k, s, begin, end, d)]))
    np.testing.assert_array_equal(q.weight, weight)
    assert (q.strides, q.pads, q.output_padding, q.group) == ((s,), (begin, end), (0,), 2)


def test_known_sizes_prefer_equal_pads() -> None:
    conv_map = operators.conv(np.ones((1, 1, 3)), strides=[2], pads_begin=[1])
    assert accepted(lowering.to_conv(conv_map, [Extents(8, 4)])).pads == (1, 1)
    assert accepted(lowering.to_conv(conv_map, [Extents(7, 4)])).pads == (1, 1)
    assert accepted(lowering.to_conv(conv_map, [Extents(8, 5)])).pads == (1, 2)


def test_nearest_upsampling_is_a_transpose_of_ones() -> None:
    p = accepted(
        lowering.to_conv_transpose(rearrangement.nearest_upsample(3, (2, 2)), [ExtentRule(2)] * 2)
    )
    assert (p.strides, p.pads, p.output_padding, p.group) == ((2, 2), (0,) * 4, (0, 0), 3)
    np.testing.assert_array_equal(p.weight, np.ones((3, 1, 2, 2)))


def test_matrix_lowering() -> None:
    weight, bias = np.arange(6.0).reshape(2, 3), np.array([7.0, 8.0])
    for rank in (0, 2):
        lowered = accepted(lowering.to_matrix(operators.matrix(weight, bias, rank=rank)))
        np.testing.assert_array_equal(lowered[0], weight)
        np.testing.assert_array_equal(lowered[1], bias)
    scale = accepted(lowering.to_matrix(operators.channel_affine([2.0, 3.0], [0.0, 1.0], 1)))
    np.testing.assert_array_equal(scale[0], np.diag([2.0, 3.0]))


def test_refusals() -> None:
    up, down = rearrangement.nearest_upsample(1, (2,)), operators.strided_slice(1, [0], [2])
    shifted = operators.strided_slice(1, [1], [1])
    assert refused(lowering.to_conv(up, [ExtentRule(2)])).cause is Cause.RATES
    assert refused(lowering.to_conv_transpose(down, [ExtentRule(1, 1, 2)])).cause is Cause.RATES
    assert refused(lowering.to_conv(down, [ExtentRule()])).cause is Cause.EXTENTS
    assert refused(lowering.to_conv_transpose(up, [ExtentRule()])).cause is Cause.EXTENTS
    assert refused(lowering.to_matrix(up)).cause is Cause.SPATIAL_TAPS
    assert refused(lowering.to_matrix(shifted)).cause is Cause.SPATIAL_TAPS
    begin = refused(lowering.to_conv(shifted, [Extents(5, 5)], zero_taps=False))
    assert (begin.cause, "begin of axis 0" in begin.reason) == (Cause.NEGATIVE_PAD, True)
    end = refused(
        lowering.to_conv_transpose(operators.identity(1, 1), [Extents(5, 6)], zero_taps=False)
    )
    assert (end.cause, "end of axis 0" in end.reason) == (Cause.NEGATIVE_PAD, True)
    cropped = refused(lowering.to_conv(operators.identity(1, 1), [Extents(5, 4)], zero_taps=False))
    assert cropped.cause is Cause.NEGATIVE_PAD


def test_extents_must_match_the_axes() -> None:
    for lower in (lowering.to_conv, lowering.to_conv_transpose):
        with pytest.raises(AlgebraError, match="1 spatial axes"):
            lower(operators.identity(1, 1), [])


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_groups_are_kept(data: st.DataObject) -> None:
    conv_map = data.draw(strategies.maps(rank=1, up=False, stride=False))
    coarse = with_groups(conv_map, math.gcd(conv_map.groups, 2))
    assert accepted(lowering.to_conv(coarse, [ExtentRule()])).group == coarse.groups
