"""Builds chains of Conv, BatchNormalization, ReLU and Add, to see how time grows with nodes."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_CHANNELS = 4


def write_chain(node_count: int, path: Path) -> None:
    """Write a residual chain of that many nodes."""
    generator = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    tensors: list[onnx.TensorProto] = []
    x = "x"
    for index in range(node_count // 4):
        shapes = {"w": (_CHANNELS, _CHANNELS, 1, 1), "g": (_CHANNELS,), "b": (_CHANNELS,)}
        shapes |= {"m": (_CHANNELS,), "v": (_CHANNELS,)}
        for letter, shape in shapes.items():
            numbers = 0.3 * generator.standard_normal(shape)
            if letter == "v":
                numbers = 0.5 + np.abs(numbers)
            tensors.append(numpy_helper.from_array(numbers.astype(np.float32), f"{letter}{index}"))
        parameters = [f"{letter}{index}" for letter in "gbmv"]
        nodes += [
            helper.make_node("Conv", [x, f"w{index}"], [f"c{index}"], f"conv{index}"),
            helper.make_node(
                "BatchNormalization", [f"c{index}", *parameters], [f"n{index}"], f"bn{index}"
            ),
            helper.make_node("Relu", [f"n{index}"], [f"r{index}"], f"relu{index}"),
            helper.make_node("Add", [f"r{index}", x], [f"a{index}"], f"add{index}"),
        ]
        x = f"a{index}"
    image = [1, _CHANNELS, 8, 8]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, image)],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, image)],
        tensors,
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)


def write_large(weight_bytes: int, path: Path) -> None:
    """Write a chain of Conv and BatchNormalization with that many bytes of external weights."""
    channels = 1024
    each = channels * channels * 9 * 4
    count = max(1, weight_bytes // each)
    data = path.with_name(path.name + ".weights")
    generator = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    tensors: list[onnx.TensorProto] = []
    x = "x"
    with data.open("wb") as file:
        for index in range(count):
            weight = generator.standard_normal(channels * channels * 9, dtype=np.float32) / 100
            tensor = TensorProto(name=f"w{index}", data_type=TensorProto.FLOAT)
            tensor.dims.extend((channels, channels, 3, 3))
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (
                ("location", data.name),
                ("offset", str(file.tell())),
                ("length", str(weight.nbytes)),
            ):
                tensor.external_data.add(key=key, value=value)
            weight.tofile(file)
            tensors.append(tensor)
            for letter in "gbmv":
                numbers = 0.1 * generator.standard_normal(channels)
                if letter in "gv":
                    numbers = 1 + np.abs(numbers)
                tensors.append(
                    numpy_helper.from_array(numbers.astype(np.float32), f"{letter}{index}")
                )
            nodes += [
                helper.make_node(
                    "Conv", [x, f"w{index}"], [f"c{index}"], f"conv{index}", pads=[1, 1, 1, 1]
                ),
                helper.make_node(
                    "BatchNormalization",
                    [f"c{index}", *(f"{letter}{index}" for letter in "gbmv")],
                    [f"n{index}"],
                    f"bn{index}",
                ),
                helper.make_node("Relu", [f"n{index}"], [f"r{index}"], f"relu{index}"),
            ]
            x = f"r{index}"
    shape = [1, channels, 8, 8]
    graph = helper.make_graph(
        nodes,
        "large",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, shape)],
        tensors,
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
