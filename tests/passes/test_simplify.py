"""onnxsim as a pass: real networks, and everything that can go wrong with it."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper, parser

from onnxfold.errors import OnnxfoldError
from onnxfold.model.load import load
from onnxfold.model.proto import to_proto
from onnxfold.optimization import optimize
from onnxfold.passes import drop_identities, fuse_bn, presets, simplify
from onnxfold.passes.simplify import SimplifyOptions
from onnxfold.pipeline.manager import PassManager, PipelineRun
from onnxfold.pipeline.passes import ConfiguredPass, Pass
from onnxfold.pipeline.registry import Registry
from onnxfold.verify import verify
from tests import zoo

HEADER = '<ir_version: 8, opset_import: ["": 17]>\n'

# onnxsim divides by the stride when it infers shapes: SIGFPE.
CRASHING = (
    HEADER + "g (float[1,4,8,8] x, float[4,4,3,3] w) => (float[A,B,C,D] y)"
    "{ i = Identity(x)  y = Conv<strides=[0,0]>(i, w) }"
)
# onnxsim has a checker that refuses attributes it does not know.
RAISING = (
    HEADER + "g (float[2] x) => (float[2] y) { i = Identity(x)  y = Relu<alpha: float = 1.0>(i) }"
)


def run_simplify(model: ir.Model, *more: Pass, timeout_s: float = 120.0) -> PipelineRun:
    step = ConfiguredPass(simplify.PASS, SimplifyOptions(timeout_s))
    return PassManager([step, *more]).run(model)


@pytest.mark.parametrize(
    "name", ["pspnet_resnet18.script", "segformer_b0.script", "lraspp_mobilenet_v3_large.script"]
)
def test_a_real_network_is_simplified_and_stays_equal(name: str) -> None:
    proto = zoo.load(name)
    model = load(proto).model
    before = model.graph.num_nodes()
    run = run_simplify(model)
    assert run.ledger.failures == []
    (applied,) = run.ledger.applied
    assert str(applied.key) == f"simplify/model at '{proto.graph.name}'"
    assert run.model.graph.num_nodes() < before
    verdict = verify(proto, to_proto(run.model))
    assert verdict.equal, verdict.reason


def test_it_is_off_unless_asked_for() -> None:
    assert simplify.PASS not in presets.DEFAULT
    registry = Registry(presets.BUILTIN)
    (step,) = registry.parse("simplify:timeout_s=7.5")
    assert step.options == SimplifyOptions(7.5)


def test_metadata_defaults_and_untouched_weights_are_kept() -> None:
    proto = parser.parse_model(
        HEADER
        + """g (float[N, 2] x, float[2] given) => (float[N, 2] y)
        <float[2] given = {1, 2}, float[2, 2] w = {1, 2, 3, 4}>
        { i = Identity(x)  a = Neg(given)  b = Add(i, a)  y = MatMul(b, w) }"""
    )
    proto.domain, proto.model_version, proto.doc_string = "org.example", 4, "the model"
    proto.metadata_props.add(key="classes", value="road,sky")
    proto.graph.doc_string = "the graph"
    proto.graph.input[0].doc_string = "an image"
    proto.graph.node[3].metadata_props.add(key="layer", value="head")
    model = load(proto).model
    weight = model.graph.initializers["w"].const_value
    run = run_simplify(model)
    assert len(run.ledger.applied) == 1
    assert [node.op_type for node in run.model.graph] == ["Neg", "Add", "MatMul"]
    assert run.model.graph.initializers["w"].const_value is weight
    result = to_proto(run.model)
    for field in ("ir_version", "opset_import", "domain", "model_version", "doc_string"):
        assert getattr(result, field) == getattr(proto, field), field
    assert result.metadata_props == proto.metadata_props
    assert result.graph.input == proto.graph.input
    assert result.graph.output == proto.graph.output
    assert result.graph.doc_string == "the graph"
    assert result.graph.node[2].metadata_props[0].value == "head"
    # `given` may be overridden by a caller: it is read, and was not folded into the Neg.
    assert {tensor.name for tensor in result.graph.initializer} == {"given", "w"}
    verdict = verify(proto, result)
    assert verdict.equal, verdict.reason


def test_weights_of_models_below_ir_version_4_are_constants() -> None:
    proto = parser.parse_model(
        '<ir_version: 3, opset_import: ["": 8]>\n'
        "g (float[2] w, float[2] x) => (float[2] y) <float[2] w = {1, 2}>"
        "{ a = Neg(w)  y = Mul(x, a) }"
    )
    run = run_simplify(load(proto).model)
    result = to_proto(run.model)
    assert [node.op_type for node in result.graph.node] == ["Mul"]
    assert result.ir_version == 3
    onnx.checker.check_model(result, full_check=True)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (CRASHING, "onnxsim crashed with SIGFPE"),
        (RAISING, "onnxsim failed: RuntimeError: Unrecognized attribute: alpha for operator Relu"),
    ],
    ids=["crash", "exception"],
)
def test_a_crash_and_an_exception_are_reported_and_the_run_goes_on(text: str, reason: str) -> None:
    run = run_simplify(load(parser.parse_model(text)).model, drop_identities.PASS)
    (failure,) = run.ledger.failures
    assert failure.pass_name == "simplify"
    assert reason in failure.error
    assert [applied.key.pass_name for applied in run.ledger.applied] == ["drop_identities"]
    assert run.model.graph.num_nodes() == 1


def test_it_is_stopped_after_its_time() -> None:
    model = load(parser.parse_model(CRASHING)).model
    started = time.perf_counter()
    run = run_simplify(model, drop_identities.PASS, timeout_s=0.01)
    assert time.perf_counter() - started < 2
    (failure,) = run.ledger.failures
    assert "onnxsim was stopped after 0.01 s" in failure.error
    assert run.model.graph.num_nodes() == 1


@pytest.mark.parametrize("text", [CRASHING, RAISING], ids=["crash", "exception"])
def test_its_errors_carry_a_hint(text: str) -> None:
    with pytest.raises(OnnxfoldError) as caught:
        simplify.transform(load(parser.parse_model(text)).model, SimplifyOptions())
    assert caught.value.hint
    assert not caught.value.message.endswith(".")


def scale_that_broadcasts() -> onnx.ModelProto:
    """Trap M6: a Mul that widens one channel to four in front of a Conv."""
    rng = np.random.default_rng(0)

    def normal(name: str, *shape: int) -> Any:
        return numpy_helper.from_array(rng.standard_normal(shape, np.float32), name)

    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "s"], ["m"]), helper.make_node("Conv", ["m", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 1, 8, 8])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 4, 6, 6])],
        [normal("s", 1, 4, 1, 1), normal("w", 4, 4, 3, 3)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_wrong_result_is_rolled_back_and_the_run_goes_on() -> None:
    result = optimize(scale_that_broadcasts(), passes=[simplify.PASS, fuse_bn.PASS])
    (rolled_back,) = result.report.rolled_back
    assert rolled_back.rewrite.key.pass_name == "simplify"
    assert "Input channels C is not equal to kernel channels" in rolled_back.reason
    assert [node.op_type for node in result.model.graph] == ["Mul", "Conv"]
    assert [timing.name for timing in result.report.timings] == ["simplify", "fuse_bn"]
    assert result.report.verdict is not None
    assert result.report.verdict.equal
