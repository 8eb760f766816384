"""`onnxfold bench`."""

import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxfold.cli.talk import quiet_progress
from tests.benchmarking.networks import FOLDED, NET, parsed
from tests.cli.commands import onnxfold, process, refused, saved
from tests.verify.networks import conv_net, copied

FEW = ("--rounds", "9", "--threads", "1", "--warm-up", "1")


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return saved(tmp_path / "a.onnx", NET), saved(tmp_path / "b.onnx", FOLDED)


def test_two_models_on_two_runtimes(pair: tuple[Path, Path]) -> None:
    pytest.importorskip("openvino")
    outcome = onnxfold("bench", *pair, "--runtime", "ort,openvino", *FEW)
    assert outcome.code == 0, outcome.stderr
    blocks = outcome.stdout.split("\n\n")
    tables = [block.splitlines() for block in blocks if "median ms" in block]
    assert [table[0].split()[0] for table in tables] == ["ONNX", "OpenVINO"]
    for title, heading, first, second in tables:
        assert "threads: 1 of " in title
        assert "inputs: 1x3x64x64" in title
        assert heading.split()[:4] == ["model", "median", "ms", "quartiles"]
        assert first.split()[0] == str(pair[0])
        assert second.split()[0] == str(pair[1])
        low, high = (float(second.split()[index]) for index in (-5, -3))
        assert low <= float(second.split()[-6]) <= high
    assert outcome.stdout.count("9 rounds in 9 sittings: all rounds asked for were run\n") == 2
    assert "note:" not in outcome.stdout


def test_json(pair: tuple[Path, Path]) -> None:
    outcome = onnxfold("bench", *pair, *FEW, "--json")
    assert outcome.code == 0, outcome.stderr
    data = outcome.data
    assert data["models"] == {str(path): str(path) for path in pair}
    assert data["cores"] >= 1
    assert isinstance(data["cpu"], str)
    (measured,) = data["measurements"]
    assert measured["runtime"] == "ort"
    assert [model["name"] for model in measured["models"]] == list(map(str, pair))
    assert measured["models"][1]["speed_up"]["median"] > 0
    if sys.platform == "linux":
        assert measured["models"][1]["peak_bytes"] >= 0


def test_a_model_against_itself(pair: tuple[Path, Path]) -> None:
    data = onnxfold("bench", pair[0], pair[0], "--rounds", "1", "--json").data
    assert list(data["models"]) == [str(pair[0]), f"{pair[0]} (2)"]
    assert data["measurements"][0]["models"][1]["speed_up"]["interval"] is None


def test_own_inputs_and_sizes(pair: tuple[Path, Path], tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.ones((1, 3, 33, 21), np.float32))
    outcome = onnxfold("bench", *pair, "--rounds", "1", "--data", tmp_path / "d.npz")
    assert "inputs: 1x3x33x21" in outcome.stdout
    outcome = onnxfold("bench", *pair, "--rounds", "1", "--input-shape", "x:2x3x16x8")
    assert "inputs: 2x3x16x8" in outcome.stdout


def test_other_results_are_noted(pair: tuple[Path, Path], tmp_path: Path) -> None:
    other = saved(tmp_path / "c.onnx", conv_net(2, 8, seed=1, dims=("N", 3, "H", "W")))
    outcome = onnxfold("bench", pair[0], other, "--rounds", "1")
    assert outcome.code == 0
    assert "not known" in outcome.stdout  # one round gives no interval
    assert f"note: {other} does not compute the same as {pair[0]} (" in outcome.stdout


def test_progress_of_long_work_is_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with quiet_progress() as talk:
        talk("trying a.onnx")
        time.sleep(2.05)
        for step in ("measuring, sitting 1", "measuring, sitting 2", "measuring the memory"):
            talk(step)
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "2 s: measuring, sitting 1\n2 s: measuring the memory\n"


def test_what_it_refuses(pair: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = pair
    refused(onnxfold("bench"), "no model was given")
    refused(onnxfold("bench", a, tmp_path / "c.onnx"), f"{tmp_path / 'c.onnx'} does not exist")
    refused(onnxfold("bench", a, b, "--runtime", "tensorrt"), "there is no runtime 'tensorrt'")
    refused(onnxfold("bench", a, b, "--runtime", "openvin"), "there is no runtime", "did you mean")
    refused(onnxfold("bench", a, b, "--rounds", "0"), "invalid value for '--rounds'")
    refused(onnxfold("bench", a, b, "--rounds", "9", "--seconds", "1"), "--rounds and --seconds")
    refused(onnxfold("bench", a, b, "--input-shape", "x:2x2"), "the shape given for input x is 2x2")
    refused(onnxfold("bench", a, b, "--data", tmp_path / "d.npz"), f"{tmp_path / 'd.npz'} does")
    image = saved(tmp_path / "d.onnx", conv_net(1, 4, dims=("N", 4, "H", "W"), classes=5))
    assert onnxfold("bench", a, image).stderr.startswith(
        f"error: the models do not take the same inputs: input x is Nx3xHxW in {a}, Nx4xHxW in "
    )


def test_a_runtime_that_cannot(pair: tuple[Path, Path], tmp_path: Path) -> None:
    custom = parsed("(float[N, 3, H, W] x) => (float[N, 3, H, W] y) { y = Baz(x) }")
    path = saved(tmp_path / "custom.onnx", custom)
    outcome = onnxfold("bench", pair[0], path, "--rounds", "1")
    refused(outcome, f"{path}: the runtime does not know the operator", code=3)


MISSING = """
import sys
import time
sys.modules["openvino"] = None  # as if it were not installed
from onnxfold.cli.main import main
main(sys.argv[1:])
"""


def test_a_runtime_that_is_not_installed(pair: tuple[Path, Path]) -> None:
    outcome = process("bench", *pair, "--runtime", "ort,openvino", program=MISSING)
    refused(outcome, "OpenVINO is not installed", "pip install 'onnxfold[openvino]'", code=3)


def test_no_weight_is_read_from_outside_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    path = folder / "a.onnx"
    onnx.save(copied(NET), path, save_as_external_data=True, size_threshold=0, location="a.data")
    (folder / "a.data").rename(tmp_path / "a.data")
    proto = onnx.load(path, load_external_data=False)
    for weight in proto.graph.initializer:
        for entry in weight.external_data:
            if entry.key == "location":
                entry.value = "../a.data"
    path.write_bytes(proto.SerializeToString())
    refused(onnxfold("bench", path), "the external data")
