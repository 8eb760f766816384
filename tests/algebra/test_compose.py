import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from onnxfold.algebra import operators, rearrangement
from onnxfold.algebra.compose import compose, passed_constant
from onnxfold.algebra.convmap import ConvMap
from onnxfold.algebra.groups import with_groups
from onnxfold.algebra.refusal import AlgebraError, Cause, Refusal
from tests.algebra import oracle, strategies
from tests.algebra.strategies import accepted, refused


@st.composite
def _pairs(draw: st.DrawFn, rank: int | None = None) -> tuple[ConvMap, ConvMap]:
    inner = draw(strategies.maps(rank=rank))
    outer = draw(strategies.maps(rank=inner.rank, in_channels=inner.out_channels))
    return outer, inner


def _by_hand(
    outer: ConvMap, inner: ConvMap, rng: np.random.Generator, count: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray, tuple[int, ...], tuple[int, ...]]:
    """Both definitions in a row on a piece of an unbounded signal, wide enough to cut nothing."""
    first = tuple(-2 for _ in count)
    mid_first, mid_count = oracle.samples_read(outer, first, count)
    x_first, x_count = oracle.samples_read(inner, mid_first, mid_count)
    x = strategies.image(rng, inner.in_channels, x_count)
    mid = oracle.on_a_line(inner, x, x_first, mid_first, mid_count)
    return oracle.on_a_line(outer, mid, mid_first, first, count), x, x_first, first


def _assert_composed(outer: ConvMap, inner: ConvMap, whole: ConvMap, seed: int = 0) -> None:
    periods = zip(outer.up, inner.up, inner.stride, strict=True)
    count = tuple(min(u2 * u1 * s1 + 1, 9 if outer.rank < 3 else 4) for u2, u1, s1 in periods)
    y, x, x_first, first = _by_hand(outer, inner, np.random.default_rng(seed), count)
    np.testing.assert_array_equal(oracle.on_a_line(whole, x, x_first, first, count), y)


@settings(max_examples=250, deadline=None)
@given(_pairs())
def test_composition_on_an_unbounded_signal(pair: tuple[ConvMap, ConvMap]) -> None:
    outer, inner = pair
    whole = compose(outer, inner)
    if isinstance(whole, Refusal):
        shared = [math.gcd(s1, u2) for s1, u2 in zip(inner.stride, outer.up, strict=True)]
        assert whole.cause in (Cause.PERIODIC, Cause.UNEVEN_BIAS)
        assert whole.cause is not Cause.PERIODIC or any(g > 1 for g in shared)
        assert whole.cause is not Cause.UNEVEN_BIAS or any(u > 1 for u in outer.up)
        return
    assert whole.groups % math.gcd(outer.groups, inner.groups) == 0
    _assert_composed(outer, inner, whole)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 2), st.data())
def test_stride_one_inside_uses_the_first_formula(rank: int, data: st.DataObject) -> None:
    """K[t] = Σ K2[t − u2·t1]·K1[t1], u = u1·u2, s = s2, before the common factor is taken out."""
    inner = data.draw(strategies.maps(rank=rank, stride=False, bias=False))
    outer = data.draw(strategies.maps(rank=rank, in_channels=inner.out_channels, bias=False))
    whole = accepted(compose(outer, inner))
    for axis in range(rank):
        u, s = inner.up[axis] * outer.up[axis], outer.stride[axis]
        factor = math.gcd(u, s)
        assert (whole.up[axis], whole.stride[axis]) == (u // factor, s // factor)
    _assert_composed(outer, inner, whole)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 2), st.data())
def test_no_upsampling_outside_uses_the_second_formula(rank: int, data: st.DataObject) -> None:
    """K[t] = Σ K2[t2]·K1[t − s1·t2], u = u1, s = s1·s2, before the common factor is taken out."""
    inner = data.draw(strategies.maps(rank=rank))
    outer = data.draw(strategies.maps(rank=rank, in_channels=inner.out_channels, up=False))
    whole = accepted(compose(outer, inner))
    for axis in range(rank):
        u, s = inner.up[axis], inner.stride[axis] * outer.stride[axis]
        factor = math.gcd(u, s)
        assert (whole.up[axis], whole.stride[axis]) == (u // factor, s // factor)
    _assert_composed(outer, inner, whole)


@settings(max_examples=80, deadline=None)
@given(strategies.rngs(), st.sampled_from([(2, 3), (3, 2), (2, 5), (4, 3)]), st.data())
def test_coprime_rates_in_the_middle_compose(
    rng: np.random.Generator, rates: tuple[int, int], data: st.DataObject
) -> None:
    s1, u2 = rates
    taps = st.integers(1, 5)
    origin = st.integers(-3, 3)
    inner = ConvMap(
        strategies.integers(rng, (2, 2, data.draw(taps))),
        np.zeros(2),
        1,
        (data.draw(origin),),
        (data.draw(st.sampled_from([u for u in (1, 2, 3, 5) if math.gcd(u, s1) == 1])),),
        (s1,),
    )
    outer = ConvMap(
        strategies.integers(rng, (3, 2, data.draw(taps))),
        np.zeros(3),
        1,
        (data.draw(origin),),
        (u2,),
        (data.draw(st.sampled_from([s for s in (1, 2, 3, 5) if math.gcd(s, u2) == 1])),),
    )
    _assert_composed(outer, inner, accepted(compose(outer, inner)))


@settings(max_examples=200, deadline=None)
@given(
    strategies.rngs(),
    st.sampled_from([(1, 2, 2, 1), (1, 3, 3, 1), (1, 4, 2, 1), (3, 2, 2, 3), (1, 2, 4, 3)]),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(-2, 2), st.integers(-2, 2)),
)
def test_a_periodic_composition_is_refused_for_a_reason(
    rng: np.random.Generator,
    rates: tuple[int, int, int, int],
    taps: tuple[int, int],
    origins: tuple[int, int],
) -> None:
    """Refused if and only if some pulse, moved by one period, is answered differently."""
    u1, s1, u2, s2 = rates
    inner, outer = (
        ConvMap(
            strategies.integers(rng, (1, 1, n), zeros=0.3), np.zeros(1), 1, (origin,), (u,), (s,)
        )
        for n, origin, u, s in zip(taps, origins, (u1, u2), (s1, s2), strict=True)
    )
    factor = math.gcd(u1 * u2, s1 * s2)
    step_in, step_out = s1 * s2 // factor, u1 * u2 // factor

    def response(period: int, at: int) -> np.ndarray:
        first, count = [step_out * period - 20], [41]
        mid_first, mid_count = oracle.samples_read(outer, first, count)
        pulse = [at + step_in * period]
        mid = oracle.on_a_line(inner, np.ones((1, 1)), pulse, mid_first, mid_count)
        return oracle.on_a_line(outer, mid, mid_first, first, count)

    alike = all(
        (response(period, at) == response(0, at)).all()
        for period in range(1, math.gcd(s1, u2))
        for at in range(step_in)
    )
    whole = compose(outer, inner)
    if isinstance(whole, Refusal):
        assert whole.cause is Cause.PERIODIC
        assert not alike
        return
    assert alike
    _assert_composed(outer, inner, whole)


@pytest.mark.parametrize("order", ["DCR", "CRD"])
def test_depth_to_space_undoes_space_to_depth(order: rearrangement.Order) -> None:
    fold = rearrangement.space_to_depth(3, (2, 2), order)
    unfold = rearrangement.depth_to_space(3, (2, 2), order)
    for whole in (accepted(compose(unfold, fold)), accepted(compose(fold, unfold))):
        eye = with_groups(operators.identity(whole.out_channels, 2), 1)
        assert whole.is_pointwise
        np.testing.assert_array_equal(oracle.dense(whole), eye.kernel)


def test_folding_with_the_wrong_phase_order_is_refused() -> None:
    fold = rearrangement.space_to_depth(3, (2, 2), "DCR")
    unfold = rearrangement.depth_to_space(3, (2, 2), "CRD")
    assert refused(compose(unfold, fold)).cause is Cause.PERIODIC


def test_convolution_on_folded_data_is_one_strided_convolution() -> None:
    rng = np.random.default_rng(5)
    weight = strategies.integers(rng, (4, 12, 3, 3))
    outer = operators.conv(weight, strides=[2, 2], pads_begin=[1, 1])
    whole = accepted(compose(outer, rearrangement.space_to_depth(3, (2, 2))))
    assert (whole.up, whole.stride) == ((1, 1), (4, 4))
    assert (whole.taps, whole.origin) == ((6, 6), (-2, -2))


def test_nearest_upsampling_then_stride_two_needs_no_rates() -> None:
    up = rearrangement.nearest_upsample(1, (2,))
    conv = operators.conv(np.array([[[1.0, 10.0, 100.0]]]), strides=[2], pads_begin=[1])
    whole = accepted(compose(conv, up))
    assert (whole.up, whole.stride, whole.origin) == ((1,), (1,), (-1,))
    np.testing.assert_array_equal(whole.kernel, [[[1.0, 110.0]]])


def test_a_constant_passes_an_upsampling_only_when_every_phase_gets_the_same() -> None:
    bias = operators.channel_affine([1.0], [3.0], 1)
    even = rearrangement.nearest_upsample(1, (2,))
    np.testing.assert_array_equal(accepted(compose(even, bias)).bias, [3.0])
    uneven = operators.conv_transpose(np.array([[[1.0, 2.0, 3.0]]]), strides=[2])
    assert refused(compose(uneven, bias)).cause is Cause.UNEVEN_BIAS
    assert refused(passed_constant(uneven, np.ones(1))).cause is Cause.UNEVEN_BIAS
    sparse = operators.conv_transpose(np.array([[[1.0]]]), strides=[2])
    assert refused(compose(sparse, bias)).cause is Cause.UNEVEN_BIAS


@settings(max_examples=60, deadline=None)
@given(_pairs(rank=1), st.data())
def test_composition_is_associative(pair: tuple[ConvMap, ConvMap], data: st.DataObject) -> None:
    last, middle = pair
    first = data.draw(strategies.maps(rank=1, out_channels=middle.in_channels))
    left, right = compose(last, middle), compose(middle, first)
    assume(isinstance(left, ConvMap) and isinstance(right, ConvMap))
    one, two = compose(accepted(left), first), compose(last, accepted(right))
    if isinstance(one, Refusal) or isinstance(two, Refusal):
        return
    assert (one.up, one.stride, one.origin) == (two.up, two.stride, two.origin)
    np.testing.assert_array_equal(oracle.dense(one), oracle.dense(two))
    np.testing.assert_array_equal(one.bias, two.bias)


@pytest.mark.parametrize("multiplier", [1, 3])
def test_depthwise_maps_stay_small(multiplier: int) -> None:
    """A depthwise pair of 20,000 channels would take 3 TB as one dense kernel."""
    channels = 20_000
    inner = operators.conv(np.ones((channels, 1, 3)), np.ones(channels), group=channels)
    outer = operators.conv(np.ones((channels * multiplier, 1, 3)), group=channels)
    whole = accepted(compose(outer, inner))
    assert (whole.groups, whole.kernel.shape) == (channels, (channels * multiplier, 1, 5))
    scale = operators.channel_affine(np.full(channels, 2.0), np.zeros(channels), 1)
    assert accepted(compose(outer, scale)).groups == channels


def test_groups_of_the_composition() -> None:
    def grouped(groups: int) -> ConvMap:
        return operators.conv(np.ones((12, 12 // groups, 1)), group=groups)

    assert accepted(compose(grouped(4), grouped(6))).groups == 2
    assert accepted(compose(grouped(12), grouped(3))).groups == 3
    assert accepted(compose(grouped(3), grouped(12))).groups == 3


def test_infinite_weights_compose_without_a_warning() -> None:
    inner = operators.matrix([[np.inf]], [1.0], rank=1)
    whole = accepted(compose(operators.matrix([[0.0]], rank=1), inner))
    assert whole.out_channels == 1
    huge = operators.matrix([[1e200]], rank=1)
    assert np.isinf(accepted(compose(huge, huge)).kernel).all()


def test_maps_that_do_not_fit_are_an_error() -> None:
    with pytest.raises(AlgebraError, match="3 channels of rank 2"):
        compose(operators.identity(4, 2), operators.identity(3, 2))
    with pytest.raises(AlgebraError, match="rank 1"):
        compose(operators.identity(3, 1), operators.identity(3, 2))
