"""Merged layers that quantize badly are found, and what helps them helps."""

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnxfold.errors import BadOptionError
from onnxfold.quantize.bias_correction import correct_biases
from onnxfold.quantize.evaluation import Evaluation
from onnxfold.quantize.fold_risk import (
    QuantizedPair,
    Remedy,
    fold_risks,
    without_activation_steps,
)
from onnxfold.quantize.split_weights import split_weights
from tests.quantize.flow import Feed, Quantizer, drawn, pictures
from tests.toolkit import parse, rewritten, run_ort

CHANNELS = 8


def block(identity: float, opset: int = 17) -> onnx.ModelProto:
    """A RepVGG block `m` whose identity branch is multiplied by a number, between two layers."""
    gain = np.full((CHANNELS, 1, 1, 1), identity, np.float32)
    diagonal = np.eye(CHANNELS, dtype=np.float32)[:, :, None, None] * gain
    body = """g (float[1, 3, 24, 24] image) => (float[] y) {
        a = Conv <pads = [1, 1, 1, 1]> (image, wa, ba)  r = Relu (a)
        k = Conv <pads = [1, 1, 1, 1]> (r, wk, bk)  p = Conv (r, wp)  i = Conv (r, wi)
        s = Add (k, p)  m = Add (s, i)  q = Relu (m)  y = Conv (q, wy)
    }"""
    weights = {
        "wa": drawn(1, CHANNELS, 3, 3, 3, scale=0.3),
        "ba": drawn(2, CHANNELS),
        "wk": drawn(3, CHANNELS, CHANNELS, 3, 3, scale=0.05),
        "bk": drawn(4, CHANNELS),
        "wp": drawn(5, CHANNELS, CHANNELS, 1, 1, scale=0.05),
        "wi": diagonal,
        "wy": drawn(6, 4, CHANNELS, 1, 1),
    }
    return parse(body, weights, opset=opset)


def quantized(model: onnx.ModelProto, feeds: list[Feed]) -> QuantizedPair:
    return QuantizedPair(model, Quantizer(model, feeds).build())


def merged(model: onnx.ModelProto) -> onnx.ModelProto:
    found, _ = rewritten(model, ("merge_branches",))
    assert [node.op_type for node in found.graph.node].count("Conv") == 3
    return found


@pytest.fixture(scope="module")
def feeds() -> list[Feed]:
    return pictures(6)


def test_a_large_identity_makes_the_merged_kernel_risky(feeds: list[Feed]) -> None:
    branches = block(identity=8)
    (risk,) = fold_risks(quantized(merged(branches), feeds), quantized(branches, feeds), feeds)
    assert risk.layer == "m"
    assert risk.ratio > 2
    assert risk.merged < risk.branches
    assert risk.weight_share > 0.5
    assert risk.spread > 50
    assert risk.remedy is not Remedy.EQUALIZE


def test_branches_of_one_size_merge_without_risk(feeds: list[Feed]) -> None:
    branches = block(identity=0.1)
    pairs = quantized(merged(branches), feeds), quantized(branches, feeds)
    assert fold_risks(*pairs, feeds) == []
    (all_of_them,) = fold_risks(*pairs, feeds, risky=0)
    assert all_of_them.ratio < 2


def test_layers_that_were_not_merged_are_not_compared(feeds: list[Feed]) -> None:
    pair = quantized(block(identity=8), feeds)
    assert fold_risks(pair, pair, feeds, risky=0) == []


def test_split_weights_compute_the_same(feeds: list[Feed]) -> None:
    model = merged(block(identity=8))
    split = split_weights(model, "m")
    onnx.checker.check_model(split, full_check=True)
    before, after = run_ort(model, feeds[0])[0], run_ort(split, feeds[0])[0]
    np.testing.assert_allclose(after, before, rtol=0, atol=2e-6 * np.abs(before).max())
    assert len(model.graph.node) + 2 == len(split.graph.node)


def test_what_is_proposed_helps(feeds: list[Feed]) -> None:
    model = merged(block(identity=8))
    plain, split = quantized(model, feeds), quantized(split_weights(model, "m"), feeds)
    corrected = correct_biases(model, plain.quantized, feeds).model
    evaluation = Evaluation(model, pictures(6, seed=9))
    before, with_bias, with_split = (
        evaluation.compare(each).sqnr for each in (plain.quantized, corrected, split.quantized)
    )
    assert with_bias > before
    assert with_split > before + 1


def test_only_a_convolution_can_be_split() -> None:
    with pytest.raises(BadOptionError, match="not the output of a Conv"):
        split_weights(block(1), "r")
    with pytest.raises(BadOptionError, match="not the output of a Conv"):
        split_weights(block(1), "nothing")


def test_activations_without_steps_leave_the_noise_of_weights(feeds: list[Feed]) -> None:
    pair = quantized(merged(block(identity=8)), feeds)
    stepless = without_activation_steps(pair.quantized)
    outputs = run_ort(stepless, feeds[0])[0], run_ort(pair.quantized, feeds[0])[0]
    exact: NDArray[Any] = run_ort(pair.model, feeds[0])[0]
    weights, both = (np.square(each - exact).sum() for each in outputs)
    assert 0 < weights < both
