"""A real Dask cluster of worker processes, one of which is killed."""

import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxfold.calibrate.calibrate import calibrate
from onnxfold.calibrate.store import to_bytes
from tests.calibrate.networks import DeadlySamples, DrawnSamples, conv_net, feeds
from tests.cli.commands import onnxfold, refused

distributed: Any = pytest.importorskip("distributed")

COUNT = 50
NET = conv_net()
SAMPLES = DrawnSamples(COUNT)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        dashboard_address=":0",
        silence_logs=logging.CRITICAL,
    ) as running:
        yield running


def test_the_bits_are_the_same_though_a_worker_is_killed(cluster: Any, tmp_path: Path) -> None:
    lives = tmp_path / "lives"
    lives.write_text("x")
    with distributed.Client(cluster) as client:
        before = {worker["id"] for worker in client.scheduler_info()["workers"].values()}
        assert len(before) == 2
        deadly = DeadlySamples(SAMPLES, 20, lives)
        found = calibrate(NET, deadly, executor=client.get_executor(), workers=2)
        assert lives.read_text() == ""
    assert to_bytes(found) == to_bytes(calibrate(NET, SAMPLES))


def test_a_sample_that_kills_again_and_again(cluster: Any, tmp_path: Path) -> None:
    """Dask gives a task up after three deaths; it is begun anew, and then it is well."""
    lives = tmp_path / "lives"
    lives.write_text("xxxx")
    with distributed.Client(cluster) as client:
        deadly = DeadlySamples(DrawnSamples(9), 3, lives)
        found = calibrate(NET, deadly, executor=client.get_executor(), workers=2)
        assert lives.read_text() == ""
    assert to_bytes(found) == to_bytes(calibrate(NET, DrawnSamples(9)))


def test_the_command(cluster: Any, tmp_path: Path) -> None:
    model, data = tmp_path / "net.onnx", tmp_path / "data.npz"
    onnx.save(NET, model)
    np.savez(data, image=np.concatenate([feed["image"] for feed in feeds(40)]))
    here, there = tmp_path / "here.npz", tmp_path / "there.npz"
    common: list[str | Path] = ["calibrate", model, "--data", data, "-o"]
    assert onnxfold(*common, here, "--workers", "1").code == 0
    address = cluster.scheduler_address
    assert onnxfold(*common, there, "--dask", address).code == 0
    assert here.read_bytes() == there.read_bytes()


def test_no_cluster_there(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens
        port = taken.getsockname()[1]
    model, data = tmp_path / "net.onnx", tmp_path / "data.npz"
    onnx.save(NET, model)
    np.savez(data, image=np.concatenate([feed["image"] for feed in feeds(40)]))
    address = f"tcp://127.0.0.1:{port}"
    outcome = onnxfold(
        "calibrate", model, "--data", data, "-o", tmp_path / "c.npz", "--dask", address
    )
    refused(outcome, f"no Dask scheduler answers at {address}", "start one", code=3)
