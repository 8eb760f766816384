import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from onnxfold.algebra import borders, operators, rearrangement
from onnxfold.algebra.borders import AxisRules, AxisSizes, Culprit, Exact, Inexact, Leak, Side
from onnxfold.algebra.compose import compose
from onnxfold.algebra.convmap import ConvMap
from onnxfold.algebra.extents import ExtentRule, conv_extent
from onnxfold.algebra.normalisation import scale_inputs
from onnxfold.algebra.refusal import AlgebraError, Cause, Refusal
from tests.algebra import oracle, strategies
from tests.algebra.strategies import accepted, refused

SIZES = st.builds(AxisSizes, st.integers(1, 7), st.integers(1, 7), st.integers(1, 7))


@st.composite
def _pairs(draw: st.DrawFn, rank: int) -> tuple[ConvMap, ConvMap]:
    """Two maps without a negative number, so that nothing cancels; half of them without bias."""
    first = draw(strategies.maps(rank=rank))
    second = draw(strategies.maps(rank=rank, in_channels=first.out_channels))
    constant = np.abs(first.bias) * draw(st.booleans())
    return _absolute(second, second.bias), _absolute(first, constant)


def _absolute(conv_map: ConvMap, bias: np.ndarray) -> ConvMap:
    return ConvMap(
        np.abs(conv_map.kernel),
        bias,
        conv_map.groups,
        conv_map.origin,
        conv_map.up,
        conv_map.stride,
    )


def _graph(outer: ConvMap, inner: ConvMap, axes: list[AxisSizes], x: np.ndarray) -> np.ndarray:
    """What the model computes: the inner map, cut off at n_mid, then the outer one."""
    mid = oracle.outputs(inner, x, [a.n_mid for a in axes])
    return oracle.outputs(outer, mid, [a.n_out for a in axes])


def _image(inner: ConvMap, axes: list[AxisSizes]) -> np.ndarray:
    return np.ones((inner.in_channels, *(a.n_in for a in axes)))


@settings(max_examples=300, deadline=None)
@given(_pairs(rank=1), SIZES)
def test_known_sizes_are_judged_tightly(pair: tuple[ConvMap, ConvMap], sizes: AxisSizes) -> None:
    """Exact if and only if the graph and the composed map agree on an image that hides nothing."""
    outer, inner = pair
    whole = compose(outer, inner)
    assume(isinstance(whole, ConvMap))
    x = _image(inner, [sizes])
    same = _graph(outer, inner, [sizes], x) == oracle.outputs(accepted(whole), x, [sizes.n_out])
    verdict = borders.composition_is_exact(outer, inner, [sizes])
    assert isinstance(verdict, Exact) == bool(same.all())


@settings(max_examples=150, deadline=None)
@given(_pairs(rank=2), st.tuples(SIZES, SIZES), strategies.rngs())
def test_exact_means_equal_in_two_dimensions(
    pair: tuple[ConvMap, ConvMap], axes: tuple[AxisSizes, AxisSizes], rng: np.random.Generator
) -> None:
    outer, inner = pair
    whole = compose(outer, inner)
    assume(isinstance(whole, ConvMap))
    if isinstance(borders.composition_is_exact(outer, inner, axes), Inexact):
        return
    x = strategies.image(rng, inner.in_channels, tuple(a.n_in for a in axes))
    composed = oracle.outputs(accepted(whole), x, [a.n_out for a in axes])
    np.testing.assert_array_equal(_graph(outer, inner, list(axes), x), composed)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 2), strategies.rngs(), st.data())
def test_dense_padded_convolutions_are_judged_tightly_in_any_rank(
    rank: int, rng: np.random.Generator, data: st.DataObject
) -> None:
    """Real layers: two convolutions with pads, strides and dilations, sizes from ONNX's formula."""
    axes = []
    layers: list[tuple[np.ndarray, np.ndarray, tuple[int, ...], tuple[int, ...]]] = []
    for _ in range(2):
        kernel = data.draw(st.tuples(*[st.integers(1, 3)] * rank))
        weight = rng.integers(1, 4, (2, 2, *kernel)).astype(np.float64)
        bias = rng.integers(1, 4, 2) * data.draw(st.booleans())
        stride, pads = (data.draw(st.tuples(*[st.integers(low, low + 1)] * rank)) for low in (1, 0))
        layers.append((weight, bias.astype(np.float64), stride, pads))
    for axis in range(rank):
        n = [data.draw(st.integers(6, 9))]
        for weight, _, stride, pads in layers:
            rule = conv_extent(weight.shape[axis + 2], stride[axis], pads[axis], pads[axis])
            n.append(rule(n[-1]))
        assume(min(n) >= 1)
        axes.append(AxisSizes(*n))
    inner, outer = (
        operators.conv(weight, bias, strides=stride, pads_begin=pads)
        for weight, bias, stride, pads in layers
    )
    x = _image(inner, axes)
    mid = oracle.conv(x, *layers[0][:2], layers[0][2], layers[0][3] * 2, (1,) * rank, 1)
    y = oracle.conv(mid, *layers[1][:2], layers[1][2], layers[1][3] * 2, (1,) * rank, 1)
    composed = oracle.outputs(accepted(compose(outer, inner)), x, [a.n_out for a in axes])
    verdict = borders.composition_is_exact(outer, inner, axes)
    assert isinstance(verdict, Exact) == bool((y == composed).all())


@settings(max_examples=200, deadline=None)
@given(
    _pairs(rank=1),
    st.tuples(st.integers(-4, 4), st.integers(-4, 4)),
    st.tuples(st.integers(1, 5), st.integers(1, 4)),
)
def test_unknown_sizes_are_exact_only_if_every_size_is(
    pair: tuple[ConvMap, ConvMap], offsets: tuple[int, int], sizes: tuple[int, int]
) -> None:
    outer, inner = pair
    rules = AxisRules(
        ExtentRule(inner.up[0], offsets[0], inner.stride[0]),
        ExtentRule(outer.up[0], offsets[1], outer.stride[0]),
        first=sizes[0],
        step=sizes[1],
    )
    every = set()
    for n_in in range(rules.first, rules.first + 40 * rules.step, rules.step):
        n_mid = rules.inner(n_in)
        if n_mid < 1 or rules.outer(n_mid) < 1:
            continue
        known = AxisSizes(n_in, n_mid, rules.outer(n_mid))
        verdict = borders.composition_is_exact(outer, inner, [known])
        every |= set() if isinstance(verdict, Exact) else set(verdict.leaks)
    verdict = borders.composition_is_exact(outer, inner, [rules])
    found = set() if isinstance(verdict, Exact) else set(verdict.leaks)
    assert found == every


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 2), strategies.rngs(), st.data())
def test_border_correction_mends_what_only_the_bias_breaks(
    rank: int, rng: np.random.Generator, data: st.DataObject
) -> None:
    outer, inner = data.draw(_pairs(rank=rank))
    axes = data.draw(st.tuples(*[SIZES] * rank))
    whole = compose(outer, inner)
    assume(isinstance(whole, ConvMap))
    verdict = borders.composition_is_exact(outer, inner, axes)
    correction = borders.border_correction(outer, inner, axes)
    if isinstance(correction, Refusal):
        assert isinstance(verdict, Inexact)
        assert not verdict.only_bias
        assert correction.cause is Cause.REACH_BACK
        return
    assert correction.any() or isinstance(verdict, Exact) or rank > 1
    x = strategies.image(rng, inner.in_channels, tuple(a.n_in for a in axes))
    composed = oracle.outputs(accepted(whole), x, [a.n_out for a in axes])
    np.testing.assert_array_equal(_graph(outer, inner, list(axes), x), composed + correction)


def test_correction_is_exactly_zero_inside() -> None:
    rng = np.random.default_rng(0)
    outer = operators.conv(rng.normal(size=(3, 4, 3, 3)), pads_begin=[1, 1])
    inner = operators.conv(rng.normal(size=(4, 2, 1, 1)), rng.normal(size=4))
    correction = accepted(borders.border_correction(outer, inner, [AxisSizes(8, 8, 8)] * 2))
    assert not correction[:, 1:-1, 1:-1].any()
    assert correction[:, [0, -1]].all()


@settings(max_examples=80, deadline=None)
@given(strategies.maps(rank=1, up=False), strategies.rngs(), SIZES)
def test_shift_in_front_of_a_convolution(
    conv_map: ConvMap, rng: np.random.Generator, sizes: AxisSizes
) -> None:
    outer = _absolute(conv_map, conv_map.bias)
    axes = [AxisSizes(sizes.n_in, sizes.n_in, sizes.n_out)]
    shift = rng.integers(0, 3, outer.in_channels).astype(np.float64)
    x = strategies.image(rng, outer.in_channels, (sizes.n_in,))
    y = oracle.outputs(outer, x + shift[:, None], (sizes.n_out,))
    folded = oracle.outputs(accepted(scale_inputs(outer, 1.0, shift)), x, (sizes.n_out,))
    verdict = borders.shift_is_exact(outer, shift, axes)
    assert isinstance(verdict, Exact) == bool((y == folded).all())
    correction = accepted(borders.shift_correction(outer, shift, axes))
    np.testing.assert_array_equal(folded + correction, y)


def _padded(bias: float = 0.0, kernel: int = 3, channels: int = 2) -> ConvMap:
    weight = np.ones((channels, channels, kernel, kernel))
    return operators.conv(weight, np.full(channels, bias), pads_begin=[kernel // 2] * 2)


ANY = AxisRules(ExtentRule(), ExtentRule())


def test_the_classic_cases_at_unknown_sizes() -> None:
    exact = Exact()
    three, one = _padded(), _padded(kernel=1)
    biased = _padded(bias=1.0, kernel=1)
    assert borders.composition_is_exact(three, one, [ANY] * 2) == exact
    assert borders.composition_is_exact(one, _padded(bias=1.0), [ANY] * 2) == exact
    assert borders.composition_is_exact(biased, three, [ANY] * 2) == exact
    bias = borders.composition_is_exact(three, biased, [ANY] * 2)
    assert isinstance(bias, Inexact)
    assert bias.only_bias
    assert bias.leaks == tuple(
        Leak(axis, side, Culprit.BIAS) for axis in (0, 1) for side in (Side.BEGIN, Side.END)
    )
    assert bias.reason == (
        "the 1x1's bias is non-zero and the 3x3 pads the border (the begin of axis 0)"
    )
    reach = borders.composition_is_exact(three, _padded(kernel=5), [ANY] * 2)
    assert isinstance(reach, Inexact)
    assert not reach.only_bias
    assert reach.reason == (
        "the 3x3 pads the border, where the 5x5 before it would still reach its input "
        "(the begin of axis 0)"
    )


def test_an_unpadded_outer_map_forgives_everything() -> None:
    valid = AxisRules(ExtentRule(), conv_extent(3))
    outer = operators.conv(np.ones((1, 2, 3, 3)))
    assert borders.composition_is_exact(outer, _padded(bias=1.0), [valid] * 2) == Exact()


def test_folded_data_and_upsampling_are_exact_in_front_of_pads() -> None:
    fold = rearrangement.space_to_depth(3, (2, 2))
    outer = operators.conv(np.ones((4, 12, 3, 3)), pads_begin=[1, 1])
    even = AxisRules(ExtentRule(1, 0, 2), ExtentRule(), first=2, step=2)
    assert borders.composition_is_exact(outer, fold, [even] * 2) == Exact()
    every = AxisRules(ExtentRule(1, 0, 2), ExtentRule())
    odd = borders.composition_is_exact(outer, fold, [every] * 2)
    assert isinstance(odd, Inexact)
    assert {(leak.side, leak.culprit) for leak in odd.leaks} == {(Side.END, Culprit.REACH_BACK)}
    up = rearrangement.nearest_upsample(2, (2, 2))
    doubled = AxisRules(ExtentRule(2), ExtentRule())
    assert borders.composition_is_exact(_padded(), up, [doubled] * 2) == Exact()


def test_only_channels_that_meet_count() -> None:
    """A 3x3 branch read by the centre tap alone does no harm, nor a bias nobody pads."""
    inner = operators.conv(np.array([[[1.0, 1, 1]], [[0.0, 1, 0]]]), [1.0, 0.0], pads_begin=[1])
    outer = operators.conv(np.array([[[0.0, 1, 0], [1, 1, 1]]]), pads_begin=[1])
    assert borders.composition_is_exact(outer, inner, [ANY]) == Exact()
    swapped = operators.conv(outer.kernel[:, ::-1], pads_begin=[1])
    assert isinstance(borders.composition_is_exact(swapped, inner, [ANY]), Inexact)


def test_constants_that_cancel_between_channels_do_not_leak() -> None:
    outer = operators.conv(np.array([[[1.0, 2, 3], [1, 2, 3]]]), pads_begin=[1])
    assert borders.shift_is_exact(outer, [2.0, -2.0], [ANY]) == Exact()


def test_a_plain_matrix_has_no_border() -> None:
    one = operators.matrix(np.ones((2, 2)), [1.0, 2.0])
    assert borders.composition_is_exact(one, one, []) == Exact()
    np.testing.assert_array_equal(accepted(borders.border_correction(one, one, [])), [0, 0])


def test_correction_behind_an_even_upsampling() -> None:
    """An output that no tap of the right phase reads outside is left alone."""
    outer = operators.conv_transpose(np.array([[[2.0, 2.0, 3.0, 3.0]]]), strides=[2])
    inner = operators.channel_affine([1.0], [1.0], 1)
    axes = [AxisSizes(4, 4, 12)]
    x = strategies.image(np.random.default_rng(0), 1, (4,))
    composed = oracle.outputs(accepted(compose(outer, inner)), x, (12,))
    correction = accepted(borders.border_correction(outer, inner, axes))
    np.testing.assert_array_equal(correction, [[-3, -3, 0, 0, 0, 0, 0, 0, -2, -2, -5, -5]])
    np.testing.assert_array_equal(composed + correction, _graph(outer, inner, axes, x))


def test_refusals_of_the_correction() -> None:
    biased = _padded(bias=1.0, kernel=1)
    assert refused(borders.border_correction(_padded(), biased, [ANY] * 2)).cause is (
        Cause.UNKNOWN_EXTENTS
    )
    known = [AxisSizes(5, 5, 5)] * 2
    assert refused(borders.border_correction(_padded(), _padded(), known)).cause is (
        Cause.REACH_BACK
    )
    uneven = operators.conv_transpose(np.array([[[1.0, 2.0, 3.0]]]), strides=[2])
    shift = operators.channel_affine([1.0], [1.0], 1)
    assert refused(borders.border_correction(uneven, shift, [AxisSizes(4, 4, 9)])).cause is (
        Cause.UNEVEN_BIAS
    )


def test_what_does_not_fit_is_an_error() -> None:
    with pytest.raises(AlgebraError, match="fit together"):
        borders.composition_is_exact(_padded(), _padded(), [ANY])
    halved = AxisRules(ExtentRule(1, 0, 2), ExtentRule())
    with pytest.raises(AlgebraError, match="other rates"):
        borders.composition_is_exact(_padded(), _padded(), [halved] * 2)
    stuck = AxisRules(ExtentRule(), ExtentRule(), step=0)
    with pytest.raises(AlgebraError, match="first size"):
        borders.composition_is_exact(_padded(), _padded(), [stuck] * 2)


def test_huge_kernels_and_sizes_are_decided_at_once() -> None:
    outer = operators.conv(np.ones((1, 1, 31, 31)), pads_begin=[15, 15])
    inner = operators.conv(np.ones((1, 1, 1, 1)), strides=[1, 1])
    sizes = AxisSizes(10**9, 10**9, 10**9)
    assert borders.composition_is_exact(outer, inner, [sizes] * 2) == Exact()
    assert math.prod(outer.taps) == 961
