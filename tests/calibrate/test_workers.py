"""Worker processes, some of which are killed: the result has the same bits."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from onnxfold.calibrate.calibrate import calibrate
from onnxfold.calibrate.store import load, to_bytes
from onnxfold.errors import CannotRunError
from tests.calibrate.networks import DeadlySamples, DrawnSamples, conv_net

COUNT = 50
NET = conv_net()
SAMPLES = DrawnSamples(COUNT)


@pytest.fixture(scope="module")
def expected() -> bytes:
    return to_bytes(calibrate(NET, SAMPLES))


def test_two_processes_one_of_which_is_killed(tmp_path: Path, expected: bytes) -> None:
    lives = tmp_path / "lives"
    lives.write_text("x")
    seen: list[str] = []
    deadly = DeadlySamples(SAMPLES, 20, lives)
    assert to_bytes(calibrate(NET, deadly, workers=2, progress=seen.append)) == expected
    assert lives.read_text() == ""
    assert seen[-1] == f"calibrating: sample {COUNT}/{COUNT}"
    assert len(seen) == 7
    assert not multiprocessing.active_children()


def test_a_pool_that_breaks_is_replaced(tmp_path: Path, expected: bytes) -> None:
    lives = tmp_path / "lives"
    lives.write_text("x")
    deadly = DeadlySamples(SAMPLES, 33, lives)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        found = calibrate(NET, deadly, executor=executor, workers=1)
        assert to_bytes(found) == expected
        assert lives.read_text() == ""


def test_a_sample_that_always_kills(tmp_path: Path) -> None:
    lives, checkpoint = tmp_path / "lives", tmp_path / "part.npz"
    lives.write_text("x" * 99)
    deadly = DeadlySamples(SAMPLES, 48, lives)
    with pytest.raises(CannotRunError, match="died 3 times over the samples 4") as caught:
        calibrate(NET, deadly, workers=2, checkpoint=checkpoint)
    assert "memory" in caught.value.hint
    assert len(load(checkpoint).samples) == 48
    assert not multiprocessing.active_children()
