"""What ONNX Runtime makes of small graphs with Q/DQ, and whether the proof says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from onnxfold.errors import BadModelError, BadOptionError, CannotRunError
from onnxfold.quantize.emit import LAYER_KEY
from onnxfold.targets.proof import LayerPrecision, Precision, Proof, Severity
from onnxfold.targets.prove import prove
from tests.targets.qdq import (
    Net,
    drawn_images,
    quantized_by_the_runtime,
    tiny_unet,
    without_pair,
)

INT8, FLOAT = Precision.INT8, Precision.FLOAT


def proven(net: Net, *outputs: str, opset: int = 17) -> Proof:
    model = net.model(*outputs, opset=opset)
    before = model.SerializeToString()
    proof = prove(model, "ort-cpu")
    assert model.SerializeToString() == before
    return proof


def start(dtype: type = np.uint8, zero_point: int = 128) -> tuple[Net, str]:
    """A net with a quantized input of 8 channels."""
    net = Net()
    return net, net.pair(net.input("x", 1, 8, 8, 8), dtype=dtype, zero_point=zero_point)


def finish(net: Net, x: str, **pair: object) -> str:
    """Quantize `x` and read it by something that only works in float."""
    return net.op("Tanh", net.pair(x, **pair), name="out")


def test_a_chain_of_convolutions_runs_in_int8() -> None:
    net, x = start()
    first = net.pair(net.op("Relu", net.conv(x, 16, 8, name="a", bias=True), name="r"))
    second = finish(net, net.conv(first, 8, 16, name="b"), zero_point=128)
    proof = proven(net, second)
    assert proof.compiled
    assert proof.target == "ort-cpu"
    assert proof.int8_share == 1.0
    assert [proof.layer(name).precision for name in ("a", "r", "b")] == [INT8] * 3
    assert proof.layer("a") == LayerPrecision(
        layer="a",
        node="node of a",
        op_type="Conv",
        precision=INT8,
        kernel="QLinearConv",
        reason="",
        multiply_adds=16 * 8 * 8 * 8 * 9,
    )
    assert proof.kernels["QLinearConv"] == 2
    assert (proof.unfused, proof.runtime_weights, proof.findings) == ((), (), ())
    tanh = proof.layer("out")
    assert (tanh.precision, tanh.multiply_adds) == (FLOAT, 0)
    assert tanh.reason == "ONNX Runtime has no INT8 kernel for Tanh on the CPU"


Build = Callable[[], tuple[Net, str]]


def no_pair_behind() -> tuple[Net, str]:
    net, x = start()
    return net, net.op("Tanh", net.conv(x, 8, 8, name="c"), name="out")


def no_pair_before() -> tuple[Net, str]:
    net = Net()
    x = net.op("Tanh", net.input("x", 1, 8, 8, 8), name="t")
    return net, finish(net, net.conv(x, 8, 8, name="c"))


def graph_output() -> tuple[Net, str]:
    net, x = start()
    return net, net.conv(x, 8, 8, name="c")


def read_in_float_too() -> tuple[Net, str]:
    net, x = start()
    conv = net.conv(x, 8, 8, name="c")
    return net, net.op("Mul", finish(net, conv), net.op("Erf", conv, name="e"), name="m")


def two_scales_behind() -> tuple[Net, str]:
    net, x = start()
    conv = net.conv(x, 8, 8, name="c")
    fine = net.dequantize(net.quantize(conv, scale=0.01, name="fine"), name="fine.dq")
    return net, net.op("Mul", finish(net, conv), net.op("Erf", fine, name="e"), name="m")


def relu_above_zero_point() -> tuple[Net, str]:
    net, x = start()
    relu = net.op("Relu", net.conv(x, 8, 8, name="c"), name="r")
    return net, finish(net, relu, zero_point=128)


def signed_relu() -> tuple[Net, str]:
    net, x = start(np.int8, 0)
    relu = net.op("Relu", net.conv(x, 8, 8, name="c"), name="r")
    return net, finish(net, relu, dtype=np.int8, zero_point=0)


def clip_inside_the_range() -> tuple[Net, str]:
    net, x = start()
    bounds = [net.constant(name, np.float32(v)) for name, v in (("low", 0), ("high", 6))]
    clip = net.op("Clip", net.conv(x, 8, 8, name="c"), *bounds, name="r")
    return net, finish(net, clip, scale=0.05)


def leaky_relu_at_once() -> tuple[Net, str]:
    net, x = start()
    leaky = net.op("LeakyRelu", net.conv(x, 8, 8, name="c"), name="r")
    return net, finish(net, leaky, zero_point=20)


def signed_input_with_two_readers() -> tuple[Net, str]:
    net, x = start(np.int8, 0)
    conv = finish(net, net.conv(x, 8, 8, name="c"), dtype=np.int8)
    return net, net.op("Mul", conv, net.op("Erf", x, name="e"), name="m")


def signed_output_with_two_readers() -> tuple[Net, str]:
    net, x = start(np.int8, 0)
    behind = net.pair(net.conv(x, 8, 8, name="c"), dtype=np.int8)
    outs = [net.op(op, behind, name=op) for op in ("Tanh", "Erf")]
    return net, net.op("Mul", *outs, name="m")


def types_differ() -> tuple[Net, str]:
    net, x = start()
    return net, finish(net, net.conv(x, 8, 8, name="c"), dtype=np.uint16)


def transposed() -> tuple[Net, str]:
    net, x = start()
    weight = net.weight("w", 8, 8, 2, 2, axis=1)
    return net, finish(net, net.op("ConvTranspose", x, weight, name="c", strides=[2, 2]))


def float_weight() -> tuple[Net, str]:
    net, x = start()
    weight = net.float_weight("w", 8, 8, 1, 1)
    return net, net.op("Tanh", net.op("Conv", x, weight, name="c"), name="out")


def computed_weight() -> tuple[Net, str]:
    net, x = start()
    weight = net.op("Tanh", net.float_weight("w", 8, 8, 1, 1), name="tw")
    weight = net.op("Mul", weight, net.input("gain", 1), name="wg")
    return net, finish(net, net.op("Conv", x, weight, name="c"))


def untouched() -> tuple[Net, str]:
    net = Net()
    weight = net.float_weight("w", 8, 8, 1, 1)
    return net, net.op("Conv", net.input("x", 1, 8, 8, 8), weight, name="c")


def half_an_addition() -> tuple[Net, str]:
    net, x = start()
    return net, finish(net, net.op("Add", x, net.op("Erf", x, name="e"), name="c"))


def concat_of_two_types() -> tuple[Net, str]:
    net, x = start()
    y = net.pair(net.input("y", 1, 8, 8, 8), dtype=np.int8)
    both = finish(net, net.op("Concat", x, y, name="c", axis=1))
    return net, net.op("Concat", both, net.op("Erf", y, name="e"), name="m", axis=1)


def signed_constant() -> tuple[Net, str]:
    net, x = start(np.int8, 0)
    gain = net.weight("g", 1, 8, 1, 1, axis=None)
    return net, finish(net, net.op("Mul", x, gain, name="c"), dtype=np.int8)


def subtraction() -> tuple[Net, str]:
    net, x = start()
    y = net.pair(net.input("y", 1, 8, 8, 8))
    return net, finish(net, net.op("Sub", x, y, name="c"))


def _resized(mode: str, zero_point: int) -> tuple[Net, str]:
    net, x = start()
    scales = net.constant("s", np.array([1, 1, 2, 2], np.float32))
    return net, finish(
        net, net.op("Resize", x, "", scales, name="c", mode=mode), zero_point=zero_point
    )


def linear_resize() -> tuple[Net, str]:
    return _resized("linear", 128)


def nearest_to_another_scale() -> tuple[Net, str]:
    return _resized("nearest", 0)


_TWO_READERS = (
    "has 2 readers, and ONNX Runtime on this processor turns int8 into uint8 only where there is "
    "one: make it uint8"
)

REASONS: list[tuple[Build, str]] = [
    (no_pair_behind, "no QuantizeLinear reads its output, only Tanh"),
    (no_pair_before, "its input 't' is not quantized"),
    (graph_output, "its output is a graph output in float: put Q/DQ in front of the output"),
    (read_in_float_too, "its output is also read in float, by Erf"),
    (two_scales_behind, "2 different QuantizeLinear read its output"),
    (
        relu_above_zero_point,
        "the Relu behind it is not absorbed: the QuantizeLinear behind it starts at -6.4 and not "
        "at 0 (uint8 with zero point 128)",
    ),
    (
        signed_relu,
        "the Relu behind it is not absorbed: the QuantizeLinear behind it starts at -6.4 and not "
        "at 0 (int8 with zero point 0)",
    ),
    (
        clip_inside_the_range,
        "the Clip behind it is not absorbed: it cuts at 0 and 6, and the QuantizeLinear behind it "
        "represents 0 to 12.75",
    ),
    (
        leaky_relu_at_once,
        "LeakyRelu stands between it and its QuantizeLinear: put Q/DQ in front of the LeakyRelu "
        "too",
    ),
    (signed_input_with_two_readers, f"the int8 value 'x' {_TWO_READERS}"),
    (signed_output_with_two_readers, f"the int8 value 'c' {_TWO_READERS}"),
    (types_differ, "its activations are of different types: uint16, uint8"),
    (transposed, "ONNX Runtime has no INT8 kernel for ConvTranspose on the CPU"),
    (float_weight, "its weight 'w' is not quantized"),
    (computed_weight, "its weight 'wg' is not quantized"),
    (untouched, "nothing around it is quantized"),
    (half_an_addition, "its operand 'e' is not quantized"),
    (concat_of_two_types, f"the int8 value 'y' {_TWO_READERS}"),
    (signed_constant, "its constant operand 'g.q' is int8: make it uint8"),
    (subtraction, "ONNX Runtime has no INT8 kernel for Sub on the CPU"),
    (linear_resize, "ONNX Runtime interpolates in float (linear)"),
    (nearest_to_another_scale, "the scales or zero points before and behind it differ"),
]


@pytest.mark.parametrize(
    ("build", "reason"), REASONS, ids=lambda each: getattr(each, "__name__", "")
)
def test_a_layer_in_float_has_its_reason(build: Build, reason: str) -> None:
    net, output = build()
    layer = proven(net, output, opset=21).layer("c")
    assert (layer.precision, layer.reason) == (FLOAT, reason)


def relu_at_zero() -> tuple[Net, str]:
    net, x = start()
    return net, finish(net, net.op("Relu", net.conv(x, 8, 8, name="c"), name="r"))


def signed_relu_at_the_least() -> tuple[Net, str]:
    net, x = start(np.int8, 0)
    relu = net.op("Relu", net.conv(x, 8, 8, name="c"), name="r")
    return net, finish(net, relu, dtype=np.int8, zero_point=-128)


def clip_is_the_range() -> tuple[Net, str]:
    net, x = start()
    bounds = [net.constant(name, np.float32(v)) for name, v in (("low", 0), ("high", 6))]
    clip = net.op("Clip", net.conv(x, 8, 8, name="c"), *bounds, name="r")
    return net, finish(net, clip, scale=6 / 255)


def leaky_relu_with_pairs() -> tuple[Net, str]:
    net, x = start()
    conv = net.pair(net.conv(x, 8, 8, name="c"), zero_point=128)
    return net, finish(net, net.op("LeakyRelu", conv, name="r"), zero_point=20)


def unsigned_with_two_readers() -> tuple[Net, str]:
    net, x = start()
    conv = finish(net, net.conv(x, 8, 8, name="c"))
    return net, net.op("Mul", conv, net.op("Erf", x, name="e"), name="m")


def output_with_a_pair() -> tuple[Net, str]:
    net, x = start()
    return net, net.pair(net.conv(x, 8, 8, name="c"))


def silu() -> tuple[Net, str]:
    net, x = start()
    conv = net.pair(net.conv(x, 8, 8, name="conv"), zero_point=128)
    gate = net.pair(net.op("Sigmoid", conv, name="c"), scale=1 / 256)
    return net, finish(net, net.op("Mul", conv, gate, name="r"), zero_point=10)


def addition() -> tuple[Net, str]:
    net, x = start()
    y = net.pair(net.input("y", 1, 8, 8, 8), scale=0.2)
    return net, finish(net, net.op("Relu", net.op("Add", x, y, name="c"), name="r"))


def concat_of_two_scales() -> tuple[Net, str]:
    net, x = start()
    y = net.pair(net.input("y", 1, 8, 8, 8), scale=0.2)
    return net, finish(net, net.op("Concat", x, y, name="c", axis=1))


def nearest() -> tuple[Net, str]:
    return _resized("nearest", 128)


def max_pool() -> tuple[Net, str]:
    net, x = start()
    pooled = net.op("MaxPool", x, name="c", kernel_shape=[2, 2])
    return net, finish(net, pooled, zero_point=128)


def average_pool() -> tuple[Net, str]:
    net, x = start()
    return net, finish(net, net.op("AveragePool", x, name="c", kernel_shape=[2, 2]), zero_point=128)


def global_average_pool() -> tuple[Net, str]:
    net, x = start()
    return net, finish(net, net.op("GlobalAveragePool", x, name="c"), zero_point=128)


def depth_to_space() -> tuple[Net, str]:
    net, x = start()
    return net, finish(net, net.op("DepthToSpace", x, name="c", blocksize=2), zero_point=128)


def matrix_product() -> tuple[Net, str]:
    net = Net()
    x = net.pair(net.input("x", 4, 16))
    return net, finish(net, net.op("MatMul", x, net.weight("w", 16, 16, axis=None), name="c"))


def matrix_product_to_float() -> tuple[Net, str]:
    net = Net()
    x = net.pair(net.input("x", 4, 16))
    product = net.op("MatMul", x, net.weight("w", 16, 16, axis=None), name="c")
    return net, net.op("Tanh", product, name="out")


def gemm() -> tuple[Net, str]:
    net = Net()
    x = net.pair(net.input("x", 4, 16))
    weight, bias = net.weight("w", 16, 16, axis=None), net.bias("b", 16)
    return net, finish(net, net.op("Gemm", x, weight, bias, name="c"))


KERNELS: list[tuple[Build, str]] = [
    (relu_at_zero, "QLinearConv"),
    (signed_relu_at_the_least, "QLinearConv"),
    (clip_is_the_range, "QLinearConv"),
    (leaky_relu_with_pairs, "QLinearConv"),
    (unsigned_with_two_readers, "QLinearConv"),
    (output_with_a_pair, "QLinearConv"),
    (silu, "QLinearSigmoid"),
    (addition, "QLinearAdd"),
    (concat_of_two_scales, "QLinearConcat"),
    (nearest, "Resize"),
    (max_pool, "MaxPool"),
    (average_pool, "QLinearAveragePool"),
    (global_average_pool, "QLinearGlobalAveragePool"),
    (depth_to_space, "DepthToSpace"),
    (matrix_product, "QLinearMatMul"),
    (matrix_product_to_float, "MatMulIntegerToFloat"),
    (gemm, "QGemm"),
]


@pytest.mark.parametrize(
    ("build", "kernel"), KERNELS, ids=lambda each: getattr(each, "__name__", "")
)
def test_a_layer_in_int8_has_its_kernel(build: Build, kernel: str) -> None:
    net, output = build()
    proof = proven(net, output)
    layer = proof.layer("c")
    assert (layer.precision, layer.kernel, layer.reason) == (INT8, kernel, "")
    if kernel.startswith("Q"):
        assert proof.unfused == ()
    if "r" in [each.layer for each in proof.layers]:
        assert proof.layer("r").precision is INT8


def test_a_weight_that_is_dequantized_in_every_run_is_named() -> None:
    net, x = start()
    inner = net.pair(net.conv(x, 8, 8, name="a"), zero_point=128)
    proof = proven(net, net.op("Tanh", net.conv(inner, 8, 8, name="b"), name="out"))
    assert proof.runtime_weights == ("b",)
    assert proof.int8_share == 0.5


def test_a_float_weight_that_the_runtime_quantizes_itself_is_found() -> None:
    net, x = start()
    conv = net.op("Conv", x, net.float_weight("w", 8, 8, 1, 1), name="c")
    proof = proven(net, finish(net, conv))
    (finding,) = proof.findings
    assert (finding.rule, finding.layer) == ("ort-quantizes-weight", "c")
    assert "one scale for the whole tensor" in finding.message
    assert proof.layer("c").precision is INT8


def test_a_float_layer_behind_a_scale_per_channel_is_left_alone() -> None:
    """The way to keep ONNX Runtime from quantizing its weight."""
    net = Net()
    quantized = net.quantize(net.input("x", 1, 8, 8, 8))
    net.constant("scales", np.full(8, 0.05, np.float32))
    net.constant("zeros", np.zeros(8, np.uint8))
    x = net.op("DequantizeLinear", quantized, "scales", "zeros", name="x.dq", axis=1)
    conv = net.op("Conv", x, net.float_weight("w", 8, 8, 1, 1), name="c")
    proof = proven(net, finish(net, conv))
    assert proof.findings == ()
    layer = proof.layer("c")
    assert (layer.precision, layer.reason) == (FLOAT, "its weight 'w' is not quantized")


def test_a_product_that_is_put_in_shape_is_found_with_its_bias() -> None:
    """ONNX Runtime makes Reshape, QGemm, Reshape of it."""
    net = Net()
    x = net.pair(net.input("x", 2, 4, 16))
    product = net.op("MatMul", x, net.weight("w", 16, 8, axis=1), name="m")
    total = net.op("Add", product, net.bias("b", 8), name="sum")
    proof = proven(net, finish(net, total))
    assert (proof.layer("m").precision, proof.layer("m").kernel) == (INT8, "QGemm")
    assert (proof.layer("sum").precision, proof.layer("sum").kernel) == (INT8, "QGemm")
    assert proof.int8_share == 1.0


def test_a_layer_keeps_the_name_that_it_had_in_the_float_model() -> None:
    """An output of the model comes from a DequantizeLinear now, and the layer is called else."""
    net, x = start()
    conv = net.conv(x, 8, 8, name="inner")
    net.dequantize(net.quantize(conv, name="y.q"), name="y")
    (node,) = [node for node in net.nodes if node.name == "node of inner"]
    node.metadata_props.add(key=LAYER_KEY, value="y")
    proof = proven(net, "y")
    assert [layer.layer for layer in proof.layers] == ["y"]
    assert proof.layer("y").precision is INT8


def test_a_pair_goes_by_the_name_that_its_value_had() -> None:
    net = Net()
    net.op("Tanh", net.input("x", 1, 8, 8, 8), name="inner")
    net.nodes[-1].metadata_props.add(key=LAYER_KEY, value="y")
    net.dequantize(net.quantize("inner", name="y.q"), name="y")
    assert proven(net, "y").unfused == ("y",)


def test_a_clip_without_limits_is_no_layer() -> None:
    net, x = start()
    fence = net.op("Clip", net.pair(net.conv(x, 8, 8, name="c"), zero_point=128), name="fence")
    proof = proven(net, net.op("Tanh", fence, name="out"))
    assert [layer.layer for layer in proof.layers] == ["c", "out"]


def test_pairs_between_float_operators_are_named() -> None:
    net = Net()
    x = net.pair(net.op("Erf", net.input("x", 1, 8, 8, 8), name="e"))  # for nothing
    scales = net.constant("s", np.array([1, 1, 2, 2], np.float32))
    t = net.pair(net.op("Tanh", x, name="t"), name="t.q")  # only moved behind it: for nothing
    larger = net.pair(net.op("Resize", t, "", scales, name="large", mode="nearest"))
    soft = net.op("Softplus", larger, name="soft")
    conv = net.conv(net.pair(soft), 8, 8, name="c")  # the convolution gains
    proof = proven(net, net.op("Tanh", net.pair(conv), name="out"))
    assert proof.layer("large").precision is INT8
    assert proof.layer("c").precision is INT8
    assert proof.unfused == ("e", "t", "large")


def test_a_quantized_output_of_the_model_is_worth_its_pair() -> None:
    net = Net()
    net.op("Tanh", net.input("x", 1, 8, 8, 8), name="t")
    assert proven(net, net.quantize("t")).unfused == ()


@pytest.fixture(scope="module")
def quantized_unets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, onnx.ModelProto]:
    folder, feeds = tmp_path_factory.mktemp("unet"), drawn_images(4, (1, 3, 32, 32))
    return {
        activation: quantized_by_the_runtime(tiny_unet(), feeds, folder, activation)
        for activation in ("QInt8", "QUInt8")
    }


def in_float(proof: Proof) -> dict[str, tuple[int, int]]:
    """How many layers of a type are float, and how many there are."""
    types = dict.fromkeys(layer.op_type for layer in proof.layers)
    return {
        op_type: (
            sum(one.precision is FLOAT for one in proof.layers if one.op_type == op_type),
            sum(one.op_type == op_type for one in proof.layers),
        )
        for op_type in types
    }


def test_an_activation_with_a_scale_per_channel_is_what_the_runtime_fails_at() -> None:
    net = Net()
    x = net.pair(net.input("x", 1, 8, 8, 8), scale=[0.1] * 8, axis=1)
    output = finish(net, net.conv(x, 8, 8, name="c", group=8))
    proof = proven(net, output)
    layer = proof.layer("c")
    assert (layer.precision, layer.kernel) == (Precision.UNKNOWN, "QLinearConv")
    assert layer.reason == "'x' is quantized per channel, which QLinearConv refuses to run"
    (finding,) = proof.findings
    assert (finding.rule, finding.severity, finding.layer) == (
        "ort-activation-per-channel",
        Severity.ERROR,
        "c",
    )
    assert proof.int8_share == 0
    session = ort.InferenceSession(
        net.model(output).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    with pytest.raises(Exception, match="QLinearConv"):
        session.run(None, drawn_images(1, (1, 8, 8, 8))[0])


def test_the_runtimes_own_default_leaves_half_of_a_unet_in_float(
    quantized_unets: dict[str, onnx.ModelProto],
) -> None:
    proof = prove(quantized_unets["QInt8"], "ort-cpu")
    assert in_float(proof) == {"Conv": (6, 12), "Add": (3, 3), "Resize": (0, 2), "Concat": (2, 2)}
    assert proof.kernels["QLinearConv"] == 6
    assert len(proof.runtime_weights) == 6
    floats = [layer for layer in proof.layers if layer.precision is FLOAT]
    assert all("readers, and ONNX Runtime on this processor" in layer.reason for layer in floats)
    # Around every skip, which is float on both sides, and around the Resize between two of them.
    assert proof.unfused == (
        "x",
        "stem_relu",
        "first_add_relu",
        "down2_relu",
        "second_add_relu",
        "down3_relu",
        "third_add_relu",
        "up2_resize",
    )


def test_unsigned_activations_put_all_of_a_unet_in_int8(
    quantized_unets: dict[str, onnx.ModelProto],
) -> None:
    proof = prove(quantized_unets["QUInt8"], "ort-cpu")
    assert in_float(proof) == {"Conv": (0, 12), "Add": (0, 3), "Resize": (0, 2), "Concat": (0, 2)}
    assert proof.int8_share == 1.0
    assert {
        name: proof.kernels[name] for name in ("QLinearConv", "QLinearAdd", "QLinearConcat")
    } == {
        "QLinearConv": 12,
        "QLinearAdd": 3,
        "QLinearConcat": 2,
    }
    assert proof.kernels["DequantizeLinear"] == 1
    assert (proof.unfused, proof.runtime_weights) == ((), ())


@pytest.mark.parametrize(
    ("value", "reasons"),
    [
        (
            "firsta_relu",
            {
                "firsta_relu": "no QuantizeLinear reads its output, only Conv",
                "firstb": "its input 'firsta_relu' is not quantized",
            },
        ),
        (
            "firstb",
            {
                "firstb": "no QuantizeLinear reads its output, only Add",
                "first_add_relu": "its operand 'firstb' is not quantized",
            },
        ),
        (
            "up1_resize",
            {
                "up1_resize": "no QuantizeLinear reads its output, only Concat",
                "up1_concat": "its operand 'up1_resize' is not quantized",
            },
        ),
        ("x", {"stem_relu": "its input 'x' is not quantized"}),
    ],
)
def test_a_pair_that_was_taken_away_is_missed(
    quantized_unets: dict[str, onnx.ModelProto], value: str, reasons: dict[str, str]
) -> None:
    """The layers beside it are told, with the reason, and no others."""
    proof = prove(without_pair(quantized_unets["QUInt8"], value), "ort-cpu")
    assert {layer.layer: layer.reason for layer in proof.of(FLOAT)} == reasons
    assert proof.of(Precision.UNKNOWN) == ()
    lost = sum(proof.layer(name).multiply_adds or 0 for name in reasons)
    assert proof.int8_share == 1 - lost / sum(one.multiply_adds or 0 for one in proof.layers)


def test_the_model_may_lie_in_a_file_with_its_weights_beside(
    quantized_unets: dict[str, onnx.ModelProto], tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    copy = onnx.ModelProto()
    copy.CopyFrom(quantized_unets["QUInt8"])
    onnx.save(copy, str(path), save_as_external_data=True, location="data", size_threshold=0)
    proof = prove(path, "ort-cpu")
    assert proof == prove(quantized_unets["QUInt8"], "ort-cpu")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["data", "model.onnx"]


def test_a_proof_is_plain_data() -> None:
    net, x = start()
    proof = proven(net, finish(net, net.conv(x, 8, 8, name="c")))
    told = proof.to_dict()
    assert told["int8_share"] == 1.0
    assert told["layers"][0] == {
        "layer": "c",
        "node": "node of c",
        "op_type": "Conv",
        "precision": "int8",
        "kernel": "QLinearConv",
        "reason": "",
        "multiply_adds": 36864,
    }


def test_what_cannot_be_proven_is_refused() -> None:
    net, x = start()
    model = net.model(net.op("Nowhere", x, name="out", domain="com.microsoft"))
    with pytest.raises(CannotRunError) as refused:
        prove(model, "ort-cpu")
    assert "com.microsoft:Nowhere" in refused.value.message
    net.op("Mul", x, net.constant("three", np.ones(3, np.float32)), name="wrong")
    with pytest.raises(CannotRunError) as refused:
        prove(net.model("wrong"), "ort-cpu")
    assert "node of wrong" in refused.value.message
    assert "onnxfold" not in refused.value.message
    with pytest.raises(BadOptionError, match="'ort-cuda' is no target"):
        prove(model, "ort-cuda")
    with pytest.raises(BadOptionError, match="no choice of inference precision"):
        prove(model, "ort-cpu", inference_precision="f32")
    with pytest.raises(BadModelError):
        prove("nowhere.onnx", "ort-cpu")
