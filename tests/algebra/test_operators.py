import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxfold.algebra import operators
from onnxfold.algebra.evaluate import apply
from onnxfold.algebra.refusal import AlgebraError
from tests.algebra import oracle, strategies


@settings(max_examples=120, deadline=None)
@given(st.integers(1, 3), strategies.rngs(), st.data())
def test_conv_is_the_onnx_definition(
    rank: int, rng: np.random.Generator, data: st.DataObject
) -> None:
    group = data.draw(st.sampled_from([1, 2, 3]))
    weight = strategies.integers(
        rng,
        (
            group * data.draw(st.integers(1, 2)),
            data.draw(st.integers(1, 2)),
            *data.draw(st.tuples(*[st.integers(1, 3)] * rank)),
        ),
    )
    bias = strategies.integers(rng, weight.shape[:1])
    strides, dilations = (data.draw(st.tuples(*[st.integers(1, 3)] * rank)) for _ in range(2))
    pads = data.draw(st.tuples(*[st.integers(0, 3)] * (2 * rank)))
    reach = [d * (k - 1) + 1 for d, k in zip(dilations, weight.shape[2:], strict=True)]
    extents = tuple(r + data.draw(st.integers(0, 4)) for r in reach)
    x = strategies.image(rng, group * weight.shape[1], extents)
    expected = oracle.conv(x, weight, bias, strides, pads, dilations, group)
    conv_map = operators.conv(
        weight, bias, strides=strides, pads_begin=pads[:rank], dilations=dilations, group=group
    )
    np.testing.assert_array_equal(apply(conv_map, x, expected.shape[1:]), expected)


@settings(max_examples=120, deadline=None)
@given(st.integers(1, 3), strategies.rngs(), st.data())
def test_conv_transpose_is_the_onnx_definition(
    rank: int, rng: np.random.Generator, data: st.DataObject
) -> None:
    group = data.draw(st.sampled_from([1, 2, 3]))
    weight = strategies.integers(
        rng,
        (
            group * data.draw(st.integers(1, 2)),
            data.draw(st.integers(1, 2)),
            *data.draw(st.tuples(*[st.integers(1, 3)] * rank)),
        ),
    )
    bias = strategies.integers(rng, (group * weight.shape[1],))
    strides, dilations = (data.draw(st.tuples(*[st.integers(1, 3)] * rank)) for _ in range(2))
    output_padding = tuple(data.draw(st.integers(0, s - 1)) for s in strides)
    pads = data.draw(st.tuples(*[st.integers(0, 2)] * (2 * rank)))
    extents = data.draw(st.tuples(*[st.integers(3, 5)] * rank))
    x = strategies.image(rng, weight.shape[0], extents)
    expected = oracle.conv_transpose(
        x, weight, bias, strides, pads, dilations, group, output_padding
    )
    conv_map = operators.conv_transpose(
        weight, bias, strides=strides, pads_begin=pads[:rank], dilations=dilations, group=group
    )
    np.testing.assert_array_equal(apply(conv_map, x, expected.shape[1:]), expected)


@pytest.mark.parametrize("rank", [0, 1, 2, 3])
def test_pointwise_operators(rank: int) -> None:
    rng = np.random.default_rng(rank)
    x = strategies.image(rng, 4, (3,) * rank)
    extents = x.shape[1:]
    column = (-1, *(1,) * rank)
    scale, shift = rng.integers(-4, 5, (2, 4)).astype(np.float64)
    weight, bias = strategies.integers(rng, (3, 4)), strategies.integers(rng, (3,))
    picks = [3, 1, 1, 0, 2]
    cases = [
        (operators.identity(4, rank), x),
        (
            operators.channel_affine(scale, shift, rank),
            scale.reshape(column) * x + shift.reshape(column),
        ),
        (
            operators.matrix(weight, bias, rank=rank),
            np.tensordot(weight, x, 1) + bias.reshape(column),
        ),
        (operators.channel_selection(picks, 4, rank), x[picks]),
        (
            operators.zero_map(3, 4, rank, bias),
            np.broadcast_to(bias.reshape(column), (3, *extents)),
        ),
    ]
    for conv_map, expected in cases:
        assert conv_map.is_pointwise
        np.testing.assert_array_equal(apply(conv_map, x, extents), expected)


@settings(max_examples=60, deadline=None)
@given(
    strategies.rngs(),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(0, 1), st.integers(0, 1)),
)
def test_average_pool_with_padding_counted(
    rng: np.random.Generator,
    kernel: tuple[int, int],
    strides: tuple[int, int],
    pads: tuple[int, int],
) -> None:
    x = strategies.image(rng, 2, (6, 7))
    padded = np.pad(x, [(0, 0), (pads[0], 0), (pads[1], 0)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel, (1, 2))
    expected = windows[:, :: strides[0], :: strides[1]].mean(axis=(-2, -1))
    conv_map = operators.average_pool(2, kernel, strides=strides, pads_begin=pads)
    assert conv_map.groups == 2
    np.testing.assert_allclose(apply(conv_map, x, expected.shape[1:]), expected, atol=36 * 2.0**-52)


def test_strided_slice_and_zero_pad() -> None:
    x = strategies.image(np.random.default_rng(3), 2, (7, 8))
    sliced = apply(operators.strided_slice(2, [1, 0], [2, 3]), x, (3, 3))
    np.testing.assert_array_equal(sliced, x[:, 1::2, 0::3])
    padded = apply(operators.zero_pad(2, [2, -1]), x, (9, 7))
    np.testing.assert_array_equal(padded, np.pad(x, [(0, 0), (2, 0), (0, 0)])[:, :, 1:])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: operators.strided_slice(2, [0], [-1]), "positive"),
        (lambda: operators.channel_selection([0, 4], 4, 2), r"\[0, 4\)"),
        (lambda: operators.channel_selection([-1], 4, 2), r"\[0, 4\)"),
        (lambda: operators.matrix(np.ones((2, 2, 1))), "two axes"),
        (lambda: operators.conv(np.ones((2, 1, 3)), strides=[1, 1]), "one per spatial axis"),
        (lambda: operators.conv_transpose(np.ones((3, 1, 3)), group=2), "groups"),
    ],
)
def test_what_does_not_fit_is_an_error(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(AlgebraError, match=message):
        make()
