"""Writing a model so that nothing is ever half written.

The new model is written beside its target under another name, where it can be loaded and checked,
and takes the target's place in one step, or not at all. Its external data are written under their
final name from the start, since the model refers to them by it; a name that is taken is never
written to. So there is no moment at which the target and the data it refers to do not fit.
"""

import contextlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import EncodeError

from onnxfold.errors import CannotWriteError
from onnxfold.model.data_file import (
    DataLayout,
    create_data_file,
    data_of,
    is_mentioned,
    is_own,
    plan_data,
    tensor_bytes,
    write_data,
)
from onnxfold.model.external import MappedTensor
from onnxfold.model.proto import (
    embedded,
    serialized_form,
    tensors_replaced,
    to_proto,
    written_form,
)
from onnxfold.model.read import PROTOBUF_LIMIT
from onnxfold.model.slots import tensor_slots
from onnxfold.model.target import cannot_write, check_target, create, sync_folder

_SLACK = 1 << 26
"""Bytes left for everything but tensors when deciding whether a model fits into one message."""


class PendingFile:
    """A model that is written but not yet in its place; made by `staged`.

    Attributes:
        path: The complete model under its temporary name, in the target's folder. It can be
            loaded by this name.
        target: Where `commit` puts it.
        data_path: Its external data under their final name; None when all is in one file.
        unused_data: After `commit`, data files beside the target that the replaced model had
            referred to and that no model there refers to any more, but which were kept because
            onnxfold did not write them.
    """

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(f".onnxfold-{secrets.token_hex(8)}.onnx")
        self.target = target
        self.data_path: Path | None = None
        self.unused_data: tuple[Path, ...] = ()
        self._committed = False

    def commit(self) -> None:
        """Put the model in its place, and remove the data of an earlier one that onnxfold wrote.

        Raises:
            CannotWriteError: It could not be put there; the old file is untouched.
        """
        if self._committed:
            return
        try:
            superseded = data_of(self.target)
            os.replace(self.path, self.target)
        except OSError as error:
            raise cannot_write(self.target, error) from error
        self._committed = True
        sync_folder(self.target.parent)
        self.unused_data = tuple(path for path in superseded if _is_left_behind(path))

    def discard(self) -> None:
        """Remove what was written, unless it was committed."""
        if self._committed:
            return
        for path in (self.path, self.data_path):
            if path is not None:
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)


def _is_left_behind(data: Path) -> bool:
    """Remove a data file of ours that nothing refers to; whether one of others' stays behind."""
    try:
        if is_mentioned(data):
            return False
        if is_own(data):
            data.unlink()
            return False
    except OSError:
        # The model is in its place; that its predecessor's data could not be removed is no error.
        return True
    return True


def save(
    model: ir.Model, path: str | os.PathLike[str], *, external_data: bool | None = None
) -> None:
    """Write a model.

    Args:
        model: Not changed.
        path: Where to; a file that is there is replaced in one step, and keeps its permissions.
            It may be the file that the model was loaded from.
        external_data: Whether weights go into a file of their own, `<path>.data`, or
            `<path>.1.data` and so on where that name is taken; None: when the model was loaded
            with such a file, or is too large for one.

    Raises:
        CannotWriteError: It cannot be written there; nothing was changed.
    """
    with staged(model, path, external_data=external_data) as pending:
        pending.commit()


@contextmanager
def staged(
    model: ir.Model, path: str | os.PathLike[str], *, external_data: bool | None = None
) -> Iterator[PendingFile]:
    """Write a model under a temporary name, to be checked and then committed.

    At the end of the block everything written is removed, unless `commit` was called.

    Args:
        model: As for `save`.
        path: As for `save`.
        external_data: As for `save`.

    Raises:
        CannotWriteError: It cannot be written there; nothing was changed.
    """
    target = check_target(path)
    layout = _planned_data(model, target, external_data)
    if layout is not None:
        _refuse_link_elsewhere(path, target)
    pending = PendingFile(target)
    try:
        try:
            _write(model, pending, layout)
        except OSError as error:
            raise cannot_write(target, error) from error
        yield pending
    finally:
        pending.discard()


def _planned_data(model: ir.Model, target: Path, wish: bool | None) -> DataLayout | None:
    """The layout of the data file, None when there is to be none."""
    slots = list(tensor_slots(model))
    total = sum(tensor_bytes(slot.tensor) for slot in slots)
    fits = total < PROTOBUF_LIMIT - _SLACK
    if wish is False and not fits:
        raise CannotWriteError(
            f"{target} would hold {total / 1e9:.1f} GB in one file, and protobuf ends at 2 GB",
            "let its weights go to a file of their own",
        )
    had_data = written_form(model.graph).external_data or any(
        isinstance(slot.tensor, MappedTensor) for slot in slots
    )
    if wish is False or (wish is None and fits and not had_data):
        return None
    layout = plan_data(model)
    return layout if layout.tensors else None


def _refuse_link_elsewhere(path: str | os.PathLike[str], target: Path) -> None:
    folder = os.path.realpath(os.path.dirname(os.path.abspath(path)))
    if Path(folder) != target.parent:
        raise CannotWriteError(
            f"{os.fspath(path)} is a link into another folder, where its external data would not "
            "be found",
            f"give the real path, {target}",
        )


def _write(model: ir.Model, pending: PendingFile, layout: DataLayout | None) -> None:
    if layout is None:
        proto = to_proto(model)
    else:
        path, descriptor = create_data_file(pending.target)
        pending.data_path = path
        write_data(descriptor, layout)
        with tensors_replaced(
            model, lambda slot: layout.reference(slot, path.name) or embedded(slot)
        ):
            proto = serialized_form(model)
    data = _serialised(proto, pending.target)
    with os.fdopen(create(pending.path, pending.target), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    # The names of both files reach the disk before one of them replaces the target.
    sync_folder(pending.target.parent)


def _serialised(proto: onnx.ModelProto, target: Path) -> bytes:
    too_large = CannotWriteError(
        f"{target} would be over 2 GB in one file, where protobuf ends",
        "let its weights go to a file of their own",
    )
    try:
        data: bytes = proto.SerializeToString()
    except (EncodeError, ValueError) as error:
        raise too_large from error
    if len(data) > PROTOBUF_LIMIT:
        raise too_large
    return data
