"""What a report was made from and with: files by their hash, versions of what took part."""

import hashlib
import importlib.metadata
import os
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from onnxfold.model import load

_PACKAGES = ("onnxfold", "onnx", "onnx-ir", "numpy", "onnxruntime", "openvino", "pillow")


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file that was read or written.

    Attributes:
        role: What it was: model, weights, calibration, result.
        path: Where it was.
        size: In bytes.
        sha256: Of its content, in hexadecimal digits.
    """

    role: str
    path: str
    size: int
    sha256: str

    @classmethod
    def of(cls, role: str, path: str | os.PathLike[str]) -> "FileRecord":
        """Read a file."""
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256")
            return cls(role, os.fspath(path), file.tell(), digest.hexdigest())


@dataclass(frozen=True, slots=True)
class Provenance:
    """What a report was made from and with.

    Attributes:
        files: Those that were read and written.
        versions: Of Python and of packages that are installed, by name.
        machine: System and processor.
    """

    files: tuple[FileRecord, ...]
    versions: dict[str, str]
    machine: str

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON-ready data."""
        return asdict(self)


def model_files(role: str, path: str | os.PathLike[str]) -> tuple[FileRecord, ...]:
    """A model and the files beside it that hold its weights.

    Raises:
        BadModelError: It cannot be read.
    """
    weights = dict.fromkeys(_weight_files(load(path).model))
    return FileRecord.of(role, path), *(FileRecord.of("weights", each) for each in weights)


def _weight_files(model: ir.Model) -> Iterator[Path]:
    for value in model.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            yield Path(value.const_value.path)


def provenance(files: tuple[FileRecord, ...]) -> Provenance:
    """What is known about this process, beside the files."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return Provenance(files, versions, f"{platform.system()} {platform.machine()}")
