"""Reading a graph with QuantizeLinear and DequantizeLinear nodes."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxfold.cost.summary import multiply_adds_by_layer
from onnxfold.ir.constants import FLOAT_TYPES, constant_array, constant_tensor, is_constant
from onnxfold.ir.graph import input_at, int_attribute, is_op
from onnxfold.ir.shapes import infer_shapes, rank
from onnxfold.quantize.emit import LAYER_KEY

MULTIPLY_ADDS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""The operators whose arithmetic INT8 is for."""

ACTIVATIONS = (
    "Celu",
    "Clip",
    "Elu",
    "Erf",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "LeakyRelu",
    "Mish",
    "PRelu",
    "Relu",
    "Selu",
    "Sigmoid",
    "Softplus",
    "Softsign",
    "Swish",
    "Tanh",
    "ThresholdedRelu",
)

MOVEMENT = (
    "DepthToSpace",
    "Expand",
    "Flatten",
    "Gather",
    "Identity",
    "Reshape",
    "Slice",
    "SpaceToDepth",
    "Split",
    "Squeeze",
    "Tile",
    "Transpose",
    "Unsqueeze",
)
"""Operators that only move elements, so that any element type will do."""

LAYERS = (
    *MULTIPLY_ADDS,
    *ACTIVATIONS,
    "Add",
    "AveragePool",
    "BatchNormalization",
    "Concat",
    "DepthToSpace",
    "Div",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "GroupNormalization",
    "InstanceNormalization",
    "LayerNormalization",
    "LpPool",
    "MaxPool",
    "Mul",
    "Pad",
    "ReduceMean",
    "Resize",
    "Softmax",
    "SpaceToDepth",
    "Sub",
    "Sum",
    "Upsample",
)
"""The operators that a proof reports."""

_DOMAINS = ("", "com.microsoft")


@dataclass(frozen=True, slots=True)
class Quantization:
    """A QuantizeLinear or DequantizeLinear node.

    Attributes:
        node: The node.
        x: What it reads.
        scale: Its scale as a constant, or None.
        zero_point: Its zero point as a constant of the quantized type; None when it is left out
            or not a constant.
        has_zero_point: Whether it has that input.
        dtype: The quantized type.
        axis: The axis of a scale per channel.
    """

    node: ir.Node
    x: ir.Value
    scale: NDArray[Any] | None
    zero_point: NDArray[Any] | None
    has_zero_point: bool
    dtype: ir.DataType | None
    axis: int

    @classmethod
    def of(cls, node: ir.Node | None) -> Self | None:
        """The view, or None when `node` is neither."""
        if not is_quantizer(node) and not is_dequantizer(node):
            return None
        assert node is not None
        x = input_at(node, 0)
        if x is None:
            return None
        zero_point = input_at(node, 2)
        return cls(
            node=node,
            x=x,
            scale=constant_array(input_at(node, 1)),
            zero_point=constant_array(zero_point),
            has_zero_point=zero_point is not None,
            dtype=_quantized_type(node, x, zero_point),
            axis=int_attribute(node, "axis", 1),
        )

    @property
    def per_channel(self) -> bool:
        """Whether there is more than one scale."""
        return self.scale is not None and self.scale.size > 1

    def shift(self) -> int | None:
        """The zero point as a number; None when it is not one constant number."""
        if not self.has_zero_point:
            return 0
        if self.zero_point is None or self.zero_point.size != 1:
            return None
        return int(self.zero_point.reshape(-1)[0])

    def same_grid(self, other: "Quantization") -> bool:
        """Whether both map integers to the same numbers."""
        if self.dtype != other.dtype or self.scale is None or other.scale is None:
            return False
        return np.array_equal(self.scale, other.scale) and np.array_equal(
            _zeros(self), _zeros(other)
        )

    def numbers(self) -> tuple[float, float] | None:
        """The least and the greatest number that can be represented; None when not one range."""
        shift = self.shift()
        if shift is None or self.scale is None or self.scale.size != 1 or self.dtype is None:
            return None
        if self.dtype not in _BOUNDS:
            return None
        least, greatest = _BOUNDS[self.dtype]
        scale = float(self.scale.reshape(-1)[0])
        return (least - shift) * scale, (greatest - shift) * scale

    def starts_at_zero(self) -> bool:
        """Whether zero is the least number that can be represented."""
        numbers = self.numbers()
        return numbers is not None and numbers[0] == 0


_BOUNDS = {
    ir.DataType.INT8: (-128, 127),
    ir.DataType.UINT8: (0, 255),
    ir.DataType.INT16: (-32768, 32767),
    ir.DataType.UINT16: (0, 65535),
}


def _zeros(one: Quantization) -> NDArray[Any]:
    return np.zeros_like(one.scale, np.int64) if one.zero_point is None else one.zero_point


def is_quantizer(node: ir.Node | None) -> bool:
    """Whether `node` is a QuantizeLinear."""
    return node is not None and node.op_type == "QuantizeLinear" and node.domain in _DOMAINS


def is_dequantizer(node: ir.Node | None) -> bool:
    """Whether `node` is a DequantizeLinear."""
    return node is not None and node.op_type == "DequantizeLinear" and node.domain in _DOMAINS


def _quantized_type(node: ir.Node, x: ir.Value, zero_point: ir.Value | None) -> ir.DataType | None:
    """ONNX: the type of the zero point, else that of `output_dtype`, else uint8."""
    if is_dequantizer(node):
        return _dtype(x) or _dtype(zero_point)
    if zero_point is not None:
        return _dtype(zero_point)
    wished = int_attribute(node, "output_dtype", 0)
    return ir.DataType(wished) if wished else ir.DataType.UINT8


def _dtype(value: ir.Value | None) -> ir.DataType | None:
    tensor = constant_tensor(value)
    return tensor.dtype if tensor is not None else None if value is None else value.dtype


def dequantizer(value: ir.Value | None) -> Quantization | None:
    """The DequantizeLinear that makes `value`, or None."""
    node = None if value is None else value.producer()
    return Quantization.of(node) if is_dequantizer(node) else None


def quantizer(value: ir.Value | None) -> Quantization | None:
    """The QuantizeLinear that makes `value`, or None."""
    node = None if value is None else value.producer()
    return Quantization.of(node) if is_quantizer(node) else None


def is_weight(one: Quantization) -> bool:
    """Whether a DequantizeLinear reads a constant, or a constant that is quantized in the graph."""
    before = quantizer(one.x)
    return is_constant(one.x if before is None else before.x)


def readers(value: ir.Value) -> list[ir.Node]:
    """The nodes that read `value`, once each."""
    return list(dict.fromkeys(node for node, _ in value.uses()))


def quantizers_of(value: ir.Value) -> list[Quantization]:
    """The QuantizeLinear nodes that read `value`."""
    found = [Quantization.of(node) for node in readers(value) if is_quantizer(node)]
    return [each for each in found if each is not None]


def integer_readers(value: ir.Value) -> list[tuple[ir.Node, int]]:
    """Who reads a quantized value: through its DequantizeLinear nodes, or as integers."""
    found: list[tuple[ir.Node, int]] = []
    for node, index in value.uses():
        found += list(node.outputs[0].uses()) if is_dequantizer(node) else [(node, index)]
    return found


def operands(node: ir.Node) -> list[ir.Value]:
    """The inputs of `node` that it computes with: no bias, bounds, scales or sizes."""
    if is_op(node, "Concat", "Sum"):
        indices = range(len(node.inputs))
    else:
        indices = range(2 if is_op(node, *_TWO_OPERANDS) else 1)
    values = [input_at(node, index) for index in indices]
    return [value for value in values if value is not None]


_TWO_OPERANDS = (*MULTIPLY_ADDS, "Add", "Div", "Mul", "Sub")


def data_inputs(node: ir.Node) -> list[ir.Value]:
    """The operands of `node` that are computed, as opposed to weights and other constants."""
    return [value for value in operands(node) if not is_fixed(value)]


def layer_name(node: ir.Node) -> str:
    """The name of the first output of `node` in the float model that was quantized.

    Where a layer made an output of that model, something else makes it now, and the node notes
    under which name the layer was known.
    """
    return node.metadata_props.get(LAYER_KEY) or node.outputs[0].name or ""


def value_name(value: ir.Value) -> str:
    """The name of a value in the float model that was quantized."""
    node = value.producer()
    is_first = node is not None and value is node.outputs[0]
    return layer_name(node) if node is not None and is_first else value.name or ""


def is_fixed(value: ir.Value | None) -> bool:
    """Whether `value` is a constant, or a constant that is dequantized."""
    one = dequantizer(value)
    return is_constant(value) if one is None else is_weight(one)


@dataclass(frozen=True, slots=True)
class Layer:
    """A node that a proof reports.

    Attributes:
        name: The name of its first output value in the float model.
        node: The node; its name may be changed later on.
        label: The name of the node in the model.
        multiply_adds: As in `LayerPrecision`.
    """

    name: str
    node: ir.Node
    label: str
    multiply_adds: int | None


def infer_quantized_shapes(model: ir.Model) -> None:
    """Infer the shapes of all values, those behind Q/DQ also from what a file tells before it.

    Inference follows the operators alone. The symbols that an exporter wrote at a value would be
    lost at the first QuantizeLinear behind it.
    """
    infer_shapes(model)
    for node in model.graph:
        one = Quantization.of(node)
        output = node.outputs[0] if node.outputs else None
        if one is not None and output is not None and one.x.shape is not None:
            output.shape = one.x.shape.copy()


def layers_of(model: ir.Model) -> list[Layer]:
    """The layers of the main graph: what computes on activations, not on shapes or constants."""
    counts = multiply_adds_by_layer(model)
    return [
        Layer(layer_name(node), node, node.name or "", counts.get(node.outputs[0].name or "", 0))
        for node in model.graph
        if is_op(node, *LAYERS) and _on_activations(node) and not _is_fence(node)
    ]


def _is_fence(node: ir.Node) -> bool:
    """Whether it is a Clip without limits, which only keeps a backend from fusing over it."""
    return is_op(node, "Clip") and len(node.inputs) == 1 and not node.attributes


def _on_activations(node: ir.Node) -> bool:
    output = node.outputs[0]
    if output.dtype is not None and output.dtype not in FLOAT_TYPES:
        return False
    extents = rank(output)
    return (extents is None or extents >= 2) and bool(data_inputs(node))


def pairs(model: ir.Model) -> Iterator[tuple[Quantization, list[ir.Node]]]:
    """Every QuantizeLinear on an activation, and what reads its value through DequantizeLinear."""
    for node in model.graph:
        one = Quantization.of(node) if is_quantizer(node) else None
        if one is not None and not is_constant(one.x):
            yield one, [reader for reader, _ in integer_readers(node.outputs[0])]
