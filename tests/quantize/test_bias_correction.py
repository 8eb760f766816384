"""Errors per layer are what they are, and biases take their mean out, one layer after another."""

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from onnxfold.errors import CannotRunError
from onnxfold.quantize.bias_correction import correct_biases
from onnxfold.quantize.bias_editor import BiasEditor
from onnxfold.quantize.evaluation import Evaluation
from onnxfold.quantize.layers import layers_of
from onnxfold.quantize.paired import PairedModel, layer_errors
from tests.quantize.flow import (
    Feed,
    Quantizer,
    demo,
    demo_feeds,
    demo_quantizer,
    depthwise_net,
    drawn,
    pictures,
)
from tests.toolkit import parse, run_ort

Array = NDArray[Any]


def with_output(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """The model with one interior value as its only output."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    copy.graph.output.add().name = name
    return copy


def value(model: onnx.ModelProto, name: str, feed: Feed) -> Array:
    return run_ort(with_output(model, name), feed)[0].astype(np.float64)


@pytest.fixture(scope="module")
def feeds() -> list[Feed]:
    """Bright pictures: where all inputs are positive, rounded weights shift the mean."""
    return [{"image": feed["image"] + np.float32(3)} for feed in pictures(12)]


@pytest.fixture(scope="module")
def net() -> onnx.ModelProto:
    return depthwise_net(spread=1.0)


@pytest.fixture(scope="module")
def quantized(net: onnx.ModelProto, feeds: list[Feed]) -> onnx.ModelProto:
    return Quantizer(net, feeds).build()


def test_layers_are_found_in_both_models(net: onnx.ModelProto, quantized: onnx.ModelProto) -> None:
    found = layers_of(net, quantized)
    assert [layer.name for layer in found] == ["a", "d", "p", "scores"]
    assert [layer.channels for layer in found] == [16, 16, 16, 5]
    assert all(layer.rank == 4 for layer in found)
    assert found[-1].quantized != "scores"


def test_errors_are_those_of_the_values(
    net: onnx.ModelProto, quantized: onnx.ModelProto, feeds: list[Feed]
) -> None:
    layers = layers_of(net, quantized)
    found = layer_errors(net, quantized, feeds)
    assert list(found) == [layer.name for layer in layers]
    for layer in layers:
        pairs = [
            (value(net, layer.name, feed), value(quantized, layer.quantized, feed))
            for feed in feeds
        ]
        errors = np.concatenate([after - before for before, after in pairs])
        signal = sum(float((before**2).sum()) for before, _ in pairs)
        error = found[layer.name]
        assert error.distortion.noise == pytest.approx((errors**2).sum(), rel=1e-4)
        assert error.distortion.signal == pytest.approx(signal, rel=1e-4)
        mean = errors.mean(axis=(0, 2, 3))
        np.testing.assert_allclose(error.mean_error, mean, atol=1e-5 * np.abs(errors).max())


def test_cancelled_layers_hand_on_no_mean_error(
    net: onnx.ModelProto, quantized: onnx.ModelProto, feeds: list[Feed]
) -> None:
    layers = layers_of(net, quantized)
    plain = PairedModel(net, quantized, layers).run_all(feeds)
    held = PairedModel(net, quantized, layers, cancelled=["a", "d"]).run_all(feeds)
    assert held["a"].distortion == plain["a"].distortion
    assert np.abs(held["d"].mean_error).sum() < np.abs(plain["d"].mean_error).sum()


def test_restored_layers_hand_on_no_error(
    net: onnx.ModelProto, quantized: onnx.ModelProto, feeds: list[Feed]
) -> None:
    layers = layers_of(net, quantized)
    alone = PairedModel(net, net, layers_of(net, net), restored=["a"]).run_all(feeds)
    assert all(error.distortion.noise == 0 for error in alone.values())
    plain = PairedModel(net, quantized, layers).run_all(feeds)
    restored = PairedModel(net, quantized, layers, restored=["a", "d", "p"]).run_all(feeds)
    assert restored["a"].distortion == plain["a"].distortion
    for name in ("d", "p", "scores"):
        assert restored[name].distortion.noise < plain[name].distortion.noise


def test_models_of_different_operator_sets_do_not_fit(net: onnx.ModelProto) -> None:
    other = depthwise_net(spread=1.0)
    other.opset_import[0].version = 18
    with pytest.raises(CannotRunError, match="different operator sets"):
        PairedModel(net, other, layers_of(net, other))


def test_a_sample_of_the_wrong_shape_is_explained(net: onnx.ModelProto) -> None:
    paired = PairedModel(net, net, layers_of(net, net))
    with pytest.raises(CannotRunError, match="refuses a sample"):
        paired.run({"image": np.zeros((1, 3, 5), np.float32)})


def gold(model: onnx.ModelProto, quantized: onnx.ModelProto, feeds: list[Feed]) -> onnx.ModelProto:
    """Corrected the slow way: the model is run again for every layer."""
    corrected = onnx.ModelProto()
    corrected.CopyFrom(quantized)
    for layer in layers_of(model, quantized):
        errors = [
            value(corrected, layer.quantized, feed) - value(model, layer.name, feed)
            for feed in feeds
        ]
        shift = np.concatenate(errors).mean(axis=(0, 2, 3))
        assert BiasEditor(corrected.graph).subtract(layer, shift) is None
    return corrected


def biases(model: onnx.ModelProto) -> dict[str, Array]:
    """Every bias in float, by the output of its layer."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    producers = {node.output[0]: node for node in model.graph.node}
    found = {}
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm") and len(node.input) > 2:
            source = producers.get(node.input[2])
            if source is None:
                found[node.output[0]] = constants[node.input[2]].astype(np.float64)
            else:
                integers, scale = (constants[name] for name in source.input[:2])
                assert integers.dtype == np.int32
                found[node.output[0]] = integers * scale.astype(np.float64)
    return found


def test_one_sweep_is_as_good_as_one_run_per_layer(
    net: onnx.ModelProto, quantized: onnx.ModelProto, feeds: list[Feed]
) -> None:
    before, slow = biases(quantized), biases(gold(net, quantized, feeds))
    swept = correct_biases(net, quantized, feeds)
    quick = biases(swept.model)
    assert swept.corrected.keys() == {"a", "d", "p", "scores"}
    assert not swept.skipped
    for name, old in before.items():
        wanted, found = slow[name] - old, quick[name] - old
        assert np.linalg.norm(found - wanted) < 0.35 * np.linalg.norm(wanted)
    evaluation = Evaluation(net, feeds)
    plain, corrected, best = (
        evaluation.compare(each).sqnr
        for each in (quantized, swept.model, gold(net, quantized, feeds))
    )
    assert best > plain + 0.1
    assert corrected - plain > 0.8 * (best - plain)


def test_the_mean_error_vanishes(
    net: onnx.ModelProto, quantized: onnx.ModelProto, feeds: list[Feed]
) -> None:
    swept = correct_biases(net, quantized, feeds)
    layers = layers_of(net, quantized)
    before, after = (
        PairedModel(net, each, layers).run_all(feeds) for each in (quantized, swept.model)
    )
    for layer in layers:
        left = np.abs(after[layer.name].mean_error).sum()
        assert left < 0.5 * np.abs(before[layer.name].mean_error).sum()


def test_the_quantized_model_is_left_as_it_is(
    net: onnx.ModelProto, quantized: onnx.ModelProto, feeds: list[Feed]
) -> None:
    before = quantized.SerializeToString()
    swept = correct_biases(net, quantized, feeds)
    assert quantized.SerializeToString() == before
    onnx.checker.check_model(swept.model, full_check=True)
    ops = [node.op_type for node in quantized.graph.node]
    assert [node.op_type for node in swept.model.graph.node] == ops


def test_nothing_to_correct_changes_nothing(net: onnx.ModelProto, feeds: list[Feed]) -> None:
    swept = correct_biases(net, net, feeds)
    assert set(swept.corrected.values()) == {0.0}
    for name, bias in biases(net).items():
        np.testing.assert_array_equal(biases(swept.model)[name], bias)


@pytest.mark.parametrize("target", ["openvino", "tensorrt"])
def test_float_biases_stay_float(net: onnx.ModelProto, feeds: list[Feed], target: str) -> None:
    model = Quantizer(net, feeds, target).build()
    swept = correct_biases(net, model, feeds)
    assert swept.corrected
    assert not swept.skipped
    evaluation = Evaluation(net, feeds)
    assert evaluation.compare(swept.model).sqnr > evaluation.compare(model).sqnr
    kinds = {tensor.data_type for tensor in swept.model.graph.initializer}
    assert onnx.TensorProto.INT32 not in kinds


def biasless(target: str) -> tuple[onnx.ModelProto, onnx.ModelProto, list[Feed]]:
    """A network whose second layer has no bias, and its Q/DQ model."""
    body = """g (float[1, 3, 24, 24] image) => (float[] y) {
        a = Conv <pads = [1, 1, 1, 1]> (image, w, b)  r = Relu (a)  c = Conv (r, v)
        s = Relu (c)  y = Conv (s, u, t)
    }"""
    weights = {
        "w": drawn(1, 8, 3, 3, 3),
        "b": drawn(2, 8),
        "v": drawn(3, 8, 8, 1, 1),
        "u": drawn(4, 4, 8, 1, 1),
        "t": drawn(5, 4),
    }
    model, feeds = parse(body, weights, opset=17), pictures(6)
    return model, Quantizer(model, feeds, target).build(), feeds


@pytest.mark.parametrize(("target", "kind"), [("ort-cpu", np.int32), ("openvino", np.float32)])
def test_a_layer_without_a_bias_gets_one(target: str, kind: type[np.generic]) -> None:
    model, quantized, feeds = biasless(target)
    swept = correct_biases(model, quantized, feeds)
    assert "c" in swept.corrected
    onnx.checker.check_model(swept.model, full_check=True)
    node = next(n for n in swept.model.graph.node if n.output[0] == "c")
    assert len(node.input) == 3
    producers = {n.output[0]: n for n in swept.model.graph.node}
    source = producers.get(node.input[2])
    name = node.input[2] if source is None else source.input[0]
    tensor = next(t for t in swept.model.graph.initializer if t.name == name)
    assert numpy_helper.to_array(tensor).dtype == kind
    evaluation = Evaluation(model, feeds)
    assert evaluation.compare(swept.model).sqnr > evaluation.compare(quantized).sqnr


def test_a_shared_bias_is_changed_for_one_layer_only() -> None:
    body = """g (float[1, 3, 8, 8] image) => (float[] y, float[] z) {
        y = Conv (image, w, b)  z = Conv (image, v, b)
    }"""
    weights = {"w": drawn(1, 4, 3, 1, 1), "v": drawn(2, 4, 3, 1, 1), "b": drawn(3, 4)}
    model = parse(body, weights, opset=17)
    layer = layers_of(model, model)[0]
    editor = BiasEditor(model.graph)
    assert editor.subtract(layer, np.arange(4.0)) is None
    found = biases(model)
    np.testing.assert_allclose(found["y"], weights["b"] - np.arange(4.0))
    np.testing.assert_array_equal(found["z"], weights["b"])


def test_the_bias_behind_a_matrix_product_is_found() -> None:
    body = """g (float[1, 6, 8] image) => (float[] y) {
        a = MatMul (image, w)  b = Add (a, c)  r = Relu (b)  y = MatMul (r, v)
    }"""
    weights = {"w": drawn(1, 8, 8), "c": drawn(2, 8), "v": drawn(3, 8, 4)}
    model = parse(body, weights, opset=17)
    feeds = [{"image": drawn(seed, 1, 6, 8)} for seed in range(12)]
    quantized = Quantizer(model, feeds).build()
    swept = correct_biases(model, quantized, feeds)
    assert "a" in swept.corrected
    assert swept.skipped == {"y": "it has no bias"}
    onnx.checker.check_model(swept.model, full_check=True)


def test_what_cannot_be_corrected_says_why() -> None:
    body = """g (float[3, 4] image, float[4] k) => (float[] y, float[] z) {
        y = Gemm <beta = 2.0> (image, w, b)  z = Gemm (image, v, k)
    }"""
    weights = {"w": drawn(1, 4, 4), "b": drawn(2, 4), "v": drawn(3, 4, 4)}
    model = parse(body, weights, opset=17)
    feeds = [{"image": drawn(1, 3, 4), "k": drawn(2, 4)}]
    assert correct_biases(model, model, feeds).skipped == {
        "y": "its bias is multiplied by a number",
        "z": "its bias is not a constant of a kind that can be changed",
    }


def test_a_few_samples_do_not_pretend_to_know(net: onnx.ModelProto) -> None:
    """Noise without a mean is left alone: what the estimate cannot tell from zero shrinks."""
    noisy = onnx.ModelProto()
    noisy.CopyFrom(net)
    node = noisy.graph.node[0]
    node.output[0] = "a.clean"
    kick = helper.make_node("Mul", ["a.clean", "kick"], ["a"])
    noisy.graph.node.insert(1, kick)
    noisy.graph.input.append(helper.make_tensor_value_info("kick", 1, [1, 16, 1, 1]))
    steady = onnx.ModelProto()
    steady.CopyFrom(net)
    steady.graph.input.append(noisy.graph.input[-1])
    feeds = pictures(16)
    for seed, feed in enumerate(feeds):
        feed["kick"] = 1 + drawn(seed, 1, 16, 1, 1, scale=0.2)
    layer = next(each for each in layers_of(steady, net) if each.name == "d")
    means = [
        value(noisy, "d", feed).mean(axis=(0, 2, 3))
        - value(net, "d", {"image": feed["image"]}).mean(axis=(0, 2, 3))
        for feed in feeds
    ]
    swept = correct_biases(steady, noisy, feeds)
    found = biases(swept.model)["d"] - biases(noisy)["d"]
    assert layer.name in swept.corrected
    assert np.abs(found).sum() < 0.7 * np.abs(np.mean(means, axis=0)).sum()


def test_the_demonstration_network_gains_a_decibel() -> None:
    quantized = demo_quantizer().build()
    swept = correct_biases(demo(), quantized, demo_feeds(16))
    assert not swept.skipped
    assert len(swept.corrected) == 26
    evaluation = Evaluation(demo(), demo_feeds(12, fresh=True))
    before, after = evaluation.compare(quantized), evaluation.compare(swept.model)
    assert after.sqnr > before.sqnr + 0.5
    assert after.agreement is not None
    assert before.agreement is not None
    assert after.agreement > before.agreement - 0.02
