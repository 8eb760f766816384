import numpy as np
import pytest
from hypothesis import given, settings

from onnxfold.algebra import operators
from onnxfold.algebra.convmap import ConvMap
from onnxfold.algebra.normalisation import batchnorm_as_affine, scale_inputs, scale_outputs
from onnxfold.algebra.refusal import AlgebraError, Cause
from onnxfold.algebra.rounding import round_map
from tests.algebra import oracle, strategies
from tests.algebra.strategies import accepted, refused


def test_batchnorm_is_the_onnx_formula() -> None:
    rng = np.random.default_rng(0)
    gamma, beta, mean = rng.normal(size=(3, 8))
    var = rng.uniform(0.1, 2, 8)
    x = rng.normal(size=(8, 5))
    scale, shift = accepted(batchnorm_as_affine(gamma, beta, mean, var, 1e-3))
    expected = (x - mean[:, None]) / np.sqrt(var + 1e-3)[:, None] * gamma[:, None] + beta[:, None]
    np.testing.assert_allclose(scale[:, None] * x + shift[:, None], expected, rtol=0, atol=1e-13)


def test_an_epsilon_that_float16_flushes_to_zero_is_fine() -> None:
    half = np.ones(1, np.float16)
    scale, shift = accepted(batchnorm_as_affine(half, half * 0, half * 0, half * 0, 1e-8))
    np.testing.assert_allclose(scale, 1e4, rtol=1e-12)
    folded = operators.channel_affine(scale, shift, 2)
    accepted(round_map(folded, np.float16))
    twice = scale_outputs(folded, scale, 0.0)
    assert refused(round_map(twice, np.float16)).cause is Cause.OVERFLOW


@pytest.mark.parametrize(("var", "epsilon"), [(0.0, 0.0), (-1.0, 1e-5), (np.nan, 1e-5)])
def test_a_variance_that_is_not_positive_is_refused(var: float, epsilon: float) -> None:
    one = np.ones(1)
    assert refused(batchnorm_as_affine(one, one, one, var * one, epsilon)).cause is Cause.VARIANCE


def test_parameters_of_different_shapes_are_an_error() -> None:
    with pytest.raises(AlgebraError, match="one shape"):
        batchnorm_as_affine(np.ones(2), np.ones(1), np.ones(2), np.ones(2), 0.1)


@settings(max_examples=80, deadline=None)
@given(strategies.maps(), strategies.rngs())
def test_scaling_outputs_is_exact_at_every_border(
    conv_map: ConvMap, rng: np.random.Generator
) -> None:
    scale, shift = (strategies.integers(rng, (conv_map.out_channels,)) for _ in range(2))
    extents = (4,) * conv_map.rank
    x = strategies.image(rng, conv_map.in_channels, extents)
    column = (-1, *(1,) * conv_map.rank)
    y = oracle.outputs(conv_map, x, extents) * scale.reshape(column) + shift.reshape(column)
    scaled = scale_outputs(conv_map, scale, shift)
    np.testing.assert_array_equal(oracle.outputs(scaled, x, extents), y)
    assert scaled.groups == conv_map.groups


@settings(max_examples=80, deadline=None)
@given(strategies.maps(up=False), strategies.rngs())
def test_scaling_inputs_away_from_borders(conv_map: ConvMap, rng: np.random.Generator) -> None:
    scale, shift = (strategies.integers(rng, (conv_map.in_channels,)) for _ in range(2))
    count = (3,) * conv_map.rank
    first = (-1,) * conv_map.rank
    x_first, x_count = oracle.samples_read(conv_map, first, count)
    x = strategies.image(rng, conv_map.in_channels, x_count)
    column = (-1, *(1,) * conv_map.rank)
    moved = x * scale.reshape(column) + shift.reshape(column)
    y = oracle.on_a_line(conv_map, moved, x_first, first, count)
    folded = accepted(scale_inputs(conv_map, scale, shift))
    np.testing.assert_array_equal(oracle.on_a_line(folded, x, x_first, first, count), y)
    assert folded.groups == conv_map.groups


def test_a_shift_spread_unevenly_by_upsampling_is_refused() -> None:
    uneven = operators.conv_transpose(np.array([[[1.0, 2.0]]]), strides=[2])
    assert refused(scale_inputs(uneven, 1.0, 1.0)).cause is Cause.UNEVEN_BIAS
    np.testing.assert_array_equal(accepted(scale_inputs(uneven, 2.0, 0.0)).kernel, [[[4.0, 2.0]]])
