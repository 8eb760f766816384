"""Small real networks for the verification tests, and rewrites of them that are right or wrong."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Weights = npt.NDArray[np.floating]

DYNAMIC = ("N", 3, "H", "W")
STATIC = (1, 3, 24, 24)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    weights: Sequence[onnx.TensorProto] = (),
    opset: int = 17,
) -> onnx.ModelProto:
    graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), list(weights))
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(made)
    return made


def tensor(name: str, array: npt.ArrayLike) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(array), name)


def conv_net(
    depth: int,
    channels: int = 32,
    seed: int = 0,
    dims: Sequence[int | str] = STATIC,
    classes: int = 5,
    labels: bool = False,
    dtype: type[np.floating] = np.float32,
) -> onnx.ModelProto:
    """`depth` times Conv 3x3 - BatchNormalization - Relu, a classifier 1x1, maybe ArgMax."""
    rng = np.random.default_rng(seed)
    nodes, weights = [], []
    x, inputs = "x", 3
    for i in range(depth):
        kernel = rng.standard_normal((channels, inputs, 3, 3)) * np.sqrt(2 / (9 * inputs))
        weights += [
            tensor(f"w{i}", kernel.astype(dtype)),
            tensor(f"gamma{i}", rng.uniform(0.7, 1.3, channels).astype(dtype)),
            tensor(f"beta{i}", (0.3 * rng.standard_normal(channels)).astype(dtype)),
            tensor(f"mean{i}", (0.3 * rng.standard_normal(channels)).astype(dtype)),
            tensor(f"var{i}", rng.uniform(0.5, 1.5, channels).astype(dtype)),
        ]
        nodes += [
            helper.make_node("Conv", [x, f"w{i}"], [f"c{i}"], pads=[1, 1, 1, 1]),
            helper.make_node(
                "BatchNormalization",
                [f"c{i}", f"gamma{i}", f"beta{i}", f"mean{i}", f"var{i}"],
                [f"n{i}"],
            ),
            helper.make_node("Relu", [f"n{i}"], [f"r{i}"]),
        ]
        x, inputs = f"r{i}", channels
    head = rng.standard_normal((classes, channels, 1, 1)) / np.sqrt(channels)
    weights += [
        tensor("head", head.astype(dtype)),
        tensor("head_bias", rng.standard_normal(classes).astype(dtype)),
    ]
    nodes.append(helper.make_node("Conv", [x, "head", "head_bias"], ["scores"]))
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    shape = [dims[0], classes, *dims[2:]]
    output = helper.make_tensor_value_info("scores", kind, shape)
    if labels:
        nodes.append(helper.make_node("ArgMax", ["scores"], ["labels"], axis=1, keepdims=0))
        output = helper.make_tensor_value_info("labels", TensorProto.INT64, [dims[0], *dims[2:]])
    source = helper.make_tensor_value_info("x", kind, list(dims))
    return model(nodes, [source], [output], weights)


def weight(proto: onnx.ModelProto, name: str) -> onnx.TensorProto:
    found: onnx.TensorProto = next(t for t in proto.graph.initializer if t.name == name)
    return found


def values(proto: onnx.ModelProto, name: str) -> npt.NDArray[np.float64]:
    return numpy_helper.to_array(weight(proto, name)).astype(np.float64)


def copied(proto: onnx.ModelProto) -> onnx.ModelProto:
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    return made


def with_weight(proto: onnx.ModelProto, name: str, array: npt.ArrayLike) -> onnx.ModelProto:
    """A copy with one weight replaced."""
    made = copied(proto)
    old = weight(made, name)
    kind = helper.tensor_dtype_to_np_dtype(old.data_type)
    old.CopyFrom(tensor(name, np.asarray(array).astype(kind)))
    return made


def folded(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A `conv_net` with its BatchNormalizations folded, in double precision, rounded once."""
    made = copied(proto)
    keep = []
    for node in made.graph.node:
        if node.op_type != "BatchNormalization":
            keep.append(node)
            continue
        conv = keep[-1]
        kernel = values(made, conv.input[1])
        gamma, beta, mean, var = (values(made, name) for name in node.input[1:])
        scale = gamma / np.sqrt(var + 1e-5)
        made = with_weight(made, conv.input[1], kernel * scale.reshape(-1, 1, 1, 1))
        kind = helper.tensor_dtype_to_np_dtype(weight(made, conv.input[1]).data_type)
        bias = f"{conv.input[1]}_bias"
        made.graph.initializer.append(tensor(bias, (beta - mean * scale).astype(kind)))
        conv.input.append(bias)
        conv.output[0] = node.output[0]
    result = copied(made)
    del result.graph.node[:]
    result.graph.node.extend(keep)
    onnx.checker.check_model(result)
    return result
