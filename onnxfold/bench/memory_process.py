"""Runs one model and tells how much memory that took; started in a process of its own.

Usage: python -m onnxfold.bench.memory_process REQUEST ANSWER
"""

import gc
import json
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import onnx.parser

from onnxfold.bench.runners import Content, Runtime, Settings, open_runtime
from onnxfold.errors import CannotRunError, OnnxfoldError
from onnxfold.verify.session import Array, FeedRefusedError

_RUNS = 3
_STATUS = Path("/proc/self/status")


def main(request: Path) -> dict[str, object]:
    """Do what the request says; the answer."""
    wanted = json.loads(request.read_text(encoding="utf-8"))
    settings = Settings(wanted["threads"], wanted["precision"])
    feed = _read_feed(Path(wanted["feed"]))
    try:
        runtime = open_runtime(wanted["runtime"])
        # What the runtime itself takes on first use is none of the model's.
        _run(runtime, _smallest_model(), {"x": np.zeros(1, np.float32)}, settings)
        gc.collect()
        _forget_peak()
        before = _resident_bytes()
        _run(runtime, wanted["model"], feed, settings)
        return {"peak_bytes": max(0, _peak_bytes() - before)}
    except OnnxfoldError as error:
        return {"error": error.message, "hint": error.hint}
    except FeedRefusedError as error:
        return {"error": str(error), "hint": "check the feed's sizes"}


def _run(runtime: Runtime, content: Content, feed: dict[str, Array], settings: Settings) -> None:
    runner = runtime.load(content, settings)
    runner.bind(feed)
    for _ in range(_RUNS):
        runner.run()


def _read_feed(path: Path) -> dict[str, Array]:
    values = onnx.GraphProto.FromString(path.read_bytes())
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in values.initializer}


def _smallest_model() -> bytes:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[1] x) => (float[1] y) {y = Neg(x)}'
    )
    return bytes(model.SerializeToString())


def _forget_peak() -> None:
    """Let the largest resident set count from now on, where Linux allows it."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _resident_bytes() -> int:
    """The resident set now; elsewhere than on Linux the largest so far."""
    return _status("VmRSS") if _STATUS.is_file() else _largest()


def _peak_bytes() -> int:
    """The largest resident set.

    On Linux `getrusage` would do no good: it remembers the size of the process that started this
    one.
    """
    return _status("VmHWM") if _STATUS.is_file() else _largest()


def _status(key: str) -> int:
    lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def _largest() -> int:
    try:
        import resource  # there is none on Windows
    except ImportError as error:
        raise CannotRunError("this system does not tell how much memory a process takes") from error
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    found = main(Path(sys.argv[1]))
    Path(sys.argv[2]).write_text(json.dumps(found), encoding="utf-8")
