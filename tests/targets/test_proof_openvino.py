"""What OpenVINO makes of small graphs with Q/DQ, and whether the proof says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxfold.errors import CannotRunError
from onnxfold.targets.proof import Precision, Proof
from onnxfold.targets.prove import prove
from tests.targets.qdq import Net, drawn_images, quantized_by_the_runtime, tiny_unet, without_pair

pytest.importorskip("openvino")

INT8, FLOAT = Precision.INT8, Precision.FLOAT
GRIDS: dict[str, dict[str, Any]] = {
    "unsigned": {"dtype": np.uint8, "zero_point": 0},
    "unsigned around 128": {"dtype": np.uint8, "zero_point": 128},
    "unsigned around 17": {"dtype": np.uint8, "zero_point": 17},
    "signed": {"dtype": np.int8, "zero_point": 0},
    "signed from the least": {"dtype": np.int8, "zero_point": -128},
}


def proven(net: Net, *outputs: str, precision: str | None = "f32") -> Proof:
    return prove(net.model(*outputs), "openvino", inference_precision=precision)


def layer(kind: str, grid: dict[str, Any]) -> Net:
    """One layer `c` between pairs on this grid, with something behind that is float."""
    net = Net()
    if kind == "two activations":
        operands = [net.pair(net.input(name, 1, 32, 32), **grid) for name in ("x", "y")]
        net.op("MatMul", *operands, name="c")
    elif kind == "MatMul":
        x = net.pair(net.input("x", 1, 32, 32), **grid)
        net.op("MatMul", x, net.weight("w", 32, 32, axis=1), name="c")
    else:
        x = net.pair(net.input("x", 1, 32, 16, 16), **grid)
        if kind == "Conv":
            net.conv(x, 32, 32, name="c")
        else:
            weight = net.weight("w", 32, 32, 2, 2, axis=1)
            net.op("ConvTranspose", x, weight, name="c", strides=[2, 2])
    net.op("Erf", net.pair(net.op("Relu", "c", name="r"), **grid), name="out")
    return net


_TRANSPOSED = "its input has a zero point other than 0, which OpenVINO's INT8 ConvTranspose lacks"
_TWO = "OpenVINO multiplies two activations in INT8 only where both are int8 around 0"


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("kind", ["Conv", "MatMul", "ConvTranspose", "two activations"])
def test_which_grids_a_layer_takes(kind: str, grid: str) -> None:
    found = proven(layer(kind, GRIDS[grid]), "out").layer("c")
    if kind == "ConvTranspose" and GRIDS[grid]["zero_point"]:
        assert (found.precision, found.reason) == (FLOAT, _TRANSPOSED)
    elif kind == "two activations" and grid != "signed":
        assert (found.precision, found.reason) == (FLOAT, _TWO)
    else:
        assert (found.precision, found.reason) == (INT8, "")
        assert found.kernel.upper().endswith("_I8")


def test_a_chain_runs_in_int8_with_its_activation() -> None:
    net = Net()
    x = net.pair(net.input("x", 1, 8, 16, 16))
    first = net.pair(net.op("Relu", net.conv(x, 16, 8, name="a", bias=True), name="r"))
    proof = proven(net, net.pair(net.conv(first, 8, 16, name="b")))
    assert [proof.layer(name).precision for name in ("a", "r", "b")] == [INT8] * 3
    assert proof.layer("a").kernel == proof.layer("r").kernel
    assert proof.int8_share == 1.0
    assert proof.kernels["Convolution"] == 2
    assert (proof.unfused, proof.findings) == ((), ())


def test_the_last_convolution_needs_no_pair_behind() -> None:
    net = Net()
    x = net.pair(net.input("x", 1, 8, 16, 16))
    assert proven(net, net.conv(x, 8, 8, name="c")).layer("c").precision is INT8


def weight_with_a_zero_point(net: Net) -> str:
    x = net.pair(net.input("x", 1, 8, 16, 16))
    return net.conv(x, 8, 8, name="c", zero_point=3)


def float_weight(net: Net) -> str:
    x = net.pair(net.input("x", 1, 8, 16, 16))
    return net.op("Conv", x, net.float_weight("w", 8, 8, 1, 1), name="c")


def float_input(net: Net) -> str:
    return net.conv(net.input("x", 1, 8, 16, 16), 8, 8, name="c")


def untouched(net: Net) -> str:
    x = net.input("x", 1, 8, 16, 16)
    return net.op("Conv", x, net.float_weight("w", 8, 8, 1, 1), name="c")


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (weight_with_a_zero_point, "its weight has a zero point other than 0"),
        (float_weight, "its weight 'w' is not quantized"),
        (float_input, "its input 'x' is not quantized"),
        (untouched, "nothing around it is quantized"),
    ],
)
def test_a_layer_in_float_has_its_reason(build: Any, reason: str) -> None:
    net = Net()
    proof = proven(net, build(net))
    found = proof.layer("c")
    assert (found.precision, found.reason) == (FLOAT, reason)
    assert found.kernel.endswith("_f32")
    assert proof.int8_share == 0


def test_float_is_what_was_asked_for() -> None:
    net = Net()
    net.op("Softmax", net.pair(untouched(net)), name="out")
    kernels = {
        precision: proven(net, "out", precision=precision).layer("c").kernel
        for precision in ("f32", "bf16", None)
    }
    assert kernels["f32"].endswith("_f32")
    assert kernels[None] in (kernels["f32"], kernels["bf16"])


def test_what_runs_in_float_behind_a_pair_is_told() -> None:
    net = Net()
    x = net.pair(net.input("x", 1, 8, 16, 16))
    scales = net.constant("s", np.array([1, 1, 2, 2], np.float32))
    larger = net.op("Resize", x, "", scales, name="large", mode="linear")
    net.op("Softmax", net.pair(larger), name="out", axis=1)
    proof = proven(net, "out")
    assert proof.layer("large").reason == "OpenVINO interpolates in float"
    assert proof.layer("out").reason == "OpenVINO computes Softmax in float"
    assert proof.unfused == ("x", "large")


@pytest.fixture(scope="module")
def quantized_unets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, onnx.ModelProto]:
    folder, feeds = tmp_path_factory.mktemp("unet"), drawn_images(4, (1, 3, 32, 32))
    return {
        activation: quantized_by_the_runtime(tiny_unet(), feeds, folder, activation)
        for activation in ("QInt8", "QUInt8")
    }


@pytest.mark.parametrize("activation", ["QInt8", "QUInt8"])
def test_a_unet_runs_in_int8_on_either_grid(
    quantized_unets: dict[str, onnx.ModelProto], activation: str
) -> None:
    proof = prove(quantized_unets[activation], "openvino")
    convolutions = [one for one in proof.layers if one.op_type == "Conv"]
    assert [one.precision for one in convolutions] == [INT8] * 12
    assert proof.int8_share == 1.0


def test_a_pair_that_was_taken_away_is_missed(
    quantized_unets: dict[str, onnx.ModelProto], tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(without_pair(quantized_unets["QUInt8"], "firsta_relu"), str(path))
    proof = prove(path, "openvino")
    convolutions = [one for one in proof.layers if one.op_type == "Conv"]
    reasons = {one.layer: one.reason for one in convolutions if one.precision is FLOAT}
    assert reasons == {"firstb": "its input 'firsta_relu' is not quantized"}


def test_what_openvino_refuses_is_an_error_in_words_of_the_model() -> None:
    net = Net()
    net.op("Nowhere", net.input("x", 1, 8), name="out", domain="com.microsoft")
    with pytest.raises(CannotRunError, match="OpenVINO refuses the model") as refused:
        proven(net, "out")
    assert "onnxfold:" not in refused.value.message
