"""How fast models run: input, onnxfold's result, and the peers' results, in one process.

    python -m tests.bench.latency [NAME …] [--runtime ort,openvino] [--seconds 20] [--threads 2]

A name is one of the zoo's or a file. Every line is one model on one runtime: the median of the
input in milliseconds, and how many times faster each other variant is, with the 95 % interval.
`onnxfold bench` measures in the same way.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import onnx

from onnxfold.bench import Measurement, Timing, measure
from onnxfold.bench.sittings import TIME_LIMIT
from onnxfold.optimization import OptimizeOptions, optimize
from tests import zoo


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


def _run_peer(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _counts(path: Path) -> str:
    nodes = [node.op_type for node in onnx.load(path, load_external_data=False).graph.node]
    kinds = ("Conv", "BatchNormalization", "Add")
    return ", ".join([f"nodes {len(nodes)}", *(f"{kind} {nodes.count(kind)}" for kind in kinds)])


def line(measurement: Measurement) -> str:
    """Median milliseconds of the first model, and how many times faster each other one is."""
    first, *others = measurement.timings
    return ", ".join([f"{first.name} {first.run_ms.median:7.2f} ms", *map(_speed, others)])


def _speed(timing: Timing) -> str:
    speed = timing.speed_up
    assert speed is not None
    low, high = speed.interval or (float("nan"), float("nan"))
    return f"{timing.name} {speed.median:.2f} x ({low:.2f} to {high:.2f})"


def main() -> None:
    """Measure the chosen models, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--runtime", default="ort,openvino")
    parser.add_argument("--seconds", type=float, default=TIME_LIMIT)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    for name in arguments.names or zoo.names("script"):
        own = name.endswith(".onnx")
        with tempfile.TemporaryDirectory() as folder:
            paths = _variants(onnx.load(name) if own else zoo.load(name), Path(folder))
            for label in ("input", "onnxfold"):
                print(f"{name:36} {label:9} {_counts(paths[label])}")
            for runtime in arguments.runtime.split(","):
                measurement = measure(
                    paths,
                    runtime,
                    feed=None if own else zoo.feeds(name),
                    seconds=arguments.seconds,
                    threads=arguments.threads,
                )
                print(f"{name:36} {runtime:9} {line(measurement)}", flush=True)


if __name__ == "__main__":
    main()
