"""As few layers as keep the budget stay float."""

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from onnxfold.errors import BadOptionError
from onnxfold.quantize.evaluation import Evaluation
from onnxfold.quantize.metrics import Agreement, Comparison, Distortion, OutputComparison
from onnxfold.quantize.mixed_precision import DEFAULT_BUDGET, search
from onnxfold.quantize.sensitivity import Trials
from tests.quantize.flow import (
    Quantizer,
    demo,
    demo_feeds,
    demo_labels,
    demo_quantizer,
)


def spoiled_demo() -> tuple[onnx.ModelProto, str]:
    """The demonstration network with one layer that integers hold badly, and its name.

    The input channel with the smallest weights is divided by 4096 before the layer, and its weights
    are multiplied by as much: the same network, which lost the steps of that layer's weights.
    """
    model = onnx.ModelProto()
    model.CopyFrom(demo())
    producers = {node.output[0]: node for node in model.graph.node}
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    reader = next(n for n in model.graph.node if n.op_type == "Conv" and "/to_half" in n.output[0])
    source = producers[producers[reader.input[0]].input[0]]
    channel = int(np.abs(_array(weights, reader.input[1])).max(axis=(0, 2, 3)).argmin())
    factor = np.float32(4096)
    for name, index, by in (
        (source.input[1], np.s_[channel], 1 / factor),
        (source.input[2], np.s_[channel], 1 / factor),
        (reader.input[1], np.s_[:, channel], factor),
    ):
        changed = _array(weights, name).copy()
        changed[index] *= by
        weights[name].CopyFrom(numpy_helper.from_array(changed, name))
    return model, reader.output[0]


def _array(weights: dict[str, onnx.TensorProto], name: str) -> NDArray[Any]:
    return numpy_helper.to_array(weights[name])


def test_a_model_within_its_budget_is_left_as_it_is() -> None:
    evaluation = Evaluation(demo(), demo_feeds(8), demo_labels(8))
    quantizer = demo_quantizer()
    found = search(Trials(quantizer.build, evaluation.compare), quantizer.layers())
    assert found.excluded == frozenset()
    assert found.within_budget
    assert found.trials == 1
    assert found.comparison.drop is not None
    assert found.comparison.drop <= DEFAULT_BUDGET


def test_the_one_layer_that_costs_accuracy_is_found() -> None:
    model, spoiled = spoiled_demo()
    quantizer = Quantizer(model, demo_feeds(8))
    evaluation = Evaluation(model, demo_feeds(8), demo_labels(8))
    trials = Trials(quantizer.build, evaluation.compare)
    start = trials.without(frozenset())
    assert start.drop is not None
    assert start.drop > 1
    found = search(trials, quantizer.layers(), budget=0.5)
    assert found.excluded == {spoiled}
    assert found.within_budget
    assert found.comparison.drop is not None
    assert found.comparison.drop <= 0.5


def table(drops: dict[frozenset[str], float], noises: dict[str, float]) -> Trials:
    """Trials with known outcomes: the drop of each set of float layers, and noise of each layer."""

    def compare(model: onnx.ModelProto) -> Comparison:
        excluded = frozenset(model.graph.name.split())
        noise = 1e-9 + sum(each for name, each in noises.items() if name not in excluded)
        lost = min((drop for known, drop in drops.items() if known <= excluded), default=100.0)
        agreement = Agreement(round(1e6 - 1e4 * lost), 1_000_000)
        return Comparison({"y": OutputComparison(Distortion(1.0, noise), agreement)}, samples=1)

    def build(excluded: frozenset[str]) -> onnx.ModelProto:
        return onnx.ModelProto(graph=onnx.GraphProto(name=" ".join(sorted(excluded))))

    return Trials(build, compare)


NOISES = {"a": 4.0, "b": 1.0, "c": 3.0, "d": 0.5}


def test_what_the_budget_does_not_need_is_quantized_again() -> None:
    drops = {frozenset[str](): 9.0, frozenset({"c"}): 0.1}
    found = search(table(drops, NOISES), list(NOISES), budget=0.3)
    assert found.excluded == {"c"}
    assert found.within_budget


def test_all_of_several_are_needed() -> None:
    drops = {frozenset[str](): 9.0, frozenset({"a"}): 5.0, frozenset({"a", "c"}): 0.2}
    found = search(table(drops, NOISES), list(NOISES), budget=0.3)
    assert found.excluded == {"a", "c"}


def test_the_same_result_with_few_models() -> None:
    drops = {frozenset[str](): 9.0, frozenset({"a"}): 5.0, frozenset({"a", "c"}): 0.2}
    found = search(table(drops, NOISES), list(NOISES), budget=0.3, most=6)
    assert found.within_budget
    assert found.excluded >= {"a", "c"}


def test_a_budget_out_of_reach_is_admitted() -> None:
    found = search(table({frozenset[str](): 9.0}, NOISES), list(NOISES), budget=0.3)
    assert not found.within_budget
    assert found.excluded == set(NOISES)


def test_of_two_ways_the_cheap_one_is_taken() -> None:
    drops = {frozenset[str](): 9.0, frozenset({"a"}): 0.2, frozenset({"c"}): 0.2}
    dear = {"a": 1e-3, "b": 1e-6, "c": 1e-6, "d": 1e-6}
    assert search(table(drops, NOISES), list(NOISES)).excluded == {"a"}
    assert search(table(drops, NOISES), list(NOISES), seconds=dear).excluded == {"c"}


def test_without_anything_to_judge_by_there_is_no_budget() -> None:
    silent = Comparison({"y": OutputComparison(Distortion(1.0, 0.1), None)}, samples=1)
    trials = Trials(lambda _: onnx.ModelProto(), lambda _: silent)
    with pytest.raises(BadOptionError, match="nothing to measure a drop"):
        search(trials, ["a"])
