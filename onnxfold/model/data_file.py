"""External data files that onnxfold writes: their layout, their names, and whose they are."""

import contextlib
import mmap
import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import onnx_ir as ir

from onnxfold.model.external import MappedTensor
from onnxfold.model.slots import TensorSlot, tensor_slots
from onnxfold.model.target import create

_MIN_BYTES = 1024
"""Smaller tensors stay in the model file, where shape inference can see them."""

_PAGE = 4096
_PAGE_ALIGNED_BYTES = 1 << 16
_ALIGNMENT = 64
"""Every tensor begins at a multiple of this, so that it can be used where it is mapped; large ones
begin at a page."""

_FOOTER = b"\0external data by onnxfold 1\0".ljust(32, b"\0")
"""The end of every data file that onnxfold writes.

It lies behind all tensors, and tells a file that may be removed once it is superseded from one that
somebody else wrote.
"""


@dataclass(frozen=True, slots=True)
class DataLayout:
    """Where in a data file the tensors of a model go.

    Attributes:
        tensors: Each tensor with its offset, ascending.
        offsets: The offset by the identity of the tensor object; equal data share one.
    """

    tensors: tuple[tuple[ir.TensorProtocol, int], ...]
    offsets: dict[int, int]

    def reference(self, slot: TensorSlot, location: str) -> ir.TensorProtocol | None:
        """What stands for the tensor of `slot` in the model file; None if it is not laid out."""
        tensor = slot.tensor
        offset = self.offsets.get(id(tensor))
        if offset is None:
            return None
        return ir.ExternalTensor(
            location,
            offset,
            tensor.nbytes,
            tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=tensor.name or "",
            doc_string=tensor.doc_string,
            metadata_props=dict(tensor.metadata_props),
        )


def plan_data(model: ir.Model) -> DataLayout:
    """Lay out the tensors of `model` that go into a data file.

    Those are large initializers, and attributes that were external when the model was loaded.
    """
    tensors: list[tuple[ir.TensorProtocol, int]] = []
    offsets: dict[int, int] = {}
    places: dict[object, int] = {}
    end = 0
    for slot in tensor_slots(model):
        tensor = slot.tensor
        if not (slot.is_initializer or isinstance(tensor, MappedTensor)):
            continue
        size = tensor_bytes(tensor)
        if size < _MIN_BYTES or tensor.dtype == ir.DataType.STRING:
            continue
        key = tensor.source if isinstance(tensor, MappedTensor) else id(tensor)
        if key not in places:
            step = _PAGE if size >= _PAGE_ALIGNED_BYTES else _ALIGNMENT
            places[key] = -(-end // step) * step
            tensors.append((tensor, places[key]))
            end = places[key] + size
        offsets[id(tensor)] = places[key]
    return DataLayout(tuple(tensors), offsets)


def tensor_bytes(tensor: ir.TensorProtocol) -> int:
    """Bytes that a tensor takes in a file."""
    if isinstance(tensor, ir.StringTensor):
        return sum(len(text) for text in tensor.string_data())
    return 0 if tensor.dtype == ir.DataType.STRING else tensor.nbytes


def create_data_file(target: Path) -> tuple[Path, int]:
    """Make a data file for the model at `target`, under a name that was free, and open it."""
    number = 0
    while True:
        path = target.with_name(f"{target.name}.{number}.data" if number else f"{target.name}.data")
        try:
            return path, create(path, target)
        except FileExistsError:
            number += 1


def write_data(descriptor: int, layout: DataLayout) -> None:
    """Write tensors one by one; each is computed or mapped only while it is written.

    Args:
        descriptor: Of an empty file; closed at the end.
        layout: What to write where.
    """
    with os.fdopen(descriptor, "wb") as file:
        for tensor, offset in layout.tensors:
            file.write(bytes(offset - file.tell()))
            _write_tensor(file, tensor)
            written = file.tell() - offset
            if written != tensor.nbytes:
                raise ValueError(f"{tensor!r} wrote {written:,} bytes instead of {tensor.nbytes:,}")
        file.write(_FOOTER)
        file.flush()
        os.fsync(file.fileno())


def _write_tensor(file: IO[bytes], tensor: ir.TensorProtocol) -> None:
    if isinstance(tensor, ir.ExternalTensor):
        tensor.tofile(file)
        tensor.release()
        return
    if tensor.dtype.bitwidth >= 8 and sys.byteorder == "little":
        array = np.ascontiguousarray(tensor.numpy())
        if array.dtype.isnative:
            file.write(array.reshape(-1).view(np.uint8).data)
            return
    file.write(tensor.tobytes())


def data_of(target: Path) -> list[Path]:
    """Files named as the data of `target` that the model which is there now refers to."""
    if not target.is_file():
        return []
    named = [
        path
        for path in target.parent.iterdir()
        if path.name.startswith(f"{target.name}.") and _is_data_name(path.name, target.name)
    ]
    return [path for path in named if _contains(target, os.fsencode(path.name))]


def _is_data_name(name: str, target: str) -> bool:
    infix = name.removeprefix(target).removesuffix(".data")
    return name.endswith(".data") and (not infix or infix.removeprefix(".").isdigit())


def is_mentioned(data: Path) -> bool:
    """Whether any model in the folder of a data file has the file's name in it."""
    name = os.fsencode(data.name)
    return any(_contains(path, name) for path in data.parent.iterdir() if path.suffix == ".onnx")


def is_own(data: Path) -> bool:
    """Whether onnxfold wrote a data file, and it is no link."""
    status = data.lstat()
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1 or status.st_size < len(_FOOTER):
        return False
    with data.open("rb") as file:
        file.seek(-len(_FOOTER), os.SEEK_END)
        return file.read() == _FOOTER


def _contains(path: Path, text: bytes) -> bool:
    """Whether a file holds `text`; when it cannot be read, it might."""
    with contextlib.suppress(OSError, ValueError):
        if not path.is_file() or path.stat().st_size < len(text):
            return False
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return data.find(text) >= 0
    return True
