"""The pass equalize_layers: what it writes, what it needs, and that the model stays the same."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxfold
from onnxfold.calibrate import store
from onnxfold.calibrate.calibrate import calibrate
from onnxfold.errors import BadOptionError
from onnxfold.ir.graph import stamp_opset_versions
from onnxfold.ir.shapes import infer_shapes
from onnxfold.model import load, to_proto
from onnxfold.passes.equalize_layers import PASS, EqualizeOptions
from onnxfold.pipeline.manager import PassManager
from onnxfold.pipeline.passes import ConfiguredPass
from onnxfold.quantize.scaled_weights import LayerScales, write_scales
from onnxfold.rewrite.ledger import Ledger
from onnxfold.rewrite.rewriter import Rewriter
from onnxfold.rewrite.tensor_store import MemoryStore
from onnxfold.verify import VerifyOptions
from tests.quantize.flow import Feed, demo, demo_feeds, depthwise_net, drawn, pictures
from tests.toolkit import check_invariants, parse, run_ort, unchanged


def calibrated(model: onnx.ModelProto, feeds: list[Feed], folder: Path) -> ConfiguredPass:
    """The pass with a calibration of this model."""
    path = folder / "calibration.npz"
    store.save(calibrate(model, feeds), path)
    return ConfiguredPass(PASS, EqualizeOptions(calibration=str(path)))


def run(model: onnx.ModelProto, step: ConfiguredPass) -> tuple[onnx.ModelProto, Ledger]:
    done = PassManager([step]).run(load(model).model)
    return to_proto(done.model), done.ledger


def test_weights_change_and_nothing_else(tmp_path: Path) -> None:
    model, feeds = depthwise_net(), pictures(8)
    after, ledger = run(model, calibrated(model, feeds, tmp_path))
    assert not ledger.failures
    assert len(ledger.applied) == 1
    check_invariants(model, after)
    assert [node.op_type for node in after.graph.node] == [n.op_type for n in model.graph.node]
    assert [list(n.output) for n in after.graph.node] == [list(n.output) for n in model.graph.node]
    assert len(after.graph.initializer) == len(model.graph.initializer)
    before, now = run_ort(model, feeds[0])[0], run_ort(after, feeds[0])[0]
    np.testing.assert_allclose(now, before, rtol=0, atol=2e-6 * np.abs(before).max())


def test_a_second_run_changes_nothing(tmp_path: Path) -> None:
    model, feeds = depthwise_net(), pictures(8)
    after, _ = run(model, calibrated(model, feeds, tmp_path))
    again, ledger = run(after, calibrated(after, feeds, tmp_path))
    assert not ledger.applied
    assert again.SerializeToString() == after.SerializeToString()


def test_the_usual_verification_accepts_it(tmp_path: Path) -> None:
    step = calibrated(demo(), list(demo_feeds(8)), tmp_path)
    result = onnxfold.optimize(demo(), passes=[step])
    assert result.report.rewrites_by_pass() == {"equalize_layers": 1}
    assert not result.report.rolled_back
    assert result.report.verdict is not None
    assert result.report.verdict.equal


def test_without_a_calibration_nothing_is_done() -> None:
    unchanged(
        depthwise_net(), "equalize_layers", reason="no calibration says how far its channels reach"
    )


def test_the_calibration_of_another_model_is_refused(tmp_path: Path) -> None:
    step = calibrated(depthwise_net(), pictures(8), tmp_path)
    with pytest.raises(BadOptionError, match="belongs to another model"):
        run(depthwise_net(spread=1.0), step)


def test_what_stands_in_the_way_is_reported(tmp_path: Path) -> None:
    model, feeds = depthwise_net(activation="Sigmoid"), pictures(8)
    _, ledger = run(model, calibrated(model, feeds, tmp_path))
    assert not ledger.applied
    reasons = {rejection.reason for rejection in ledger.rejections}
    assert any(reason.startswith("Sigmoid does not commute with a scale") for reason in reasons)


def test_a_weight_that_two_layers_read_is_copied(tmp_path: Path) -> None:
    body = """g (float[1, 3, 24, 24] image) => (float[] y) {
        a = Conv <pads = [1, 1, 1, 1]> (image, w, b)  r = Relu (a)
        c = Conv (r, v)  s = Relu (c)  d = Conv (s, v)  t = Relu (d)  y = Conv (t, v)
    }"""
    spread = np.exp(2 * drawn(5, 8))
    weights = {
        "w": drawn(1, 8, 3, 3, 3) * spread[:, None, None, None],
        "b": drawn(2, 8),
        "v": drawn(3, 8, 8, 1, 1),
    }
    model, feeds = parse(body, weights, opset=17), pictures(8)
    after, ledger = run(model, calibrated(model, feeds, tmp_path))
    assert ledger.applied
    check_invariants(model, after)
    kept = {tensor.name for tensor in after.graph.initializer}
    assert kept == {name for node in after.graph.node for name in node.input[1:]}
    before, now = run_ort(model, feeds[0])[0], run_ort(after, feeds[0])[0]
    np.testing.assert_allclose(now, before, rtol=0, atol=2e-6 * np.abs(before).max())


def test_numbers_that_do_not_fit_are_refused() -> None:
    model = depthwise_net()
    for tensor in model.graph.initializer:
        halved = numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(halved, tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    loaded = load(model).model
    infer_shapes(loaded)
    stamp_opset_versions(loaded)
    rewriter = Rewriter(loaded, Ledger(), MemoryStore())
    node = loaded.graph.node(0)
    refused = write_scales(rewriter, [LayerScales(node, None, np.full(16, 1e-9))], "test")
    assert refused is not None
    assert refused.node is node
    assert not rewriter.ledger.applied


def test_an_unknown_option_is_a_clear_error() -> None:
    with pytest.raises(BadOptionError, match="has no option"):
        onnxfold.optimize(demo(), passes=_parsed("equalize_layers:factor=2"))


def _parsed(text: str) -> list[ConfiguredPass]:
    from onnxfold.passes.presets import BUILTIN
    from onnxfold.pipeline.registry import Registry

    return Registry(BUILTIN).parse(text)


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    model, feeds = depthwise_net(), pictures(8)
    step = calibrated(model, feeds, tmp_path)
    one, other = run(model, step)[0], run(model, step)[0]
    assert one.SerializeToString() == other.SerializeToString()


def test_verification_would_notice_a_wrong_scale(tmp_path: Path) -> None:
    model, feeds = depthwise_net(), pictures(8)
    after, _ = run(model, calibrated(model, feeds, tmp_path))
    for tensor in after.graph.initializer:
        if tensor.name.startswith("wp"):
            wrong = numpy_helper.to_array(tensor) * np.float32(1.01)
            tensor.CopyFrom(numpy_helper.from_array(wrong, tensor.name))
    from onnxfold.verify.verifier import verify

    assert not verify(model, after, VerifyOptions()).equal
