"""Which axis of a value holds its channels."""

import onnx_ir as ir

from onnxfold.ir.graph import is_op
from onnxfold.ir.shapes import rank

_CHANNELS_LAST = ("MatMul", "Gemm", "LayerNormalization")
_CHANNELS_SECOND = (
    "AveragePool",
    "BatchNormalization",
    "Conv",
    "ConvTranspose",
    "DepthToSpace",
    "GlobalAveragePool",
    "InstanceNormalization",
    "MaxPool",
    "PRelu",
    "Resize",
)
_MOVES_AXES = ("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Gather", "Einsum")


def channel_axes(graph: ir.Graph) -> dict[str, int | None]:
    """The channel axis by name of value, for all inputs and results of nodes.

    Products of matrices and layer normalization have their channels last, convolutions and pooling
    second. Other operators take after their inputs, unless they move axes; what is left goes by its
    readers, else it is the second axis. A value of rank below 2, or of unknown rank, has none.
    """
    last: dict[ir.Value, bool | None] = {}
    for node in graph:
        for output in node.outputs:
            last[output] = _of_producer(node, last)
    values = [*graph.inputs, *(output for node in graph for output in node.outputs)]
    return {value.name: _axis(value, last) for value in values if value.name}


def _of_producer(node: ir.Node, known: dict[ir.Value, bool | None]) -> bool | None:
    """Whether the channels of a node's results are last; None when it does not tell."""
    if is_op(node, *_CHANNELS_LAST):
        return True
    if is_op(node, *_CHANNELS_SECOND):
        return False
    if is_op(node, *_MOVES_AXES):
        return None
    found = {known.get(value) for value in node.inputs if value is not None} - {None}
    return found.pop() if len(found) == 1 else None


def _axis(value: ir.Value, last: dict[ir.Value, bool | None]) -> int | None:
    extents = rank(value)
    if extents is None or extents < 2:
        return None
    at_the_end = last.get(value)
    if at_the_end is None:
        at_the_end = any(is_op(reader, *_CHANNELS_LAST) for reader, _ in value.uses())
    return extents - 1 if at_the_end else 1
