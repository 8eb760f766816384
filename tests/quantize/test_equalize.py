"""Scales are chosen so that the noise of rounding falls as predicted, and INT8 gains by it."""

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnxfold.calibrate.calibrate import calibrate
from onnxfold.model import to_proto
from onnxfold.quantize.equalize import (
    ChannelRanges,
    Equalization,
    channel_ranges,
    equalization,
    values_to_observe,
)
from onnxfold.quantize.evaluation import Evaluation
from onnxfold.quantize.scaled_weights import write_scales
from onnxfold.quantize.step_noise import ReaderNoise, ScaleGroup, TensorNoise, headroom
from onnxfold.rewrite.ledger import Ledger
from onnxfold.rewrite.rewriter import Rewriter
from onnxfold.rewrite.tensor_store import MemoryStore
from tests.quantize.flow import Feed, Quantizer, depthwise_net, inferred, pictures

Floats = NDArray[np.float64]


def measured_noise(x: Floats, weight: Floats, scale: Floats) -> float:
    """Noise over signal of a matrix product after rounding both sides, averaged over outputs."""
    inputs, kernel = x / scale[:, None], weight * scale
    step = (max(inputs.max(), 0) - min(inputs.min(), 0)) / 255
    steps = np.abs(kernel).max(axis=1, keepdims=True) / 127
    exact = weight @ x
    rounded = (np.rint(kernel / steps) * steps) @ (np.rint(inputs / step) * step)
    return float((((rounded - exact) ** 2).mean(axis=1) / (exact**2).mean(axis=1)).mean())


def group_of(x: Floats, weight: Floats) -> ScaleGroup:
    low, high = np.minimum(x.min(axis=1), 0), np.maximum(x.max(axis=1), 0)
    ids = np.arange(x.shape[0])
    reader = ReaderNoise.of(ids, weight, 1, low, high)
    tensor = TensorNoise(ids, low, high, reader.cost)
    free = np.zeros(ids.size, np.bool_)
    return ScaleGroup((tensor,), (reader,), np.zeros(ids.size), free)


@pytest.mark.parametrize("seed", range(6))
def test_predicted_noise_is_that_of_rounding(seed: int) -> None:
    generator = np.random.default_rng(seed)
    spread = np.exp(generator.uniform(0, 2) * generator.normal(size=32))
    x = np.maximum(generator.normal(size=(32, 4000)), 0) * spread[:, None]
    weight = generator.normal(size=(24, 32)) / (spread if seed % 2 else 1)
    group = group_of(x, weight)
    best, share = group.best_scales()
    before, after = measured_noise(x, weight, np.ones(32)), measured_noise(x, weight, best)
    assert 0.4 < group.noise(np.ones(32)) / before < 2.5
    assert after < before * 1.05
    assert 0.5 < (after / before) / share < 2


def test_scales_that_are_best_are_found_best_again() -> None:
    generator = np.random.default_rng(1)
    spread = np.exp(2 * generator.normal(size=32))
    x = np.maximum(generator.normal(size=(32, 1000)), 0) * spread[:, None]
    weight = generator.normal(size=(24, 32)) / spread
    best, share = group_of(x, weight).best_scales()
    assert share < 0.5
    again, rest = group_of(x / best[:, None], weight * best).best_scales()
    assert rest == 1.0
    assert (again == 1).all()


def test_bounds_and_pins_are_kept() -> None:
    generator = np.random.default_rng(2)
    spread = np.exp(2 * generator.normal(size=32))
    x = np.maximum(generator.normal(size=(32, 1000)), 0) * spread[:, None]
    group = group_of(x, generator.normal(size=(24, 32)) / spread)
    least = np.full(32, 0.25)
    least[::2] = 0
    pinned = np.zeros(32, np.bool_)
    pinned[:5] = True
    bounded = ScaleGroup(group.tensors, group.readers, least, pinned)
    best, share = bounded.best_scales()
    assert share < 1
    assert (best[:5] == 1).all()
    assert (best[least > 0][3:] >= 0.25).all()
    assert (best[least > 0] <= 1).all()


def test_headroom_is_larger_where_less_was_seen() -> None:
    counts = (1, 64, 1000, 4096, 10**7)
    values = [headroom(count) for count in counts]
    assert values == sorted(values, reverse=True)
    assert values[0] == 2.0
    assert values[-2:] == [1.25, 1.25]


def test_dead_channels_change_nothing() -> None:
    generator = np.random.default_rng(3)
    x = np.maximum(generator.normal(size=(16, 500)), 0)
    x[3:6] = 0
    weight = generator.normal(size=(8, 16))
    weight[2] = 0
    best, share = group_of(x, weight).best_scales()
    assert np.isfinite(best).all()
    assert 0 < share <= 1
    assert (best[3:6] == best.max()).all()


def test_a_channel_that_carries_nothing_is_not_lifted() -> None:
    generator = np.random.default_rng(4)
    x = np.maximum(generator.normal(size=(16, 500)), 0)
    weight = generator.normal(size=(8, 16))
    x[3] *= 1e-4
    x[5] *= 1e-4
    weight[:, 5] *= 1e4
    best, _ = group_of(x, weight).best_scales()
    assert best[3] == best.max()
    assert best[5] < 0.1 * best.max()


def equalized(
    model: onnx.ModelProto, feeds: list[Feed], *, lift_clipped: bool = False
) -> tuple[onnx.ModelProto, Equalization]:
    loaded = inferred(model)
    found = equalization(loaded.graph, ranges_of(model, feeds), lift_clipped=lift_clipped)
    rewriter = Rewriter(loaded, Ledger(), MemoryStore())
    assert write_scales(rewriter, found.changes, "test") is None
    return to_proto(rewriter.model), found


def ranges_of(model: onnx.ModelProto, feeds: list[Feed]) -> ChannelRanges:
    values = values_to_observe(inferred(model).graph)
    return channel_ranges(calibrate(model, feeds, values))


def sqnr(model: onnx.ModelProto, scaled: onnx.ModelProto, feeds: list[Feed]) -> float:
    """Of the INT8 form of `scaled` beside `model`, on pictures that were not calibrated with."""
    fresh = pictures(8, seed=99)
    return Evaluation(model, fresh).compare(Quantizer(scaled, feeds).build()).sqnr


@pytest.mark.parametrize("activation", ["Relu", "LeakyRelu"])
def test_channels_of_unlike_ranges_gain_much(activation: str) -> None:
    model, feeds = depthwise_net(activation=activation), pictures(16)
    scaled, found = equalized(model, feeds)
    assert found.groups == 2
    assert found.noise < 0.1
    assert found.refused == ()
    assert sqnr(model, scaled, feeds) > sqnr(model, model, feeds) + 6


def test_the_float_model_computes_the_same() -> None:
    model, feeds = depthwise_net(), pictures(16)
    scaled, _ = equalized(model, feeds)
    assert Evaluation(model, pictures(4, seed=5)).compare(scaled).sqnr > 110


def test_a_second_run_finds_nothing() -> None:
    model, feeds = depthwise_net(), pictures(16)
    scaled, first = equalized(model, feeds)
    _, second = equalized(scaled, feeds)
    assert first.changes
    assert second.changes == ()
    assert second.noise == 1.0


def clipped_net() -> onnx.ModelProto:
    """The same network with ReLU6, which most channels never reach."""
    model = depthwise_net(spread=1.0)
    for node in model.graph.node:
        if node.op_type == "Relu":
            node.op_type = "Clip"
            node.input.extend(["zero", "six"])
    for name, number in (("zero", 0.0), ("six", 6.0)):
        tensor = onnx.numpy_helper.from_array(np.array(number, np.float32), name)
        model.graph.initializer.append(tensor)
    return model


def test_clipped_channels_are_left_alone_unless_asked() -> None:
    model, feeds = clipped_net(), pictures(16)
    _, found = equalized(model, feeds)
    assert found.changes == ()
    assert {pin.reason for _, pin in found.refused} == {"a Clip cuts it off at 6"}


def test_clipped_channels_are_lifted_below_their_ceiling() -> None:
    model, feeds = clipped_net(), pictures(16)
    scaled, found = equalized(model, feeds, lift_clipped=True)
    assert found.groups == 2
    assert Evaluation(model, feeds).compare(scaled).sqnr > 110
    assert Evaluation(model, pictures(8, seed=99)).compare(scaled).sqnr > 40
    assert sqnr(model, scaled, feeds) > sqnr(model, model, feeds) + 2


def test_lifted_channels_keep_headroom_below_the_ceiling() -> None:
    model, feeds = clipped_net(), pictures(16)
    scaled, _ = equalized(model, feeds, lift_clipped=True)
    before, after = (ranges_of(each, feeds)["f"].high for each in (model, scaled))
    lifted = after > before * 1.01
    assert lifted.any()
    count = ranges_of(model, feeds)["f"].count
    assert (after[lifted] <= 6 / headroom(count) * 1.001).all()


def test_observed_values_are_those_that_get_steps() -> None:
    assert values_to_observe(inferred(depthwise_net()).graph) == ["f", "g", "p", "s"]


def test_missing_ranges_mean_no_scales() -> None:
    graph = inferred(depthwise_net()).graph
    assert equalization(graph, {}).changes == ()
