"""Quantizing the demonstration network, which is trained: what it computes means something."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
import onnx
import pytest

from examples.demo.evaluate import MODEL, Scene, draw_scenes, image_to_input, mean_iou
from examples.demo.scenes import CALIBRATION_SEEDS, FRESH_SEEDS
from onnxfold.ir.interface import interface_difference
from onnxfold.model import load
from onnxfold.optimization import OptimizeOptions, optimize
from onnxfold.quantization import Quantization, QuantizeOptions, quantize
from onnxfold.targets.proof import Precision
from onnxfold.targets.prove import prove
from onnxfold.targets.target import TARGETS

MOST_LOST = 0.003
"""Of the mean IoU."""


@cache
def demo(target: str) -> Quantization:
    """Quantized as `onnxfold quantize` does it, but for the time spent on measuring time."""
    scenes = list(draw_scenes(CALIBRATION_SEEDS[:48]))
    feeds = [{"image": image_to_input(image)} for image, _ in scenes]
    labels = [label[None] for _, label in scenes]
    options = QuantizeOptions(threads=1, seconds=0.01, max_drop=None, force=True)
    return quantize(MODEL, None, feeds, target=target, truth=labels, options=options)


def held_out() -> Iterator[Scene]:
    """The scenes that every fourth sample is."""
    return draw_scenes(CALIBRATION_SEEDS[index * 4 + 2] for index in range(12))


@cache
def float_iou() -> float:
    return mean_iou(MODEL, draw_scenes(FRESH_SEEDS[:60]))


@pytest.mark.parametrize("target", TARGETS)
def test_little_is_lost(target: str) -> None:
    result = demo(target)
    onnx.checker.check_model(result.model, full_check=True)
    assert interface_difference(load(MODEL).model, load(result.model).model) is None
    iou = mean_iou(result.model.SerializeToString(), draw_scenes(FRESH_SEEDS[:60]))
    assert iou >= float_iou() - MOST_LOST
    found = result.report
    assert found.accuracy[0].held_out
    for accuracy in found.accuracy:
        assert accuracy.comparison.samples == 12
        assert accuracy.comparison.sqnr > 30
        assert accuracy.comparison.agreement is not None
        assert accuracy.comparison.agreement > 99.5
    own = found.accuracy[0].comparison
    assert own.mean_iou is not None
    assert own.mean_iou[0] == pytest.approx(100 * mean_iou(MODEL, held_out()), abs=1e-9)
    assert own.drop == own.mean_iou[0] - own.mean_iou[1]
    proof = prove(result.model, target)
    assert found.int8_share == proof.int8_share
    assert proof.unfused == ()
    assert found.errors == ()
    for layer in found.float_layers:
        assert layer.precision.reason


@pytest.mark.parametrize("target", TARGETS)
def test_the_report_is_plain_data(target: str) -> None:
    report = demo(target).report
    data = report.to_dict()
    assert data["target"] == target
    assert list(data["methods"]) == ["minmax", "percentile", "mse", "kl"]
    assert data["method"] in data["methods"]
    assert data["samples"] == {"all": 48, "calibrated": 36}
    timed = {"ort-cpu": (1,), "openvino": (1, 2), "tensorrt": (0,)}  # one more where there is bf16
    assert len(data["latencies"]) in timed[target]
    assert bool(data["commands"]) is (target == "tensorrt")
    layers = [each for each in data["layers"] if each["sqnr"] is not None]
    assert len(layers) > 20
    assert any(text.startswith(("channels are equalized", "not equal")) for text in report.notes)


def test_optimize_leaves_a_quantized_model_equal() -> None:
    """Folding around Q/DQ keeps scales right, and what is INT8 stays INT8."""
    quantized = demo("ort-cpu").model
    first = optimize(quantized, options=OptimizeOptions(threads=1))
    assert first.report.verdict is not None
    assert first.report.verdict.equal
    assert first.report.rolled_back == ()
    assert first.report.notes == (
        "the model is quantized already: scales and integers stay as they are",
    )
    assert all(each.relative_error == 0 for each in first.report.verdict.outputs)
    again = optimize(first.to_proto(), options=OptimizeOptions(threads=1))
    assert again.report.applied == ()
    before, after = (prove(each, "ort-cpu") for each in (quantized, first.to_proto()))
    assert after.int8_share == before.int8_share
    assert len(after.of(Precision.INT8)) == len(before.of(Precision.INT8))
    assert after.runtime_weights == ()


def test_times_are_measured_beside_the_folded_float_model() -> None:
    (measured,) = demo("ort-cpu").report.latencies
    assert [timing.name for timing in measured.timings] == ["float", "int8"]
    assert measured.feed.keys() == {"image"}
    assert np.asarray(measured.feed["image"]).shape == (1, 3, 128, 128)
