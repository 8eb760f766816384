"""Models on disk and in memory: `load`, `save`, `staged` and `to_proto`."""

from onnxfold.model.load import LoadedModel, load
from onnxfold.model.proto import to_proto
from onnxfold.model.save import PendingFile, save, staged
from onnxfold.model.target import check_target

__all__ = [
    "LoadedModel",
    "PendingFile",
    "check_target",
    "load",
    "save",
    "staged",
    "to_proto",
]
