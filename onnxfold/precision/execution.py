"""Makes ONNX Runtime's CPU provider round where a float16 model rounds.

That provider has hardly any float16 kernels. It runs the float32 ones between Casts, and then drops
each pair of Casts that meets, so that a chain of float16 nodes runs in float32 throughout: nothing
overflows there and nothing is rounded, while everything is on a GPU. Two Identity nodes in a row
keep the Casts apart as long as graph optimization is off.
"""

import onnx
from onnx import helper


def rounding_model(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that rounds every float16 result on every runtime, when run without optimization.

    Args:
        model: A model whose weights are in the message.

    Returns:
        The copy, with the same inputs and outputs.

    Raises:
        onnx.shape_inference.InferenceError: The types in the model contradict each other.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(onnx.shape_inference.infer_shapes(model, strict_mode=True))
    graph = copy.graph
    half = {
        value.name: value
        for value in (*graph.value_info, *graph.output)
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
    }
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        rounded = [name for name in node.output if name in half and node.op_type != "Constant"]
        graph.node.append(node)
        for index, name in enumerate(node.output):
            if name in rounded:
                graph.node[-1].output[index] = _declared(graph, half[name], "exact")
        for name in rounded:
            between = _declared(graph, half[name], "rounded")
            graph.node.append(helper.make_node("Identity", [f"{name}/exact"], [between]))
            graph.node.append(helper.make_node("Identity", [between], [name]))
    return copy


def _declared(graph: onnx.GraphProto, like: onnx.ValueInfoProto, suffix: str) -> str:
    """The name of a new value; the runtime takes its shape from here rather than infer it."""
    info = graph.value_info.add()
    info.CopyFrom(like)
    info.name = f"{like.name}/{suffix}"
    return info.name
