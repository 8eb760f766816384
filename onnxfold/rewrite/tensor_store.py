"""Where the numbers of new constants are kept until the model is saved."""

import os
import tempfile
from pathlib import Path
from typing import Any, Protocol, Self

import onnx_ir as ir
from numpy.typing import NDArray

_SPILL_BYTES = 1 << 16
"""Smaller constants stay in memory even when large ones are spilled."""


class TensorStore(Protocol):
    """Turns an array into a tensor that a graph can hold."""

    def keep(self, array: NDArray[Any], dtype: ir.DataType) -> ir.TensorProtocol:
        """The tensor with these numbers."""
        ...


class MemoryStore:
    """Keeps every constant in memory: right for models that fit there anyway."""

    def keep(self, array: NDArray[Any], dtype: ir.DataType) -> ir.TensorProtocol:
        """The tensor with these numbers, sharing the memory of `array`."""
        return ir.Tensor(array, dtype=dtype)


class SpillStore:
    """Keeps large constants in a temporary file, so that folding a huge model stays small.

    The file has no name and vanishes with the store. Constants are mapped when they are read and
    can be released again, as external weights of the input are.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="onnxfold-")
        self._file = (Path(self._folder.name) / "constants").open("wb")

    def keep(self, array: NDArray[Any], dtype: ir.DataType) -> ir.TensorProtocol:
        """The tensor with these numbers, on disk when it is large."""
        if array.nbytes < _SPILL_BYTES:
            return ir.Tensor(array, dtype=dtype)
        offset = self._file.tell()
        ir.Tensor(array, dtype=dtype).tofile(self._file)
        self._file.flush()
        # The kernel may drop what was written from its cache only once it is on disk; it is not
        # counted as this process's memory either way, because it is not mapped.
        return ir.ExternalTensor(
            location=os.path.basename(self._file.name),
            offset=offset,
            length=self._file.tell() - offset,
            dtype=dtype,
            shape=ir.Shape(array.shape),
            name="",
            base_dir=self._folder.name,
        )

    def __enter__(self) -> Self:
        """The store itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the file. Tensors kept here can no longer be read."""
        self._file.close()
        self._folder.cleanup()
