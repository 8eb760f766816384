"""onnxsim, kept at arm's length: a process of its own, a time limit, files in between."""

import contextlib
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from onnxfold.errors import OnnxfoldError
from onnxfold.interop.exchange import lent_copy, take_back
from onnxfold.model.save import save

_PROCESS = Path(__file__).with_name("onnxsim_process.py")

_ANSWER = "the model that onnxsim made"

_SKIP = "leave out the pass simplify for this model"


class OnnxsimError(OnnxfoldError):
    """onnxsim did not give a model."""


def run_onnxsim(model: ir.Model, timeout_s: float) -> ir.Model:
    """The model as onnxsim simplifies it.

    Args:
        model: Not changed. Inputs with a default value stay inputs, and are not folded.
        timeout_s: Seconds after which onnxsim is stopped.

    Returns:
        A model of its own, with the metadata of `model` and, where they are still equal, its very
        tensors.

    Raises:
        OnnxsimError: onnxsim crashed, raised, took too long, or wrote nothing.
        BadModelError: What it wrote is no valid model.
    """
    # The result is read whole before the folder goes; mapped files would not survive it.
    with tempfile.TemporaryDirectory(prefix="onnxfold-", ignore_cleanup_errors=True) as name:
        source, target = Path(name, "source.onnx"), Path(name, "target.onnx")
        save(lent_copy(model), source)
        _run(source, target, Path(name, "problem.txt"), timeout_s)
        proto = _read(target)
    return take_back(proto, model, _ANSWER)


def _run(source: Path, target: Path, problem: Path, timeout_s: float) -> None:
    # -P keeps the folder of the script, which holds a module of the name onnxsim, off the path.
    command = [sys.executable, "-P", str(_PROCESS), str(source), str(target), str(problem)]
    try:
        ended = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=source.parent,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise OnnxsimError(
            f"onnxsim was stopped after {timeout_s:g} s",
            "give it longer with simplify:timeout_s=600",
        ) from error
    except OSError as error:
        raise OnnxsimError(f"onnxsim could not be started: {error.strerror}") from error
    if ended.returncode < 0:
        raise OnnxsimError(f"onnxsim crashed with {_signal_name(-ended.returncode)}", _SKIP)
    if ended.returncode != 0:
        reason = problem.read_text(encoding="utf-8") if problem.is_file() else ""
        raise OnnxsimError(
            f"onnxsim failed: {reason or f'it ended with exit code {ended.returncode}'}", _SKIP
        )


def _signal_name(number: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"


def _read(path: Path) -> onnx.ModelProto:
    try:
        return onnx.load(path)
    except FileNotFoundError as error:
        raise OnnxsimError("onnxsim wrote no model", _SKIP) from error
    except (DecodeError, ValueError, OSError, onnx.checker.ValidationError) as error:
        raise OnnxsimError("what onnxsim wrote is not an ONNX model", _SKIP) from error
