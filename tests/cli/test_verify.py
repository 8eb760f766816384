"""`onnxfold verify`."""

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from tests.calibrate.pictures import folder_of
from tests.cli.commands import NET, Words, onnxfold, refused, saved
from tests.verify.networks import conv_net, values, with_weight


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    wrong = with_weight(NET, "w1", values(NET, "w1") * 1.01)
    return saved(tmp_path / "a.onnx"), saved(tmp_path / "b.onnx", wrong)


def test_equal(pair: tuple[Path, Path]) -> None:
    outcome = onnxfold("verify", pair[0], pair[0])
    assert outcome.code == 0
    assert outcome.stderr == ""
    lines = outcome.stdout.splitlines()
    assert lines[0].split()[:1] == ["output"]
    assert lines[1].split()[0] == "scores"
    assert lines[1].split()[-1] == "yes"
    assert lines[-1].startswith("equal: ")
    assert any(line.startswith("tolerance: ") and "rounding noise" in line for line in lines)


def test_not_equal(pair: tuple[Path, Path]) -> None:
    outcome = onnxfold("verify", *pair)
    assert outcome.code == 1
    assert outcome.stdout.splitlines()[-1].startswith("not equal: output scores is not equal on")
    assert outcome.stderr.startswith("error: the models do not compute the same\nhint: ")


def test_json(pair: tuple[Path, Path]) -> None:
    outcome = onnxfold("verify", *pair, "--json")
    assert outcome.code == 1
    data = outcome.data
    assert data["equal"] is False
    assert data["worst"] == "scores"
    assert data["reference"] == str(pair[0])
    assert data["outputs"][0]["mismatch"]
    assert onnxfold("verify", pair[0], pair[0], "--json").data["equal"] is True


def test_a_given_tolerance_decides(pair: tuple[Path, Path]) -> None:
    assert onnxfold("verify", *pair, "--rtol", "0.5").code == 0
    assert onnxfold("verify", *pair, "--rtol", "1e-7").code == 1


def test_undefined_numbers_are_json(tmp_path: Path) -> None:
    bias = np.full(5, np.inf, np.float32)
    infinite = saved(tmp_path / "a.onnx", with_weight(NET, "head_bias", bias))
    outcome = onnxfold("verify", infinite, saved(tmp_path / "b.onnx"), "--json")
    assert outcome.code == 1
    assert outcome.data["equal"] is False
    assert onnxfold("verify", infinite, infinite, "--json").data["equal"] is True


def test_another_interface_is_not_equal(tmp_path: Path) -> None:
    a, b = saved(tmp_path / "a.onnx"), saved(tmp_path / "b.onnx", conv_net(1, 4, classes=3))
    outcome = onnxfold("verify", a, b)
    assert outcome.code == 1
    assert "not equal: " in outcome.stdout


def test_own_data_and_seed(pair: tuple[Path, Path], tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.ones((1, 3, 33, 21), np.float32))
    outcome = onnxfold(
        "verify", pair[0], pair[0], "--data", tmp_path / "d.npz", "--seed", "5", "--json"
    )
    assert any("data" in label for label in outcome.data["feeds"])


@pytest.mark.parametrize("which", [0, 1])
def test_bad_files(pair: tuple[Path, Path], which: int) -> None:
    paths = list(pair)
    paths[which].write_bytes(b"")
    refused(onnxfold("verify", *paths), f"{paths[which]} is empty")


def test_bad_data(pair: tuple[Path, Path], tmp_path: Path) -> None:
    run: Words = ["verify", pair[0], pair[0], "--data"]
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "text.png").write_text("hello")
    np.save(tmp_path / "one.npy", np.ones(3))
    np.savez(tmp_path / "shape.npz", x=np.ones((1, 2, 3, 4), np.float32))
    np.savez(tmp_path / "name.npz", image=np.ones((1, 3, 3, 4), np.float32))
    np.savez(tmp_path / "object.npz", x=np.asarray([{}], object), allow_pickle=True)
    refused(onnxfold(*run, tmp_path / "gone.npz"), f"{tmp_path / 'gone.npz'} does not exist")
    for name in ("text.npz", "text.png", "one.npy", "shape.npz", "name.npz", "object.npz"):
        outcome = onnxfold(*run, tmp_path / name)
        assert name.partition(".")[0] in outcome.stderr
        refused(outcome, "")


def test_a_division_by_zero(tmp_path: Path) -> None:
    text = "g (int64[2] x, int64[2] d) => (int64[2] y) { y = Div(x, d) }"
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    path = saved(tmp_path / "a.onnx", model)
    np.savez(tmp_path / "d.npz", x=np.ones(2, np.int64), d=np.zeros(2, np.int64))
    outcome = onnxfold("verify", path, path, "--data", tmp_path / "d.npz")
    message = "the model does not run on item 0 of the data: the model divides an integer by zero"
    refused(outcome, message, "check the data's")


@pytest.mark.parametrize("command", ["verify", "optimize"])
def test_images(pair: tuple[Path, Path], tmp_path: Path, command: str) -> None:
    """As `quantize` reads them: at most eight, spread over the folder, and what is broken named."""
    images = folder_of(tmp_path / "images", 20, height=24, width=40)
    (images / "000.png").write_text("hello")
    where = (pair[1],) if command == "verify" else ("-o", tmp_path / "out.onnx")
    run: Words = [command, pair[0], *where, "--data", images, "--threads", "1"]
    outcome = onnxfold(*run, "--mean", "0.5", "--std", "0.25", "--resize", "32x64", "--json")
    assert outcome.code == (0 if command == "optimize" else 1)
    told = outcome.data if command == "verify" else outcome.data["verification"]
    assert [label for label in told["feeds"] if label.startswith("data")] == [
        f"data {index}" for index in range(7)
    ]
    assert outcome.stderr.startswith(f"warning: {images / '000.png'} is left out: ")
    outcome = onnxfold(*run, "--strict")
    assert outcome.code == 2
    assert "000.png" in outcome.stderr
    refused(onnxfold(*run, "--mean", "a"), "'a' is no list of numbers for --mean", "write --mean")
