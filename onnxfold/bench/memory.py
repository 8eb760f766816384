"""Peak memory of a model on a runtime, each in a process of its own."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import onnx

from onnxfold.bench.inputs import Feed
from onnxfold.bench.runners import Content, Settings
from onnxfold.errors import CannotRunError


def peak_memory(content: Content, runtime: str, feed: Feed, settings: Settings) -> int:
    """Bytes that loading a model and running it a few times adds to a process at its peak.

    The process has loaded the runtime and run a model of one node before; only what the largest
    resident set grows by from there is counted.

    Args:
        content: The model.
        runtime: Which runtime, as in `runners.RUNTIMES`.
        feed: The inputs.
        settings: How to run it.

    Raises:
        CannotRunError: It does not run in a process of its own (there is too little memory, say),
            or the system does not tell.
    """
    with tempfile.TemporaryDirectory(prefix="onnxfold-", ignore_cleanup_errors=True) as name:
        request, answer = Path(name, "request.json"), Path(name, "answer.json")
        values = onnx.GraphProto()
        values.initializer.extend(onnx.numpy_helper.from_array(a, key) for key, a in feed.items())
        Path(name, "feed.pb").write_bytes(values.SerializeToString())
        model = content if isinstance(content, str) else str(Path(name, "model.onnx"))
        if isinstance(content, bytes):
            Path(model).write_bytes(content)
        request.write_text(
            json.dumps(
                {
                    "model": os.path.abspath(model),
                    "feed": str(Path(name, "feed.pb")),
                    "runtime": runtime,
                    "threads": settings.threads,
                    "precision": settings.precision,
                }
            ),
            encoding="utf-8",
        )
        _run(request, answer)
        result = json.loads(answer.read_text(encoding="utf-8"))
    if "error" in result:
        raise CannotRunError(result["error"], result["hint"])
    return int(result["peak_bytes"])


def _run(request: Path, answer: Path) -> None:
    # The process must find what this one has imported, wherever that came from.
    found = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    ended = subprocess.run(
        [
            *(sys.executable, "-P", "-m", "onnxfold.bench.memory_process"),
            *(str(request), str(answer)),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": found},
        check=False,
    )
    if ended.returncode != 0 or not answer.is_file():
        raise CannotRunError(
            f"the process that ran the model alone {_how_it_ended(ended.returncode)}",
            "it may have needed more memory than there is",
        )


def _how_it_ended(code: int) -> str:
    if code < 0:
        with suppress(ValueError):
            return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
