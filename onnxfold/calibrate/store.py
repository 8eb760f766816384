"""Calibrations in files, and the hash that tells which graph one belongs to.

A file is a .npz archive of plain arrays, a few for all tensors together, and is never unpickled.
Equal calibrations give equal bytes.
"""

import hashlib
import io
import json
import os
import tokenize
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxfold.calibrate.histogram import Histogram
from onnxfold.calibrate.statistics import Calibration, ChannelStatistics, TensorStatistics
from onnxfold.calibrate.sums import ExactSums
from onnxfold.errors import BadOptionError
from onnxfold.model.target import write_whole

_FORMAT = "onnxfold calibration 1"
_AGAIN = "calibrate again with `onnxfold calibrate`"

_ARCHIVE_ERRORS = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    RuntimeError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What reading a damaged archive raises, found by flipping its bits one after the other."""

Arrays = Mapping[str, NDArray[Any]]


def save(calibration: Calibration, path: str | os.PathLike[str]) -> None:
    """Write a calibration; a file that is there is replaced in one step.

    Raises:
        CannotWriteError: It cannot be written there; nothing was changed.
    """
    write_whole(to_bytes(calibration), path)


def load(path: str | os.PathLike[str], expected_hash: str | None = None) -> Calibration:
    """Read a calibration.

    Args:
        path: A file that `save` wrote.
        expected_hash: The hash of the graph that it is wanted for; None takes any.

    Raises:
        BadOptionError: There is no such file, it is damaged or something else, or it belongs to
            another graph.
    """
    name = os.fspath(path)
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise BadOptionError(
            f"the calibration {name} cannot be read: {reason}", "check the path"
        ) from error
    calibration = from_bytes(data, name)
    if expected_hash not in (None, calibration.graph_hash):
        raise BadOptionError(
            f"the calibration {name} belongs to another model, or this one was changed since",
            f"{_AGAIN} on this model",
        )
    return calibration


def to_bytes(calibration: Calibration) -> bytes:
    """The content of a file."""
    stats = list(calibration.tensors.values())
    header = {
        "format": _FORMAT,
        "graph": calibration.graph_hash,
        "data": calibration.data,
        "values": list(calibration.tensors),
    }
    arrays: dict[str, Any] = {
        "header": np.frombuffer(json.dumps(header).encode(), np.uint8),
        "samples": np.array(calibration.samples, np.int64),
        **_scalars(stats),
        "counts": _joined([each.histogram.counts for each in stats], np.int64),
        **_channels([each.channels for each in stats]),
    }
    arrays["digest"] = _digest(arrays)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def from_bytes(data: bytes, name: str) -> Calibration:
    """What `to_bytes` wrote.

    Args:
        data: The content of a file.
        name: What messages call it.

    Raises:
        BadOptionError: It is damaged or something else.
    """
    if not data.startswith(b"PK"):
        raise BadOptionError(f"{name} is not a calibration file", _AGAIN)
    damaged = BadOptionError(f"the calibration {name} is damaged or cut off", _AGAIN)
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except _ARCHIVE_ERRORS as error:
        raise damaged from error
    if "digest" in arrays and not np.array_equal(arrays.pop("digest"), _digest(arrays)):
        raise damaged
    try:
        return _calibration(arrays)
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise BadOptionError(
            f"{name} is not a calibration of this version of onnxfold", _AGAIN
        ) from error


def _digest(arrays: Arrays) -> NDArray[np.uint8]:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    return np.frombuffer(digest.digest(), np.uint8)


def _calibration(arrays: Arrays) -> Calibration:
    header = json.loads(arrays["header"].tobytes())
    if header["format"] != _FORMAT:
        raise ValueError("another format")
    counts = _parted(arrays["counts"], arrays["bins"])
    channels = _channels_from(arrays)
    tensors = {
        name: TensorStatistics(
            count=int(arrays["count"][index]),
            minimum=float(arrays["minimum"][index]),
            maximum=float(arrays["maximum"][index]),
            zeros=int(arrays["zeros"][index]),
            histogram=Histogram(
                int(arrays["exponent"][index]), int(arrays["first"][index]), counts[index]
            ),
            channels=channels[index],
        )
        for index, name in enumerate(header["values"])
    }
    samples = tuple(arrays["samples"].tolist())
    return Calibration(header["graph"], header["data"], samples, tensors)


def _scalars(stats: Sequence[TensorStatistics]) -> dict[str, NDArray[Any]]:
    return {
        "count": np.array([each.count for each in stats], np.int64),
        "minimum": np.array([each.minimum for each in stats], np.float64),
        "maximum": np.array([each.maximum for each in stats], np.float64),
        "zeros": np.array([each.zeros for each in stats], np.int64),
        "exponent": np.array([each.histogram.exponent for each in stats], np.int64),
        "first": np.array([each.histogram.first for each in stats], np.int64),
        "bins": np.array([len(each.histogram.counts) for each in stats], np.int64),
    }


def _channels(channels: Sequence[ChannelStatistics | None]) -> dict[str, NDArray[Any]]:
    """Arrays for all tensors with channels; a tensor without has -1 channels."""
    given = [each for each in channels if each is not None]
    return {
        "channels": np.array([-1 if c is None else len(c.minimum) for c in channels], np.int64),
        "channel_minimum": _joined([each.minimum for each in given], np.float32),
        "channel_maximum": _joined([each.maximum for each in given], np.float32),
        "sum_terms": np.array([each.sums.terms for each in given], np.int64),
        "sum_first": np.array([each.sums.first for each in given], np.int64),
        "sum_groups": np.array([len(each.sums.limbs) for each in given], np.int64),
        "sum_limbs": _joined([each.sums.limbs.ravel() for each in given], np.int64),
    }


def _channels_from(arrays: Arrays) -> list[ChannelStatistics | None]:
    extents = arrays["channels"]
    given = extents[extents >= 0]
    minima = _parted(arrays["channel_minimum"], given)
    maxima = _parted(arrays["channel_maximum"], given)
    limbs = _parted(arrays["sum_limbs"], arrays["sum_groups"] * given)
    found = iter(
        ChannelStatistics(
            minimum,
            maximum,
            ExactSums(int(terms), int(first), limb.reshape(int(groups), len(minimum))),
        )
        for minimum, maximum, terms, first, groups, limb in zip(
            minima,
            maxima,
            arrays["sum_terms"],
            arrays["sum_first"],
            arrays["sum_groups"],
            limbs,
            strict=True,
        )
    )
    return [None if extent < 0 else next(found) for extent in extents]


def _joined(parts: Sequence[NDArray[Any]], dtype: type[np.generic]) -> NDArray[Any]:
    return np.concatenate([np.zeros(0, dtype), *parts])


def _parted(array: NDArray[Any], lengths: NDArray[Any]) -> list[NDArray[Any]]:
    if lengths.sum() != len(array):
        raise ValueError("the lengths of the parts do not fit")
    return np.split(array, np.cumsum(lengths)[:-1]) if len(lengths) else []
