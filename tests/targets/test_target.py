"""Targets by name, and the models that none of them takes."""

import numpy as np
import onnx
import pytest

from onnxfold.errors import BadModelError, BadOptionError
from onnxfold.model import load
from onnxfold.passes.presets import BUILTIN
from onnxfold.pipeline.registry import Registry
from onnxfold.targets.target import TARGETS, target_named, values_to_observe
from tests.targets.emitted import emitted, layer, normal, plan_of
from tests.toolkit import parse

MODEL = parse(
    "g (float[N,16,H,W] x) => (float[] y)"
    " { c = Conv(x, w, wb) s = Sigmoid(c) m = Mul(c, s) y = Conv(m, v, vb) }",
    layer("w", 16, 16, 3, 3) | layer("v", 16, 16, 1, 1),
)


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_has_its_name_and_passes_that_exist(name: str) -> None:
    target = target_named(name)
    assert target.name == name
    assert Registry(BUILTIN).parse(",".join(target.lowering))


@pytest.mark.parametrize("name", ["ort-cuda", "cuda-ep", "cuda", "ort-dml", "generic"])
def test_where_int8_does_not_pay_it_is_refused_with_what_to_do_instead(name: str) -> None:
    with pytest.raises(BadOptionError, match="slower than without them") as raised:
        target_named(name)
    assert "to_fp16" in raised.value.hint


def test_an_unknown_target() -> None:
    with pytest.raises(BadOptionError, match="there is no target 'ort'") as raised:
        target_named("ort")
    assert raised.value.hint == "targets: ort-cpu, openvino, tensorrt"


def test_a_model_that_is_quantized_already() -> None:
    _, quantized = emitted(MODEL, "ort-cpu")
    with pytest.raises(BadModelError, match="quantized already: it holds QuantizeLinear"):
        plan_of(quantized, "openvino")
    inner = parse(
        "g (float[3] x, bool f) => (float[] y) { y = If(f) <then_branch = t () => (float[3] p)"
        " { a, b, c = DynamicQuantizeLinear(x) p = DequantizeLinear(a, b, c) },"
        " else_branch = e () => (float[3] q) { q = Neg(x) }> }"
    )
    with pytest.raises(BadModelError, match="it holds DynamicQuantizeLinear"):
        plan_of(inner, "ort-cpu")


def test_an_operator_set_that_is_too_old() -> None:
    with pytest.raises(BadModelError, match="operator set 12, and INT8 needs 13") as raised:
        plan_of(
            parse(
                "g (float[N,4,H,W] x) => (float[] y) { y = Conv(x, w) }",
                {"w": normal("w", 4, 4, 1, 1)},
                opset=12,
            ),
            "ort-cpu",
        )
    assert "version_converter" in raised.value.hint


def test_a_layer_that_does_not_exist_cannot_be_excluded() -> None:
    with pytest.raises(BadOptionError, match="there is no layer 'conv' to exclude"):
        plan_of(MODEL, "ort-cpu", {"conv"})


def test_one_calibration_for_all_targets() -> None:
    graph = load(MODEL).model.graph
    assert set(values_to_observe(graph)) == {"x", "c", "s", "m", "y"}
    assert values_to_observe(graph, [target_named("tensorrt")]) == ("x", "m")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("body", "weights", "reason"), [
    ("y = MatMul(x, z)", {}, "both its operands are computed at run time"),
    ("y = MatMul(w, x)", {"w": normal("w", 4, 20)}, "both its operands are computed at run time"),
    ("y = MatMul(x, w)", {"w": normal("w", 1, 20, 4)}, "its weight is no matrix"),
    ("k = Neg(b) y = Gemm(x, w, k)", {"w": normal("w", 20, 4), "b": normal("b", 4)},
     "its bias is computed at run time"),
    ("y = Gemm<alpha=0.5>(x, w)", {"w": normal("w", 20, 4)}, "it scales or transposes its input"),
    ("y = Gemm<transA=1>(x, w)", {"w": normal("w", 20, 4)}, "it scales or transposes its input"),
    ("y = Gemm(x, w, b)", {"w": normal("w", 20, 4), "b": normal("b", 20, 4)},
     "its bias is not one number per output channel"),
    ("y = Gemm(x, w, b)", {"w": normal("w", 20, 4), "b": normal("b", 20, 1)},
     "its bias is not one number per output channel"),
    ("y = Gemm(x, w, b)", {"w": normal("w", 20, 20), "b": normal("b", 20, 1)},
     "its bias is not one number per output channel"),
    ("y = Gemm<beta=2.0>(x, w, b)", {"w": normal("w", 20, 4), "b": normal("b", 4)},
     "its bias is not one number per output channel"),
    ("a = Cast<to=10>(x) y = MatMul(a, w)", {"w": normal("w", 20, 4).astype(np.float16)},
     "its weight is of type FLOAT16, and only FLOAT is quantized"),
    ("y = MatMul(k, w)", {"k": normal("k", 20, 20), "w": normal("w", 20, 4)},
     "its input is a constant"),
    ("y = MatMul(x, w)", {"w": normal("w", 20, 0)}, "its weight is empty"),
])  # fmt: skip
def test_layers_that_stay_float_everywhere(
    target: str, body: str, weights: dict[str, np.ndarray], reason: str
) -> None:
    model = parse(f"g (float[20,20] x, float[20,20] z) => (float[] y) {{ {body} }}", weights)
    plan = plan_of(model, target)
    assert plan.float_layers == {"y": reason}
    assert plan.sites == ()
    assert plan.weights == ()


def test_a_model_without_layers() -> None:
    model = parse("g (float[3] x) => (float[] y) { y = Relu(x) }")
    for target in TARGETS:
        assert plan_of(model, target).sites == ()


def test_nodes_without_inputs_or_names() -> None:
    model = parse(
        "g (float[N,4,H,W] x) => (float[] y) { k = Constant<value = float {2.0}>()"
        " c = Conv(x, w) y = Mul(c, k) }",
        {"w": normal("w", 4, 4, 1, 1)},
    )
    for node in model.graph.node:
        assert node.name == ""
    for target in TARGETS:
        _, quantized = emitted(model, target)
        assert isinstance(quantized, onnx.ModelProto)
