"""The file that is to be written: may it be, and what to say when it may not."""

import contextlib
import errno
import os
import secrets
import shutil
import stat
from pathlib import Path

from onnxfold.errors import CannotWriteError


def check_target(path: str | os.PathLike[str]) -> Path:
    """Check that a file can be written at `path`, without touching it.

    Args:
        path: Where a model is to be written.

    Returns:
        The file itself: the end of the chain when `path` is a symbolic link.

    Raises:
        CannotWriteError: It is a folder or a device, its folder is missing or may not be written.
    """
    text = os.fspath(path)
    if not text or "\0" in text:
        raise CannotWriteError(f"{text!r} is not a possible path", "give the path of a file")
    target = Path(os.path.realpath(text))
    try:
        _check_file(target, text)
        _check_folder(target.parent, text)
    except OSError as error:
        raise cannot_write(target, error) from error
    return target


def _check_file(target: Path, text: str) -> None:
    if target.is_dir() or text.endswith(os.sep):
        raise CannotWriteError(f"{text} is a folder", f"give a file, as {Path(text, 'out.onnx')}")
    if not target.exists():
        return
    if not stat.S_ISREG(target.stat().st_mode):
        raise CannotWriteError(f"{text} is not a regular file", "give the path of a file")
    if not os.access(target, os.W_OK):
        raise CannotWriteError(
            f"{text} may not be written", "make it writable, or write to another file"
        )


def _check_folder(folder: Path, text: str) -> None:
    if not folder.exists():
        raise CannotWriteError(
            f"{text} cannot be written: there is no folder {folder}", "make the folder first"
        )
    if not folder.is_dir():
        raise CannotWriteError(
            f"{text} cannot be written: {folder} is not a folder", "give another path"
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise CannotWriteError(
            f"{text} cannot be written: no file may be made in {folder}",
            "write to another folder, or make this one writable",
        )


def cannot_write(target: Path, error: OSError) -> CannotWriteError:
    """What to tell the user when writing `target` failed."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        with contextlib.suppress(OSError):
            free = shutil.disk_usage(target.parent).free
            return CannotWriteError(
                f"{target} cannot be written: its disk is full",
                f"{free / 1e6:,.0f} MB are free there; make room or write to another disk",
            )
    if error.errno == errno.EFBIG:
        return CannotWriteError(
            f"{target} cannot be written: the file would be too large for its disk or a limit",
            "see ulimit -f, or write to another disk",
        )
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return CannotWriteError(
            f"{target} cannot be written: permission denied",
            "write to another folder, or make this one writable",
        )
    reason = (error.strerror or type(error).__name__).lower()
    return CannotWriteError(
        f"{target} cannot be written: {reason}", "check the path and the disk it is on"
    )


def create(path: Path, like: Path) -> int:
    """Make a new, empty file.

    Args:
        path: Its name; must not be taken.
        like: A file whose permissions and owner it gets, as if that one had been written to; if
            there is none, those that any new file gets.

    Returns:
        A descriptor to write to.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    for name in ("O_CLOEXEC", "O_NOFOLLOW", "O_BINARY"):
        flags |= getattr(os, name, 0)
    descriptor = os.open(path, flags, 0o666)
    with contextlib.suppress(OSError, AttributeError):
        old, new = like.stat(), os.fstat(descriptor)
        if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
            with contextlib.suppress(PermissionError):
                os.fchown(descriptor, old.st_uid, old.st_gid)
        os.fchmod(descriptor, stat.S_IMODE(old.st_mode))
    return descriptor


def write_whole(data: bytes, path: str | os.PathLike[str]) -> None:
    """Write a file; one that is there is replaced in one step.

    Raises:
        CannotWriteError: It cannot be written there; nothing was changed.
    """
    target = check_target(path)
    temporary = target.with_name(f".onnxfold-{secrets.token_hex(8)}{target.suffix}")
    try:
        with os.fdopen(create(temporary, target), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise cannot_write(target, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Let the names in a folder reach the disk, where the system can do that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
