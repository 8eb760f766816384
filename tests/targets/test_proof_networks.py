"""Proofs of real networks, quantized by ONNX Runtime: no layer lost, no reason unknown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from onnxfold.targets.proof import Precision, Proof
from onnxfold.targets.prove import prove
from tests import zoo
from tests.targets.qdq import quantized_by_the_runtime
from tests.toolkit import rewritten

DEMO = Path(__file__).parents[2] / "examples" / "demo" / "demo.onnx"
NETWORKS = (
    ("demo", "QInt8"),
    ("demo", "QUInt8"),
    ("mobilenetv3_small_100.script", "QInt8"),
    ("segformer_b0.dynamo", "QUInt8"),
    ("unet_resnet18.dynamo_opt", "QInt8"),
    ("unet_resnet18.dynamo_opt", "QUInt8"),
)

Quantized = Callable[[str, str], onnx.ModelProto]


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Quantized:
    """Networks with their normalization folded, quantized; each is made once."""
    made: dict[tuple[str, str], onnx.ModelProto] = {}

    def get(name: str, activation: str) -> onnx.ModelProto:
        if (name, activation) not in made:
            folder = tmp_path_factory.mktemp("network")
            if name == "demo":
                drawn = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (1, 3, 128, 128))
                model, feed = onnx.load(str(DEMO)), {"image": drawn.astype(np.float32)}
            else:
                model, feed = zoo.load(name), zoo.feeds(name)
            folded, _ = rewritten(model, ("drop_identities", "fold_constants", "fuse_bn"))
            made[name, activation] = quantized_by_the_runtime(folded, [feed], folder, activation)
        return made[name, activation]

    return get


def counted(proof: Proof, precision: Precision) -> Counter[str]:
    return Counter(layer.op_type for layer in proof.of(precision))


KERNELS = {"Conv": "QLinearConv", "Gemm": "QGemm", "Add": "QLinearAdd", "Concat": "QLinearConcat"}


def run_kernels(model: onnx.ModelProto, folder: Path) -> Counter[str]:
    """The operators of a session as everybody opens it."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


@pytest.mark.parametrize(("name", "activation"), NETWORKS)
def test_a_proof_reads_what_a_session_runs(
    quantized: Quantized, name: str, activation: str, tmp_path: Path
) -> None:
    """A proof leaves out two transformers of the layout; they must not change what is integer."""
    run = run_kernels(quantized(name, activation), tmp_path)
    kernels = prove(quantized(name, activation), "ort-cpu").kernels
    integer = {kernel for kernel in run.keys() | kernels.keys() if kernel.startswith("Q")}
    for kernel in integer - {"QuantizeLinear"} | {"ConvTranspose", "Gemm", "MatMul"}:
        assert run[kernel] == kernels.get(kernel, 0), kernel


@pytest.mark.parametrize(("name", "activation"), NETWORKS)
def test_the_layers_add_up_to_the_kernels(quantized: Quantized, name: str, activation: str) -> None:
    proof = prove(quantized(name, activation), "ort-cpu")
    assert proof.of(Precision.UNKNOWN) == ()
    assert [each for each in proof.layers if "does not know" in each.reason] == []
    assert all(bool(each.reason) == (each.precision is Precision.FLOAT) for each in proof.layers)
    integer, floats = counted(proof, Precision.INT8), counted(proof, Precision.FLOAT)
    for op_type, kernel in KERNELS.items():
        assert integer[op_type] == proof.kernels.get(kernel, 0), op_type
    assert floats["Conv"] == proof.kernels.get("Conv", 0) + proof.kernels.get("FusedConv", 0)
    assert floats["ConvTranspose"] == proof.kernels.get("ConvTranspose", 0)
    assert integer["MatMul"] == sum(
        proof.kernels.get(kernel, 0) for kernel in ("QLinearMatMul", "MatMulIntegerToFloat")
    )
    quantizers = [node for node in quantized(name, activation).graph.node if node.input]
    values = {node.input[0] for node in quantizers if node.op_type == "QuantizeLinear"}
    assert set(proof.unfused) <= values


def test_the_demonstration_network(quantized: Quantized) -> None:
    """Its own transposed convolution is what unsigned activations leave in float."""
    signed = prove(quantized("demo", "QInt8"), "ort-cpu")
    unsigned = prove(quantized("demo", "QUInt8"), "ort-cpu")
    (transposed,) = [each for each in unsigned.of(Precision.FLOAT) if each.multiply_adds]
    assert transposed.op_type == "ConvTranspose"
    assert unsigned.runtime_weights == (transposed.layer,)
    assert unsigned.int8_share is not None
    assert unsigned.int8_share > 0.9
    assert counted(signed, Precision.FLOAT)["Conv"] > 10
    assert signed.int8_share is not None
    assert signed.int8_share < 0.6


@pytest.mark.parametrize("name", ["demo", "segformer_b0.dynamo", "unet_resnet18.dynamo_opt"])
def test_openvino_tells_every_layer_that_multiplies(quantized: Quantized, name: str) -> None:
    pytest.importorskip("openvino")
    proof = prove(quantized(name, "QUInt8"), "openvino")
    multiplying = [each for each in proof.layers if each.multiply_adds]
    assert multiplying
    assert all(each.precision is not Precision.UNKNOWN for each in multiplying)
    assert [each for each in multiplying if "does not know" in each.reason] == []
    assert proof.int8_share is not None
    assert proof.int8_share > 0.95


@pytest.mark.parametrize("name", ["demo", "unet_resnet18.dynamo_opt"])
def test_tensorrt_would_refuse_what_the_runtime_quantized(quantized: Quantized, name: str) -> None:
    proof = prove(quantized(name, "QUInt8"), "tensorrt")
    assert not proof.compiled
    assert proof.int8_share == 0
    rules = {finding.rule for finding in proof.findings}
    assert rules >= {"unsigned-type", "quantized-bias", "residual-both", "before-resize"}
