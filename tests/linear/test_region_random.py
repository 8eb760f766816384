"""Random linear regions: what the engine makes of them is equal to the bit, or it leaves them."""

from __future__ import annotations

import math

import numpy as np
import onnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnxfold.cost.machine import CostModel
from onnxfold.linear.emit import emit_collapse
from onnxfold.linear.reading import LINEAR_OPS
from onnxfold.linear.region import Collapse, Steps, collapse
from onnxfold.model import load, to_proto
from onnxfold.passes import (
    fold_data,
    fold_linear,
    fold_skip,
    fold_upsample,
    merge_branches,
    merge_sequential,
    presets,
)
from onnxfold.pipeline.manager import PassManager, PipelineRun
from onnxfold.pipeline.passes import ConfiguredPass, Pass, RulePass
from onnxfold.rewrite.rule import Rule
from tests.linear.random_regions import Example, regions
from tests.toolkit import check_invariants, run_ort

LONG = settings.get_current_profile_name() == "long"
EXAMPLES = 5_000 if LONG else 120

SEARCHING = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.large_base_example,
    ],
)

EVERY_KIND = [
    fold_data.PASS,
    fold_linear.PASS,
    fold_skip.PASS,
    fold_upsample.PASS,
    merge_sequential.PASS,
]

EAGER = CostModel(start_seconds=1e3)
"""Likes every merge: an operator less is worth more than any arithmetic."""

IDLE = CostModel(
    multiply_adds_per_second=math.inf,
    depthwise_multiply_adds_per_second=math.inf,
    bytes_per_second=math.inf,
    start_seconds=0.0,
)
"""Likes no merge: nothing costs anything."""


def engine(name: str, costs: CostModel, *, composed: bool) -> RulePass:
    """A pass that is the region engine with these costs at every node."""
    steps = Steps(LINEAR_OPS, LINEAR_OPS if composed else frozenset())
    rule: Rule[Collapse] = Rule(
        "collapse", LINEAR_OPS, lambda node: collapse(node, steps, costs), emit_collapse
    )
    return RulePass(name, lambda _: (rule,), "")


def run(
    model: onnx.ModelProto, *passes: Pass | ConfiguredPass
) -> tuple[onnx.ModelProto, PipelineRun]:
    outcome = PassManager(passes).run(load(model).model)
    assert outcome.ledger.failures == []
    return to_proto(outcome.model), outcome


def assert_same_bits(example: Example, after: onnx.ModelProto) -> None:
    check_invariants(example.model, after)
    for feed in example.feeds:
        for expected, found in zip(run_ort(example.model, feed), run_ort(after, feed), strict=True):
            assert expected.shape == found.shape
            np.testing.assert_array_equal(found, expected)


def without_shapes(model: onnx.ModelProto) -> bytes:
    """The bytes of the model; a second look may know more of the shapes in between."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.value_info[:]
    return bare.SerializeToString(deterministic=True)


def rewrites(outcome: PipelineRun) -> list[str]:
    return [str(each.key) for each in outcome.ledger.applied]


@given(regions())
@SEARCHING
def test_merging_branches_keeps_every_bit(example: Example) -> None:
    after, _ = run(example.model, merge_branches.PASS)
    assert_same_bits(example, after)
    again, second = run(after, merge_branches.PASS)
    assert rewrites(second) == []
    assert without_shapes(again) == without_shapes(after)


@given(regions())
@SEARCHING
def test_merging_whatever_can_be_merged_keeps_every_bit(example: Example) -> None:
    after, _ = run(example.model, engine("eager", EAGER, composed=False))
    assert_same_bits(example, after)


@given(regions())
@SEARCHING
def test_composing_whatever_can_be_composed_keeps_every_bit(example: Example) -> None:
    after, _ = run(example.model, engine("eager", EAGER, composed=True))
    assert_same_bits(example, after)


@given(regions(), st.sampled_from(EVERY_KIND))
@SEARCHING
def test_every_kind_of_step_keeps_every_bit(example: Example, step: Pass) -> None:
    after, _ = run(example.model, step)
    assert_same_bits(example, after)
    again, second = run(after, step)
    assert rewrites(second) == []
    assert without_shapes(again) == without_shapes(after)


@given(
    regions(),
    st.permutations([*dict.fromkeys(presets.DEFAULT), merge_branches.PASS]),
    st.booleans(),
)
@SEARCHING
def test_passes_in_any_order_keep_every_bit(
    example: Example, order: list[Pass], eagerly: bool
) -> None:
    passes = [
        engine("merge_branches", EAGER, composed=False)
        if eagerly and step is merge_branches.PASS
        else step
        for step in order
    ]
    after, _ = run(example.model, *passes)
    assert_same_bits(example, after)


@given(regions())
@settings(SEARCHING, max_examples=max(EXAMPLES // 4, 50))
def test_a_machine_on_which_nothing_costs_anything_merges_nothing(example: Example) -> None:
    _, outcome = run(example.model, engine("idle", IDLE, composed=True))
    assert rewrites(outcome) == []
