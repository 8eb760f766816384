"""Where the main job keeps what does not fit into memory."""

from collections.abc import Iterator
from contextlib import contextmanager

from onnxfold.errors import CannotWriteError
from onnxfold.model import LoadedModel

_IN_MEMORY_BYTES = 1 << 30
"""Models with more, or with external data, go to the runtime as files."""


@contextmanager
def room_wanted() -> Iterator[None]:
    """Say what to do when no temporary folder can be made.

    Raises:
        CannotWriteError: None could.
    """
    try:
        yield
    except OSError as error:
        raise CannotWriteError(
            f"no temporary folder can be made: {(error.strerror or str(error)).lower()}",
            "make room on the disk, or set TMPDIR to a folder on another one",
        ) from error


def is_heavy(loaded: LoadedModel) -> bool:
    """Whether a model is handed to the runtime as a file."""
    tensors = (value.const_value for value in loaded.model.graph.initializers.values())
    in_memory = sum(tensor.nbytes for tensor in tensors if tensor is not None)
    return loaded.has_external_data or in_memory > _IN_MEMORY_BYTES
