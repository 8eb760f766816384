"""Which files a user means: images and arrays, in an order that does not depend on the machine."""

import glob
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from onnxfold.calibrate.images import has_pillow, image_suffixes, require_pillow
from onnxfold.errors import BadOptionError

ARRAY_SUFFIXES = frozenset({".npy", ".npz"})


@dataclass(frozen=True, slots=True)
class File:
    """A file of samples.

    Attributes:
        path: Absolute, so that another process finds it.
        label: Its path as the user would write it.
        named: Whether the user named it instead of a folder that holds it.
    """

    path: str
    label: str
    named: bool

    @property
    def is_array(self) -> bool:
        """Whether it is an .npy or .npz file."""
        return _suffix(self.path) in ARRAY_SUFFIXES


def find_files(sources: Sequence[str]) -> tuple[File, ...]:
    """The files of samples behind paths.

    Folders are searched with everything below them, in the order of their names; hidden files are
    left out, and so is whatever is neither an array nor an image. A path with `*` that does not
    exist as it stands is a pattern.

    Raises:
        BadOptionError: A path does not exist, or nothing was found.
        CannotRunError: There are no arrays, and Pillow is not installed.
    """
    found = {file.path: file for source in sources for file in _behind(source)}.values()
    suffixes = _sample_suffixes(found)
    files = tuple(file for file in found if file.named or _suffix(file.path) in suffixes)
    if not files:
        raise BadOptionError(
            f"{', '.join(sources) or 'the source'} holds no images and no .npy or .npz files",
            "give a folder of images, or files of arrays",
        )
    return files


def _sample_suffixes(files: Collection[File]) -> frozenset[str]:
    if any(file.is_array for file in files) and not has_pillow():
        return ARRAY_SUFFIXES
    if any(not file.is_array for file in files):
        require_pillow()
        return ARRAY_SUFFIXES | image_suffixes()
    return ARRAY_SUFFIXES


def _behind(source: str) -> Iterator[File]:
    if os.path.isdir(source):
        yield from _below(source)
    elif os.path.exists(source):
        yield File(os.path.abspath(source), source, named=True)
    elif glob.has_magic(source):
        matches = sorted(path for path in glob.glob(source, recursive=True) if os.path.isfile(path))
        if not matches:
            raise BadOptionError(f"nothing matches {source}", "check the pattern")
        yield from (File(os.path.abspath(path), path, named=True) for path in matches)
    else:
        raise BadOptionError(f"{source} does not exist", "check the path")


def _below(folder: str) -> Iterator[File]:
    entered: set[str] = set()
    for place, folders, names in os.walk(folder, onerror=_refuse, followlinks=True):
        real = os.path.realpath(place)
        # A link may lead back up. Names that begin with a dot are the file system's own affairs.
        folders[:] = [] if real in entered else sorted(n for n in folders if n[0] != ".")
        if real in entered:
            continue
        entered.add(real)
        for name in sorted(n for n in names if n[0] != "."):
            path = os.path.join(place, name)
            if os.path.isfile(path):
                yield File(os.path.abspath(path), path, named=False)


def _refuse(error: OSError) -> None:
    raise BadOptionError(
        f"{error.filename} cannot be listed: {(error.strerror or str(error)).lower()}",
        "check the rights of the folder",
    ) from error


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()
