"""ort-cpu: what is planned runs as integers once ONNX Runtime has fused it, and nothing else."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnxfold.calibrate.scheme import UINT8, UINT8_NON_NEGATIVE, Range
from onnxfold.quantize.plan import Plan
from tests.targets.emitted import (
    emitted,
    feeds,
    fused,
    kernels,
    layer,
    normal,
    plan_of,
    run,
    sqnr,
    weights_dequantized_at_run_time,
)
from tests.toolkit import parse

SAME = "pads=[1,1,1,1]"
NEAREST = 'mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"'
ENDS = layer("w", 8, 8, 3, 3) | layer("v", 8, 8, 3, 3)
DOUBLED = {"scales": np.array([1, 1, 2, 2], np.float32)}
DQ_AND_Q = {"QuantizeLinear": 1, "DequantizeLinear": 1}


def between(
    middle: str, weights: Mapping[str, NDArray[Any]] | None = None, *, opset: int = 17
) -> onnx.ModelProto:
    """Two convolutions, and `middle` from `c`, or the ReLU `r` behind it, to `t`."""
    return parse(
        "g (float[N,8,H,W] x) => (float[] y)"
        f" {{ c = Conv<{SAME}>(x, w, wb) {'r = Relu(c)' if '(r' in middle else ''} {middle}"
        f" y = Conv<{SAME}>(t, v, vb) }}",
        {**ENDS, **(weights or {})},
        opset=opset,
    )


def compiled(
    model: onnx.ModelProto, folder: Path, excluded: frozenset[str] = frozenset()
) -> tuple[Plan, dict[str, int]]:
    """The plan, and the kernels that run; the numbers are near those of the float model."""
    plan, quantized = emitted(model, "ort-cpu", excluded)
    graph = fused(quantized, folder)
    assert weights_dequantized_at_run_time(graph) == []
    for feed in feeds(model):
        expected = run(model, feed)
        emulated, integer = run(quantized, feed), run(quantized, feed, fused=True)
        for float_, rounded, real in zip(expected, emulated, integer, strict=True):
            assert sqnr(float_, rounded) > 25
            assert sqnr(float_, real) > 25
    return plan, kernels(graph)


@pytest.mark.parametrize(("middle", "weights", "expected"), [
    ("t = MaxPool<kernel_shape=[2,2]>(r)", {}, {"MaxPool": 1}),
    ("t = AveragePool<kernel_shape=[2,2]>(r)", {}, {"QLinearAveragePool": 1}),
    (f"t = Resize<{NEAREST}>(r, , scales)", DOUBLED, {"Resize": 1}),
    ("t = LeakyRelu<alpha=0.1>(c)", {}, {"QLinearLeakyRelu": 1}),
    ("s = Sigmoid(c) t = Mul(c, s)", {}, {"QLinearSigmoid": 1, "QLinearMul": 1}),
    ("t = Add(r, r)", {}, {"QLinearAdd": 1}),
    ("t = Mul(r, half)", {"half": np.array(0.5, np.float32)}, {"QLinearMul": 1}),
    ("t = Transpose<perm=[0,1,3,2]>(r)", {}, {"Transpose": 1}),
])  # fmt: skip
def test_operators_between_convolutions(
    middle: str, weights: dict[str, Any], expected: dict[str, int], tmp_path: Path
) -> None:
    model = between(middle, weights)
    _, found = compiled(model, tmp_path)
    assert found == {"QLinearConv": 2, **DQ_AND_Q, **expected}


def test_linear_resize_stays_float_with_one_quantization_behind(tmp_path: Path) -> None:
    plan, found = compiled(between('t = Resize<mode="linear">(r, , scales)', DOUBLED), tmp_path)
    assert found == {"QLinearConv": 2, "QuantizeLinear": 2, "DequantizeLinear": 2, "Resize": 1}
    assert [site.value for site in plan.sites] == ["x", "r", "t", "y"]


@pytest.mark.parametrize(("activation", "swallowed"), [
    ("r = Relu(c)", True),
    ("r = Clip(c, zero, six)", True),
    ("r = Clip(c, minus, one)", True),
    ("r = Clip(c, one, six)", False),
])  # fmt: skip
def test_activations_vanish_in_the_quantization(
    activation: str, swallowed: bool, tmp_path: Path
) -> None:
    bounds = {"zero": 0.0, "six": 6.0, "minus": -1.0, "one": 1.0}
    weights = ENDS | {name: np.array(value, np.float32) for name, value in bounds.items()}
    model = parse(
        "g (float[N,8,H,W] x) => (float[] y)"
        f" {{ c = Conv<{SAME}>(x, w, wb) {activation} y = Conv<{SAME}>(r, v, vb) }}",
        weights,
    )
    _, found = compiled(model, tmp_path)
    expected = {"QLinearConv": 2, **DQ_AND_Q}
    if swallowed:
        assert found == expected
    else:
        assert found == {**expected, "QuantizeLinear": 2, "DequantizeLinear": 2, "Clip": 1}


def test_a_skip_connection_has_one_grid_for_all_its_readers(tmp_path: Path) -> None:
    model = between(f"d = Conv<{SAME}>(r, u, ub) a = Add(d, r) t = Relu(a)", layer("u", 8, 8, 3, 3))
    plan, found = compiled(model, tmp_path)
    assert found == {"QLinearConv": 3, "QLinearAdd": 1, **DQ_AND_Q}
    assert [site.value for site in plan.sites] == ["x", "r", "d", "t", "y"]
    assert {site.value: site.scheme for site in plan.sites}["r"] == UINT8_NON_NEGATIVE
    assert {site.value: site.scheme for site in plan.sites}["d"] == UINT8


def test_what_only_a_concat_reads_has_its_grid(tmp_path: Path) -> None:
    model = parse(
        "g (float[N,8,H,W] x) => (float[] y) { a = Conv(x, p, pb) r = Relu(a) b = Conv(r, q, qb)"
        " s = Relu(b) e = Conv(x, o, ob) f = Relu(e) t = Concat<axis=1>(f, r, s)"
        " y = Conv(t, v, vb) }",
        layer("p", 8, 8, 1, 1) | layer("q", 8, 8, 1, 1) | layer("o", 8, 8, 1, 1)
        | layer("v", 8, 24, 1, 1),
    )  # fmt: skip
    plan, found = compiled(model, tmp_path)
    assert found == {"QLinearConv": 4, "QLinearConcat": 1, **DQ_AND_Q}
    groups = {name: [s.value for s in sites] for name, sites in plan.groups().items()}
    assert sorted(map(sorted, groups.values())) == [["f", "s", "t"], ["r"], ["x"], ["y"]]
    assert "t" in plan.sources()
    assert not {"f", "s"} & plan.sources().keys()


def test_a_channel_shuffle_moves_integers(tmp_path: Path) -> None:
    model = parse(
        "g (float[1,8,16,12] x) => (float[1,8,16,12] y)"
        f" {{ c = Conv<{SAME}>(x, w, wb) r = Relu(c) a, b = Split<axis=1>(r, halves)"
        " d = Conv(a, u, ub) e = Relu(d) j = Concat<axis=1>(b, e) k = Reshape(j, five)"
        " m = Transpose<perm=[0,2,1,3,4]>(k) t = Reshape(m, four)"
        f" y = Conv<{SAME}>(t, v, vb) }}",
        ENDS | layer("u", 4, 4, 1, 1)
        | {"halves": np.array([4, 4]), "five": np.array([1, 2, 4, 16, 12]),
           "four": np.array([1, 8, 16, 12])},
    )  # fmt: skip
    _, found = compiled(model, tmp_path)
    assert found == {
        "QLinearConv": 3, "Split": 1, "QLinearConcat": 1, "Reshape": 2, "Transpose": 1, **DQ_AND_Q
    }  # fmt: skip


def test_squeeze_and_excitation(tmp_path: Path) -> None:
    model = between(
        "g = GlobalAveragePool(r) d = Conv(g, a, ab) e = Relu(d) h = Conv(e, b, bb)"
        " s = Sigmoid(h) t = Mul(r, s)",
        layer("a", 4, 8, 1, 1) | layer("b", 8, 4, 1, 1),
    )
    plan, found = compiled(model, tmp_path)
    assert found == {
        "QLinearConv": 4, "QLinearGlobalAveragePool": 1, "QLinearSigmoid": 1, "QLinearMul": 1,
        **DQ_AND_Q,
    }  # fmt: skip
    assert {site.value: site.bounds for site in plan.sites}["s"] == Range(0.0, 1.0)


GELU = "a = Div(c, root) e = Erf(a) f = Add(e, one) m = Mul(c, f) t = Mul(m, half)"
CONSTANTS = {
    "root": np.array(2**0.5, np.float32),
    "one": np.array(1, np.float32),
    "half": np.array(0.5, np.float32),
}


def test_a_decomposed_gelu_stays_whole(tmp_path: Path) -> None:
    plan, found = compiled(between(GELU, CONSTANTS), tmp_path)
    assert plan.fenced == {"c"}
    assert found == {
        "QLinearConv": 2, "QuantizeLinear": 2, "DequantizeLinear": 2, "Clip": 1, "Gelu": 1
    }  # fmt: skip


def test_a_product_with_a_float_activation_of_itself_stays_float(tmp_path: Path) -> None:
    _, found = compiled(between("h = HardSigmoid(c) t = Mul(c, h)"), tmp_path)
    assert found["Mul"] == found["HardSigmoid"] == 1
    assert "QLinearMul" not in found


def transformer(bias: str = "wb", *, residual: bool = False) -> onnx.ModelProto:
    shapes = {"wb": (16,), "row": (1, 16), "deep": (1, 1, 16)}
    weights = {"w": normal("w", 12, 16, scale=0.3), "g": normal("g", 12), "o": normal("o", 12)}
    end = "y = Add(b, x)" if residual else "y = Tanh(b)"
    return parse(
        "g (float[1,20,12] x) => (float[1,20,16] y) { n = LayerNormalization<axis=-1>(x, g, o)"
        f" m = MatMul(n, w) b = Add(m, {bias}) {end} }}",
        weights | {bias: normal(bias, *shapes[bias])},
    )


def test_a_matrix_product_and_its_bias_are_one_kernel(tmp_path: Path) -> None:
    plan, found = compiled(transformer(), tmp_path)
    assert found.pop("Reshape", 0) in (0, 2)
    assert found == {"LayerNormalization": 1, "QuantizeLinear": 1, "QGemm": 1, "Tanh": 1}
    assert [(site.layer, site.reader) for site in plan.biases] == [("m", "b")]


def test_a_bias_of_another_form_is_added_in_float(tmp_path: Path) -> None:
    _, found = compiled(transformer("deep"), tmp_path)
    assert found == {
        "LayerNormalization": 1, "QuantizeLinear": 1, "MatMulIntegerToFloat": 1, "Add": 1, "Tanh": 1
    }  # fmt: skip


def test_rearrangements_in_front_of_a_layer_move_integers(tmp_path: Path) -> None:
    """A token mixer: one quantization for the matrix product and for the convolution."""
    model = parse(
        "g (float[1,20,8] x) => (float[1,20,8] m, float[1,8,5,4] y)"
        " { n = LayerNormalization<axis=-1>(x, g) m = MatMul(n, k)"
        f" a = Transpose<perm=[0,2,1]>(n) t = Reshape(a, shape) y = Conv<{SAME}>(t, w, wb) }}",
        {"g": normal("g", 8), "k": normal("k", 8, 8), "shape": np.array([1, 8, 5, 4])}
        | layer("w", 8, 8, 3, 3),
    )
    plan, found = compiled(model, tmp_path)
    assert found["QuantizeLinear"] == 1
    groups = {name: [s.value for s in sites] for name, sites in plan.groups().items()}
    assert groups["n"] == ["n", "a", "t"]


def test_fully_connected_layers(tmp_path: Path) -> None:
    model = parse(
        "g (float[N,8,H,W] x) => (float[] y) { c = Conv(x, w, wb) r = Relu(c)"
        " p = GlobalAveragePool(r) f = Flatten(p) a = Gemm<transB=1>(f, v, vb) b = Relu(a)"
        " y = Gemm<transB=1>(b, u, ub) }",
        layer("w", 8, 8, 1, 1) | layer("v", 6, 8) | layer("u", 3, 6),
    )
    plan, found = compiled(model, tmp_path)
    assert found == {
        "QuantizeLinear": 1, "QLinearConv": 1, "QLinearGlobalAveragePool": 1, "Flatten": 1,
        "QGemm": 2,
    }  # fmt: skip
    assert [site.value for site in plan.sites] == ["x", "r", "p", "f", "b"]


def test_depthwise_and_grouped_convolutions(tmp_path: Path) -> None:
    model = between(
        f"d = Conv<group=8, {SAME}>(r, a, ab) e = Relu(d) t = Conv<group=4, {SAME}>(e, b, bb)",
        layer("a", 8, 1, 3, 3) | layer("b", 8, 2, 3, 3),
    )
    assert compiled(model, tmp_path)[1] == {"QLinearConv": 4, **DQ_AND_Q}


@pytest.mark.parametrize("opset", [13, 15, 18, 19, 21, 22, 23, 24])
def test_operator_sets(opset: int, tmp_path: Path) -> None:
    model = between("t = MaxPool<kernel_shape=[2,2]>(r)", opset=opset)
    assert compiled(model, tmp_path)[1] == {"QLinearConv": 2, "MaxPool": 1, **DQ_AND_Q}


def test_convolutions_with_one_and_three_axes(tmp_path: Path) -> None:
    for spatial in ((16,), (4, 6, 5)):
        extents = ",".join(map(str, spatial))
        model = parse(
            f"g (float[1,4,{extents}] x) => (float[] y)"
            " { c = Conv(x, w, wb) r = Relu(c) y = Conv(r, v, vb) }",
            layer("w", 4, 4, *(3,) * len(spatial)) | layer("v", 4, 4, *(1,) * len(spatial)),
        )
        assert compiled(model, tmp_path)[1]["QLinearConv"] == 2


@pytest.mark.parametrize("name", ["d", "y", "c"])
def test_an_excluded_layer_runs_with_its_float_weights(name: str, tmp_path: Path) -> None:
    """ONNX Runtime would quantize them by itself, with one scale, between a DQ and a Q."""
    model = between(f"d = Conv<{SAME}>(r, u, ub) t = Relu(d)", layer("u", 8, 8, 3, 3))
    plan, quantized = emitted(model, "ort-cpu", {name})
    assert plan.float_layers == {name: "it was excluded"}
    assert plan.shielded == frozenset({name} - {"c"})
    graph = fused(quantized, tmp_path)
    floats = [node for node in graph.node if node.op_type in ("Conv", "FusedConv")]
    types = {each.name: each.data_type for each in graph.initializer}
    assert [types[node.input[1]] for node in floats] == [onnx.TensorProto.FLOAT]
    assert kernels(graph)["QLinearConv"] == 2
    assert weights_dequantized_at_run_time(graph) == []


def test_a_transposed_convolution_keeps_its_float_weights(tmp_path: Path) -> None:
    model = between("t = ConvTranspose<strides=[2,2]>(r, u)", {"u": normal("u", 8, 8, 3, 3)})
    plan, found = compiled(model, tmp_path)
    assert plan.float_layers == {"t": "ONNX Runtime has no integer kernel for ConvTranspose"}
    assert plan.shielded == {"t"}
    assert found["ConvTranspose"] == 1
    assert found["QLinearConv"] == 2


def test_the_outputs_of_the_model_are_integers_of_the_last_convolution(tmp_path: Path) -> None:
    model = parse(
        "g (float[N,8,H,W] x) => (float[] y, int64[] k)"
        " { y = Conv(x, w, wb) k = ArgMax<axis=1, keepdims=0>(y) }",
        layer("w", 8, 8, 1, 1),
    )
    _, quantized = emitted(model, "ort-cpu")
    found = kernels(fused(quantized, tmp_path))
    assert found == {"QLinearConv": 1, "ArgMax": 1, **DQ_AND_Q}


def test_a_body_that_reads_a_tensor_keeps_it_float() -> None:
    model = parse(
        "g (float[N,8,H,W] x, bool f) => (float[] y) { c = Conv(x, w, wb) r = Relu(c)"
        " y = If(f) <then_branch = t () => (float[] p) { p = Neg(r) },"
        " else_branch = e () => (float[] q) { q = Abs(r) }> }",
        layer("w", 8, 8, 1, 1),
    )
    plan = plan_of(model, "ort-cpu")
    assert plan.float_layers == {"c": "a body of control flow reads its output"}
    assert plan.sites == ()


def test_additions_of_float_tensors_stay_float(tmp_path: Path) -> None:
    """Two linear resizes are added up: nothing in front of the sum is an integer."""
    model = between(
        'a = Resize<mode="linear">(r, , scales) b = Resize<mode="cubic">(r, , scales)'
        " t = Add(a, b)",
        DOUBLED,
    )
    _, found = compiled(model, tmp_path)
    assert found["Add"] == 1
    assert "QLinearAdd" not in found
