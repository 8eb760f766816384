"""Bytes to a `ModelProto`, and what to say when they are not one."""

import errno
import os
import stat
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from onnxfold.errors import BadModelError

PROTOBUF_LIMIT = 2**31 - 1
"""protobuf can neither read nor write a message longer than this, in bytes."""

_EXPORT_HINT = "give the path of a model that was exported to ONNX"

_KINDS: tuple[tuple[int, bytes, str, str], ...] = (
    # offset, magic, what it is, what to do about it
    (0, b"\x89PNG", "a PNG image", _EXPORT_HINT),
    (0, b"\xff\xd8\xff", "a JPEG image", _EXPORT_HINT),
    (4, b"TFL3", "a TensorFlow Lite model", "convert it with tf2onnx --tflite first"),
    (4, b"ORTM", "a model in ONNX Runtime's own format", "give the .onnx file it was made from"),
    (0, b"\x89HDF", "an HDF5 file, as Keras writes", "convert it with tf2onnx first"),
    (0, b"\x80\x02", "a Python pickle, as old PyTorch writes", "export it with torch.onnx.export"),
    (0, b"\x80\x04", "a Python pickle", "export it with torch.onnx.export"),
    (0, b"\x93NUMPY", "a NumPy array", _EXPORT_HINT),
    (0, b"GGUF", "a GGUF model", _EXPORT_HINT),
    (0, b"ftrt", "a TensorRT engine", "give the .onnx file it was built from"),
    (0, b"ptrt", "a TensorRT engine", "give the .onnx file it was built from"),
    (0, b"\x7fELF", "a program or library", _EXPORT_HINT),
    (0, b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (
        0,
        b"version https://git-lfs",
        "a Git LFS pointer, not the model itself",
        "run git lfs pull to fetch the model",
    ),
    (0, b"<!DOCTYPE html", "a web page", "download the model again: a page was saved in its place"),
    (0, b"<html", "a web page", "download the model again: a page was saved in its place"),
    (0, b"<?xml", "an XML file, as OpenVINO writes", "give the .onnx file it was made from"),
    (0, b"<net", "an OpenVINO network", "give the .onnx file it was made from"),
)

_HEAD_BYTES = 4096

_MODEL_FIELDS = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2, 26: 2}
"""Field number to wire type of `ModelProto`'s fields (onnx.proto3): 0 varint, 2 with a length."""


def read_proto(path: Path) -> onnx.ModelProto:
    """The model in a file; external data is not read.

    Args:
        path: As the user gave it; messages quote it.

    Raises:
        BadModelError: There is no such regular file, it cannot be read, or it is not ONNX.
    """
    try:
        _require_regular_file(path)
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
            size = os.fstat(file.fileno()).st_size
            refuse_other_formats(head, str(path))
            if size > PROTOBUF_LIMIT:
                raise BadModelError(
                    f"{path} holds {size / 1e9:.1f} GB in one file, and protobuf ends at 2 GB",
                    "export it with its weights as external data",
                )
            data = head + file.read()
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    return parse(data, str(path))


def parse(data: bytes, label: str) -> onnx.ModelProto:
    """The model in `data`.

    Args:
        data: A serialised `ModelProto`.
        label: What messages call it.

    Raises:
        BadModelError: It is not one.
    """
    refuse_other_formats(data[:_HEAD_BYTES], label)
    try:
        proto: onnx.ModelProto = onnx.ModelProto.FromString(data)
    except (DecodeError, ValueError) as error:
        raise _undecodable(data, label) from error
    if not proto.HasField("graph"):
        raise BadModelError(f"{label} is not an ONNX model: it has no graph", _EXPORT_HINT)
    return proto


def refuse_other_formats(head: bytes, label: str) -> None:
    """Raise when the first bytes are those of another kind of file.

    Raises:
        BadModelError: They are, or there are none.
    """
    if not head:
        raise BadModelError(
            f"{label} is empty", "export or download it again: nothing was written to it"
        )
    for offset, magic, kind, hint in _KINDS:
        if head[offset : offset + len(magic)] == magic:
            raise BadModelError(f"{label} is {kind}", hint)
    if head.startswith(b"PK\x03\x04"):
        torch = b"data.pkl" in head or b".format_version" in head
        raise BadModelError(
            f"{label} is " + ("a PyTorch checkpoint" if torch else "a zip archive"),
            "export it with torch.onnx.export" if torch else "unpack it first",
        )
    if head[8:10] in (b'{"', b"{ ") and int.from_bytes(head[:8], "little") < 1 << 32:
        raise BadModelError(f"{label} is a safetensors file: weights without a graph", _EXPORT_HINT)
    if _is_text(head):
        onnx_text = b"ir_version" in head
        raise BadModelError(
            f"{label} is " + ("ONNX in text form" if onnx_text else "a text file"),
            "write it in binary form with onnx.save first" if onnx_text else _EXPORT_HINT,
        )


def _is_text(head: bytes) -> bool:
    # A ModelProto begins with a field tag below 0x20 that is not white space (0x08, its
    # ir_version), or, where a writer put another field first, holds such bytes soon after.
    return all(byte >= 0x20 or byte in b"\t\n\r\f" for byte in head) and 0x7F not in head


def _require_regular_file(path: Path) -> None:
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        inside = sorted(child.name for child in path.iterdir() if child.suffix == ".onnx")
        hint = f"give a file in it, as {path / inside[0]}" if inside else "give a .onnx file"
        raise BadModelError(f"{path} is a folder", hint)
    if not stat.S_ISREG(mode):
        raise BadModelError(f"{path} is not a regular file", "give a .onnx file")


def _unreadable(path: Path, error: OSError | ValueError) -> BadModelError:
    if isinstance(error, FileNotFoundError):
        sibling = path.with_name(path.name + ".onnx")
        hint = f"did you mean {sibling}" if sibling.is_file() else "check the path"
        return BadModelError(f"{path} does not exist", hint)
    if isinstance(error, NotADirectoryError):
        return BadModelError(f"{path} does not exist: a part of it is a file", "check the path")
    if isinstance(error, PermissionError):
        return BadModelError(f"{path} may not be read", "ask for permission to read it")
    if isinstance(error, ValueError) or error.errno == errno.ENAMETOOLONG:
        return BadModelError(f"{str(path)[:80]!r} is not a possible path", "check the path")
    reason = error.strerror or type(error).__name__
    return BadModelError(f"{path} cannot be read: {reason}", "check the disk it is on")


def _undecodable(data: bytes, label: str) -> BadModelError:
    begins_as_onnx, needed = _walk_fields(data)
    if not begins_as_onnx:
        return BadModelError(f"{label} is not an ONNX model", _EXPORT_HINT)
    if needed > len(data):
        return BadModelError(
            f"{label} is cut off: it has {len(data):,} bytes of at least {needed:,}",
            "export, copy or download it again",
        )
    return BadModelError(
        f"{label} is damaged: it begins as an ONNX model and then breaks off",
        "export, copy or download it again",
    )


def _walk_fields(data: bytes) -> tuple[bool, int]:
    """Whether `data` begins with a field of `ModelProto`, and how many bytes its fields need."""
    position, seen = 0, 0
    while position < len(data):
        tag, position, complete = _varint(data, position)
        if not complete:
            return seen > 0, position + 1
        if _MODEL_FIELDS.get(tag >> 3) != tag & 7:
            return seen > 1, len(data)
        value, position, complete = _varint(data, position)
        if not complete:
            return seen > 0, position + 1
        if tag & 7 == 2:
            position += value
        seen += 1
    return seen > 0, position


def _varint(data: bytes, position: int) -> tuple[int, int, bool]:
    """The base-128 number at `position`, the position after it, and whether it is all there."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            return value, position, False
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            break
    return value, position, True
