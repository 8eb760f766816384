"""Calibrations in files: the same bits come back, and what is no such file is refused."""

import io
import json
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxfold.calibrate import Calibration, TensorStatistics
from onnxfold.calibrate.store import from_bytes, load, save, to_bytes
from onnxfold.errors import BadOptionError, CannotWriteError


def drawn(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def calibration() -> Calibration:
    return Calibration(
        "abc",
        "data",
        (0, 1, 5),
        {
            "image": TensorStatistics.of(drawn(0, 2, 3, 5), 1),
            "конв/1:0": TensorStatistics.of(drawn(1, 9)),
            "zero": TensorStatistics.of(np.zeros((4, 2), np.float32), 1),
            "tiny": TensorStatistics.of(np.array([2.0**-149, -3e-45], np.float32)),
            "last": TensorStatistics.of(1e30 * drawn(2, 2, 4), 1),
        },
    )


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "stats.npz"
    save(calibration(), path)
    back = load(path, "abc")
    assert back == calibration()
    assert list(back.tensors) == list(calibration().tensors)
    assert load(path) == back
    assert to_bytes(back) == path.read_bytes()
    assert [each.name for each in tmp_path.iterdir()] == ["stats.npz"]


@settings(deadline=None)
@given(st.lists(st.integers(1, 6), max_size=5), st.integers(0, 9))
def test_anything_comes_back(extents: list[int], seed: int) -> None:
    tensors = {
        f"t{index}": TensorStatistics.of(drawn(seed + index, 2, extent), index % 2 or None)
        for index, extent in enumerate(extents)
    }
    given = Calibration("g", "", tuple(range(seed)), tensors)
    assert from_bytes(to_bytes(given), "it") == given


def test_equal_calibrations_have_equal_bytes() -> None:
    assert to_bytes(calibration()) == to_bytes(calibration())


def test_a_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "stats.npz"
    path.write_bytes(b"before")
    path.chmod(0o640)
    save(calibration(), path)
    assert load(path) == calibration()
    assert path.stat().st_mode & 0o777 == 0o640


def refused(path: Path, message: str, expected: str | None = None) -> None:
    with pytest.raises(BadOptionError) as caught:
        load(path, expected)
    assert message in caught.value.message
    assert str(path) in caught.value.message
    assert caught.value.hint
    assert "\n" not in caught.value.message
    assert not caught.value.message.endswith(".")


def test_of_another_graph(tmp_path: Path) -> None:
    path = tmp_path / "stats.npz"
    save(calibration(), path)
    refused(path, "belongs to another model", "abd")


def test_no_such_file(tmp_path: Path) -> None:
    refused(tmp_path / "none.npz", "cannot be read: no such file or directory")
    refused(tmp_path, "cannot be read: is a directory")


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"hello", b"\x08\x09"])
def test_no_archive(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "stats.npz"
    path.write_bytes(content)
    refused(path, "is not a calibration file")


def test_cut_off_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "stats.npz"
    whole = to_bytes(calibration())
    for length in {2, 3, 100, *range(10, len(whole), len(whole) // 60), len(whole) - 1}:
        path.write_bytes(whole[:length])
        refused(path, "is damaged or cut off")


def test_a_flipped_bit_is_noticed_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / "stats.npz"
    whole = bytearray(to_bytes(calibration()))
    for place in range(0, len(whole), 37):
        whole[place] ^= 0x10
        path.write_bytes(whole)
        with suppress(BadOptionError):
            assert load(path) == calibration()
        whole[place] ^= 0x10


def archive(**arrays: object) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=True, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def header(**changed: object) -> np.ndarray:
    with zipfile.ZipFile(io.BytesIO(to_bytes(calibration()))) as file:
        stored = np.load(io.BytesIO(file.read("header.npy")))
    content = json.loads(stored.tobytes()) | changed
    return np.frombuffer(json.dumps(content).encode(), np.uint8)


def test_other_archives(tmp_path: Path) -> None:
    path = tmp_path / "stats.npz"
    with np.load(io.BytesIO(to_bytes(calibration()))) as stored:
        arrays = {name: array for name, array in stored.items() if name != "digest"}
        stored_digest = stored["digest"]
    reason = "is not a calibration of this version"
    for content in (
        archive(image=drawn(1, 2)),
        archive(**arrays | {"header": header(format="another")}),
        archive(**arrays | {"header": np.frombuffer(b"{", np.uint8)}),
        archive(**arrays | {"header": header(values=["a", "b", "c", "d", "e", "f"])}),
        archive(**arrays | {"bins": arrays["bins"] + 1}),
        archive(**arrays | {"channels": arrays["channels"][:-1]}),
        archive(**{name: array for name, array in arrays.items() if name != "counts"}),
    ):
        path.write_bytes(content)
        refused(path, reason)
    path.write_bytes(archive(**arrays | {"digest": stored_digest, "count": arrays["count"] + 1}))
    refused(path, "damaged or cut off")


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemError('unpickled')",))


def test_pickles_are_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "stats.npz"
    path.write_bytes(archive(header=np.array([Bomb()], object)))
    refused(path, "damaged or cut off")


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(CannotWriteError, match="there is no folder"):
        save(calibration(), tmp_path / "missing" / "stats.npz")
    with pytest.raises(CannotWriteError, match="is a folder"):
        save(calibration(), tmp_path)
    assert list(tmp_path.iterdir()) == []
