"""Every real network: optimized, proven equal, accepted by the checker and by both runtimes."""

import onnx
import pytest

from onnxfold.bench.runners import Settings, content_of, open_runtime
from onnxfold.optimization import Optimization, OptimizeOptions, optimize
from onnxfold.verify import Verifier, VerifyOptions
from tests import zoo

ONE_THREAD = OptimizeOptions(threads=1)


@pytest.fixture(scope="module", params=zoo.names())
def optimized(request: pytest.FixtureRequest) -> tuple[str, onnx.ModelProto, Optimization]:
    """A network with its optimized form, which `optimize` has verified on ONNX Runtime."""
    source = zoo.load(request.param)
    return request.param, source, optimize(source, options=ONE_THREAD)


def test_nothing_was_taken_back(
    optimized: tuple[str, onnx.ModelProto, Optimization],
) -> None:
    _, _, result = optimized
    assert result.report.verdict is not None
    assert result.report.verdict.equal
    assert result.report.rolled_back == ()
    assert result.report.failures == ()


def test_checker_accepts_it(optimized: tuple[str, onnx.ModelProto, Optimization]) -> None:
    _, _, result = optimized
    onnx.checker.check_model(result.to_proto(), full_check=True)


def test_openvino_computes_the_same(
    optimized: tuple[str, onnx.ModelProto, Optimization],
) -> None:
    name, source, result = optimized
    verifier = Verifier(source, VerifyOptions(threads=1, max_feeds=2))
    runner = open_runtime("openvino").load(content_of(result.to_proto()), Settings(threads=1))
    names = [output.name for output in source.graph.output]
    outputs = []
    for feed in verifier.feeds():
        runner.bind(feed.arrays)
        outputs.append(dict(zip(names, runner.outputs(), strict=True)))
    verdict = verifier.check_outputs(outputs)
    assert verdict.equal, f"{name}: {verdict.reason}"


def test_every_normalization_left_has_a_reason(
    optimized: tuple[str, onnx.ModelProto, Optimization],
) -> None:
    _, _, result = optimized
    left = result.report.after.nodes["BatchNormalization"]
    reasons = [r for r in result.report.rejections if r.op_type == "BatchNormalization"]
    assert len({rejection.node for rejection in reasons}) == left
    assert all(rejection.reason for rejection in reasons)


def test_a_second_run_changes_nothing(
    optimized: tuple[str, onnx.ModelProto, Optimization],
) -> None:
    _, _, result = optimized
    again = optimize(result.to_proto(), options=OptimizeOptions(verify=False))
    assert [str(rewrite.key) for rewrite in again.report.applied] == []
