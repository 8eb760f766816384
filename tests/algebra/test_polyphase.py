import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxfold.algebra import rearrangement
from onnxfold.algebra.compose import compose
from onnxfold.algebra.convmap import ConvMap
from onnxfold.algebra.polyphase import output_phases
from onnxfold.algebra.rearrangement import Order, depth_to_space
from onnxfold.algebra.refusal import Refusal
from tests.algebra import oracle, strategies


@settings(max_examples=100, deadline=None)
@given(strategies.maps(), st.sampled_from(["DCR", "CRD"]), strategies.rngs())
def test_phases_then_depth_to_space_is_the_map(
    conv_map: ConvMap, order: Order, rng: np.random.Generator
) -> None:
    phases = output_phases(conv_map, order)
    assert all(u == 1 for u in phases.up)
    extents = (4,) * conv_map.rank
    x = strategies.image(rng, conv_map.in_channels, extents)
    folded = oracle.outputs(phases, x, (3,) * conv_map.rank)
    unfold = depth_to_space(conv_map.out_channels, conv_map.up, order)
    wanted = tuple(3 * u for u in conv_map.up)
    np.testing.assert_array_equal(
        oracle.outputs(unfold, folded, wanted), oracle.outputs(conv_map, x, wanted)
    )
    if order == "CRD":
        assert phases.groups == conv_map.groups


@settings(max_examples=60, deadline=None)
@given(strategies.maps(bias=False))
def test_composing_with_depth_to_space_gives_the_map_back(conv_map: ConvMap) -> None:
    unfold = rearrangement.depth_to_space(conv_map.out_channels, conv_map.up, "CRD")
    whole = compose(unfold, output_phases(conv_map, "CRD"))
    if isinstance(whole, Refusal):
        return
    x = strategies.image(np.random.default_rng(0), conv_map.in_channels, (4,) * conv_map.rank)
    extents = (5,) * conv_map.rank
    np.testing.assert_array_equal(
        oracle.outputs(whole, x, extents), oracle.outputs(conv_map, x, extents)
    )
