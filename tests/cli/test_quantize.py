"""`onnxfold quantize`: what it prints, what it writes, what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from PIL import Image

from onnxfold.model import load
from onnxfold.targets.layers import quantized_node
from tests.calibrate.pictures import folder_of
from tests.cli.commands import ROOT, onnxfold, process, refused, saved
from tests.verify.networks import conv_net

NET = conv_net(2, 16)
QUICK = ("--threads", "1", "--workers", "1", "--seconds", "0.01", "--force")
"""Nothing here is about time: whatever is slower on the busy machine is written all the same."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a folder of images, and what else the tests read."""
    path = tmp_path_factory.mktemp("quantize")
    saved(path / "in.onnx", NET)
    folder_of(path / "images", 34, height=24, width=24)
    return path


def quantized(path: Path) -> onnx.ModelProto:
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert quantized_node(load(model).model.graph) is not None
    return model


def test_the_table(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    outcome = onnxfold(
        *("quantize", folder / "in.onnx", "-o", out, "--data", folder / "images"),
        *("--target", "ort-cpu", *QUICK),
    )
    assert outcome.code == 0, outcome.stderr
    quantized(out)
    assert [each.name for each in tmp_path.iterdir()] == ["out.onnx"]
    lines = outcome.stdout.splitlines()
    assert lines[0].split() == ["float", "int8"]
    starts = ("multiply-adds in INT8", "SQNR on ONNX Runtime, 8 samples", "ms on ONNX Runtime")
    for start in (*starts, "times as fast (95 % interval)", "worst of 3 layers", "ranges: "):
        assert [line for line in lines if line.startswith(start)], outcome.stdout
    assert "samples: 34, of which 26 were calibrated with" in lines
    assert lines[-1] == f"written: {out}"


def test_json_is_all_of_stdout(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    outcome = onnxfold(
        *("quantize", folder / "in.onnx", "-o", out, "--data", folder / "images"),
        *("--target", "tensorrt", "--samples", "6", "--method", "minmax", "--json", *QUICK),
    )
    assert outcome.code == 0, outcome.stderr
    data = outcome.data
    assert data["output"] == str(out)
    assert data["target"] == "tensorrt"
    assert data["method"] == "minmax"
    assert data["int8_share"] > 0
    assert data["accuracy"][0]["samples"] == 6
    assert data["latencies"] == []
    assert data["commands"][0].startswith("trtexec ")
    assert "6 samples" in outcome.stderr or "6 images" in outcome.stderr, outcome.stderr
    quantized(out)


def test_options_reach_the_job(folder: Path, tmp_path: Path) -> None:
    kept, out = tmp_path / "kept.npz", tmp_path / "out.onnx"
    given = ("--calibration", kept, "--exclude", "c1", "--method", "mse", "--max-drop", "100")
    outcome = onnxfold(
        *("quantize", folder / "in.onnx", "-o", out, "--data", folder / "images", "--samples", "4"),
        *("--target", "tensorrt", "--no-optimize", "--no-equalize", "--no-bias-correction"),
        *(*given, "--json", *QUICK),
    )
    assert outcome.code == 0, outcome.stderr
    assert outcome.data["passes"] == []
    assert kept.exists()
    layers = {layer["layer"]: layer for layer in outcome.data["layers"]}
    assert layers["c1"]["precision"] == "float"
    assert layers["c1"]["reason"] == "it was excluded"


def test_what_it_refuses(folder: Path, tmp_path: Path) -> None:
    source, out, images = folder / "in.onnx", tmp_path / "out.onnx", folder / "images"
    data = ("--data", images)
    common = ("quantize", source, "-o", out)
    target = ("--target", "ort-cpu")
    refused(onnxfold(*common, *target), "there are no samples to quantize with", "name them")
    refused(
        onnxfold(*common, *data, "--target", "ort-cuda"),
        "ONNX Runtime's CUDA provider computes Q/DQ in float",
        "use fp16 there instead",
    )
    refused(onnxfold(*common, *data, "--target", "x"), "there is no target 'x'", "targets: ort-cpu")
    refused(onnxfold(*common, *data), "missing option '--target'")
    refused(onnxfold(*common, *data, *target, "--method", "best"), "invalid value for '--method'")
    refused(onnxfold(*common, *data, *target, "--max-drop", "-1"), "a drop of -1 points")
    missing = tmp_path / "nothing"
    refused(onnxfold(*common, "--data", missing, *target), f"{missing} ")
    gone = tmp_path / "gone" / "out.onnx"
    outcome = onnxfold("quantize", source, "-o", gone, *data, *target)
    refused(outcome, f"{gone} cannot be written: there is no folder", "make the folder first")
    assert list(tmp_path.iterdir()) == []


def test_a_quantized_model(folder: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first.onnx", tmp_path / "second.onnx"
    given = ("--data", folder / "images", "--samples", "2", "--target", "tensorrt", *QUICK)
    assert onnxfold("quantize", folder / "in.onnx", "-o", first, *given).code == 0
    refused(
        onnxfold("quantize", first, "-o", second, *given),
        "the model is quantized already: it holds QuantizeLinear",
        "quantize the float model",
    )
    assert not second.exists()
    assert onnxfold("optimize", first, "-o", second).code == 0
    quantized(second)


def test_nothing_is_written_that_gains_nothing(folder: Path, tmp_path: Path) -> None:
    given = ("--data", folder / "images", "--samples", "2", "--target", "tensorrt")
    every = [word for name in ("c0", "c1", "scores") for word in ("--exclude", name)]
    out = tmp_path / "out.onnx"
    outcome = onnxfold(
        "quantize", folder / "in.onnx", "-o", out, *given, "--no-optimize", *every, "--threads", "1"
    )
    assert outcome.code == 1
    assert outcome.stdout == ""
    lines = outcome.stderr.splitlines()
    assert lines[0].startswith("warning: ")  # before the work begins, not after it
    assert lines[-2] == "error: nothing would run in INT8 on TensorRT: it was excluded"
    assert not out.exists()


def test_a_custom_operator(folder: Path, tmp_path: Path) -> None:
    """`optimize` could leave out the proof; `quantize` has no use for a model that does not run."""
    text = "g (float[1,3,24,24] x) => (float[1,3,24,24] y) { y = acme.Sharpen(x) }"
    header = '<ir_version: 8, opset_import: ["" : 17, "acme" : 1]>'
    source = saved(tmp_path / "in.onnx", onnx.parser.parse_model(f"{header} {text}"))
    given = ("--data", folder / "images", "--target", "tensorrt", *QUICK)
    outcome = onnxfold("quantize", source, "-o", tmp_path / "out.onnx", *given)
    message = "the model cannot be verified here: the runtime does not know the operator acme:Sharp"
    refused(outcome, message, "a custom operator needs its own runtime library", code=3)
    assert "--no-verify" not in outcome.stderr


def test_a_calibration_of_another_graph(folder: Path, tmp_path: Path) -> None:
    stats = tmp_path / "stats.npz"
    images = ("--data", folder / "images", "--samples", "2")
    other = saved(tmp_path / "other.onnx", conv_net(1, 8))
    assert onnxfold("calibrate", other, "-o", stats, *images, "--workers", "1").code == 0
    outcome = onnxfold(
        *("quantize", folder / "in.onnx", "-o", tmp_path / "out.onnx", *images),
        *("--target", "tensorrt", "--calibration", stats, *QUICK),
    )
    assert outcome.code == 2
    told, error, hint = outcome.stderr.splitlines()
    assert told.startswith("warning: only 2 samples")
    assert error.startswith(f"error: the calibration {stats} belongs to another graph")
    assert hint == "hint: name a file that is not there yet, and it is written"


MISSING = """
import sys
sys.modules["openvino"] = None  # as if it were not installed
from onnxfold.cli.main import main
main(sys.argv[1:])
"""


def test_a_runtime_that_is_not_installed(folder: Path, tmp_path: Path) -> None:
    given = ("quantize", folder / "in.onnx", "-o", tmp_path / "out.onnx")
    outcome = process(
        *given, "--data", folder / "images", "--target", "openvino", program=MISSING, cwd=ROOT
    )
    refused(outcome, "OpenVINO is not installed", "pip install 'onnxfold[openvino]'", code=3)


def test_an_unreadable_image_is_left_out(folder: Path, tmp_path: Path) -> None:
    images = folder_of(tmp_path / "images", 3, height=24, width=24)
    (images / "broken.png").write_bytes((images / "000.png").read_bytes()[:60])
    given = ("--data", images, "--target", "tensorrt", *QUICK)
    outcome = onnxfold("quantize", folder / "in.onnx", "-o", tmp_path / "out.onnx", *given)
    assert outcome.code == 0, outcome.stderr
    assert "skipped: broken.png" in outcome.stdout.replace(f"{images}/", "")
    outcome = onnxfold(
        "quantize", folder / "in.onnx", "-o", tmp_path / "out.onnx", *given, "--strict"
    )
    assert outcome.code == 2
    assert "broken.png" in outcome.stderr


def test_constant_images_are_suspicious(folder: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for index in range(3):
        Image.fromarray(np.full((24, 24, 3), 90, np.uint8)).save(images / f"{index}.png")
    outcome = onnxfold(
        *("quantize", folder / "in.onnx", "-o", tmp_path / "out.onnx", "--data", images),
        *("--target", "tensorrt", *QUICK),
    )
    assert outcome.code == 0, outcome.stderr
    assert "warning: " in outcome.stderr
    assert "constant" in outcome.stderr or "one colour" in outcome.stderr, outcome.stderr


STOPPING = """
import os, signal, sys
from onnxfold.cli import talk
from onnxfold.cli.main import main
from contextlib import contextmanager
@contextmanager
def progress():
    def told(text):
        if text == "calibrating: sample 16/24":
            os.kill(os.getpid(), signal.SIGINT)
    yield told
talk.quiet_progress = progress
main(sys.argv[1:])
"""


def test_ctrl_c_keeps_what_is_done(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    given = (
        *("quantize", folder / "in.onnx", "-o", out, "--data", folder / "images"),
        *("--samples", "24", "--target", "tensorrt", *QUICK),
    )
    outcome = process(*given, program=STOPPING, cwd=ROOT)
    assert outcome.code == 130, outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert [each.name for each in tmp_path.iterdir()] == ["out.onnx.channels.partial"]
    assert onnxfold(*given).code == 0
    assert [each.name for each in tmp_path.iterdir()] == ["out.onnx"]
