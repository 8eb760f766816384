"""Small models and comparisons for the tests of loading and saving."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from google.protobuf.message import Message
from numpy.typing import NDArray


def conv_model(seed: int = 0, *, channels: int = 8) -> onnx.ModelProto:
    """x -> Conv -> Relu -> y, with every kind of description that a model can carry."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((channels, 3, 3, 3), dtype=np.float32)
    bias = rng.standard_normal(channels, dtype=np.float32)
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 3, "height", 8])
    y = onnx.helper.make_tensor_value_info(
        "y", onnx.TensorProto.FLOAT, ["batch", channels, "height", 8], "the output"
    )
    x.doc_string = "the image"
    conv = onnx.helper.make_node(
        "Conv", ["x", "weight", "bias"], ["conv"], "conv1", "a node", pads=[1, 1, 1, 1]
    )
    relu = onnx.helper.make_node("Relu", ["conv"], ["y"], "relu1")
    graph = onnx.helper.make_graph(
        [conv, relu],
        "net",
        [x],
        [y],
        [
            onnx.numpy_helper.from_array(weight, "weight"),
            onnx.numpy_helper.from_array(bias, "bias"),
        ],
        "a graph",
        [onnx.helper.make_tensor_value_info("conv", 1, ["batch", channels, "height", 8])],
    )
    model = onnx.helper.make_model(
        graph,
        ir_version=10,
        opset_imports=[onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("my.ops", 3)],
        producer_name="a producer",
        producer_version="1.2",
        domain="org.example",
        model_version=7,
        doc_string="a model",
    )
    annotation = model.graph.quantization_annotation.add(tensor_name="conv")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="weight")
    for holder in (model, model.graph, model.graph.node[0], x, model.graph.initializer[0]):
        holder.metadata_props.add(key="a", value="1")
        holder.metadata_props.add(key="b", value="2")
    return model


def parsed(text: str) -> onnx.ModelProto:
    """A model from ONNX's text form."""
    return onnx.parser.parse_model(text)


def canonical(message: Message) -> Message:
    """A copy in which a scalar that was set to its default reads as one that was not set.

    Writers differ in whether they write `doc_string: ""`; it means the same.
    """
    copy = type(message)()
    copy.CopyFrom(message)
    _clear_defaults(copy)
    return copy


def _clear_defaults(message: Message) -> None:
    for field, value in message.ListFields():
        if field.message_type is not None:
            for child in value if field.is_repeated else [value]:
                _clear_defaults(child)
        elif (
            not field.is_repeated
            and field.containing_oneof is None
            and value == field.default_value
        ):
            message.ClearField(field.name)


def run(
    model: str | os.PathLike[str] | bytes | onnx.ModelProto, feeds: Mapping[str, NDArray[Any]]
) -> list[NDArray[Any]]:
    """What ONNX Runtime computes with every optimisation off."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    if isinstance(model, onnx.ModelProto):
        model = model.SerializeToString()
    if isinstance(model, Path):
        model = str(model)
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return [np.asarray(output) for output in session.run(None, dict(feeds))]


def image(seed: int = 1) -> dict[str, NDArray[np.float32]]:
    """A feed for `conv_model`."""
    rng = np.random.default_rng(seed)
    return {"x": rng.standard_normal((2, 3, 5, 8), dtype=np.float32)}


def save_external(model: onnx.ModelProto, path: Path, location: str = "weights.bin") -> None:
    """Save a model with all its initializers in `location` beside it."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    onnx.save(copy, path, save_as_external_data=True, location=location, size_threshold=0)


def external_entry(tensor: onnx.TensorProto, **entries: object) -> None:
    """Turn a tensor into a reference to external data with these entries."""
    for field in ("raw_data", "float_data", "int64_data", "external_data"):
        tensor.ClearField(field)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))


def files_in(folder: Path) -> dict[str, bytes]:
    """Every file of a folder with its contents."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}
