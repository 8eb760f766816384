"""Files that are no models: one sentence and a hint each, and nothing is touched."""

import os
import random
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxfold.errors import BadModelError
from onnxfold.model import load
from tests.model.errors import refused
from tests.model.models import conv_model


def test_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.touch()
    with refused(BadModelError, f"{path} is empty"):
        load(path)
    assert path.stat().st_size == 0


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_truncated_file(tmp_path: Path, share: float) -> None:
    data = conv_model().SerializeToString()
    cut = data[: int(len(data) * share)]
    path = tmp_path / "m.onnx"
    path.write_bytes(cut)
    with pytest.raises(BadModelError) as caught:
        load(path)
    assert caught.value.message.startswith(f"{path} is cut off: it has {len(cut):,} bytes of at")
    assert "again" in caught.value.hint
    assert path.read_bytes() == cut


def test_every_truncation_is_refused_or_complete() -> None:
    # Behind the graph come the metadata: a cut there may leave a model that is whole but for them.
    model = conv_model(channels=1)
    data = model.SerializeToString()
    accepted, refusals = [], []
    for length in range(len(data)):
        try:
            load(data[:length])
        except BadModelError as error:
            refusals.append(error)
        else:
            accepted.append(length)
    graph_end = data.index(model.graph.SerializeToString()) + model.graph.ByteSize()
    assert all(length > graph_end for length in accepted)
    assert all(error.hint and "\n" not in error.message for error in refusals)


def test_truncated_message_says_how_much_is_missing(tmp_path: Path) -> None:
    data = conv_model().SerializeToString()
    graph_end = data.index(conv_model().graph.SerializeToString()) + conv_model().graph.ByteSize()
    with refused(
        BadModelError, f"the model is cut off: it has 500 bytes of at least {graph_end:,}"
    ):
        load(data[:500])


def test_damaged_inside_the_graph() -> None:
    model = conv_model()
    data = bytearray(model.SerializeToString())
    start = data.index(model.graph.SerializeToString())
    data[start : start + 8] = b"\xff" * 8
    with refused(
        BadModelError, "the model is damaged: it begins as an ONNX model and then breaks off"
    ):
        load(bytes(data))


def test_without_opset_imports_because_cut_behind_the_graph() -> None:
    model = conv_model()
    model.ClearField("opset_import")
    with refused(
        BadModelError, "the model is not a valid ONNX model: it imports no operator set"
    ) as outcome:
        load(model)
    assert "cut off" in outcome.hint


@pytest.mark.parametrize("seed", range(200))
def test_random_bytes(seed: int) -> None:
    data = random.Random(seed).randbytes(1 + seed * 7)
    with pytest.raises(BadModelError) as caught:
        load(data)
    assert caught.value.message.startswith("the model is ")
    assert caught.value.hint


def _torch_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}q\x00.")


def _npz(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, a=np.zeros(3))


def _npy(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def _safetensors(path: Path) -> None:
    header = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "a PNG image"),
        (b"\xff\xd8\xff\xe0" + bytes(100), "a JPEG image"),
        (b"\x1c\0\0\0TFL3" + bytes(100), "a TensorFlow Lite model"),
        (b"\x1c\0\0\0ORTM" + bytes(100), "a model in ONNX Runtime's own format"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "an HDF5 file, as Keras writes"),
        (b"\x80\x02\x8a\nl\xfc\x9c", "a Python pickle, as old PyTorch writes"),
        (_torch_zip, "a PyTorch checkpoint"),
        (_npz, "a zip archive"),
        (_npy, "a NumPy array"),
        (_safetensors, "a safetensors file: weights without a graph"),
        (b"\x1f\x8b\x08" + bytes(100), "a gzip archive"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer, not "
         "the model itself"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b'<?xml version="1.0"?>\n<net name="n">', "an XML file, as OpenVINO writes"),
        (b"Hello, this is a note.\n", "a text file"),
        ("Grüße, ein Text\n".encode(), "a text file"),
        (b'<ir_version: 8, opset_import: ["" : 17]>\ng () => () {}', "ONNX in text form"),
        (b'{"weights": [1, 2]}', "a text file"),
    ],
)  # fmt: skip
def test_other_formats_are_named(tmp_path: Path, content: object, what: str) -> None:
    path = tmp_path / "m.onnx"
    if callable(content):
        content(path)
    else:
        assert isinstance(content, bytes)
        path.write_bytes(content)
    before = path.read_bytes()
    with refused(BadModelError, f"{path} is {what}"):
        load(path)
    assert path.read_bytes() == before


def test_other_onnx_messages_are_no_models(tmp_path: Path) -> None:
    path = tmp_path / "tensor.pb"
    path.write_bytes(onnx.numpy_helper.from_array(np.zeros((3, 4), np.float32)).SerializeToString())
    with pytest.raises(BadModelError, match="is not an ONNX model"):
        load(path)


def test_a_graph_without_a_model_is_no_model() -> None:
    with pytest.raises(BadModelError, match="is not an ONNX model"):
        load(conv_model().graph.SerializeToString())


def test_folder(tmp_path: Path) -> None:
    with refused(BadModelError, f"{tmp_path} is a folder") as outcome:
        load(tmp_path)
    assert outcome.hint == "give a .onnx file"
    (tmp_path / "net.onnx").touch()
    with refused(BadModelError, f"{tmp_path} is a folder") as outcome:
        load(tmp_path)
    assert outcome.hint == f"give a file in it, as {tmp_path / 'net.onnx'}"


def test_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "net"
    with refused(BadModelError, f"{path} does not exist") as outcome:
        load(path)
    assert outcome.hint == "check the path"
    onnx.save(conv_model(), tmp_path / "net.onnx")
    with refused(BadModelError, f"{path} does not exist") as outcome:
        load(str(path))
    assert outcome.hint == f"did you mean {path}.onnx"


def test_path_through_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "m.onnx"
    with refused(BadModelError, f"{path} does not exist: a part of it is a file"):
        load(path)


def test_impossible_paths() -> None:
    with refused(BadModelError, f"{'a' * 80!r} is not a possible path"):
        load("a" * 5000)
    with refused(BadModelError, r"'a\x00b' is not a possible path"):
        load("a\0b")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_named_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    os.mkfifo(path)
    with refused(BadModelError, f"{path} is not a regular file"):
        load(path)


_LOAD_UNPRIVILEGED = """
import os, sys
from onnxfold.errors import BadModelError
from onnxfold.model import load
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    load(sys.argv[1])
except BadModelError as error:
    print(error.message); print(error.hint); sys.exit(error.exit_code)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
@pytest.mark.parametrize("locked", ["file", "folder"])
def test_no_read_permission(open_tmp_path: Path, locked: str) -> None:
    folder = open_tmp_path / "folder"
    folder.mkdir(mode=0o755)
    path = folder / "m.onnx"
    onnx.save(conv_model(), path)
    (path if locked == "file" else folder).chmod(0)
    try:
        done = subprocess.run(
            [sys.executable, "-c", _LOAD_UNPRIVILEGED, str(path)],
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        folder.chmod(0o755)
    assert done.stdout.splitlines() == [
        f"{path} may not be read",
        "ask for permission to read it",
    ], done.stderr
    assert done.returncode == 2


def test_ir_version_of_the_future() -> None:
    model = conv_model()
    model.ir_version = onnx.IR_VERSION + 1
    with refused(
        BadModelError,
        f"the model has IR version {onnx.IR_VERSION + 1}, newer than the {onnx.IR_VERSION} that "
        "the installed onnx knows",
    ) as outcome:
        load(model)
    assert "pip install -U onnx" in outcome.hint


def test_ir_version_of_the_past_or_none() -> None:
    model = conv_model()
    model.ir_version = 2
    with refused(
        BadModelError,
        "the model has IR version 2, from before operator sets had versions",
    ):
        load(model)
    model.ClearField("ir_version")
    with refused(BadModelError, "the model is not a valid ONNX model: it states no IR version"):
        load(model)
