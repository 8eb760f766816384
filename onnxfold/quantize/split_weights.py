"""A convolution as the sum of a coarse and a fine one, whose integers together hold more bits."""

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxfold.errors import BadOptionError
from onnxfold.quantize.layers import constants_of, producers_of

_LARGEST = 127


def split_weights(model: onnx.ModelProto, layer: str) -> onnx.ModelProto:
    """Replace a convolution by two whose outputs are added, with the same result.

    `W = C + F`, where C is W rounded to the 8-bit grid of each output channel and F is what that
    leaves. C then quantizes without an error, and the steps for F are 254 times finer.

    Args:
        model: A float model; left as it is.
        layer: The output of a Conv with constant weights.

    Raises:
        BadOptionError: There is no such convolution.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    node = producers_of(graph).get(layer)
    tensor = None if node is None or len(node.input) < 2 else constants_of(graph).get(node.input[1])
    if node is None or tensor is None or node.op_type != "Conv":
        raise BadOptionError(f"'{layer}' is not the output of a Conv with constant weights", "")
    weight = numpy_helper.to_array(tensor)
    exact = weight.astype(np.float64)
    peaks = np.abs(exact).max(axis=tuple(range(1, exact.ndim)), keepdims=True)
    steps = (np.where(peaks > 0, peaks, 1) / _LARGEST).astype(weight.dtype).astype(np.float64)
    coarse = np.asarray(np.rint(exact / steps) * steps, weight.dtype)
    fine = np.asarray(exact - coarse, weight.dtype)
    names = {}
    for part, numbers in (("coarse", coarse), ("fine", fine)):
        names[part] = f"{layer}.{part}"
        graph.initializer.append(numpy_helper.from_array(numbers, f"{names[part]}_weight"))
    second = helper.make_node(
        "Conv", [node.input[0], f"{names['fine']}_weight"], [names["fine"]], name=names["fine"]
    )
    second.attribute.extend(node.attribute)
    node.input[1] = f"{names['coarse']}_weight"
    node.output[0] = names["coarse"]
    place = next(i for i, each in enumerate(graph.node) if each.output[0] == names["coarse"])
    graph.node.insert(place + 1, second)
    added = helper.make_node("Add", [names["coarse"], names["fine"]], [layer], name=f"{layer}.sum")
    graph.node.insert(place + 2, added)
    return result
