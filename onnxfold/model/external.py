"""Weights in files beside the model: checked before anything is read, then mapped.

A model file is untrusted. The location of its external data may try to reach any file that the
user may read, so it has to be a plain relative path to a regular file that lies in the model's
folder by name and after links are resolved, and that has no second name (a hard link).
"""

import mmap
import os
import stat
import weakref
from collections.abc import Iterable
from pathlib import Path, PureWindowsPath
from typing import IO, Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from onnxfold.errors import BadModelError
from onnxfold.model.contents import byte_size
from onnxfold.model.slots import tensor_slots

_PINNED_FILES = 16
"""Up to so many data files stay mapped for as long as the model lives, so that they may be replaced
or removed meanwhile. More (a file per tensor) would exhaust the process's file descriptors: they
are mapped while they are read."""

_CHUNK = 1 << 23
"""Bytes copied at a time from a mapping to a file; no more than these are resident."""

_KNOWN_KEYS = frozenset({"location", "offset", "length"})

_FOLDER_HINT = "put the data in the model's own folder and name it there by a relative path"


class DataFile:
    """A file of weights, opened once to check it and mapped when it is read.

    Args:
        path: The file after links are resolved.
        location: The path as the model states it.
        label: What messages call the model.

    Attributes:
        path: As above.
        size: Length in bytes when the model was loaded.

    Raises:
        BadModelError: It is missing, no regular file, a hard link, or cannot be opened.
    """

    def __init__(self, path: Path, location: str, label: str) -> None:
        self.path = path
        self._label = label
        self._location = location
        descriptor = self._open()
        try:
            status = os.fstat(descriptor)
            _refuse_odd_file(status, location, label)
        finally:
            os.close(descriptor)
        self.size = status.st_size
        self._identity = _identity(status)
        self._pinned: mmap.mmap | None = None
        self._mapped: weakref.ref[mmap.mmap] | None = None

    def pin(self) -> None:
        """Map the file now and keep it mapped."""
        if self.size:
            self._pinned = self.mapping()

    def mapping(self) -> mmap.mmap:
        """The whole file, read-only, mapped once for all its tensors.

        Raises:
            BadModelError: The file is no longer the one that was there at load.
        """
        mapped = self._mapped() if self._mapped is not None else None
        if mapped is None:
            descriptor = self._open()
            try:
                if _identity(os.fstat(descriptor)) != self._identity:
                    raise BadModelError(
                        f"the external data {self._location!r} of {self._label} changed after it "
                        "was loaded",
                        "load the model again",
                    )
                mapped = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
            finally:
                os.close(descriptor)
            self._mapped = weakref.ref(mapped)
        return mapped

    def drop(self, offset: int, length: int) -> None:
        """Give back the memory that a part of the file takes while it is mapped."""
        mapped = self._mapped() if self._mapped is not None else None
        if mapped is None or length == 0 or not hasattr(mmap, "MADV_DONTNEED"):
            return
        start = offset // mmap.PAGESIZE * mmap.PAGESIZE
        mapped.madvise(mmap.MADV_DONTNEED, start, offset + length - start)

    def _open(self) -> int:
        # Not blocking: a named pipe would otherwise wait for its other end for ever.
        flags = os.O_RDONLY
        for name in ("O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"):
            flags |= getattr(os, name, 0)
        try:
            return os.open(self.path, flags)
        except FileNotFoundError:
            raise BadModelError(
                f"the external data {self._location!r} of {self._label} is missing",
                f"put it at {self.path}",
            ) from None
        except OSError as error:
            raise BadModelError(
                f"the external data {self._location!r} of {self._label} cannot be read: "
                f"{error.strerror}",
                "check its permissions and the disk it is on",
            ) from error


def _identity(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _refuse_odd_file(status: os.stat_result, location: str, label: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise BadModelError(
            f"the external data {location!r} of {label} is not a regular file", _FOLDER_HINT
        )
    if status.st_nlink > 1:
        raise BadModelError(
            f"the external data {location!r} of {label} is a hard link, which may lead out of the "
            "model's folder",
            "replace the link by a copy of the file",
        )


class MappedTensor(ir.ExternalTensor):
    """An external tensor that is read through a `DataFile`.

    Unlike its base it holds no array of its own, so that `release` gives back memory even while
    arrays of it are in use, and it goes on working after its file was replaced on disk.
    """

    __slots__ = ("_file",)

    def __init__(self, file: DataFile, tensor: ir.ExternalTensor) -> None:
        super().__init__(
            tensor.location,
            tensor.offset or 0,
            tensor.nbytes,
            tensor.dtype,
            shape=tensor.shape,
            name=tensor.name or "",
            doc_string=tensor.doc_string,
            metadata_props=dict(tensor.metadata_props),
            base_dir=file.path.parent,
        )
        self._file = file

    @property
    def source(self) -> tuple[DataFile, int, int]:
        """The file, and where in it the data begin and how long they are, in bytes."""
        return self._file, self.offset or 0, self.nbytes

    def _bytes(self) -> NDArray[np.uint8]:
        file, offset, length = self.source
        if length == 0:
            return np.empty(0, np.uint8)
        return np.frombuffer(file.mapping(), np.uint8, length, offset)

    def numpy(self) -> NDArray[Any]:
        """The tensor as a read-only array over the mapped file (a copy below 8 bits per item)."""
        shape = self.shape.numpy()
        if self.dtype.bitwidth < 8:
            return ir.PackedTensor(self._bytes(), self.dtype, shape=shape).numpy()
        stored = np.dtype(self.dtype.numpy()).newbyteorder("<")
        return self._bytes().view(stored).reshape(shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def tobytes(self) -> bytes:
        """The data as ONNX stores them: little-endian, packed below 8 bits per item."""
        return self._bytes().tobytes()

    def tofile(self, file: IO[bytes]) -> None:
        """Write the data to `file` piece by piece, giving back each piece's memory."""
        source, offset, length = self.source
        data = self._bytes()
        for start in range(0, length, _CHUNK):
            piece = data[start : start + _CHUNK]
            file.write(piece.data)
            source.drop(offset + start, piece.nbytes)

    def release(self) -> None:
        """Give back the memory that the tensor takes; it can be read again."""
        file, offset, length = self.source
        file.drop(offset, length)


def check_external(
    tensors: Iterable[onnx.TensorProto], folder: Path | None, label: str
) -> dict[str, DataFile]:
    """Check every reference to external data in a model before any of it is read.

    Args:
        tensors: All external tensors of the model; keys that have no use are removed from them.
        folder: Where the model lies; None when that is not known.
        label: What messages call the model.

    Returns:
        The data files by the location that the model states; empty without external data.

    Raises:
        BadModelError: A location leads out of the folder, or a file is missing or too short.
    """
    files: dict[str, DataFile] = {}
    for tensor in tensors:
        if folder is None:
            raise BadModelError(
                f"{label} keeps its weights in other files, and it came without a folder",
                "give the path of the model instead of its contents",
            )
        location, offset, length = _reference(tensor, label)
        if location not in files:
            files[location] = DataFile(_resolved(folder, location, label), location, label)
        _check_extent(tensor, offset, length, files[location].size, label)
    return files


def map_external(model: ir.Model, files: dict[str, DataFile]) -> None:
    """Let every external tensor of `model` be read through its checked file."""
    if not files:
        return
    if len(files) <= _PINNED_FILES:
        for file in files.values():
            file.pin()
    for slot in tensor_slots(model):
        if isinstance(slot.tensor, ir.ExternalTensor):
            file = files[os.fspath(slot.tensor.location)]
            slot.put(MappedTensor(file, slot.tensor))


def _reference(tensor: onnx.TensorProto, label: str) -> tuple[str, int, int | None]:
    """The location, offset and length of an external tensor."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    keys = [entry.key for entry in tensor.external_data if entry.key in _KNOWN_KEYS]
    if len(set(keys)) < len(keys):
        raise BadModelError(
            f"{label} says twice where the tensor {tensor.name!r} is", "export the model again"
        )
    numbers = {key: entries.get(key) for key in ("offset", "length")}
    for key, text in numbers.items():
        if text is not None and not (text.isascii() and text.isdigit() and len(text) < 20):
            raise BadModelError(
                f"{label} gives the tensor {tensor.name!r} the {key} {text!r}, not a number",
                "export the model again",
            )
    for index in reversed(range(len(tensor.external_data))):
        if tensor.external_data[index].key not in _KNOWN_KEYS:
            del tensor.external_data[index]
    offset, length = numbers["offset"], numbers["length"]
    return (
        entries.get("location", ""),
        0 if offset is None else int(offset),
        None if length is None else int(length),
    )


def _resolved(folder: Path, location: str, label: str) -> Path:
    """The real path of `location`, which is inside `folder`."""
    described = f"the external data {location!r} of {label}"
    parts = PureWindowsPath(location).parts  # splits at both kinds of slash
    if not location or "\0" in location:
        raise BadModelError(f"{described} is not a possible path", _FOLDER_HINT)
    if location.startswith(("/", "\\")) or PureWindowsPath(location).drive:
        raise BadModelError(f"{described} is an absolute path", _FOLDER_HINT)
    if ".." in parts:
        raise BadModelError(f"{described} climbs out of the model's folder", _FOLDER_HINT)
    real_folder = Path(os.path.realpath(folder))
    real = Path(os.path.realpath(folder / location))
    if not real.is_relative_to(real_folder) or real == real_folder:
        raise BadModelError(
            f"{described} is a link out of the model's folder",
            "replace the link by a copy of the file",
        )
    return real


def _check_extent(
    tensor: onnx.TensorProto, offset: int, length: int | None, size: int, label: str
) -> None:
    described = f"the tensor {tensor.name!r} of {label}"
    needed = byte_size(tensor)
    if needed is None:
        raise BadModelError(
            f"{described} has a type that cannot be kept as external data",
            "keep it in the model file",
        )
    if any(dim < 0 for dim in tensor.dims):
        raise BadModelError(
            f"{described} has the impossible shape {list(tensor.dims)}", "export the model again"
        )
    if length is not None and length != needed:
        raise BadModelError(
            f"{described} has {length:,} bytes of external data, not the {needed:,} of its shape",
            "export the model again",
        )
    if offset + needed > size:
        raise BadModelError(
            f"the external data of {label} end at byte {size:,}, before its tensor "
            f"{tensor.name!r}, which ends at {offset + needed:,}",
            "the file is cut off; export, copy or download it again",
        )
