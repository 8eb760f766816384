"""Writing plans into graphs: names, sharing, numbers, and what stays untouched."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxfold.errors import BadOptionError
from onnxfold.ir.shapes import infer_shapes
from onnxfold.model import load, to_proto
from onnxfold.quantize.emit import LAYER_KEY, EmitOptions, insert
from onnxfold.quantize.weights import WeightMethod, dequantized_weight
from onnxfold.rewrite.ledger import Ledger
from onnxfold.rewrite.rewriter import RULE_KEY, Rewriter
from onnxfold.rewrite.tensor_store import MemoryStore
from tests.targets.emitted import (
    emitted,
    feeds,
    kernels,
    layer,
    normal,
    plan_of,
    ranges,
    run,
    sqnr,
)
from tests.toolkit import parse

CHAIN = parse(
    "g (float[N,16,H,W] x) => (float[] y) {"
    " c = Conv<pads=[1,1,1,1]>(x, w, wb) r = Relu(c) d = Conv(r, v, vb) y = Neg(d) }",
    layer("w", 32, 16, 3, 3) | layer("v", 16, 32, 1, 1),
)
TARGETS = ("ort-cpu", "openvino", "tensorrt")


def arrays(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}


def node_of(model: onnx.ModelProto, output: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if output in node.output)


@pytest.mark.parametrize("target", TARGETS)
def test_values_and_layers_keep_their_names(target: str) -> None:
    _, model = emitted(CHAIN, target)
    names = {output for node in model.graph.node for output in node.output}
    assert {"c", "r", "d", "y"} <= names
    assert [node_of(model, name).op_type for name in "crdy"] == ["Conv", "Relu", "Conv", "Neg"]


@pytest.mark.parametrize("target", TARGETS)
def test_the_result_is_near_the_float_model(target: str) -> None:
    _, model = emitted(CHAIN, target)
    for feed in feeds(CHAIN, 3):
        assert sqnr(run(CHAIN, feed)[0], run(model, feed)[0]) > 30


def test_weights_are_integers_with_a_scale_for_each_channel() -> None:
    _, model = emitted(CHAIN, "ort-cpu", options=EmitOptions(WeightMethod.MINMAX))
    held = arrays(model)
    dequantize = node_of(model, node_of(model, "c").input[1])
    integers, scales, zeros = (held[name] for name in dequantize.input)
    assert integers.dtype == zeros.dtype == np.int8
    assert scales.shape == (32,)
    assert not zeros.any()
    assert [a.i for a in dequantize.attribute] == [0]
    weight = arrays(CHAIN)["w"]
    off = np.abs(dequantized_weight(integers, scales, 0) - weight)
    assert (off <= scales.reshape(-1, 1, 1, 1) * 0.5001).all()
    assert "w" not in held  # nobody reads the float weight any more


def test_biases_are_integers_on_the_grid_of_the_products() -> None:
    _, model = emitted(CHAIN, "ort-cpu")
    held, conv = arrays(model), node_of(model, "d")
    bias = node_of(model, conv.input[2])
    weight_scale = held[node_of(model, conv.input[1]).input[1]]
    x_scale = held[node_of(model, conv.input[0]).input[1]]
    np.testing.assert_array_equal(held[bias.input[1]], x_scale * weight_scale)
    assert held[bias.input[0]].dtype == np.int32
    back = held[bias.input[0]] * held[bias.input[1]].astype(np.float64)
    np.testing.assert_allclose(back, arrays(CHAIN)["vb"], atol=held[bias.input[1]].max())


@pytest.mark.parametrize("target", ["openvino", "tensorrt"])
def test_biases_stay_float_where_the_target_wants_that(target: str) -> None:
    _, model = emitted(CHAIN, target)
    assert node_of(model, "c").input[2] == "wb"


def test_a_bias_too_large_for_the_weights_does_not_overflow() -> None:
    weights = layer("w", 8, 4, 3, 3) | layer("v", 4, 8, 1, 1)
    weights["v"][1] *= 1e-9
    weights["vb"][1] = 1e4
    model = parse(
        "g (float[N,4,H,W] x) => (float[] y) {"
        " c = Conv<pads=[1,1,1,1]>(x, w, wb) r = Relu(c) y = Conv(r, v, vb) }",
        weights,
    )
    _, quantized = emitted(model, "ort-cpu")
    feed = feeds(model)[0]
    expected = run(model, feed)[0]
    for fused in (False, True):
        found = run(quantized, feed, fused=fused)[0]
        np.testing.assert_allclose(found[:, 1], expected[:, 1], rtol=5e-3)


def test_one_pair_serves_all_readers_of_a_value() -> None:
    model = parse(
        "g (float[N,16,H,W] x) => (float[] y) { a = Conv(x, w) b = Conv(x, v) y = Add(a, b) }",
        {"w": normal("w", 16, 16, 1, 1), "v": normal("v", 16, 16, 1, 1)},
    )
    _, quantized = emitted(model, "tensorrt")
    pairs = [node for node in quantized.graph.node if node.input and node.input[0] == "x"]
    assert [node.op_type for node in pairs] == ["QuantizeLinear"]
    assert node_of(quantized, "a").input[0] == node_of(quantized, "b").input[0]


def test_a_weight_that_two_layers_share_is_stored_once() -> None:
    model = parse(
        "g (float[N,4,H,W] x, float[N,4,H,W] z) => (float[] y)"
        " { a = Conv(x, w) b = Conv(z, w) y = Concat<axis=1>(a, b) }",
        {"w": normal("w", 4, 4, 3, 3)},
    )
    _, quantized = emitted(model, "openvino")
    assert node_of(quantized, "a").input[1] == node_of(quantized, "b").input[1]
    assert [a.dtype for a in arrays(quantized).values() if a.ndim == 4] == [np.int8]


def test_a_weight_shared_with_a_float_reader_stays() -> None:
    model = parse(
        "g (float[N,4,H,W] x) => (float[] y, float[] z) { y = Conv(x, w) z = Neg(w) }",
        {"w": normal("w", 4, 4, 3, 3)},
    )
    _, quantized = emitted(model, "openvino")
    assert node_of(quantized, "z").input[0] == "w"
    np.testing.assert_array_equal(arrays(quantized)["w"], arrays(model)["w"])


def test_an_output_of_the_model_comes_back_under_its_own_name() -> None:
    model = parse(
        "g (float[N,4,H,W] x) => (float[] c, float[] y) { c = Conv(x, w, wb) y = Conv(c, v, vb) }",
        layer("w", 4, 4, 3, 3) | layer("v", 4, 4, 1, 1),
    )
    plan, quantized = emitted(model, "ort-cpu")
    assert [output.name for output in quantized.graph.output] == ["c", "y"]
    assert node_of(quantized, "c").op_type == "DequantizeLinear"
    renamed = {
        prop.value: node.op_type
        for node in quantized.graph.node
        for prop in node.metadata_props
        if prop.key == LAYER_KEY
    }
    assert renamed == {"c": "Conv", "y": "Conv"}
    assert plan.layers == {"c", "y"}
    # The second layer reads the output itself: it is on a grid already.
    assert node_of(quantized, "c").output[0] in [
        name for node in quantized.graph.node if node.op_type == "Conv" for name in node.input
    ]
    feed = feeds(model)[0]
    for expected, found in zip(run(model, feed), run(quantized, feed), strict=True):
        assert sqnr(expected, found) > 30


def test_all_outputs_of_a_split_are_quantized() -> None:
    model = parse(
        "g (float[N,4,H,W] x) => (float[] y) { c = Conv(x, w, wb) a, b = Split<axis=1>(c, parts)"
        " d = Conv<pads=[1,1,1,1]>(a, v, vb) j = Concat<axis=1>(b, d) y = Conv(j, u, ub) }",
        layer("w", 4, 4, 1, 1) | layer("v", 2, 2, 3, 3) | layer("u", 4, 4, 1, 1)
        | {"parts": np.array([2, 2])},
    )  # fmt: skip
    _, quantized = emitted(model, "ort-cpu")
    split = node_of(quantized, "a")
    assert list(split.output) == ["a", "b"]
    readers = [n.op_type for n in quantized.graph.node if set(n.input) & {"a", "b"}]
    assert readers == ["QuantizeLinear", "QuantizeLinear"]
    feed = feeds(model)[0]
    assert sqnr(run(model, feed)[0], run(quantized, feed)[0]) > 30


@pytest.mark.parametrize("factor", [0.125, -3.0])
def test_a_constant_operand_has_a_grid_that_represents_it(factor: float) -> None:
    model = parse(
        "g (float[N,4,H,W] x) => (float[] y)"
        " { c = Conv(x, w, wb) m = Mul(c, k) y = Conv(m, v, vb) }",
        layer("w", 4, 4, 1, 1) | layer("v", 4, 4, 1, 1) | {"k": np.array(factor, np.float32)},
    )
    _, quantized = emitted(model, "ort-cpu")
    held, multiply = arrays(quantized), node_of(quantized, "m")
    integers, scale, zero = (held[n] for n in node_of(quantized, multiply.input[1]).input)
    assert integers.dtype == np.uint8
    assert (float(integers) - float(zero)) * float(scale) == pytest.approx(factor, rel=1e-6)


def test_shapes_are_read_off_the_integers() -> None:
    model = parse(
        "g (float[N,4,H,W] x) => (float[] y, int64[4] s) { c = Conv(x, w, wb) s = Shape(c)"
        " y = Conv(c, v, vb) }",
        layer("w", 4, 4, 1, 1) | layer("v", 4, 4, 1, 1),
    )
    _, quantized = emitted(model, "ort-cpu")
    assert node_of(quantized, node_of(quantized, "s").input[0]).op_type == "QuantizeLinear"
    feed = feeds(model)[0]
    np.testing.assert_array_equal(run(quantized, feed)[1], run(model, feed)[1])


def test_every_new_node_says_where_it_comes_from() -> None:
    ledger = Ledger()
    _, quantized = emitted(CHAIN, "ort-cpu", ledger=ledger)
    rules = {
        prop.value
        for node in quantized.graph.node
        if node.op_type.endswith("Linear")
        for prop in node.metadata_props
        if prop.key == RULE_KEY
    }
    assert rules <= {"insert_qdq/Conv", "insert_qdq/Neg"}
    assert [each.key.output for each in ledger.applied] == ["c", "d", "y"]


@pytest.mark.parametrize("limit", range(4))
def test_a_run_that_is_cut_short_leaves_a_valid_model(limit: int) -> None:
    ledger = Ledger(limit)
    _, quantized = emitted(CHAIN, "ort-cpu", ledger=ledger)
    assert len(ledger.applied) == limit
    assert kernels(quantized.graph).get("QuantizeLinear", 0) == (0, 1, 2, 3)[limit]
    feed = feeds(CHAIN)[0]
    assert sqnr(run(CHAIN, feed)[0], run(quantized, feed)[0]) > 30


def test_nothing_is_inserted_when_a_range_is_missing() -> None:
    loaded = load(CHAIN).model
    plan = plan_of(CHAIN, "ort-cpu")
    with pytest.raises(BadOptionError, match="the calibration says nothing about 'x'"):
        insert(Rewriter(loaded, Ledger(), MemoryStore()), plan, {})
    assert Counter(node.op_type for node in loaded.graph) == kernels(CHAIN.graph)


def test_external_weights_are_read_from_their_file(tmp_path: Path) -> None:
    path, copy = tmp_path / "chain.onnx", onnx.ModelProto()
    copy.CopyFrom(CHAIN)
    onnx.save_model(copy, path, save_as_external_data=True, size_threshold=0)
    plan = plan_of(CHAIN, "ort-cpu")
    found = ranges(CHAIN, list(plan.sources()), feeds(CHAIN))
    models = []
    for source in (CHAIN, path):
        loaded = load(source).model
        infer_shapes(loaded)
        insert(Rewriter(loaded, Ledger(), MemoryStore()), plan, found)
        models.append(arrays(to_proto(loaded)))
    assert models[0].keys() == models[1].keys()
    for name, array in models[0].items():
        np.testing.assert_array_equal(array, models[1][name])


def test_bodies_of_control_flow_are_left_alone() -> None:
    model = parse(
        "g (float[N,4,H,W] x, bool f) => (float[] y) { c = Conv(x, w, wb) r = Relu(c)"
        " d = Conv(r, v, vb) y = If(f) <then_branch = t () => (float[] p) { p = Neg(d) },"
        " else_branch = e () => (float[] q) { q = Abs(d) }> }",
        layer("w", 4, 4, 1, 1) | layer("v", 4, 4, 1, 1),
    )
    plan, quantized = emitted(model, "ort-cpu")
    assert plan.float_layers == {"d": "a body of control flow reads its output"}
    for feed in feeds(model):
        assert sqnr(run(model, feed)[0], run(quantized, feed)[0]) > 30
