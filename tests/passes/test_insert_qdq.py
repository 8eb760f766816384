"""insert_qdq as a pass: options as they are typed, calibrations from files, refusals, results."""

import re
from pathlib import Path

import numpy as np
import onnx
import pytest

from examples.demo.evaluate import MODEL, SCENE_FOLDER, image_to_input, load_scenes
from onnxfold.calibrate.calibrate import calibrate
from onnxfold.calibrate.store import save
from onnxfold.errors import BadOptionError
from onnxfold.ir.shapes import infer_shapes
from onnxfold.model import load, to_proto
from onnxfold.passes import insert_qdq
from onnxfold.passes.presets import BUILTIN, DEFAULT
from onnxfold.pipeline.manager import PassManager, PipelineRun
from onnxfold.pipeline.registry import Registry
from tests.targets.emitted import (
    feeds,
    fused,
    kernels,
    layer,
    normal,
    run,
    sqnr,
    weights_dequantized_at_run_time,
)
from tests.toolkit import check_invariants, parse

MODEL_TEXT = parse(
    "g (float[N,16,H,W] x) => (float[] y) { c = Conv<pads=[1,1,1,1]>(x, w, wb) r = Relu(c)"
    " t = ConvTranspose<strides=[2,2]>(r, u) y = Conv(t, v, vb) }",
    layer("w", 16, 16, 3, 3) | layer("v", 16, 16, 1, 1) | {"u": np.ones((16, 16, 3, 3), "f")},
)
TARGETS = ("ort-cpu", "openvino", "tensorrt")


@pytest.fixture(name="statistics", scope="module")
def _statistics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("calibration") / "stats.npz"
    save(calibrate(MODEL_TEXT, feeds(MODEL_TEXT, 4)), path)
    return path


def after(model: onnx.ModelProto, specification: str) -> PipelineRun:
    steps = Registry(BUILTIN).parse(specification)
    return PassManager(steps).run(load(model).model)


def reasons(outcome: PipelineRun) -> list[str]:
    return [re.sub(r" \(.*", "", each.reason) for each in outcome.ledger.rejections]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("method", ["minmax", "percentile", "mse", "kl"])
def test_every_target_with_every_method(target: str, method: str, statistics: Path) -> None:
    outcome = after(
        MODEL_TEXT, f"insert_qdq:target={target}:method={method}:calibration={statistics}"
    )
    assert not outcome.ledger.failures
    quantized = to_proto(outcome.model)
    check_invariants(MODEL_TEXT, quantized)
    feed = feeds(MODEL_TEXT)[0]
    assert sqnr(run(MODEL_TEXT, feed)[0], run(quantized, feed)[0]) > 15


def test_layers_that_stay_float_are_reported(statistics: Path) -> None:
    outcome = after(MODEL_TEXT, f"insert_qdq:calibration={statistics}:exclude=y")
    assert reasons(outcome) == [
        "ONNX Runtime has no integer kernel for ConvTranspose",
        "it was excluded",
    ]
    assert [each.op_type for each in outcome.ledger.rejections] == ["ConvTranspose", "Conv"]


def test_weights_by_either_method_differ(tmp_path: Path) -> None:
    model = parse(
        "g (float[N,512,H,W] x) => (float[] y) { y = Conv(x, w) }",
        {"w": normal("w", 8, 512, 3, 3) ** 3},
    )
    save(calibrate(model, feeds(model)), tmp_path / "stats.npz")
    stored = []
    for method in ("minmax", "mse"):
        specification = f"insert_qdq:calibration={tmp_path / 'stats.npz'}:weights={method}"
        stored.append(to_proto(after(model, specification).model).SerializeToString())
    assert stored[0] != stored[1]


def test_weights_of_seven_bits(statistics: Path) -> None:
    outcome = after(MODEL_TEXT, f"insert_qdq:calibration={statistics}:weight_bits=7")
    held = map(onnx.numpy_helper.to_array, to_proto(outcome.model).graph.initializer)
    largest = [np.abs(each).max() for each in held if each.dtype == np.int8 and each.ndim == 4]
    assert largest == [63, 63]


def test_the_same_run_gives_the_same_bytes(statistics: Path) -> None:
    specification = f"insert_qdq:calibration={statistics}"
    first, second = (to_proto(after(MODEL_TEXT, specification).model) for _ in range(2))
    assert first.SerializeToString() == second.SerializeToString()


def test_a_model_that_is_quantized_already_is_left_alone(statistics: Path) -> None:
    quantized = to_proto(after(MODEL_TEXT, f"insert_qdq:calibration={statistics}").model)
    again = after(quantized, f"insert_qdq:calibration={statistics}")
    assert not again.ledger.applied
    assert not again.ledger.failures
    assert reasons(again) == ["the model is quantized already"]
    assert to_proto(again.model).SerializeToString() == quantized.SerializeToString()


def test_a_model_without_layers_needs_no_calibration() -> None:
    outcome = after(parse("g (float[3] x) => (float[] y) { y = Relu(x) }"), "insert_qdq")
    assert not outcome.ledger.failures
    assert not outcome.ledger.applied


def failure(model: onnx.ModelProto, specification: str) -> str:
    with pytest.raises(BadOptionError) as caught:
        after(model, specification)
    return caught.value.message


def test_without_a_calibration() -> None:
    assert "insert_qdq has no calibration to take ranges from" in failure(MODEL_TEXT, "insert_qdq")


def test_a_calibration_of_another_model(statistics: Path) -> None:
    other = onnx.ModelProto()
    other.CopyFrom(MODEL_TEXT)
    other.graph.initializer[0].float_data.clear()
    array = onnx.numpy_helper.to_array(other.graph.initializer[0]) * np.float32(1.01)
    other.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(array, "w"))
    message = failure(other, f"insert_qdq:calibration={statistics}")
    assert "belongs to another model" in message


def test_a_calibration_without_a_value(tmp_path: Path) -> None:
    save(calibrate(MODEL_TEXT, feeds(MODEL_TEXT), ["x", "y"]), tmp_path / "few.npz")
    message = failure(MODEL_TEXT, f"insert_qdq:calibration={tmp_path / 'few.npz'}")
    assert "the calibration says nothing about 'r'" in message


@pytest.mark.parametrize(("option", "reason"), [
    ("target=cuda", "which is slower than without them"),
    ("target=tpu", "there is no target 'tpu'"),
    ("method=median", "'median' is not a valid Method"),
    ("weights=kl", "'kl' is not a valid WeightMethod"),
    ("weight_bits=6", "weights cannot have 6 bits"),
    ("bits=7", "has no option 'bits'"),
])  # fmt: skip
def test_options_that_cannot_be_meant(option: str, reason: str) -> None:
    with pytest.raises(BadOptionError, match=reason):
        Registry(BUILTIN).parse(f"insert_qdq:{option}")


def test_it_is_never_run_unasked() -> None:
    assert insert_qdq.PASS in BUILTIN
    assert insert_qdq.PASS not in DEFAULT
    assert insert_qdq.PASS.exactness == "lossy"


@pytest.fixture(name="demonstration", scope="module")
def _demonstration() -> onnx.ModelProto:
    """The trained demonstration network, folded and lowered."""
    lowering = Registry(BUILTIN).parse("lower_conv_transpose:overlapping=true")
    outcome = PassManager([*DEFAULT, *lowering]).run(load(MODEL).model)
    infer_shapes(outcome.model)
    return to_proto(outcome.model)


@pytest.mark.parametrize("target", TARGETS)
def test_the_demonstration_network(
    target: str, demonstration: onnx.ModelProto, tmp_path: Path
) -> None:
    """All of it runs in INT8, and it labels nearly every pixel as before."""
    name = demonstration.graph.input[0].name
    images = [{name: image_to_input(image)} for image, _ in load_scenes(SCENE_FOLDER)]
    statistics = tmp_path / "stats.npz"
    save(calibrate(demonstration, images[::2]), statistics)
    outcome = after(demonstration, f"insert_qdq:target={target}:calibration={statistics}")
    assert not outcome.ledger.failures
    assert not outcome.ledger.rejections
    quantized = to_proto(outcome.model)
    agreements = []
    for feed in images[1::2]:
        expected = run(demonstration, feed)[0]
        found = run(quantized, feed, fused=target == "ort-cpu")[0]
        assert sqnr(expected, found) > 20
        agreements.append((expected.argmax(axis=1) == found.argmax(axis=1)).mean())
    assert np.mean(agreements) > 0.99
    if target == "ort-cpu":
        graph = fused(quantized, tmp_path)
        assert weights_dequantized_at_run_time(graph) == []
        assert not {"Conv", "FusedConv", "ConvTranspose"} & kernels(graph).keys()
