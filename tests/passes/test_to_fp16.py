"""The pass on whole networks, and what it reports."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from examples.demo.evaluate import MODEL, SCENE_FOLDER, image_to_input, load_scenes
from onnxfold.calibrate.calibrate import calibrate
from onnxfold.calibrate.store import save
from onnxfold.errors import BadOptionError
from onnxfold.model import load, to_proto
from onnxfold.passes import to_fp16
from onnxfold.passes.presets import BUILTIN, DEFAULT
from onnxfold.pipeline.manager import PassManager, PipelineRun
from onnxfold.pipeline.passes import ConfiguredPass
from onnxfold.pipeline.registry import Registry
from onnxfold.precision import rounding_model
from onnxfold.rewrite.ledger import Ledger
from tests import zoo
from tests.precision.halves import sqnr
from tests.toolkit import Array, check_invariants, parse, run, run_ort

NAME = "to_fp16"
RANDOM = np.random.default_rng(0)
W: dict[str, Array] = {"w": RANDOM.normal(size=(4, 4, 3, 3), scale=0.2).astype(np.float32)}
BODY = (
    "c = Conv<pads=[1, 1, 1, 1]>(x, w) e = Exp(c) d = Softmax(e) y = Conv<pads=[1, 1, 1, 1]>(d, w)"
)
IMAGES = [{"x": RANDOM.normal(size=(1, 4, 8, 8)).astype(np.float32)} for _ in range(3)]


def network() -> onnx.ModelProto:
    return parse(f"g (float[1,4,8,8] x) => (float[] y) {{ {BODY} }}", W)


def configured(specification: str) -> list[ConfiguredPass]:
    return Registry(BUILTIN).parse(specification)


def converted(model: onnx.ModelProto, options: str = "") -> PipelineRun:
    return PassManager(configured(NAME + options)).run(load(model).model)


def nodes(model: onnx.ModelProto) -> list[tuple[str, ...]]:
    return [(node.op_type, *node.input, *node.output) for node in model.graph.node]


def test_one_rewrite_and_a_reason_for_each_island() -> None:
    result = run(network(), NAME)
    (rewrite,) = result.ledger.applied
    assert str(rewrite.key) == "to_fp16/model at 'g'"
    assert [(each.op_type, each.reason) for each in result.ledger.rejections] == [
        ("Exp", "how large its operand becomes was not measured"),
        ("Softmax", "it reads values that may be as large as 6.24e+27"),
    ]
    assert result.ops == {"Cast": 4, "Conv": 2, "Exp": 1, "Softmax": 1}
    stamps = {
        node.op_type: [entry.value for entry in node.metadata_props if entry.key == "onnxfold.rule"]
        for node in result.after.graph.node
    }
    assert stamps["Cast"] == ["to_fp16/model"]


def test_it_can_be_limited_and_taken_back() -> None:
    outcome = PassManager(configured(NAME)).run(load(network()).model, Ledger(limit=0))
    assert not outcome.ledger.applied
    assert nodes(to_proto(outcome.model)) == nodes(network())


def test_options_as_people_type_them() -> None:
    (step,) = configured("to_fp16:keep_io=false:max_activation=1e3:keep=Conv;e*")
    assert step.options == to_fp16.ToFp16Options(False, "", 1000.0, "Conv;e*")
    outcome = converted(network(), ":keep=Softmax")
    reasons = [each.reason for each in outcome.ledger.rejections]
    assert "it was asked to stay in float32" in reasons


@pytest.mark.parametrize(("options", "reason"), [
    (":max_activation=0", "max_activation cannot be 0"),
    (":max_activation=1e5", "max_activation cannot be 100000"),
    (":max_activation=much", "cannot be 'much'"),
])  # fmt: skip
def test_options_that_make_no_sense(options: str, reason: str) -> None:
    with pytest.raises(BadOptionError, match=reason):
        configured(NAME + options)


def test_a_measured_range(tmp_path: Path) -> None:
    file = tmp_path / "ranges.npz"
    model = network()
    save(calibrate(model, IMAGES), file)
    outcome = converted(model, f":calibration={file}")
    assert not outcome.ledger.failures
    assert not outcome.ledger.rejections
    after = to_proto(outcome.model)
    assert [node.op_type for node in after.graph.node].count("Cast") == 2
    expected = run_ort(model, IMAGES[0])
    assert sqnr(expected, run_ort(rounding_model(after), IMAGES[0])) > 50


def refused(options: str, model: onnx.ModelProto | None = None) -> str:
    """Why the pass ends the run."""
    with pytest.raises(BadOptionError) as caught:
        converted(model or network(), options)
    return caught.value.message


def test_a_calibration_of_another_model(tmp_path: Path) -> None:
    file = tmp_path / "ranges.npz"
    save(calibrate(network(), IMAGES), file)
    other = network()
    other.graph.node[1].op_type = "Sin"
    assert "belongs to another model" in refused(f":calibration={file}", other)


def test_a_calibration_that_is_not_there(tmp_path: Path) -> None:
    assert "cannot be read" in refused(f":calibration={tmp_path / 'none.npz'}")


def test_a_name_that_nothing_has() -> None:
    assert "nothing in the model is called 'decoder'" in refused(":keep=Conv;decoder")


def test_inputs_and_outputs_change_when_that_is_asked_for() -> None:
    result = converted(network(), ":keep_io=false")
    assert not result.ledger.failures
    graph = to_proto(result.model).graph
    half = onnx.TensorProto.FLOAT16
    assert [each.name for each in (*graph.input, *graph.output)] == ["x", "y"]
    assert all(v.type.tensor_type.elem_type == half for v in (*graph.input, *graph.output))
    assert [d.dim_value for d in graph.input[0].type.tensor_type.shape.dim] == [1, 4, 8, 8]


@pytest.mark.parametrize("name", [
    "convnext_atto.script",
    "efficientvit_b0.script",
    "fastvit_sa12_fpn.dynamo_opt",
    "mobilevit_deeplab.script",
    "shufflenet_v2_x0_5.script",
    "unet_mobilenet_v2.script",
    "unet_scse_resnet18.script",
])  # fmt: skip
def test_real_networks(name: str) -> None:
    model = zoo.load(name)
    before = to_proto(PassManager(DEFAULT).run(load(model).model).model)
    outcome = PassManager(configured(NAME)).run(load(before).model)
    assert not outcome.ledger.failures
    after = to_proto(outcome.model)
    check_invariants(before, after)
    assert after.ByteSize() < 0.53 * before.ByteSize()
    feed = zoo.feeds(name)
    assert sqnr(run_ort(before, feed), run_ort(rounding_model(after), feed)) > 50


def test_the_demonstration_network() -> None:
    before = to_proto(PassManager(DEFAULT).run(load(MODEL).model).model)
    result = run(before, NAME)
    assert not result.ledger.rejections
    assert result.ops["Cast"] == 2
    assert result.after.ByteSize() < 0.52 * before.ByteSize()
    half, agreeing, pixels = rounding_model(result.after), 0, 0
    for image, _ in load_scenes(SCENE_FOLDER):
        feed = {before.graph.input[0].name: image_to_input(image)}
        expected, found = run_ort(before, feed), run_ort(half, feed)
        assert sqnr(expected, found) > 60
        same = expected[0].argmax(axis=1) == found[0].argmax(axis=1)
        agreeing, pixels = agreeing + int(same.sum()), pixels + same.size
    assert agreeing / pixels > 0.9998
