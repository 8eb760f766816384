"""Reads inputs that a user gives as .npz files."""

import zipfile
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from onnxfold.errors import BadOptionError


def read_data(files: Sequence[str]) -> list[dict[str, NDArray[np.generic]]] | None:
    """One feed from each file; None when there is no file.

    Args:
        files: .npz archives with one array for each input of the model. Pickled objects are
            refused, because reading one runs code.

    Raises:
        BadOptionError: A file cannot be read.
    """
    return [_read(file) for file in files] or None


def _read(file: str) -> dict[str, NDArray[np.generic]]:
    try:
        archive = np.load(file, allow_pickle=False)
        if isinstance(archive, np.lib.npyio.NpzFile):
            with archive:
                return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        reason = getattr(error, "strerror", None) or "it is no archive of plain arrays"
        raise BadOptionError(
            f"{file} cannot be read as .npz: {reason.lower()}",
            "write it with numpy.savez(file, input_name=array)",
        ) from error
    raise BadOptionError(
        f"{file} holds one array without a name",
        "write it with numpy.savez(file, input_name=array)",
    )
