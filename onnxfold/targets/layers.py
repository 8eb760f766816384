"""The layers that can run in INT8 at all: operators with constant weights and multiply-adds."""

from collections.abc import Collection
from dataclasses import dataclass

import onnx_ir as ir

from onnxfold.ir.constants import constant_tensor
from onnxfold.ir.graph import input_at, is_op
from onnxfold.ir.ops import Conv, ConvTranspose, Gemm
from onnxfold.ir.shapes import tensor_extents

LAYER_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True, slots=True)
class Layer:
    """One such operator.

    Attributes:
        node: The operator.
        x: Its variable input, which is input 0.
        weight: Its constant weight, which is input 1.
        bias: Its constant bias, which is input 2; None when it has none.
        axis: The axis of the weight along which the output channels lie; None where there is no
            such axis.
    """

    node: ir.Node
    x: ir.Value
    weight: ir.TensorProtocol
    bias: ir.TensorProtocol | None
    axis: int | None

    @property
    def name(self) -> str:
        """The name of the layer."""
        return layer_name(self.node)

    @property
    def extents(self) -> tuple[int, ...]:
        """The shape of the weight."""
        return tensor_extents(self.weight)


def layer_name(node: ir.Node) -> str:
    """The name of the first output of a node."""
    return node.outputs[0].name or ""


def layer_of(node: ir.Node) -> Layer | str | None:
    """Read a node as a layer.

    Returns:
        The view; None when it is no such operator; or why it cannot run in INT8 on any target.
    """
    if not is_op(node, *LAYER_OPS) or len(node.inputs) < 2:
        return None
    x, operand = node.inputs[0], node.inputs[1]
    if x is None or operand is None:
        return None
    weight, bias_value = constant_tensor(operand), input_at(node, 2)
    if weight is None:
        return "both its operands are computed at run time"
    bias = constant_tensor(bias_value)
    if bias_value is not None and bias is None:
        return "its bias is computed at run time"
    if constant_tensor(x) is not None:
        return "its input is a constant"
    if weight.dtype != ir.DataType.FLOAT:
        return f"its weight is of type {weight.dtype.name}, and only FLOAT is quantized"
    if weight.size == 0:
        return "its weight is empty"
    if is_op(node, "Gemm"):
        return _gemm(node, x, weight, bias)
    if is_op(node, "MatMul"):
        known = len(weight.shape) == 2
        return Layer(node, x, weight, None, 1) if known else "its weight is no matrix"
    return Layer(node, x, weight, bias, _axis_of_convolution(node))


def _axis_of_convolution(node: ir.Node) -> int | None:
    if Conv.of(node) is not None:
        return 0
    transposed = ConvTranspose.of(node)
    # The second axis of a grouped ConvTranspose is that of one group; every group has one.
    return 1 if transposed is not None and transposed.group == 1 else None


def _gemm(
    node: ir.Node, x: ir.Value, weight: ir.TensorProtocol, bias: ir.TensorProtocol | None
) -> Layer | str:
    view = Gemm.of(node)
    if view is None or view.transposed_x or view.alpha != 1.0:
        return "it scales or transposes its input"
    axis = 0 if view.transposed_weight else 1
    if bias is None:
        return Layer(node, x, weight, None, axis)
    extents = tensor_extents(bias)
    if view.beta != 1.0 or bias.size != weight.shape[axis] or len(extents) > 2:
        return "its bias is not one number per output channel"
    if len(extents) == 2 and extents[0] != 1:
        return "its bias is not one number per output channel"
    return Layer(node, x, weight, bias, axis)


def layers_of(
    graph: ir.Graph, excluded: Collection[str]
) -> tuple[dict[str, Layer], dict[str, str]]:
    """The layers of a graph that may be quantized, and why the others may not, both by name.

    Bodies of control flow are left alone.
    """
    layers: dict[str, Layer] = {}
    refused: dict[str, str] = {}
    for node in graph:
        found = layer_of(node)
        if isinstance(found, str):
            refused[layer_name(node)] = found
        elif isinstance(found, Layer) and found.name in excluded:
            refused[found.name] = "it was excluded"
        elif isinstance(found, Layer):
            layers[found.name] = found
    return layers, refused


def quantized_node(graph: ir.Graph) -> ir.Node | None:
    """A node that shows that the graph is quantized already; None when there is none."""
    for node in graph.all_nodes():
        kind = node.op_type
        if kind in _QUANTIZED or kind.startswith(("QLinear", "DynamicQuantize", "QGemm")):
            return node
    return None


_QUANTIZED = frozenset({"QuantizeLinear", "DequantizeLinear", "ConvInteger", "MatMulInteger"})
