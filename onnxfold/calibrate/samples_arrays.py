"""Samples from .npy and .npz files, and from Python.

Nothing is ever unpickled: reading a pickle runs code. Files are mapped or read when a sample is
asked for. What has no file to map (feeds from Python, an archive with many samples) is unpacked
into a scratch folder first, so that memory holds one sample and other processes can read it.
"""

import os
import shutil
import tempfile
import weakref
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from onnxfold.calibrate.images import UnreadableError
from onnxfold.calibrate.samples_files import File
from onnxfold.errors import BadOptionError, CannotWriteError

_BROKEN = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    RuntimeError,  # an encrypted archive
    zlib.error,
    zipfile.BadZipFile,
)
_HINT = "write it with numpy.save or numpy.savez, as plain arrays of numbers"

Feed = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Stored:
    """An array in a file.

    Attributes:
        path: The file.
        member: Its name in an .npz archive, None in an .npy file.
        shape: Its shape.
        dtype: Its type.
        is_fortran: Whether the first axis is the densest.
        offset: Bytes of header before its numbers.
    """

    path: str
    member: str | None
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    is_fortran: bool
    offset: int

    def read(self, rows: tuple[int, int] | None) -> NDArray[Any]:
        """The array, or these rows of it.

        The header is not read again: numpy parses it with `ast`, which Python 3.11 cannot do in
        several threads at once.

        Raises:
            UnreadableError: The file is damaged.
        """
        try:
            array = self._mapped() if self.member is None else self._extracted()
            return np.array(array if rows is None else array[slice(*rows)])
        except _BROKEN as error:
            raise UnreadableError(_reason(error)) from error

    def _mapped(self) -> NDArray[Any]:
        if 0 in self.shape:
            return np.empty(self.shape, self.dtype)
        order: Literal["F", "C"] = "F" if self.is_fortran else "C"
        return np.memmap(
            self.path, self.dtype, mode="r", offset=self.offset, shape=self.shape, order=order
        )

    def _extracted(self) -> NDArray[Any]:
        with zipfile.ZipFile(self.path) as archive, archive.open(f"{self.member}.npy") as stream:
            stream.read(self.offset)
            numbers = np.frombuffer(stream.read(), self.dtype)
        return numbers.reshape(self.shape, order="F" if self.is_fortran else "C")


@dataclass(frozen=True, slots=True)
class Bundle:
    """Arrays that belong together, by the name they have in the file; an .npy gives none."""

    label: str
    arrays: Mapping[str | None, Stored]


class Scratch:
    """A folder that lives as long as this object; copies in other processes do not count."""

    def __init__(self) -> None:
        try:
            self.folder = tempfile.mkdtemp(prefix="onnxfold-samples-")
        except OSError as error:
            raise _no_room(error) from error
        weakref.finalize(self, _remove, self.folder, os.getpid())


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # not a forked worker
        shutil.rmtree(folder, ignore_errors=True)


def read_bundle(file: File) -> Bundle:
    """What a file says that it holds; the numbers are not looked at.

    Raises:
        UnreadableError: It is damaged.
        BadOptionError: It holds Python objects, or no array.
    """
    if not file.path.lower().endswith(".npz"):
        return Bundle(file.label, {None: _npy_header(file)})
    try:
        with zipfile.ZipFile(file.path) as archive:
            members = [name for name in archive.namelist() if name.endswith(".npy")]
            arrays: dict[str | None, Stored] = {
                name.removesuffix(".npy"): _member_header(archive, name, file) for name in members
            }
    except _BROKEN as error:
        raise UnreadableError(_reason(error)) from error
    if not arrays:
        raise BadOptionError(f"{file.label} is an archive without arrays", _HINT)
    return Bundle(file.label, arrays)


def _npy_header(file: File) -> Stored:
    try:
        with open(file.path, "rb") as stream:
            stored = _header(stream, file.path, None)
    except _BROKEN as error:
        raise UnreadableError(_reason(error)) from error
    _refuse_objects(stored.dtype, file.label)
    return stored


def _member_header(archive: zipfile.ZipFile, name: str, file: File) -> Stored:
    with archive.open(name) as stream:
        stored = _header(stream, file.path, name.removesuffix(".npy"))
    _refuse_objects(stored.dtype, f"{stored.member} in {file.label}")
    return stored


def _header(stream: Any, path: str, member: str | None) -> Stored:
    version = npy.read_magic(stream)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, is_fortran, dtype = read(stream)
    return Stored(path, member, shape, dtype, is_fortran, stream.tell())


def _refuse_objects(dtype: np.dtype[Any], label: str) -> None:
    if dtype.hasobject:
        raise BadOptionError(
            f"{label} holds Python objects, which are not read because unpickling runs code", _HINT
        )


def unpacked(bundle: Bundle, scratch: Scratch) -> Bundle:
    """The bundle with its arrays as .npy files, which can be mapped.

    Raises:
        UnreadableError: The archive is damaged.
        CannotWriteError: There is no room for it.
    """
    arrays: dict[str | None, Stored] = {}
    for name, stored in bundle.arrays.items():
        handle, path = tempfile.mkstemp(dir=scratch.folder, suffix=".npy")
        with (
            open(handle, "wb") as target,
            _unreadable(),
            zipfile.ZipFile(stored.path) as archive,
            archive.open(f"{stored.member}.npy") as source,
        ):
            _copy(source, target)
        arrays[name] = replace(stored, path=path, member=None)
    return Bundle(bundle.label, arrays)


@contextmanager
def _unreadable() -> Iterator[None]:
    try:
        yield
    except _BROKEN as error:
        raise UnreadableError(_reason(error)) from error


def _copy(source: Any, target: Any) -> None:
    while block := source.read(1 << 20):
        try:
            target.write(block)
        except OSError as error:
            raise _no_room(error) from error


def spilled(feeds: Iterable[Any], names: tuple[str, ...], scratch: Scratch) -> Iterator[Bundle]:
    """Write each feed into the scratch folder.

    Args:
        feeds: Dicts by input name, or arrays for a model with one input.
        names: The model's inputs.
        scratch: Where to.

    Raises:
        BadOptionError: An element is neither, or holds Python objects.
        CannotWriteError: There is no room for it.
    """
    for index, feed in enumerate(feeds):
        label = f"sample {index}"
        arrays: dict[str | None, Stored] = {}
        for place, (name, value) in enumerate(_by_name(feed, names, label)):
            array = _as_array(value, label)
            path = os.path.join(scratch.folder, f"{index}-{place}.raw")
            try:
                with open(path, "wb") as stream:
                    stream.write(array.tobytes())
            except OSError as error:
                raise _no_room(error) from error
            arrays[name] = Stored(path, None, array.shape, array.dtype, False, 0)
        yield Bundle(label, arrays)


def _by_name(feed: Any, names: tuple[str, ...], label: str) -> Iterable[tuple[str | None, Any]]:
    if isinstance(feed, Mapping):
        return [(str(name), value) for name, value in feed.items()]
    if isinstance(feed, str | bytes | tuple | list | set):
        raise BadOptionError(
            f"{label} is a {type(feed).__name__}, not an array or a dict of arrays",
            f"give dicts with {', '.join(names)}" if names else "give dicts by input name",
        )
    return [(None, feed)]


def _as_array(value: Any, label: str) -> NDArray[Any]:
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadOptionError(
            f"{label} cannot be read as an array: {_reason(error)}", "give numpy arrays"
        ) from error
    if array.dtype.kind not in "biuf":
        raise BadOptionError(
            f"{label} is of type {array.dtype}, not an array of numbers", "give numpy arrays"
        )
    return array


def _no_room(error: OSError) -> CannotWriteError:
    return CannotWriteError(
        f"samples cannot be kept in {tempfile.gettempdir()}: {_reason(error)}",
        "set TMPDIR to a folder with room, or give the samples as .npy files",
    )


def _reason(error: BaseException) -> str:
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    first = str(words).strip().splitlines()[0].rstrip(".")
    return first[:1].lower() + first[1:]
