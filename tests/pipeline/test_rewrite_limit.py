"""`--rewrite-limit N` makes exactly the first N rewrites, whatever the passes are."""

import onnx
import pytest

from onnxfold.optimization import Optimization, OptimizeOptions, optimize
from onnxfold.pipeline.passes import Pass
from onnxfold.verify import VerifyOptions, verify
from tests import zoo
from tests.pipeline.saboteurs import at_every, chain, model_pass, same, scale_in_place
from tests.verify.networks import conv_net


def limited(source: onnx.ModelProto, limit: int | None) -> Optimization:
    options = OptimizeOptions(verify=False, rewrite_limit=limit)
    return optimize(source, options=options)


@pytest.mark.parametrize(
    "source",
    [conv_net(3, 4, dims=("N", 3, "H", "W")), zoo.load("shufflenet_v2_x0_5.script")],
    ids=["small", "shufflenet"],
)
def test_each_limit_gives_a_prefix(source: onnx.ModelProto) -> None:
    whole = limited(source, None).report.applied
    limits = range(len(whole) + 2) if len(whole) < 30 else (0, 1, 7, len(whole) // 2, len(whole))
    for limit in limits:
        result = limited(source, limit)
        assert result.report.applied == whole[:limit]
        assert result.to_proto() == limited(source, limit).to_proto()
        onnx.checker.check_model(result.to_proto(), full_check=True)


def test_every_prefix_computes_the_same() -> None:
    source = conv_net(3, 4, dims=(1, 3, 8, 8))
    for limit in range(len(limited(source, None).report.applied)):
        candidate = limited(source, limit).to_proto()
        assert verify(source, candidate, VerifyOptions(threads=1, max_feeds=1)).equal


def test_limit_zero_changes_nothing_but_dead_things() -> None:
    source = conv_net(2, 4)
    result = limited(source, 0)
    assert result.report.before.to_dict() == result.report.after.to_dict()
    assert result.report.rejections == ()
    assert [node.op_type for node in result.to_proto().graph.node] == [
        node.op_type for node in source.graph.node
    ]


def test_whole_model_passes_count_as_one() -> None:
    passes: list[Pass] = [
        at_every("Relu", same, name="first"),
        model_pass(lambda copy: scale_in_place(copy.graph, "w0", 2.0)),
        at_every("Conv", same, name="last"),
    ]
    counts = {}
    for limit in range(7):
        options = OptimizeOptions(verify=False, rewrite_limit=limit)
        counts[limit] = dict(
            optimize(chain(2), passes=passes, options=options).report.rewrites_by_pass()
        )
    assert counts == {
        0: {},
        1: {"first": 1},
        2: {"first": 2},
        3: {"first": 2, "rewriter": 1},
        4: {"first": 2, "rewriter": 1, "last": 1},
        5: {"first": 2, "rewriter": 1, "last": 2},
        6: {"first": 2, "rewriter": 1, "last": 3},
    }
