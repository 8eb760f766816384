"""What a BatchNormalization that nothing can take is best written as.

    python -m tests.bench.lone_normalization [--seconds 20] [--threads 2]

Between two ReLUs, as it is, as Mul and Add, and as a depthwise 1×1 convolution.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxfold.bench import measure
from tests.bench.latency import line

_SIZES = ((64, 56), (128, 28), (32, 112))


def _write(kind: str, channels: int, extent: int, path: Path) -> None:
    generator = np.random.default_rng(0)
    tensors: list[onnx.TensorProto] = []

    def constant(name: str, shape: tuple[int, ...], positive: bool = False) -> str:
        numbers = 0.05 * generator.standard_normal(shape)
        if positive:
            numbers = 0.5 + np.abs(numbers)
        tensors.append(numpy_helper.from_array(numbers.astype(np.float32), name))
        return name

    square = (channels, channels, 3, 3)
    image = (1, channels, 1, 1)
    nodes = [
        helper.make_node("Conv", ["x", constant("w1", square)], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
    ]
    if kind == "input":
        parameters = [constant(name, (channels,), name == "v") for name in "gbmv"]
        nodes.append(helper.make_node("BatchNormalization", ["r", *parameters], ["n"]))
    elif kind == "mul and add":
        nodes.append(helper.make_node("Mul", ["r", constant("s", image)], ["m"]))
        nodes.append(helper.make_node("Add", ["m", constant("t", image)], ["n"]))
    else:
        weights = [constant("d", (channels, 1, 1, 1)), constant("e", (channels,))]
        nodes.append(helper.make_node("Conv", ["r", *weights], ["n"], group=channels))
    nodes += [
        helper.make_node("Relu", ["n"], ["s2"]),
        helper.make_node("Conv", ["s2", constant("w2", square)], ["y"], pads=[1, 1, 1, 1]),
    ]
    shape = [1, channels, extent, extent]
    graph = helper.make_graph(
        nodes,
        "lone",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        tensors,
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)


def main() -> None:
    """Measure all sizes on both runtimes; `input` is the BatchNormalization itself."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    for channels, extent in _SIZES:
        with tempfile.TemporaryDirectory() as name:
            paths = {}
            for kind in ("input", "mul and add", "depthwise"):
                paths[kind] = Path(name) / f"{kind}.onnx"
                _write(kind, channels, extent, paths[kind])
            generator = np.random.default_rng(1)
            shape = (1, channels, extent, extent)
            feed = {"x": generator.standard_normal(shape).astype(np.float32)}
            for runtime in ("ort", "openvino"):
                measurement = measure(
                    paths,
                    runtime,
                    feed=feed,
                    seconds=arguments.seconds,
                    threads=arguments.threads,
                )
                print(f"{channels} x {extent} x {extent}, {runtime:9} {line(measurement)}")


if __name__ == "__main__":
    main()
