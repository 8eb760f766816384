"""`onnxfold calibrate`."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from onnxfold.calibrate.calibrate import calibrate
from onnxfold.calibrate.identity import graph_hash
from onnxfold.calibrate.samples import open_samples
from onnxfold.calibrate.store import load as load_calibration
from onnxfold.calibrate.store import to_bytes
from onnxfold.model import load
from tests.calibrate.networks import CONV_NET_VALUES, conv_net, feeds
from tests.cli.commands import ROOT, onnxfold, refused, surroundings

COUNT = 40


@pytest.fixture
def net(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    onnx.save(conv_net(), path)
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for index in range(COUNT):
        pixels = generator.integers(0, 256, (24, 20, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:02}.png")
    return folder


def test_a_folder_of_images(net: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "stats.npz"
    outcome = onnxfold("calibrate", net, "--data", images, "-o", out, "--workers", "1")
    assert outcome.code == 0, outcome.stderr
    lines = outcome.stdout.splitlines()
    assert lines[-3:] == [f"samples: {COUNT}", "values: 10", f"written: {out}"]
    found = load_calibration(out, graph_hash(net))
    assert list(found.tensors) == CONV_NET_VALUES
    assert 0.0 <= found.tensors["image"].minimum < found.tensors["image"].maximum <= 1.0
    expected = calibrate(net, open_samples(images, load(net).model))
    assert to_bytes(found) == to_bytes(expected) == out.read_bytes()
    assert not list(tmp_path.glob("*.partial"))
    assert not list(tmp_path.glob(".onnxfold*"))


def test_worker_processes_give_the_same_file(net: Path, images: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "1.npz", tmp_path / "2.npz"
    common = ("calibrate", net, "--data", images, "--scale", "2", "--samples", "33", "-o")
    assert onnxfold(*common, one, "--workers", "1").code == 0
    assert onnxfold(*common, two, "--workers", "2").code == 0
    assert one.read_bytes() == two.read_bytes()
    assert len(load_calibration(one).samples) == 33


def test_json(net: Path, images: Path, tmp_path: Path) -> None:
    (images / "broken.png").write_bytes(b"\x89PNG")
    out = tmp_path / "stats.npz"
    outcome = onnxfold("calibrate", net, "--data", images, "-o", out, "--workers", "1", "--json")
    assert outcome.code == 0
    data = outcome.data
    assert data["samples"] == COUNT
    assert data["graph"] == graph_hash(net)
    assert [Path(name).name for name in data["skipped"]] == ["broken.png"]
    assert data["values"]["r1"]["minimum"] == 0.0
    assert 0.0 < data["values"]["r1"]["zeros"] < 1.0
    assert data["values"]["image"]["elements"] == COUNT * 3 * 24 * 20
    assert any("1 of 41" in text for text in data["warnings"])
    plain = onnxfold("calibrate", net, "--data", images, "-o", out, "--workers", "1")
    assert "broken.png" in plain.stdout
    assert plain.stderr.startswith("warning: ")


def test_bad_input(net: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "stats.npz"
    common = ("calibrate", net, "-o", out)
    refused(onnxfold(*common), "there are no samples to calibrate with", "name them with --data")
    refused(onnxfold(*common, "--data", tmp_path / "no"), "")
    refused(
        onnxfold("calibrate", tmp_path / "no.onnx", "--data", images, "-o", out),
        f"{tmp_path / 'no.onnx'} does not exist",
    )
    nowhere = tmp_path / "no" / "stats.npz"
    refused(onnxfold("calibrate", net, "--data", images, "-o", nowhere), f"{nowhere} cannot be")
    infinite = conv_net()
    infinite.graph.initializer[2].raw_data = np.full((8, 4, 3, 3), np.inf, np.float32).tobytes()
    onnx.save(infinite, net)
    refused(
        onnxfold(*common, "--data", images, "--workers", "1"),
        "the layer Conv of 'c2' gives NaN or infinity on sample 0 (",
        "no integers can stand for it",
    )
    assert not out.exists()


def test_what_is_left_of_another_run(net: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "stats.npz"
    partial = tmp_path / "stats.npz.partial"
    common = ("calibrate", net, "--data", images, "-o", out, "--workers", "1")
    assert onnxfold(*common, "--scale", "3").code == 0
    out.rename(partial)
    outcome = onnxfold(*common)
    refused(outcome, f"{partial} holds a calibration with other samples", f"remove {partial}")
    assert partial.exists()
    partial.unlink()
    assert onnxfold(*common).code == 0


def test_interrupted_and_started_again(tmp_path: Path) -> None:
    """Ctrl-C in the middle: one sentence, no half-written file, and the rest is done next time."""
    net, data = tmp_path / "net.onnx", tmp_path / "data.npz"
    onnx.save(conv_net(size="256, 256"), net)
    array = np.concatenate([feed["image"] for feed in feeds(80, 64, 64)])
    np.savez(data, image=np.tile(array, (1, 1, 4, 4)))
    out, partial = tmp_path / "stats.npz", tmp_path / "stats.npz.partial"
    words: list[str | Path] = ["calibrate", net, "--data", data, "-o", out, "--workers", "1"]
    with subprocess.Popen(
        [sys.executable, "-m", "onnxfold", *map(str, words)],
        env=surroundings(),
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        while not partial.exists() and running.poll() is None:
            time.sleep(0.005)
        os.kill(running.pid, signal.SIGINT)
        _, said = running.communicate()
    assert running.returncode == 130
    assert "error: interrupted" in said
    assert "Traceback" not in said
    assert not out.exists()
    done = len(load_calibration(partial).samples)
    assert 0 < done < 80
    again = onnxfold(*words)
    assert again.code == 0, again.stderr
    assert not partial.exists()
    assert out.read_bytes() == to_bytes(calibrate(net, open_samples(data, load(net).model)))


def test_it_overwrites_nothing_that_it_reads(net: Path, tmp_path: Path) -> None:
    data = tmp_path / "d.npz"
    np.savez(data, image=np.zeros((1, 3, 16, 16), np.float32))
    kept = [net.read_bytes(), data.read_bytes()]
    link = tmp_path / "link.npz"
    link.symlink_to(net)
    for out in (net, data, link):
        outcome = onnxfold("calibrate", net, "--data", data, "-o", out)
        refused(outcome, f"--output would overwrite {out}", "give it a file of its own")
    assert [net.read_bytes(), data.read_bytes()] == kept
