"""The layers of a model: what multiplies by constant weights, in float and in quantized form."""

from collections.abc import Mapping
from dataclasses import dataclass

import onnx

from onnxfold.quantize.emit import LAYER_KEY


@dataclass(frozen=True, slots=True)
class Layer:
    """A Conv, ConvTranspose, Gemm or MatMul with constant weights, in both models.

    Attributes:
        name: Its output in the float model, by which it is known everywhere.
        quantized: Its output in the quantized model: another one where Q/DQ nodes stand between
            the layer and an output of the model.
        op_type: Conv, ConvTranspose, Gemm or MatMul.
        channels: Number of output channels.
        rank: Rank of the output when its channels lie along axis 1; None when along the last axis.
        dtype: Type of the output, as in TensorProto.
    """

    name: str
    quantized: str
    op_type: str
    channels: int
    rank: int | None
    dtype: int


def layers_of(model: onnx.ModelProto, quantized: onnx.ModelProto) -> list[Layer]:
    """The layers of the float model that the quantized one has too, in topological order."""
    weights = constants_of(model.graph)
    producers = producers_of(quantized.graph)
    activations = {
        node.input[0]: node.output[0]
        for node in model.graph.node
        if node.op_type in ("Relu", "Clip")
    }
    found = []
    for node in model.graph.node:
        weight = weights.get(node.input[1]) if len(node.input) > 1 else None
        layout = None if weight is None else _layout(node, tuple(weight.dims))
        if weight is None or layout is None:
            continue
        twin = _twin(node, producers, activations)
        if twin is None:
            continue
        channels, rank = layout
        found.append(
            Layer(node.output[0], twin.output[0], node.op_type, channels, rank, weight.data_type)
        )
    return found


def _twin(
    node: onnx.NodeProto, producers: Mapping[str, onnx.NodeProto], activations: Mapping[str, str]
) -> onnx.NodeProto | None:
    """The same layer in the quantized model; a quantizer may leave a Relu to the Q behind it."""
    for name in (node.output[0], activations.get(node.output[0], "")):
        twin = behind_qdq(name, producers)
        if twin is not None and twin.op_type == node.op_type:
            return twin
    return None


def _layout(node: onnx.NodeProto, extents: tuple[int, ...]) -> tuple[int, int | None] | None:
    """Number of output channels and rank, None for anything but a layer."""
    if node.domain not in ("", "ai.onnx"):
        return None
    match node.op_type:
        case "Conv":
            return extents[0], len(extents)
        case "ConvTranspose":
            return extents[1] * _integer(node, "group", 1), len(extents)
        case "Gemm":
            return extents[0 if _integer(node, "transB", 0) else 1], 2
        case "MatMul" if len(extents) == 2:
            return extents[1], None
    return None


def _integer(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((each.i for each in node.attribute if each.name == name), default)


def layer_name(node: onnx.NodeProto) -> str:
    """The name of a layer: the first output of its node in the float model.

    Where a layer made an output of that model, something else makes it now, and the node notes
    under which name the layer was known.
    """
    noted = (entry.value for entry in node.metadata_props if entry.key == LAYER_KEY)
    return next(noted, node.output[0])


def constants_of(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Initializers and the tensors of Constant nodes, by the name of their value."""
    found = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            found[node.output[0]] = node.attribute[0].t
    return found


def producers_of(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """The node that computes each value."""
    return {name: node for node in graph.node for name in node.output if name}


def behind_qdq(name: str, producers: Mapping[str, onnx.NodeProto]) -> onnx.NodeProto | None:
    """The node that computes a value, looking through Q/DQ nodes; None for inputs and weights."""
    node = producers.get(name)
    while node is not None and node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        node = producers.get(node.input[0])
    return node
