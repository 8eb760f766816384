"""Lossy passes in `optimize`: what is before them is proven, they are measured, never silently."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxfold.calibrate.calibrate import calibrate
from onnxfold.calibrate.store import save
from onnxfold.errors import NotEqualError
from onnxfold.optimization import OptimizeOptions, optimize
from onnxfold.passes.presets import BUILTIN
from onnxfold.pipeline.passes import ConfiguredPass, EditPass, ModelPass
from onnxfold.pipeline.registry import Registry
from onnxfold.pipeline.report import Loss
from onnxfold.rewrite.builder import Builder
from onnxfold.rewrite.rewriter import Rewriter
from onnxfold.rewrite.rule import Exactness
from tests.cli.commands import onnxfold, saved
from tests.model.models import save_external
from tests.pipeline import saboteurs
from tests.verify.networks import conv_net

QUICK = OptimizeOptions(threads=1)
NET = conv_net(2, 8)
FOLDED = ["Conv", "Relu", "Conv", "Relu", "Conv"]


def passes(specification: str) -> list[ConfiguredPass]:
    return Registry(BUILTIN).parse(specification)


def ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def loss_of(specification: str, model: onnx.ModelProto = NET) -> Loss:
    loss = optimize(model, passes=passes(specification), options=QUICK).report.loss
    assert loss is not None
    return loss


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the network after fuse_bn."""
    path = tmp_path_factory.mktemp("lossy") / "c.npz"
    folded = optimize(NET, passes=passes("fuse_bn"), options=QUICK).to_proto()
    rng = np.random.default_rng(0)
    feeds = [{"x": rng.standard_normal((1, 3, 24, 24)).astype(np.float32)} for _ in range(8)]
    save(calibrate(folded, feeds), path)
    return path


def test_exact_passes_are_proven_and_lossy_ones_measured(tmp_path: Path) -> None:
    result = optimize(NET, tmp_path / "out.onnx", passes=passes("fuse_bn,to_fp16"), options=QUICK)
    report = result.report
    assert report.verdict is not None
    assert report.verdict.equal
    assert report.loss is not None
    assert report.loss.passes == ("to_fp16",)
    assert report.loss.sqnr is not None
    assert 50 < report.loss.sqnr < 100
    assert report.loss.agreement is not None
    assert report.loss.agreement > 99
    assert report.loss.feeds == ("normal (1x3x24x24)",)
    assert [timing.name for timing in report.timings] == ["fuse_bn", "to_fp16"]
    assert [each.number for each in report.applied] == list(range(1, len(report.applied) + 1))
    assert {each.key.pass_name for each in report.applied} == {"fuse_bn", "to_fp16"}
    made = onnx.load(tmp_path / "out.onnx")
    assert made == result.to_proto()
    assert onnx.TensorProto.FLOAT16 in {each.data_type for each in made.graph.initializer}
    onnx.checker.check_model(made, full_check=True)


def test_inputs_and_outputs_in_float16(tmp_path: Path) -> None:
    """The network is fed and judged in float32 all the same."""
    step = passes("fuse_bn,to_fp16:keep_io=false")
    report = optimize(NET, tmp_path / "out.onnx", passes=step, options=QUICK).report
    assert report.loss is not None
    assert report.loss.sqnr is not None
    assert report.loss.sqnr > 50
    assert report.loss.agreement is not None
    assert report.loss.agreement > 99
    assert report.loss.notes[0] == "callers have to know: 'x', 'scores' became float16"
    made = onnx.load(tmp_path / "out.onnx")
    onnx.checker.check_model(made, full_check=True)
    assert "Cast" not in ops(made)
    kept = optimize(NET, passes=passes("fuse_bn,to_fp16"), options=QUICK).report.loss
    assert kept is not None
    assert not [note for note in kept.notes if "float16" in note]


def test_inputs_and_outputs_in_float16_beside_external_weights(tmp_path: Path) -> None:
    save_external(NET, tmp_path / "in.onnx")
    out = tmp_path / "out.onnx"
    step = passes("to_fp16:keep_io=false")
    report = optimize(tmp_path / "in.onnx", out, passes=step, options=QUICK).report
    assert report.loss is not None
    assert report.loss.sqnr is not None
    assert report.loss.sqnr > 50
    assert {each.name for each in tmp_path.iterdir()} >= {"out.onnx", "out.onnx.data"}


def overflowing(_: ir.Model, __: object) -> ir.Model:
    """Beyond 65504 in between, which the runtime hides: it drops the Casts around each node."""
    text = """g (float[1,3,24,24] x) => (float[1,3,24,24] y) {
        h = Cast<to=10>(x) large = Mul(h, k) larger = Mul(large, k) small = Div(larger, k)
        back = Div(small, k) y = Cast<to=1>(back) }"""
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(2000, np.float16), "k"))
    return ir.from_proto(model)


def test_float16_is_judged_with_its_rounding_and_range() -> None:
    text = "g (float[1,3,24,24] x) => (float[1,3,24,24] y) { y = Identity(x) }"
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    step = ModelPass("overflowing", overflowing, "Overflows.", exactness=Exactness.LOSSY)
    with pytest.raises(NotEqualError, match="the result of overflowing is broken: 'y' is not fin"):
        optimize(model, passes=[step], options=QUICK)


def test_quantizing_as_a_pass(calibration: Path) -> None:
    named = f"insert_qdq:target=ort-cpu:calibration={calibration}"
    loss = loss_of(f"fuse_bn,{named}")
    assert loss.sqnr is not None
    assert 20 < loss.sqnr < 50
    assert loss.to_dict()["passes"] == ("insert_qdq",)


def test_what_stands_behind_a_lossy_pass_is_measured_too() -> None:
    assert loss_of("fuse_bn,to_fp16,share_duplicates").passes == ("to_fp16", "share_duplicates")


def test_without_lossy_passes_nothing_is_lost() -> None:
    assert optimize(NET, options=QUICK).report.loss is None


def test_unverified_is_unmeasured() -> None:
    options = OptimizeOptions(threads=1, verify=False)
    report = optimize(NET, passes=passes("to_fp16"), options=options).report
    assert report.loss is None
    assert any("not verified" in note for note in report.notes)


def test_own_data_decides_alone() -> None:
    data = [{"x": np.full((1, 3, 24, 24), 0.5, np.float32)}]
    report = optimize(NET, passes=passes("to_fp16"), options=QUICK, data=data).report
    assert report.loss is not None
    assert report.loss.feeds == ("data 0",)


def test_the_limit_counts_across_both() -> None:
    whole = optimize(NET, passes=passes("fuse_bn,to_fp16"), options=QUICK).report.applied
    for limit in (len(whole) - 1, len(whole)):
        options = OptimizeOptions(threads=1, rewrite_limit=limit)
        report = optimize(NET, passes=passes("fuse_bn,to_fp16"), options=options).report
        assert report.applied == whole[:limit]


def test_a_wrong_exact_pass_is_taken_back_alone() -> None:
    work = saboteurs.mostly(saboteurs.same, saboteurs.rescaled(1.01), "conv1")
    wrong = saboteurs.at_every("Conv", work)
    lossy = Registry(BUILTIN).get("to_fp16")
    report = optimize(saboteurs.chain(3), passes=[wrong, lossy], options=QUICK).report
    assert len(report.rolled_back) == 1
    assert report.loss is not None
    assert report.loss.sqnr is not None
    assert report.loss.sqnr > 50


def infinite(node: ir.Node, build: Builder) -> ir.Value:
    """The node again, divided by zero."""
    zero = build.constant(np.zeros(()), ir.DataType.FLOAT)
    return build.op("Div", [build.like(node, node.inputs), zero])


def breaking(rewriter: Rewriter, _: object) -> None:
    for node in list(rewriter.model.graph):
        if node.op_type == "Relu":
            build = rewriter.builder(node)
            rewriter.replace(node, [infinite(node, build)], build, pass_name="breaking", rule="r")
            return


BREAKING = EditPass("breaking", breaking, "Divides by zero.", exactness=Exactness.LOSSY)


def test_a_result_that_is_not_finite_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(NotEqualError, match="the result of breaking is broken: 'scores' is not"):
        optimize(NET, tmp_path / "out.onnx", passes=[BREAKING], options=QUICK)
    assert list(tmp_path.iterdir()) == []


def raising(model: ir.Model, _: object) -> ir.Model:
    raise ValueError("half-way")


def meddling(rewriter: Rewriter, _: object) -> None:
    """Make an edit through the rewriter, and fail."""
    breaking(rewriter, None)
    raise ValueError("half-way")


@pytest.mark.parametrize(
    "step",
    [
        ModelPass("gone", raising, "Fails.", exactness=Exactness.LOSSY),
        EditPass("gone", meddling, "Edits, and fails.", exactness=Exactness.LOSSY),
    ],
)
def test_a_lossy_pass_that_raises_is_left_out(step: ModelPass | EditPass) -> None:
    fuse, halve = (Registry(BUILTIN).get(name) for name in ("fuse_bn", "to_fp16"))
    report = optimize(NET, passes=[fuse, step, halve], options=QUICK).report
    assert [each.pass_name for each in report.failures] == ["gone"]
    assert report.loss is not None
    assert report.loss.sqnr is not None
    assert report.loss.sqnr > 50
    assert {each.key.pass_name for each in report.applied} == {"fuse_bn", "to_fp16"}


def test_without_its_only_lossy_pass_a_result_is_proven_and_written(tmp_path: Path) -> None:
    step = EditPass("gone", meddling, "Edits, and fails.", exactness=Exactness.LOSSY)
    fuse = Registry(BUILTIN).get("fuse_bn")
    report = optimize(NET, tmp_path / "out.onnx", passes=[fuse, step], options=QUICK).report
    assert [each.pass_name for each in report.failures] == ["gone"]
    assert report.loss is None
    assert report.verdict is not None
    assert report.verdict.equal
    assert ops(onnx.load(tmp_path / "out.onnx")) == FOLDED


def test_the_command_never_calls_it_equal(tmp_path: Path) -> None:
    source = saved(tmp_path / "in.onnx", NET)
    arguments = ("optimize", source, "-o", tmp_path / "out.onnx", "--passes", "fuse_bn,to_fp16")
    outcome = onnxfold(*arguments)
    assert outcome.code == 0, outcome.stderr
    lines = [line for line in outcome.stdout.splitlines() if line]
    assert [line for line in lines if line.startswith("verified before to_fp16 ")]
    (lossy,) = [line for line in lines if line.startswith("lossy: to_fp16 ")]
    assert lossy.endswith(" not proven equal")
    assert not [line for line in lines if line.startswith("verified ") and "before" not in line]
    assert [line for line in lines if line.startswith("SQNR on normal") and line.endswith(" dB")]
    assert onnxfold(*arguments, "--json").data["loss"]["passes"] == ["to_fp16"]
