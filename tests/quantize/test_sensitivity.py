"""Layers are ranked by what leaving them in float gains."""

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from onnxfold.quantize.evaluation import Evaluation
from onnxfold.quantize.metrics import Comparison, Distortion, OutputComparison
from onnxfold.quantize.sensitivity import Trials, rank_layers
from tests.quantize.flow import Quantizer, drawn, pictures
from tests.toolkit import parse

DEPTH = 12


def chain(spoiled: tuple[int, ...] = (), largest: float = 40) -> onnx.ModelProto:
    """Convolutions c0, c1, …; `spoiled` ones have weights that integers hold badly."""
    lines: list[str] = []
    weights: dict[str, NDArray[np.float32]] = {}
    source = "image"
    for index in range(DEPTH):
        inputs = 3 if index == 0 else 8
        weight = drawn(index, 8, inputs, 1, 1, scale=0.5)
        if index in spoiled:
            # The reader of a channel that is nearly zero everywhere: its large weight takes all
            # steps of the row.
            weights[f"w{index - 1}"][0] *= np.float32(1e-4)
            weight[:, 0] = largest
        weights[f"w{index}"] = weight
        lines.append(f"c{index} = Conv ({source}, w{index})  r{index} = Relu (c{index})")
        source = f"r{index}"
    body = "\n".join(lines)
    return parse(
        f"""g (float[1, 3, 24, 24] image) => (float[] y) {{
            {body}
            y = Conv ({source}, last)
        }}""",
        {**weights, "last": drawn(99, 4, 8, 1, 1)},
        opset=17,
    )


def trials_of(model: onnx.ModelProto) -> tuple[Trials, list[str]]:
    feeds = pictures(6)
    quantizer = Quantizer(model, feeds)
    return Trials(quantizer.build, Evaluation(model, feeds).compare), quantizer.layers()


def test_the_spoiled_layer_comes_first() -> None:
    trials, layers = trials_of(chain(spoiled=(7,)))
    ranked = rank_layers(trials, layers)
    assert ranked[0].layers == {"c7"}
    assert ranked[0].gain > 0.5
    assert ranked[0].gain > 3 * ranked[1].gain


def test_an_error_that_a_larger_one_hides_shows_when_that_is_gone() -> None:
    trials, layers = trials_of(chain(spoiled=(3, 9), largest=80))
    assert rank_layers(trials, layers)[0].layers == {"c3"}
    rest = [layer for layer in layers if layer != "c3"]
    assert rank_layers(trials, rest, excluded=frozenset({"c3"}))[0].layers == {"c9"}


def test_groups_are_disjoint_and_hold_everything() -> None:
    trials, layers = trials_of(chain())
    ranked = rank_layers(trials, layers, most=14)
    held = [layer for effect in ranked for layer in effect.layers]
    assert sorted(held) == sorted(layers)
    assert [each.gain for each in ranked] == sorted((e.gain for e in ranked), reverse=True)


@pytest.mark.parametrize("most", [10, 14, 30])
def test_no_more_models_are_built_than_allowed(most: int) -> None:
    trials, layers = trials_of(chain(spoiled=(7,)))
    rank_layers(trials, layers, most=most)
    assert len(trials) <= most + 1


def test_a_set_is_built_once() -> None:
    built: list[frozenset[str]] = []
    model = chain()
    quantizer = Quantizer(model, pictures(2))

    def build(excluded: frozenset[str]) -> onnx.ModelProto:
        built.append(excluded)
        return quantizer.build(excluded)

    trials = Trials(build, Evaluation(model, pictures(2)).compare)
    first = trials.without(frozenset({"c1"}))
    assert trials.without(frozenset({"c1"})) is first
    assert built == [frozenset({"c1"})]


def test_nothing_quantized_nothing_ranked() -> None:
    perfect = Comparison({"y": OutputComparison(Distortion(1.0, 0.0), None)}, samples=1)
    trials = Trials(lambda _: onnx.ModelProto(), lambda _: perfect)
    assert rank_layers(trials, []) == []
    (only,) = rank_layers(trials, ["a", "b"])
    assert only.layers == {"a", "b"}
    assert only.gain == 0


def test_the_spoiled_weights_are_what_hurts() -> None:
    """The premise of the tests above: the weight itself loses its small entries."""
    model = chain(spoiled=(7,))
    tensor = next(each for each in model.graph.initializer if each.name == "w7")
    weight = numpy_helper.to_array(tensor)
    steps = np.abs(weight).max(axis=(1, 2, 3)) / 127
    assert (np.abs(weight[:, 1:]).mean(axis=(1, 2, 3)) < 2 * steps).all()
