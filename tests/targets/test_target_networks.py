"""Whole networks, folded and lowered: all that is planned runs as integers, with the result."""

from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import onnx
import pytest

from onnxfold.ir.interface import pin_input_shapes
from onnxfold.model import load, to_proto
from onnxfold.passes.presets import BUILTIN, DEFAULT
from onnxfold.pipeline.manager import PassManager
from onnxfold.pipeline.registry import Registry
from onnxfold.targets.target import target_named
from tests import zoo
from tests.targets.emitted import (
    emitted,
    fused,
    kernels,
    run,
    sqnr,
    weights_dequantized_at_run_time,
)

BOTH = (
    "deeplabv3plus_mobilenet_v2.script",
    "segformer_b0.script",
    "shufflenet_v2_x0_5.dynamo_opt",
    "yolov8n_seg.script",
)
MORE = (
    "efficientnet_b0.script",
    "fastvit_sa12_fpn.script",
    "fpn_resnet18.script",
    "linknet_mobilenet_v2.script",
)
AT_RUN_TIME = "both its operands are computed at run time"


@cache
def prepared(name: str, target: str) -> onnx.ModelProto:
    """The network with fixed extents, after the default passes and those of the target."""
    model = load(zoo.load(name)).model
    pin_input_shapes(model, dict(zoo.entry(name).shapes[0]))
    lowering = Registry(BUILTIN).parse(",".join(target_named(target).lowering))
    return to_proto(PassManager([*DEFAULT, *lowering]).run(model).model)


@pytest.mark.parametrize("name", BOTH + MORE)
def test_on_onnx_runtime(name: str, tmp_path: Path) -> None:
    model = prepared(name, "ort-cpu")
    plan, quantized = emitted(model, "ort-cpu", data=[zoo.feeds(name, seed=s) for s in (0, 1)])
    graph = fused(quantized, tmp_path)
    assert set(plan.float_layers.values()) <= {AT_RUN_TIME}
    assert weights_dequantized_at_run_time(graph) == []
    found = kernels(graph)
    assert not {"Conv", "FusedConv", "ConvTranspose", "Gemm", "FusedGemm"} & found.keys()
    floats = found.get("MatMul", 0) + found.get("FusedMatMul", 0)
    assert floats <= len(plan.float_layers)
    convolutions = sum(node.op_type == "Conv" for node in model.graph.node)
    assert found["QLinearConv"] == convolutions
    feed = zoo.feeds(name, seed=7)
    expected = run(model, feed)[0]
    assert sqnr(expected, run(quantized, feed)[0]) > 8
    assert sqnr(expected, run(quantized, feed, fused=True)[0]) > 8


@pytest.mark.parametrize("name", BOTH)
def test_on_openvino(name: str) -> None:
    openvino = pytest.importorskip("openvino")
    model = prepared(name, "openvino")
    plan, quantized = emitted(model, "openvino", data=[zoo.feeds(name, seed=s) for s in (0, 1)])
    assert set(plan.float_layers.values()) <= {AT_RUN_TIME}
    core = openvino.Core()
    program = core.compile_model(
        core.read_model(quantized.SerializeToString()), "CPU", {"INFERENCE_NUM_THREADS": 1}
    )
    found = precisions(program)
    assert {found_in for kind, found_in in found if kind != "MatMul"} <= {"u8", "i8"}
    feed = zoo.feeds(name, seed=7)
    expected = run(model, feed)[0]
    assert sqnr(expected, program(dict(feed))[0]) > 8
    assert sqnr(expected, run(quantized, feed)[0]) > 8


def precisions(program: Any) -> Counter[tuple[str, str]]:
    """Kinds and precisions of the operators with multiply-adds."""
    kinds = ("Convolution", "Deconvolution", "FullyConnected", "MatMul")
    infos = [op.get_rt_info() for op in program.get_runtime_model().get_ordered_ops()]
    return Counter(
        (info["layerType"].astype(str), info["runtimePrecision"].astype(str))
        for info in infos
        if info["layerType"].astype(str) in kinds
    )
