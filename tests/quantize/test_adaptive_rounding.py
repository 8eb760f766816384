"""Second moments are those of what layers read, and rounding by them keeps outputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from onnxfold.quantization import QuantizeOptions, quantize
from onnxfold.quantize.adaptive_rounding import AdaptiveRounding, Rounding, rounded
from onnxfold.quantize.evaluation import Evaluation
from onnxfold.quantize.layers import constants_of
from onnxfold.quantize.second_moments import second_moments
from onnxfold.quantize.weights import LIMIT
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

LAYERS: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = [
    ("y = Conv (x, w)", (2, 6, 5, 4), (3, 6, 1, 1)),
    ("y = Conv <pads = [1, 0, 2, 1], strides = [2, 1]> (x, w)", (2, 4, 7, 6), (5, 4, 3, 2)),
    ("y = Conv <dilations = [2, 3], pads = [2, 3, 2, 3]> (x, w)", (1, 3, 9, 9), (4, 3, 3, 3)),
    ("y = Conv <group = 2, pads = [1, 1, 1, 1]> (x, w)", (1, 6, 6, 6), (4, 3, 3, 3)),
    ("y = Conv <group = 6, strides = [2, 2]> (x, w)", (1, 6, 7, 7), (12, 1, 3, 3)),
    ("y = Conv <pads = [1, 1]> (x, w)", (2, 5, 9), (3, 5, 3)),
    ("y = Conv <strides = [1, 2, 1]> (x, w)", (1, 2, 4, 5, 4), (3, 2, 2, 3, 2)),
    ("y = Gemm (x, w)", (7, 5), (5, 3)),
    ("y = Gemm <transA = 1, transB = 1> (x, w)", (5, 7), (3, 5)),
    ("y = MatMul (x, w)", (2, 4, 6), (6, 3)),
]


@pytest.mark.parametrize(("layer", "x", "w"), LAYERS)
def test_moments_tell_the_energy_of_the_output(
    layer: str, x: tuple[int, ...], w: tuple[int, ...]
) -> None:
    """`tr(W H Wᵀ)` is the mean energy of a window's output, whatever the weights are."""
    weight = drawn(1, *w)
    model = parse(f"g (float{list(x)} x) => (float[] y) {{ {layer} }}", {"w": weight})
    feeds = [{"x": drawn(seed, *x) + np.float32(0.3)} for seed in (2, 3, 4)]
    blocks = second_moments(model, feeds)["y"]
    outputs_first = "Conv" in layer or "transB" in layer
    kernel = (weight if outputs_first else weight.T).astype(np.float64)
    groups = blocks[0].moments.shape[0]
    kernel = kernel.reshape(groups, kernel.shape[0] // groups, -1)
    (moments,) = [block.moments for block in blocks]
    energy = np.einsum("goi,gij,goj->", kernel, moments, kernel)
    outputs = np.stack([run_ort(model, feed)[0] for feed in feeds]).astype(np.float64)
    channels = kernel.shape[0] * kernel.shape[1]
    assert energy == pytest.approx((outputs**2).mean() * channels, rel=1e-4)


def test_wide_kernels_are_cut_into_blocks() -> None:
    model = parse(
        "g (float[1, 100, 3, 3] x) => (float[] y) { y = Conv (x, w) }",
        {"w": drawn(1, 2, 100, 3, 3)},
    )
    blocks = second_moments(model, [{"x": drawn(5, 1, 100, 3, 3)}])["y"]
    assert [block.columns.start for block in blocks[1:]] == [
        block.columns.stop for block in blocks[:-1]
    ]
    assert (blocks[0].columns.start, blocks[-1].columns.stop) == (0, 900)
    assert all(block.moments.shape[1] <= 288 for block in blocks)


def test_a_part_of_the_windows_is_enough() -> None:
    """Of many windows some are taken, other ones from every sample, always the same."""
    body = "g (float[1, 8, 64, 64] x) => (float[] y) { y = Conv (x, w) }"
    model = parse(body, {"w": drawn(1, 4, 8, 1, 1)})
    feeds = [{"x": drawn(seed, 1, 8, 64, 64) + np.float32(1)} for seed in range(4)]
    (once,), (twice,) = (second_moments(model, feeds)["y"] for _ in range(2))
    np.testing.assert_array_equal(once.moments, twice.moments)
    np.testing.assert_allclose(once.moments[0], np.ones((8, 8)) + np.eye(8), atol=0.3)


@pytest.mark.parametrize(
    "body",
    [
        'y = Conv <auto_pad = "SAME_UPPER"> (x, w)',
        "y = ConvTranspose (x, w)",
        "v = Abs (x)  y = Conv (v, x)",
    ],
)
def test_other_layers_are_left_out(body: str) -> None:
    model = parse(
        f"g (float[4, 4, 1, 1] x) => (float[] y) {{ {body} }}", {"w": drawn(1, 4, 4, 1, 1)}
    )
    feed = {"x": drawn(2, 4, 4, 1, 1)}
    assert second_moments(model, [feed]) == {}


def kernel_and_moments() -> tuple[Array, Array, Array]:
    """Weights, steps, and moments of inputs that have much in common."""
    generator = np.random.default_rng(6)
    kernel = generator.standard_normal((2, 5, 40))
    steps = np.abs(kernel).max(axis=2) / LIMIT
    common = generator.standard_normal((2, 40, 4))
    return kernel, steps, common @ common.transpose(0, 2, 1) + 0.05 * np.eye(40)


def noise(kernel: Array, steps: Array, integers: Array, moments: Array) -> float:
    error = kernel - integers * steps[:, :, None]
    return float(np.einsum("goi,gij,goj->", error, moments, error))


def test_rounding_keeps_the_output() -> None:
    kernel, steps, moments = kernel_and_moments()
    nearest = np.rint(kernel / steps[:, :, None])
    found = rounded(kernel, steps, moments)
    assert found.dtype == np.int8
    assert found.shape == kernel.shape
    assert np.abs(found).max() <= LIMIT
    assert noise(kernel, steps, found, moments) < 0.25 * noise(kernel, steps, nearest, moments)


def test_inputs_without_anything_in_common_leave_the_nearest_integers() -> None:
    kernel, steps, _ = kernel_and_moments()
    moments = np.broadcast_to(np.diag(np.linspace(1, 2, 40)), (2, 40, 40))
    np.testing.assert_array_equal(
        rounded(kernel, steps, moments), np.rint(kernel / steps[:, :, None])
    )


def test_weights_on_the_grid_stay() -> None:
    kernel, steps, moments = kernel_and_moments()
    integers = np.rint(kernel / steps[:, :, None])
    np.testing.assert_array_equal(rounded(integers * steps[:, :, None], steps, moments), integers)


@pytest.mark.parametrize("moments", [np.zeros((2, 40, 40)), np.ones((2, 40, 40))])
def test_inputs_that_tell_little(moments: Array) -> None:
    """Nothing but zeros was read, or all inputs are the same one."""
    kernel, steps, _ = kernel_and_moments()
    found = rounded(kernel, steps, moments)
    assert np.abs(found - kernel / steps[:, :, None]).max() < 3


def test_inputs_too_large_to_be_squared() -> None:
    kernel, steps, moments = kernel_and_moments()
    moments[0, 3, 5] = np.inf
    np.testing.assert_array_equal(
        rounded(kernel, steps, moments), np.rint(kernel / steps[:, :, None])
    )


@pytest.fixture(scope="module")
def feeds() -> list[Feed]:
    return [{"image": feed["image"] + np.float32(1)} for feed in pictures(12)]


@pytest.mark.parametrize("target", ["ort-cpu", "openvino", "tensorrt"])
def test_only_integers_of_weights_change(target: str, feeds: list[Feed]) -> None:
    net = depthwise_net(spread=1.0)
    before = Quantizer(net, feeds, target).build()
    kept = before.SerializeToString()
    after = AdaptiveRounding(net, second_moments(net, feeds)).apply(before)
    assert before.SerializeToString() == kept
    assert after.graph.node == before.graph.node
    old, new = (
        {name: numpy_helper.to_array(tensor) for name, tensor in constants_of(each.graph).items()}
        for each in (before, after)
    )
    assert old.keys() == new.keys()
    changed = [name for name in old if not np.array_equal(old[name], new[name])]
    assert len(changed) >= 3
    assert {old[name].dtype for name in changed} == {np.dtype(np.int8)}
    assert all(np.abs(new[name]).max() <= LIMIT for name in changed)


def test_a_weight_of_two_layers_is_left_alone(feeds: list[Feed]) -> None:
    body = """net (float[1, 3, 24, 24] image) => (float[] y) {
        a = Conv (image, w)  r = Relu (a)  b = Conv (r, w)  y = Conv (b, v)
    }"""
    net = parse(body, {"w": drawn(1, 3, 3, 1, 1), "v": drawn(2, 4, 3, 1, 1)}, opset=17)
    before = Quantizer(net, feeds).build()
    after = AdaptiveRounding(net, second_moments(net, feeds)).apply(before)
    shared = [
        name
        for name, tensor in constants_of(before.graph).items()
        if tensor.data_type == onnx.TensorProto.INT8 and list(tensor.dims) == [3, 3, 1, 1]
    ]
    assert shared
    for name in shared:
        assert constants_of(after.graph)[name] == constants_of(before.graph)[name]


def test_the_trained_network_gains() -> None:
    """On scenes that neither ranges nor moments have seen."""
    quantized = demo_quantizer().build()
    rounding = AdaptiveRounding(demo(), second_moments(demo(), demo_feeds(4)))
    evaluation = Evaluation(demo(), demo_feeds(2, fresh=True))
    before, after = (evaluation.compare(each) for each in (quantized, rounding.apply(quantized)))
    assert after.sqnr > before.sqnr + 2


@pytest.mark.parametrize("rounding", Rounding)
def test_quantize_says_how_weights_are_rounded(rounding: Rounding, feeds: list[Feed]) -> None:
    options = QuantizeOptions(
        rounding=rounding, threads=1, seconds=0.01, force=True, max_drop=None, equalize=False
    )
    net = depthwise_net(spread=0.2)
    result = quantize(net, None, feeds, target="tensorrt", options=options)
    notes = [note for note in result.report.notes if note.startswith("weights are ")]
    assert len(notes) == (rounding is Rounding.ADAPTIVE)
