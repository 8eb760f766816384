"""What is said of TensorRT without TensorRT: by its rules, and how to ask it."""

from __future__ import annotations

import shlex

import numpy as np
import onnx

from onnxfold.targets.proof import Precision, Severity
from onnxfold.targets.prove import prove
from tests.targets.qdq import Net

S8 = {"dtype": np.int8}


def residual_block() -> onnx.ModelProto:
    """Two convolutions and a skip, as TensorRT wants them; the head is float."""
    net = Net()
    x = net.pair(net.input("x", "N", 16, "H", 32), **S8)
    inner = net.op("Relu", net.conv(x, 16, 16, name="a"), name="a_relu")
    last = net.conv(net.pair(inner, **S8), 16, 16, name="b")
    total = net.op("Add", last, x, name="sum")
    head = net.float_weight("w", 4, 16, 1, 1)
    return net.model(net.op("Conv", total, head, name="head"))


def test_layers_are_told_by_rules_alone() -> None:
    proof = prove(residual_block(), "tensorrt")
    assert not proof.compiled
    assert {layer.layer: layer.precision for layer in proof.layers} == {
        "a": Precision.INT8,
        "a_relu": Precision.UNKNOWN,
        "b": Precision.INT8,
        "sum": Precision.UNKNOWN,
        "head": Precision.FLOAT,
    }
    assert proof.layer("head").reason == "nothing around it is quantized"
    assert proof.layer("sum").reason == "TensorRT decides that when it builds the engine"
    assert proof.int8_share is not None
    assert 0.9 < proof.int8_share < 1
    assert proof.unfused == ()
    assert not [each for each in proof.findings if each.severity is Severity.ERROR]


def test_an_error_is_the_reason_of_the_layers_that_it_touches() -> None:
    net = Net()
    x = net.pair(net.input("x", 1, 16, 8, 8), **S8)
    fine = net.conv(x, 16, 16, name="fine")
    bad = net.conv(net.pair(fine, dtype=np.int8, zero_point=4), 16, 16, name="bad")
    biased = net.conv(net.pair(bad, **S8), 16, 16, name="biased", bias=True)
    proof = prove(net.model(biased), "tensorrt")
    assert proof.layer("bad").precision is Precision.UNKNOWN
    assert proof.layer("bad").reason == "the zero point of 'fine' is not 0"
    assert "int32 bias" in proof.layer("biased").reason
    assert proof.layer("fine").precision is Precision.INT8
    assert proof.int8_share == 1 / 3


def test_scales_along_the_wrong_axis_are_the_fault_of_the_layer() -> None:
    net = Net()
    x = net.pair(net.input("x", 1, 16, 8, 8), **S8)
    proof = prove(net.model(net.conv(x, 16, 16, name="c", axis=1)), "tensorrt")
    assert proof.layer("c").precision is Precision.UNKNOWN
    assert "along axis 1" in proof.layer("c").reason


def test_layers_that_are_half_quantized_are_float() -> None:
    net = Net()
    x = net.pair(net.input("x", 1, 16, 8, 8), **S8)
    net.op("Conv", x, net.float_weight("w", 16, 16, 1, 1), name="c")
    layer = prove(net.model("c"), "tensorrt").layer("c")
    assert (layer.precision, layer.reason) == (Precision.FLOAT, "its weight 'w' is not quantized")


def test_pairs_that_nobody_gains_from_are_named() -> None:
    net = Net()
    x = net.pair(net.input("x", 1, 16, 8, 8), **S8)
    conv = net.pair(net.conv(x, 16, 16, name="c"), **S8)
    assert prove(net.model(net.op("Exp", conv, name="out")), "tensorrt").unfused == ("c",)


def test_the_commands_build_and_tell_the_layers() -> None:
    newest, older = prove(residual_block(), "tensorrt").commands
    words = shlex.split(newest)
    assert words[:3] == ["trtexec", "--onnx=model.onnx", "--saveEngine=model.plan"]
    assert "--optShapes=x:1x16x512x32" in words
    assert "--exportLayerInfo=model.layers.json" in words
    assert not {"--int8", "--fp16", "--best", "--stronglyTyped"} & set(words)
    assert shlex.split(older) == [*words, "--stronglyTyped"]


def test_a_static_model_needs_no_shapes_and_a_path_is_quoted(tmp_path: object) -> None:
    net = Net()
    x = net.pair(net.input("x", 1, 16, 8, 8), **S8)
    path = f"{tmp_path}/my model.onnx"
    onnx.save(net.model(net.conv(x, 16, 16, name="c")), path)
    (command, _) = prove(path, "tensorrt").commands
    assert "Shapes" not in command
    assert f"--onnx={path}" in shlex.split(command)
