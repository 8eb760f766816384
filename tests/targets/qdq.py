"""Small graphs with Q/DQ for the tests of targets, built node by node."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike, DTypeLike, NDArray
from onnx import helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)

FLOAT = onnx.TensorProto.FLOAT


@dataclass
class Net:
    """A graph under construction; every method returns the name of the value that it adds."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)

    def input(self, name: str, *shape: int | str, dtype: int = FLOAT) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def constant(self, name: str, array: ArrayLike) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def op(self, op_type: str, *inputs: str, name: str, domain: str = "", **attributes: Any) -> str:
        node = helper.make_node(
            op_type, inputs, [name], name=f"node of {name}", domain=domain, **attributes
        )
        self.nodes.append(node)
        return name

    def quantize(
        self,
        x: str,
        *,
        dtype: DTypeLike = np.uint8,
        zero_point: int = 0,
        scale: float | Sequence[float] = 0.05,
        name: str | None = None,
        **attributes: Any,
    ) -> str:
        name = f"{x}.q" if name is None else name
        points = np.full(np.shape(scale), zero_point, dtype)
        self.constant(f"{name}.scale", np.asarray(scale, np.float32))
        self.constant(f"{name}.zero", points)
        return self.op(
            "QuantizeLinear", x, f"{name}.scale", f"{name}.zero", name=name, **attributes
        )

    def dequantize(self, quantized: str, name: str | None = None, **attributes: Any) -> str:
        name = f"{quantized.removesuffix('.q')}.dq" if name is None else name
        return self.op(
            "DequantizeLinear",
            quantized,
            f"{quantized}.scale",
            f"{quantized}.zero",
            name=name,
            **attributes,
        )

    def pair(self, x: str, **how: Any) -> str:
        """A QuantizeLinear and a DequantizeLinear; the result is called `<x>.dq`."""
        axis = {"axis": how["axis"]} if "axis" in how else {}
        return self.dequantize(self.quantize(x, **how), **axis)

    def weight(
        self,
        name: str,
        *shape: int,
        axis: int | None = 0,
        dtype: DTypeLike = np.int8,
        zero_point: int = 0,
    ) -> str:
        """A stored integer weight with a scale per index of `axis`, dequantized."""
        drawn = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
        array = drawn.integers(-127, 128, shape) + (128 if dtype == np.uint8 else 0)
        scales = np.full(() if axis is None else shape[axis], 0.01, np.float32)
        self.constant(f"{name}.q", array.astype(dtype))
        self.constant(f"{name}.q.scale", scales)
        self.constant(f"{name}.q.zero", np.full(scales.shape, zero_point, dtype))
        return self.dequantize(f"{name}.q", name, **({} if axis is None else {"axis": axis}))

    def bias(self, name: str, channels: int) -> str:
        """An int32 bias, dequantized with the scale of activations times that of weights."""
        self.constant(f"{name}.q", np.arange(channels, dtype=np.int32))
        self.constant(f"{name}.q.scale", np.full(channels, 0.05 * 0.01, np.float32))
        self.constant(f"{name}.q.zero", np.zeros(channels, np.int32))
        return self.dequantize(f"{name}.q", name, axis=0)

    def conv(
        self,
        x: str,
        outputs: int,
        inputs: int,
        *,
        name: str,
        kernel: Sequence[int] = (3, 3),
        group: int = 1,
        bias: bool = False,
        **weight: Any,
    ) -> str:
        stored = self.weight(f"{name}.w", outputs, inputs // group, *kernel, **weight)
        more = [self.bias(f"{name}.b", outputs)] if bias else []
        pads = [(extent - 1) // 2 for extent in kernel]
        ends = [extent // 2 for extent in kernel]
        return self.op("Conv", x, stored, *more, name=name, pads=[*pads, *ends], group=group)

    def float_weight(self, name: str, *shape: int) -> str:
        drawn = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
        return self.constant(name, drawn.normal(0, 0.1, shape).astype(np.float32))

    def model(self, *outputs: str, opset: int = 17, ir_version: int = 9) -> onnx.ModelProto:
        """The finished model, checked; the outputs get the shapes that ONNX infers."""
        values = [onnx.ValueInfoProto(name=name) for name in outputs]
        graph = helper.make_graph(self.nodes, "net", self.inputs, values, self.constants)
        opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
        for value, found in zip(model.graph.output, inferred.graph.output, strict=True):
            value.CopyFrom(found)
        return model


def tiny_unet() -> onnx.ModelProto:
    """A float U-Net with residual blocks: 12 Conv, 3 Add, 2 Concat, 2 nearest Resize."""
    net = Net()

    def conv(x: str, outputs: int, inputs: int, name: str, size: int = 3, stride: int = 1) -> str:
        weight = net.float_weight(f"{name}.w", outputs, inputs, size, size)
        bias = net.float_weight(f"{name}.b", outputs)
        return net.op(
            "Conv", x, weight, bias, name=name, pads=[size // 2] * 4, strides=[stride] * 2
        )

    def active(x: str) -> str:
        return net.op("Relu", x, name=f"{x}_relu")

    def block(x: str, channels: int, name: str) -> str:
        inner = active(conv(x, channels, channels, f"{name}a"))
        added = net.op("Add", conv(inner, channels, channels, f"{name}b"), x, name=f"{name}_add")
        return active(added)

    def up(x: str, skip: str, outputs: int, inputs: int, name: str) -> str:
        scales = net.constant(f"{name}.scales", np.array([1, 1, 2, 2], np.float32))
        larger = net.op(
            "Resize",
            x,
            "",
            scales,
            name=f"{name}_resize",
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )
        joined = net.op("Concat", larger, skip, name=f"{name}_concat", axis=1)
        return active(conv(joined, outputs, inputs, name))

    x = active(conv(net.input("x", 1, 3, 32, 32), 16, 3, "stem"))
    first = block(x, 16, "first")
    second = block(active(conv(first, 32, 16, "down2", stride=2)), 32, "second")
    third = block(active(conv(second, 64, 32, "down3", stride=2)), 64, "third")
    y = up(third, second, 32, 96, "up2")
    y = up(y, first, 16, 48, "up1")
    return net.model(conv(y, 4, 16, "head", size=1))


class _Feeds(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, feeds: Sequence[dict[str, NDArray[Any]]]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> Any:
        return next(self._feeds, None)


def quantized_by_the_runtime(
    model: onnx.ModelProto, feeds: Sequence[dict[str, NDArray[Any]]], folder: Any, activation: str
) -> onnx.ModelProto:
    """What `quantize_static` of ONNX Runtime makes of a float model.

    Args:
        model: The float model.
        feeds: Inputs to calibrate with.
        folder: Where to write.
        activation: `QInt8` (the default there) or `QUInt8`.
    """
    source, target = folder / "float.onnx", folder / f"{activation}.onnx"
    onnx.save(model, str(source))
    quantize_static(
        str(source),
        str(target),
        _Feeds(feeds),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType[activation],
        weight_type=QuantType.QInt8,
        per_channel=True,
    )
    return onnx.load(str(target))


def drawn_images(
    count: int, shape: Sequence[int], name: str = "x"
) -> list[dict[str, NDArray[Any]]]:
    """Normal noise to calibrate with."""
    drawn = np.random.Generator(np.random.PCG64(7))
    return [{name: drawn.normal(0, 1, shape).astype(np.float32)} for _ in range(count)]


def without_pair(model: onnx.ModelProto, value: str) -> onnx.ModelProto:
    """The model with the Q/DQ of a value taken away: its readers read it in float again."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    quantizers = [
        node
        for node in copy.graph.node
        if node.op_type == "QuantizeLinear" and node.input[0] == value
    ]
    for one in quantizers:
        for node in [node for node in copy.graph.node if node.input[0:1] == [one.output[0]]]:
            for reader in copy.graph.node:
                reader.input[:] = [value if n == node.output[0] else n for n in reader.input]
            copy.graph.node.remove(node)
        copy.graph.node.remove(one)
    assert quantizers
    return copy
