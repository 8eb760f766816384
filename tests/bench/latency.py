"""How fast models run: input, onnxfold's result, and the peers' results, in one process.

    python -m tests.bench.latency [NAME …] [--runtime ort,openvino] [--rounds 30] [--threads 2]

Every round runs every variant once, in random order. Threads of one session must not spin while
another runs, so spinning is off; the order changes, because what always runs first looks different.
"""

import argparse
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from onnxfold.optimization import OptimizeOptions, optimize
from tests import zoo

Feed = Mapping[str, NDArray[np.float32]]
Runner = Callable[[], object]


def _ort_runner(path: Path, feed: Feed, threads: int) -> Runner:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, dict(feed))


def _openvino_runner(path: Path, feed: Feed, threads: int) -> Runner:
    import openvino

    settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    request = compiled.create_infer_request()
    return lambda: request.infer(dict(feed))


_RUNNERS = {"ort": _ort_runner, "openvino": _openvino_runner}


def _model_and_feed(name: str) -> tuple[onnx.ModelProto, Feed]:
    """A model of the zoo by its name, or a file; open axes of a file count as 1."""
    if not name.endswith(".onnx"):
        return zoo.load(name), zoo.feeds(name)
    model = onnx.load(name)
    generator = np.random.default_rng(0)
    feed: dict[str, NDArray[np.float32]] = {}
    for info in model.graph.input:
        shape = [dim.dim_value or 1 for dim in info.type.tensor_type.shape.dim]
        feed[info.name] = generator.standard_normal(shape).astype(np.float32)
    return model, feed


def _variants(model: onnx.ModelProto, folder: Path) -> dict[str, Path]:
    source = folder / "input.onnx"
    onnx.save(model, source)
    paths = {"input": source, "onnxfold": folder / "onnxfold.onnx"}
    optimize(source, paths["onnxfold"], options=OptimizeOptions(verify=False))
    for peer in ("onnxsim", "onnxslim"):
        tool = Path(sys.executable).with_name(peer)
        target = folder / f"{peer}.onnx"
        if tool.exists() and _run_peer([str(tool), str(source), str(target)]):
            paths[peer] = target
    return paths


def _counts(path: Path) -> str:
    nodes = [node.op_type for node in onnx.load(path, load_external_data=False).graph.node]
    kinds = ("Conv", "BatchNormalization", "Add")
    return ", ".join([f"nodes {len(nodes)}", *(f"{kind} {nodes.count(kind)}" for kind in kinds)])


def _run_peer(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def measure(paths: Mapping[str, Path], feed: Feed, runtime: str, rounds: int, threads: int) -> str:
    """Median milliseconds of the input, and how many times faster each other variant is."""
    runners = {label: _RUNNERS[runtime](path, feed, threads) for label, path in paths.items()}
    seconds: dict[str, list[float]] = {label: [] for label in runners}
    order, generator = list(runners), random.Random(0)
    for turn in range(rounds + 3):
        generator.shuffle(order)
        for label in order:
            started = time.perf_counter()
            runners[label]()
            if turn >= 3:
                seconds[label].append(time.perf_counter() - started)
    base = seconds.pop("input")
    parts = [f"input {statistics.median(base) * 1e3:7.2f} ms"]
    for label, values in seconds.items():
        speedups = sorted(a / b for a, b in zip(base, values, strict=True))
        low, high = speedups[len(speedups) // 4], speedups[3 * len(speedups) // 4]
        parts.append(f"{label} {statistics.median(speedups):.2f} x ({low:.2f} to {high:.2f})")
    return ", ".join(parts)


def main() -> None:
    """Measure the chosen models, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--runtime", default="ort,openvino")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    for name in arguments.names or zoo.names("script"):
        with tempfile.TemporaryDirectory() as folder:
            model, feed = _model_and_feed(name)
            paths = _variants(model, Path(folder))
            for label in ("input", "onnxfold"):
                print(f"{name:36} {label:9} {_counts(paths[label])}")
            for runtime in arguments.runtime.split(","):
                line = measure(paths, feed, runtime, arguments.rounds, arguments.threads)
                print(f"{name:36} {runtime:9} {line}", flush=True)


if __name__ == "__main__":
    main()
