"""Changes the biases of a Q/DQ graph, in whatever form they are stored."""

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from onnxfold.quantize.layers import Layer, constants_of, producers_of

_INT32 = np.iinfo(np.int32)


class BiasEditor:
    """Subtracts numbers from biases in place.

    Integer biases (int32 behind a DequantizeLinear) stay integers of their scale, float ones stay
    float. A layer without a bias gets one of the kind that the model uses elsewhere.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        """Read the graph, which the editor then changes."""
        self._graph = graph
        self._producers = producers_of(graph)
        self._constants = constants_of(graph)
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
        self._names = {*self._producers, *self._constants, *(v.name for v in graph.input)}
        self._integer_dialect = any(
            len(node.input) > 2 and self._is_integer(node.input[2])
            for node in graph.node
            if node.op_type in ("Conv", "ConvTranspose", "Gemm")
        )

    def subtract(self, layer: Layer, shift: NDArray[np.float64]) -> str | None:
        """Subtract `shift`, shape (channels,), from the bias of a layer.

        Returns:
            None when it was done, else why it cannot be.
        """
        node = self._producers[layer.quantized]
        if node.op_type == "MatMul":
            return self._subtract_behind(node, shift)
        if any(each.name == "beta" and each.f != 1 for each in node.attribute):
            return "its bias is multiplied by a number"
        if len(node.input) < 3 or not node.input[2]:
            return self._give(node, -shift, layer.dtype)
        return self._change(node, 2, shift)

    def _subtract_behind(self, product: onnx.NodeProto, shift: NDArray[np.float64]) -> str | None:
        """A MatMul has its bias in an Add behind it, at times with a Q and a DQ in between."""
        name = product.output[0]
        for _ in range(3):
            readers = self._readers.get(name, [])
            if len(readers) != 1:
                break
            reader = readers[0]
            if reader.op_type == "Add":
                return self._change(reader, 1 if reader.input[0] == name else 0, shift)
            name = reader.output[0]
        return "it has no bias"

    def _change(self, node: onnx.NodeProto, index: int, shift: NDArray[np.float64]) -> str | None:
        name = node.input[index]
        if self._is_integer(name):
            return self._change_integers(node, index, shift)
        tensor = self._constants.get(name)
        if tensor is None or tensor.data_type not in (
            onnx.TensorProto.FLOAT,
            onnx.TensorProto.FLOAT16,
            onnx.TensorProto.DOUBLE,
        ):
            return "its bias is not a constant of a kind that can be changed"
        bias = numpy_helper.to_array(tensor)
        if bias.size not in (1, shift.size) or (bias.ndim > 1 and bias.shape[-1] != bias.size):
            return "its bias is not one number per channel"
        node.input[index] = self._constant(np.asarray(bias - shift, bias.dtype), name)
        return None

    def _change_integers(
        self, node: onnx.NodeProto, index: int, shift: NDArray[np.float64]
    ) -> str | None:
        dequantize = self._producers[node.input[index]]
        scale = self._numbers(dequantize.input[1])
        integers = self._numbers(dequantize.input[0])
        if scale is None or integers is None or not (scale > 0).all():
            return "the scale of its bias is not known"
        changed = np.rint(integers - shift / scale)
        if (changed < _INT32.min).any() or (changed > _INT32.max).any():
            return "its bias does not fit 32 bits"
        replaced = self._constant(changed.astype(np.int32), dequantize.input[0])
        if len(self._readers[node.input[index]]) == 1:
            dequantize.input[0] = replaced
        else:
            inputs = [replaced, *dequantize.input[1:]]
            node.input[index] = self._dequantized(node, inputs, dequantize)
        return None

    def _give(self, node: onnx.NodeProto, bias: NDArray[np.float64], dtype: int) -> str | None:
        """Give a bias to a layer that has none."""
        scale = self._product_of_scales(node) if self._integer_dialect else None
        if scale is None:
            kind = helper.tensor_dtype_to_np_dtype(dtype)
            value = self._constant(bias.astype(kind), f"{node.output[0]}.bias")
        else:
            integers = np.rint(bias / scale)
            if (np.abs(integers) > _INT32.max).any():
                return "its bias does not fit 32 bits"
            kind = self._scale_type(node)
            inputs = [
                self._constant(integers.astype(np.int32), f"{node.output[0]}.bias"),
                self._constant(scale.astype(kind), f"{node.output[0]}.bias_scale"),
                self._constant(np.zeros(scale.shape, np.int32), f"{node.output[0]}.bias_zero"),
            ]
            value = self._dequantized(node, inputs, None)
        del node.input[2:]
        node.input.append(value)
        return None

    def _product_of_scales(self, node: onnx.NodeProto) -> NDArray[np.float64] | None:
        """The scale of an integer bias: that of the input times that of each weight channel."""
        scales = []
        for name in node.input[:2]:
            dequantize = self._producers.get(name)
            if dequantize is None or dequantize.op_type != "DequantizeLinear":
                return None
            scale = self._numbers(dequantize.input[1])
            if scale is None or not (scale > 0).all():
                return None
            scales.append(scale.reshape(-1))
        product: NDArray[np.float64] = scales[0] * scales[1]
        return product

    def _scale_type(self, node: onnx.NodeProto) -> np.dtype[np.generic]:
        scale = self._constants[self._producers[node.input[0]].input[1]]
        return np.dtype(helper.tensor_dtype_to_np_dtype(scale.data_type))

    def _is_integer(self, name: str) -> bool:
        node = self._producers.get(name)
        if node is None or node.op_type != "DequantizeLinear":
            return False
        tensor = self._constants.get(node.input[0])
        return tensor is not None and tensor.data_type == onnx.TensorProto.INT32

    def _numbers(self, name: str) -> NDArray[np.float64] | None:
        tensor = self._constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor).astype(np.float64)

    def _dequantized(
        self, reader: onnx.NodeProto, inputs: list[str], like: onnx.NodeProto | None
    ) -> str:
        """Insert a DequantizeLinear in front of `reader` and name its output."""
        output = self._fresh(f"{reader.output[0]}.bias_dequantized")
        node = helper.make_node("DequantizeLinear", inputs, [output], name=output)
        if like is not None:
            node.attribute.extend(like.attribute)
        elif self._numbers(inputs[1]).size > 1:  # type: ignore[union-attr]
            node.attribute.append(helper.make_attribute("axis", 0))
        place = next(i for i, each in enumerate(self._graph.node) if each.output == reader.output)
        self._graph.node.insert(place, node)
        return output

    def _constant(self, numbers: NDArray[np.generic], wish: str) -> str:
        """Add an initializer; the one that it replaces is dropped when nobody reads it any more."""
        name = self._fresh(f"{wish}.corrected")
        tensor = numpy_helper.from_array(numbers, name)
        self._graph.initializer.append(tensor)
        self._constants[name] = tensor
        return name

    def _fresh(self, wish: str) -> str:
        name, count = wish, 1
        while name in self._names:
            name, count = f"{wish}.{count}", count + 1
        self._names.add(name)
        return name

    def drop_unread(self) -> None:
        """Remove initializers that no node reads any more."""
        read = {name for node in self._graph.node for name in node.input}
        read |= {value.name for value in (*self._graph.output, *self._graph.input)}
        kept = [tensor for tensor in self._graph.initializer if tensor.name in read]
        del self._graph.initializer[:]
        self._graph.initializer.extend(kept)
