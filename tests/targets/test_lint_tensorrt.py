"""Every rule of the TensorRT linter: a graph that breaks it, and one beside it that does not."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from onnxfold.model import load
from onnxfold.targets.lint_tensorrt import RULES, lint_tensorrt
from onnxfold.targets.proof import Finding, Severity
from tests.targets.qdq import Net

Build = Callable[[], onnx.ModelProto]
S8: dict[str, Any] = {"dtype": np.int8}


def findings(model: onnx.ModelProto) -> tuple[Finding, ...]:
    return lint_tensorrt(load(model).model)


def conv_of(net: Net, x: str, channels: int = 16, name: str = "c", **how: Any) -> str:
    return net.conv(x, channels, channels, name=name, **how)


def fed(**how: Any) -> tuple[Net, str]:
    """A net with an input of 16 channels, quantized like this."""
    net = Net()
    return net, net.pair(net.input("x", 1, 16, 16, 16), **(S8 | how))


def good(net: Net | None = None, x: str = "", **how: Any) -> onnx.ModelProto:
    """One convolution as TensorRT wants it."""
    if net is None:
        net, x = fed()
    return net.model(conv_of(net, x, **how))


def input_grid(**how: Any) -> Build:
    def build() -> onnx.ModelProto:
        net, x = fed(**how)
        return net.model(conv_of(net, x))

    return build


def weight(**how: Any) -> Build:
    return lambda: good(**how)


def float_weight_quantized_in_the_graph() -> onnx.ModelProto:
    net, x = fed()
    stored = net.pair(net.float_weight("w", 16, 16, 1, 1), scale=[0.01] * 16, axis=0, **S8)
    return net.model(net.op("Conv", x, stored, name="c"))


def computed_scale() -> onnx.ModelProto:
    net = Net()
    x = net.input("x", 1, 16, 16, 16)
    scale = net.op("Abs", net.input("gain"), name="scale")
    zero = net.constant("zero", np.int8(0))
    quantized = net.op("QuantizeLinear", x, scale, zero, name="xq")
    return net.model(conv_of(net, net.op("DequantizeLinear", quantized, scale, zero, name="xdq")))


def computed_zero_point() -> onnx.ModelProto:
    net = Net()
    x = net.input("x", 1, 16, 16, 16)
    scale = net.constant("scale", np.float32(0.1))
    zero = net.input("zero", dtype=onnx.TensorProto.INT8)
    quantized = net.op("QuantizeLinear", x, scale, zero, name="xq")
    return net.model(conv_of(net, net.op("DequantizeLinear", quantized, scale, zero, name="xdq")))


def without_zero_point() -> onnx.ModelProto:
    """ONNX makes this uint8."""
    net = Net()
    x, scale = net.input("x", 1, 16, 16, 16), net.constant("scale", np.float32(0.1))
    quantized = net.op("QuantizeLinear", x, scale, name="xq")
    return net.model(conv_of(net, net.op("DequantizeLinear", quantized, scale, name="xdq")))


def half_scale(opset: int, scale: type, value: int) -> Build:
    def build() -> onnx.ModelProto:
        net = Net()
        x = net.input("x", 1, 16, 16, 16, dtype=value)
        step, zero = net.constant("s", scale(0.1)), net.constant("z", np.int8(0))
        quantized = net.op("QuantizeLinear", x, step, zero, name="xq")
        net.op("DequantizeLinear", quantized, step, zero, name="xdq")
        net.op("Cast", "xdq", name="out", to=onnx.TensorProto.FLOAT)
        return net.model("out", opset=opset)

    return build


def quantized_bias() -> onnx.ModelProto:
    return good(bias=True)


def float_bias() -> onnx.ModelProto:
    net, x = fed()
    bias = net.constant("b", np.ones(16, np.float32))
    return net.model(net.op("Conv", x, net.weight("w", 16, 16, 1, 1), bias, name="c"))


def transposed(axis: int | None) -> Build:
    def build() -> onnx.ModelProto:
        net, x = fed()
        stored = net.weight("w", 16, 16, 2, 2, axis=axis)
        return net.model(net.op("ConvTranspose", x, stored, name="c", strides=[2, 2]))

    return build


def product(op_type: str, shape: tuple[int, int], axis: int, rows: int = 32, **how: Any) -> Build:
    def build() -> onnx.ModelProto:
        net = Net()
        inner = shape[1] if how.get("transB") else shape[0]
        x = net.pair(net.input("x", rows, inner), **S8)
        return net.model(net.op(op_type, x, net.weight("w", *shape, axis=axis), name="c", **how))

    return build


def wrong_length() -> onnx.ModelProto:
    model = good()
    for tensor in model.graph.initializer:
        if tensor.name in ("c.w.q.scale", "c.w.q.zero"):
            tensor.dims[0] = 8
            tensor.raw_data = tensor.raw_data[: len(tensor.raw_data) // 2]
    return model


def four_bits(columns: int) -> Build:
    """Weight-only int4, which takes opset 21."""

    def build() -> onnx.ModelProto:
        net = Net()
        net.constants.append(
            helper.make_tensor("w.q", onnx.TensorProto.INT4, (16, columns), [1] * (16 * columns))
        )
        net.constant("w.q.scale", np.float32(0.1))
        net.constants.append(helper.make_tensor("w.q.zero", onnx.TensorProto.INT4, (), [0]))
        x = net.input("x", 32, 16)
        return net.model(net.op("MatMul", x, net.dequantize("w.q"), name="c"), opset=21)

    return build


def four_bits_activation() -> onnx.ModelProto:
    net = Net()
    net.constant("s", np.float32(0.1))
    net.constants.append(helper.make_tensor("z", onnx.TensorProto.INT4, (), [0]))
    quantized = net.op("QuantizeLinear", net.input("x", 32, 16), "s", "z", name="xq")
    x = net.op("DequantizeLinear", quantized, "s", "z", name="xdq")
    return net.model(net.op("MatMul", x, net.weight("w", 16, 16, axis=1), name="c"), opset=21)


def at_opset(version: int) -> Build:
    def build() -> onnx.ModelProto:
        model = good()
        model.opset_import[0].version = version
        return model

    return build


def per_tensor_at_opset_12() -> onnx.ModelProto:
    net, x = fed()
    return net.model(conv_of(net, x, axis=None), opset=12)


def integer_operator() -> onnx.ModelProto:
    net = Net()
    x = net.input("x", 1, 16, 16, 16, dtype=onnx.TensorProto.INT8)
    stored = net.constant("w", np.ones((16, 16, 1, 1), np.int8))
    return net.model(net.op("ConvInteger", x, stored, name="c"))


def contributed_integer_operator() -> onnx.ModelProto:
    net = Net()
    x = net.input("x", 1, 16, dtype=onnx.TensorProto.INT8)
    grid = [net.constant("s", np.float32(0.1)), net.constant("z", np.int8(0))]
    net.op("QLinearSigmoid", x, *grid, *grid, name="q", domain="com.microsoft")
    return net.model(net.op("DequantizeLinear", "q", *grid, name="out"))


def custom_operator() -> onnx.ModelProto:
    net, x = fed()
    net.op("Gelu", conv_of(net, x), name="g", domain="com.microsoft")
    return net.model(net.op("Cast", "g", name="out", to=onnx.TensorProto.FLOAT))


def through(op_type: str, quantized: bool, *more: float, **attributes: Any) -> Build:
    """Conv, then this operator with or without Q/DQ in front of it, then Q/DQ and Conv."""

    def build() -> onnx.ModelProto:
        net, x = fed()
        conv = conv_of(net, x, name="first")
        if quantized:
            conv = net.pair(conv, **S8)
        constants = [net.constant(f"k{i}", np.float32(value)) for i, value in enumerate(more)]
        y = net.op(op_type, conv, *constants, name="y", **attributes)
        return net.model(conv_of(net, net.pair(y, **S8)))

    return build


def resize(quantized: bool, **attributes: Any) -> Build:
    def build() -> onnx.ModelProto:
        net, x = fed()
        conv = conv_of(net, x, name="first")
        conv = net.pair(conv, **S8) if quantized else conv
        scales = net.constant("scales", np.array([1, 1, 2, 2], np.float32))
        y = net.op("Resize", conv, "", scales, name="y", **attributes)
        return net.model(conv_of(net, net.pair(y, **S8)), opset=18)

    return build


def pad(before: bool, behind: bool) -> Build:
    def build() -> onnx.ModelProto:
        net = Net()
        x = net.input("x", 1, 16, 16, 16)
        x = net.pair(x, **S8) if before else x
        pads = net.constant("pads", np.array([0, 0, 1, 1, 0, 0, 1, 1]))
        y = net.op("Pad", x, pads, name="y")
        return net.model(conv_of(net, net.pair(y, **S8) if behind else y))

    return build


def batch_normalization(quantized: bool) -> Build:
    def build() -> onnx.ModelProto:
        net, x = fed()
        conv = conv_of(net, x, name="first")
        conv = net.pair(conv, **S8) if quantized else conv
        ones = [net.constant(name, np.ones(16, np.float32)) for name in "gbmv"]
        y = net.op("BatchNormalization", conv, *ones, name="y")
        return net.model(conv_of(net, net.pair(y, **S8)))

    return build


def silu(quantized: bool) -> Build:
    def build() -> onnx.ModelProto:
        net, x = fed()
        conv = conv_of(net, x, name="first")
        gate = net.op("Sigmoid", conv, name="gate")
        conv = net.pair(conv, **S8) if quantized else conv
        y = net.op("Mul", conv, gate, name="y")
        return net.model(conv_of(net, net.pair(y, **S8)))

    return build


def concat(*scales: float) -> Build:
    def build() -> onnx.ModelProto:
        net = Net()
        values = [net.input(name, 1, 8, 16, 16) for name in ("left", "right")]
        for index, scale in enumerate(scales):
            values[index] = net.pair(values[index], scale=scale, **S8)
        y = net.op("Concat", *values, name="y", axis=1)
        return net.model(conv_of(net, net.pair(y, **S8)))

    return build


def output_pair() -> onnx.ModelProto:
    net, x = fed()
    return net.model(net.pair(conv_of(net, x), **S8))


def quantized_output() -> onnx.ModelProto:
    net, x = fed()
    return net.model(net.quantize(conv_of(net, x), **S8))


def pair_for_nothing() -> onnx.ModelProto:
    net, x = fed()
    relu = net.op("Relu", conv_of(net, x), name="r")
    return net.model(net.op("Exp", net.pair(relu, **S8), name="out"))


def pooled(quantized: bool) -> Build:
    def build() -> onnx.ModelProto:
        net, x = fed()
        y = net.op("AveragePool", x, name="y", kernel_shape=[2, 2])
        y = net.op("Transpose", y, name="t", perm=[0, 1, 3, 2])
        return net.model(conv_of(net, net.pair(y, **S8)) if quantized else conv_of(net, y))

    return build


def residual(conv: bool, skip: bool, behind: bool = True) -> Build:
    """x + conv(relu(conv(x))), then Relu; which operands are quantized, and the result."""

    def build() -> onnx.ModelProto:
        net = Net()
        x = net.op("Exp", net.input("x", 1, 16, 16, 16), name="e")
        quantized = net.pair(x, **S8)
        inner = net.op("Relu", conv_of(net, quantized, name="first"), name="r")
        last = conv_of(net, net.pair(inner, **S8), name="second")
        operands = [net.pair(last, **S8) if conv else last, quantized if skip else x]
        y = net.op("Relu", net.op("Add", *operands, name="sum"), name="y")
        return net.model(conv_of(net, net.pair(y, **S8)) if behind else net.op("Exp", y, name="o"))

    return build


def downsampled(*quantized: bool) -> Build:
    """Two convolutions summed: either may be the skip."""

    def build() -> onnx.ModelProto:
        net, x = fed()
        sides = [conv_of(net, x, name=name) for name in ("first", "second")]
        sides = [net.pair(v, **S8) if q else v for v, q in zip(sides, quantized, strict=True)]
        return net.model(net.op("Add", *sides, name="sum"))

    return build


def inverted_residual() -> onnx.ModelProto:
    """As in ConvNeXt: the convolution's result is the skip too, so that nothing is fused."""
    net, x = fed()
    conv = conv_of(net, x, name="first")
    quantized = net.pair(conv, **S8)
    second = conv_of(net, quantized, name="second")
    other = net.op("Exp", second, name="e")
    return net.model(net.op("Add", net.pair(other, **S8), quantized, name="sum"))


def several_scales(*scales: float) -> Build:
    def build() -> onnx.ModelProto:
        net = Net()
        x = net.input("x", 1, 16, 16, 16)
        outs = []
        for index, scale in enumerate(scales):
            quantized = net.quantize(x, scale=scale, name=f"x{index}.q", **S8)
            outs.append(conv_of(net, net.dequantize(quantized), name=f"c{index}"))
        return net.model(*outs)

    return build


def half(data: bool, stored: bool) -> Build:
    def build() -> onnx.ModelProto:
        net = Net()
        x = net.input("x", 1, 16, 16, 16)
        x = net.pair(x, **S8) if data else x
        kernel = net.weight("w", 16, 16, 1, 1) if stored else net.float_weight("w", 16, 16, 1, 1)
        return net.model(net.op("Conv", x, kernel, name="c"))

    return build


def sized(outputs: int, inputs: int, kernel: tuple[int, int] = (3, 3), **how: Any) -> Build:
    """A convolution that is not the first one of the model, unless `first` says so."""
    first = how.pop("first", False)

    def build() -> onnx.ModelProto:
        net = Net()
        x = net.input("x", 1, inputs, 16, 16)
        x = x if first else net.op("Exp", x, name="e")
        x = net.pair(x, **S8)
        return net.model(net.conv(x, outputs, inputs, name="c", kernel=kernel, **how))

    return build


def float8(outputs: int, kernel: int) -> Build:
    def build() -> onnx.ModelProto:
        net = Net()
        eight = onnx.TensorProto.FLOAT8E4M3FN
        count = outputs * 32 * kernel * kernel
        shape = (outputs, 32, kernel, kernel)
        net.constants.append(helper.make_tensor("w.q", eight, shape, [1.0] * count))
        for name in ("w.q", "x.q"):
            net.constant(f"{name}.scale", np.float32(0.1))
            net.constants.append(helper.make_tensor(f"{name}.zero", eight, (), [0.0]))
        x = net.input("x", 1, 32, 16, 16)
        net.op("QuantizeLinear", x, "x.q.scale", "x.q.zero", name="x.q")
        conv = net.op("Conv", net.dequantize("x.q"), net.dequantize("w.q"), name="c")
        return net.model(conv, opset=19)

    return build


def in_float16() -> onnx.ModelProto:
    net = Net()
    x = net.input("x", 1, 16, 16, 16, dtype=onnx.TensorProto.FLOAT16)
    half_grid = [net.constant("s", np.float16(0.1)), net.constant("z", np.int8(0))]
    quantized = net.op("QuantizeLinear", x, *half_grid, name="xq")
    stored = net.constant("w", np.ones((16, 16, 1, 1), np.int8))
    operands = [
        net.op("DequantizeLinear", value, *half_grid, name=f"{value}.dq")
        for value in (quantized, stored)
    ]
    return net.model(net.op("Exp", net.op("Conv", *operands, name="c"), name="out"), opset=19)


_F16, _F32 = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT

CASES: dict[str, list[tuple[Build, Build]]] = {
    "unsigned-type": [
        (input_grid(dtype=np.uint8), input_grid()),
        (without_zero_point, input_grid()),
        (weight(dtype=np.uint8), weight()),
    ],
    "zero-point": [
        (input_grid(zero_point=3), input_grid(zero_point=0)),
        (weight(zero_point=-1), weight()),
        (computed_zero_point, weight()),
    ],
    "scale-not-constant": [(computed_scale, weight())],
    "scale-not-positive": [
        (input_grid(scale=0.0), input_grid(scale=1e-9)),
        (input_grid(scale=-0.1), weight()),
        (input_grid(scale=float("nan")), weight()),
    ],
    "scale-type": [
        (half_scale(17, np.float16, _F32), half_scale(17, np.float32, _F32)),
        (half_scale(19, np.float32, _F16), half_scale(19, np.float16, _F16)),
        (half_scale(17, np.float16, _F16), half_scale(23, np.float32, _F16)),
    ],
    "activation-per-channel": [(input_grid(scale=[0.1] * 16, axis=1), weight())],
    "quantized-bias": [(quantized_bias, float_bias)],
    "quantized-type": [(input_grid(dtype=np.int16), input_grid())],
    "four-bits-odd": [(four_bits(17), four_bits(16))],
    "four-bits-activation": [(four_bits_activation, four_bits(16))],
    "weight-axis": [
        (weight(axis=1), float_weight_quantized_in_the_graph),
        (transposed(0), transposed(1)),
        (product("MatMul", (16, 32), 0), product("MatMul", (16, 32), 1)),
        (product("Gemm", (16, 32), 0), product("Gemm", (16, 32), 1)),
        (product("Gemm", (32, 16), 1, transB=1), product("Gemm", (32, 16), 0, transB=1)),
    ],
    "conv-transpose-per-channel": [(transposed(1), transposed(None))],
    "scale-length": [(wrong_length, weight())],
    "opset": [(at_opset(12), at_opset(13)), (at_opset(12), per_tensor_at_opset_12)],
    "late-opset": [(at_opset(18), at_opset(17)), (at_opset(21), four_bits(16))],
    "integer-operator": [(integer_operator, weight()), (contributed_integer_operator, weight())],
    "custom-operator": [(custom_operator, contributed_integer_operator)],
    "before-resize": [(resize(True), resize(False))],
    "before-pad": [(pad(True, False), pad(False, False))],
    "between-pad-and-conv": [(pad(False, True), pad(True, False))],
    "before-activation": [
        (through("Relu", True), through("Relu", False)),
        (through("LeakyRelu", True), through("LeakyRelu", False)),
        (through("Sigmoid", True), through("Sigmoid", False)),
    ],
    "before-float-operator": [
        (through("PRelu", True, 0.1), through("PRelu", False, 0.1)),
        (through("HardSwish", True), through("HardSwish", False)),
        (through("Softmax", True), through("Softmax", False)),
    ],
    "before-batch-normalization": [(batch_normalization(True), batch_normalization(False))],
    "before-gate": [(silu(True), silu(False))],
    "before-movement": [
        (
            through("MaxPool", True, kernel_shape=[2, 2]),
            through("MaxPool", False, kernel_shape=[2, 2]),
        ),
        (through("Transpose", True), through("Transpose", False)),
    ],
    "before-concat": [(concat(0.1, 0.1), concat())],
    "concat-scales": [(concat(0.1, 0.2), concat(0.1, 0.1)), (concat(0.1, 0.2), concat(0.1))],
    "at-output": [(output_pair, weight()), (quantized_output, weight())],
    "after-convolution": [
        (pair_for_nothing, through("Relu", False)),
        (through("Sigmoid", True), through("MaxPool", True, kernel_shape=[2, 2])),
        (residual(True, False), residual(False, True)),
    ],
    "pooling-one-side": [(pooled(False), pooled(True))],
    "residual-both": [
        (residual(True, True), residual(False, True)),
        (downsampled(True, True), downsampled(False, True)),
        (residual(True, True), inverted_residual),
    ],
    "residual-wrong-side": [
        (residual(True, False), residual(False, True)),
        (residual(True, False), downsampled(True, False)),
    ],
    "residual-float": [
        (residual(False, False), residual(False, True)),
        (residual(False, False), residual(False, False, behind=False)),
    ],
    "several-scales": [(several_scales(0.1, 0.2), several_scales(0.1, 0.1))],
    "half-quantized": [
        (half(True, False), half(True, True)),
        (half(False, True), half(False, False)),
        (half(False, True), four_bits(16)),
    ],
    "small-channels": [
        (sized(8, 8), sized(16, 16)),
        (sized(12, 20), sized(8, 20)),
        (sized(8, 3), sized(8, 3, first=True)),
        (sized(8, 32, kernel=(1, 3)), sized(8, 32, kernel=(3, 3))),
    ],
    "grouped-convolution": [
        (sized(12, 12, group=12), sized(16, 16, group=16)),
        (sized(16, 16, kernel=(1, 1), group=16), sized(16, 16, kernel=(5, 5), group=16)),
    ],
    "float8-convolution": [(float8(16, 1), float8(32, 1)), (float8(32, 7), float8(32, 5))],
    "matrix-vector": [
        (product("MatMul", (16, 32), 1, rows=1), product("MatMul", (16, 32), 1, rows=2)),
    ],
    "small-matrix": [
        (product("MatMul", (8, 32), 1), product("MatMul", (16, 32), 1)),
        (product("MatMul", (32, 8), 1), product("MatMul", (32, 16), 1)),
    ],
    "resize-antialias": [
        (resize(False, mode="linear", antialias=1), resize(False, mode="linear")),
    ],
    "resize-mode": [(resize(False, mode="cubic"), resize(False, mode="linear"))],
    "float32-remainder": [(through("Relu", False), in_float16)],
}


def test_every_rule_has_its_cases() -> None:
    assert [rule.id for rule in RULES] == list(dict.fromkeys(rule.id for rule in RULES))
    assert {rule.id for rule in RULES} == CASES.keys()


@pytest.mark.parametrize(
    ("rule", "bad", "fine"),
    [
        pytest.param(rule, *case, id=f"{rule}-{index}")
        for rule, cases in CASES.items()
        for index, case in enumerate(cases)
    ],
)
def test_a_rule_is_broken_by_one_graph_and_not_by_the_other(
    rule: str, bad: Build, fine: Build
) -> None:
    found = [each for each in findings(bad()) if each.rule == rule]
    assert found
    assert not [each for each in findings(fine()) if each.rule == rule]
    for each in found:
        assert each.layer in {"", *names(bad())}
        assert each.hint
        assert not re.search(r"[.\s]$", each.message + each.hint)


def names(model: onnx.ModelProto) -> set[str]:
    computed = {name for node in model.graph.node for name in node.output}
    inputs = {value.name for value in model.graph.input}
    return computed | inputs | {tensor.name for tensor in model.graph.initializer}


def test_a_network_as_tensorrt_wants_it_has_nothing_but_the_remark_on_float32() -> None:
    """Residual blocks, Resize, Concat and a head in float, quantized at the convolutions alone."""
    net = Net()
    x = net.pair(net.input("x", 1, 3, 32, 32), **S8)
    stem = net.op("Relu", net.conv(x, 16, 3, name="stem"), name="stem_relu")
    quantized = net.pair(stem, **S8)
    inner = net.op("Relu", conv_of(net, quantized, name="a"), name="a_relu")
    last = conv_of(net, net.pair(inner, **S8), name="b")
    block = net.op("Relu", net.op("Add", last, quantized, name="sum"), name="block")
    scales = net.constant("scales", np.array([1, 1, 2, 2], np.float32))
    half_size = net.op("MaxPool", block, name="pool", kernel_shape=[2, 2], strides=[2, 2])
    down = net.op("Relu", conv_of(net, net.pair(half_size, **S8), name="down"), name="down_relu")
    up = net.op("Resize", down, "", scales, name="up", mode="nearest")
    joined = net.op("Concat", up, block, name="joined", axis=1)
    head = net.conv(net.pair(joined, **S8), 16, 32, name="head")
    found = findings(net.model(head))
    assert [(each.rule, each.severity) for each in found] == [("float32-remainder", Severity.INFO)]


def test_a_finding_says_what_and_where() -> None:
    (finding,) = [each for each in findings(residual(True, True)()) if each.rule == "residual-both"]
    assert finding == Finding(
        rule="residual-both",
        severity=Severity.WARNING,
        layer="sum",
        message="both operands of the residual Add 'sum' are quantized",
        hint="quantize the skip operand alone, so that the Add is fused into the convolution",
    )
