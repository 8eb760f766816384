"""`onnxfold verify`."""

from pathlib import Path

import numpy as np
import pytest

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
    np.save(tmp_path / "one.npy", np.ones(3))
    np.savez(tmp_path / "shape.npz", x=np.ones((1, 2, 3, 4), np.float32))
    np.savez(tmp_path / "name.npz", image=np.ones((1, 3, 3, 4), np.float32))
    np.savez(tmp_path / "object.npz", x=np.asarray([{}], object), allow_pickle=True)
    hint = "write it with numpy.savez"
    for name, message in (("gone", "no such file"), ("text", "it is no archive of plain arrays")):
        file = tmp_path / f"{name}.npz"
        refused(onnxfold(*run, file), f"{file} cannot be read as .npz: {message}", hint)
    refused(onnxfold(*run, tmp_path / "object.npz"), f"{tmp_path / 'object.npz'} cannot be read")
    refused(onnxfold(*run, tmp_path / "one.npy"), f"{tmp_path / 'one.npy'} holds one array")
    for name in ("shape", "name"):
        outcome = onnxfold(*run, tmp_path / f"{name}.npz")
        assert outcome.code == 2, outcome.stderr
        assert outcome.stderr.startswith("error: "), outcome.stderr
