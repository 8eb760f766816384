"""Whether merging branches has made layers worse to quantize, layer by layer.

A kernel that sums up branches may have outliers that the branches did not have, and a larger
variance. At the values where both graphs agree, each is measured alone: everything before it is
restored to float, so that what is left is what the merged layer, or the block of branches, does to
undisturbed inputs. Where the merged layer makes over twice the noise, the parts of that noise say
what helps.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
import onnx
from onnx import numpy_helper

from onnxfold.calibrate.chunks import Samples
from onnxfold.quantize.evaluation import Feed, held
from onnxfold.quantize.layers import (
    Layer,
    behind_qdq,
    constants_of,
    layer_name,
    layers_of,
    producers_of,
)
from onnxfold.quantize.metrics import Distortion
from onnxfold.quantize.paired import LayerError, PairedModel

RISKY = 2.0
"""Noise of a merged layer over that of its branches that is worth a report."""


class Remedy(StrEnum):
    """What helps a merged layer.

    Attributes:
        BIAS: It is a shift of the mean that makes the difference; correcting biases removes it.
        SPLIT: Most of it comes from rounded weights: a coarse and a fine kernel side by side.
        EQUALIZE: Most of it comes from the steps of activations: equalization, or float.
    """

    BIAS = "correct its bias"
    SPLIT = "split its weights into a coarse and a fine kernel"
    EQUALIZE = "equalize its input channels, or leave it in float"


@dataclass(frozen=True, slots=True)
class FoldRisk:
    """A merged layer beside the branches that it was made of.

    Attributes:
        layer: Its name.
        merged: SQNR of the merged layer on float inputs, in dB.
        branches: The same of the block of branches.
        ratio: Noise of the merged layer over that of the branches.
        drift_share: How much of its noise is a shift of the means of channels.
        weight_share: How much of it is there with rounded weights and float activations.
        spread: Largest ratio of the largest to the median weight of an output channel.
        remedy: What helps.
    """

    layer: str
    merged: float
    branches: float
    ratio: float
    drift_share: float
    weight_share: float
    spread: float
    remedy: Remedy


@dataclass(frozen=True, slots=True)
class QuantizedPair:
    """A float model and its Q/DQ form."""

    model: onnx.ModelProto
    quantized: onnx.ModelProto


def fold_risks(
    merged: QuantizedPair,
    branches: QuantizedPair,
    samples: Samples | Sequence[Feed],
    threads: int = 1,
    risky: float = RISKY,
) -> list[FoldRisk]:
    """The merged layers that quantize worse than what they were made of, the worst first.

    Args:
        merged: With folds made.
        branches: Without them. Outputs of folds have the same names in both.
        samples: A few are enough.
        threads: Threads per operator.
        risky: Report ratios of noise above this.

    Raises:
        CannotRunError: The runtime does not take a model or a sample.
    """
    layers, twins = _common(merged, branches)
    if not layers:
        return []
    source = held(samples)
    names = [layer.name for layer in layers]
    own = _alone(merged, layers, names, source, threads)
    theirs = _alone(branches, twins, names, source, threads)
    stepless = QuantizedPair(merged.model, without_activation_steps(merged.quantized))
    weights = _alone(stepless, layers, names, source, threads)
    spreads = _spreads(merged.model)
    found = [
        _risk(own[name], theirs[name], weights[name].distortion, name, spreads[name])
        for name in names
    ]
    return sorted((each for each in found if each.ratio > risky), key=lambda each: -each.ratio)


def _common(merged: QuantizedPair, branches: QuantizedPair) -> tuple[list[Layer], list[Layer]]:
    """The layers that were merged, and the same values in the other models."""
    before = producers_of(branches.model.graph)
    after = producers_of(merged.model.graph)
    produced = producers_of(branches.quantized.graph)
    layers, twins = [], []
    for layer in layers_of(merged.model, merged.quantized):
        old, made = before.get(layer.name), behind_qdq(layer.name, produced)
        if old is None or made is None or _is_same(old, after[layer.name]):
            continue
        layers.append(layer)
        twins.append(replace(layer, quantized=made.output[0]))
    return layers, twins


def _is_same(one: onnx.NodeProto, other: onnx.NodeProto) -> bool:
    """Whether no fold was made: the same operator reads the same weight."""
    return one.op_type == other.op_type and one.input[1:2] == other.input[1:2]


def _alone(
    pair: QuantizedPair,
    layers: Sequence[Layer],
    restored: Sequence[str],
    samples: Samples,
    threads: int,
) -> dict[str, LayerError]:
    paired = PairedModel(pair.model, pair.quantized, layers, restored=restored, threads=threads)
    return paired.run_all(samples)


def _risk(
    own: LayerError, theirs: LayerError, weights: Distortion, name: str, spread: float
) -> FoldRisk:
    noise = own.distortion.noise
    drift = float((own.mean_error**2).sum()) * own.count
    drift_share = min(drift / noise, 1.0) if noise else 0.0
    weight_share = min(weights.noise / noise, 1.0) if noise else 0.0
    ratio = noise / theirs.distortion.noise if theirs.distortion.noise else 1.0
    remedy = Remedy.SPLIT if weight_share > 0.5 else Remedy.EQUALIZE
    if ratio * (1 - drift_share) <= RISKY:
        remedy = Remedy.BIAS
    return FoldRisk(
        layer=name,
        merged=own.distortion.decibels,
        branches=theirs.distortion.decibels,
        ratio=ratio,
        drift_share=drift_share,
        weight_share=weight_share,
        spread=spread,
        remedy=remedy,
    )


def _spreads(model: onnx.ModelProto) -> dict[str, float]:
    """Largest over median magnitude of the weights of the worst output channel, by layer."""
    weights = constants_of(model.graph)
    found = {}
    for node in model.graph.node:
        if len(node.input) > 1 and node.input[1] in weights:
            rows = np.abs(numpy_helper.to_array(weights[node.input[1]])).astype(np.float64)
            rows = rows.reshape(rows.shape[0], -1) if rows.ndim > 1 else rows.reshape(1, -1)
            if rows.size:
                median = np.maximum(np.median(rows, axis=1), np.finfo(np.float32).tiny)
                found[layer_name(node)] = float((rows.max(axis=1) / median).max())
    return found


def without_activation_steps(quantized: onnx.ModelProto) -> onnx.ModelProto:
    """A Q/DQ model whose weights stay rounded, and whose activations are handed on in float."""
    result = onnx.ModelProto()
    result.CopyFrom(quantized)
    producers = producers_of(result.graph)
    renamed = {}
    for node in result.graph.node:
        before = producers.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if before is not None and before.op_type == "QuantizeLinear":
            renamed[node.output[0]] = before.input[0]
    outputs = {output.name for output in result.graph.output}
    for node in result.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
    for node in list(result.graph.node):
        if node.op_type == "DequantizeLinear" and node.output[0] in outputs & renamed.keys():
            source = renamed[node.output[0]]
            node.op_type = "Identity"
            del node.input[:], node.attribute[:]
            node.input.append(source)
    return result
