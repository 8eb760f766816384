"""The main job of INT8: from a float model and samples to a model that its target runs in INT8."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnxfold.calibrate.ranges import Method
from onnxfold.calibrate.samples import Samples, open_samples
from onnxfold.errors import (
    BadModelError,
    BadOptionError,
    NotAccurateError,
    NotFasterError,
    OnnxfoldError,
)
from onnxfold.model import load
from onnxfold.optimization import OptimizeOptions, optimize
from onnxfold.quantization import QuantizeOptions, quantize
from onnxfold.quantization.choose import best_method
from onnxfold.quantization.floats import with_shapes
from onnxfold.quantization.latency import latencies, refuse_slower
from onnxfold.quantization.observed import observed_values
from onnxfold.quantization.samples import use_of
from onnxfold.quantize.adaptive_rounding import Rounding
from onnxfold.quantize.metrics import Agreement, Comparison, Confusion, Distortion, OutputComparison
from onnxfold.targets.proof import Precision
from onnxfold.targets.target import TARGETS, target_named
from tests import zoo
from tests.toolkit import parse
from tests.verify.networks import conv_net

Feed = dict[str, NDArray[Any]]

QUICK: dict[str, Any] = {"threads": 1, "seconds": 0.01, "force": True, "max_drop": None}
"""Nothing here is about time: whatever is slower on the busy machine is written all the same."""


def net(depth: int = 2, channels: int = 16) -> onnx.ModelProto:
    return conv_net(depth, channels)


def feeds(count: int = 8) -> list[Feed]:
    rng = np.random.default_rng(3)
    return [{"x": rng.standard_normal((1, 3, 24, 24)).astype(np.float32)} for _ in range(count)]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("ort-cuda", "computes Q/DQ in float, which is slower"),
        ("generic", "an unknown backend computes Q/DQ in float"),
        ("tensort", "there is no target 'tensort'"),
    ],
)
def test_a_target_that_does_not_suit(target: str, message: str) -> None:
    with pytest.raises(BadOptionError, match=message) as caught:
        quantize(net(), None, feeds(), target=target)
    assert caught.value.hint


QUANTIZED = """
g (float[1, 2, 4, 4] x) => (float[1, 2, 4, 4] y) {
    q = QuantizeLinear(x, s, z)
    d = DequantizeLinear(q, s, z)
    y = Relu(d)
}
"""


def test_a_quantized_model_is_not_quantized_again(tmp_path: Path) -> None:
    model = parse(QUANTIZED, {"s": np.array(0.1, np.float32), "z": np.array(7, np.uint8)})
    with pytest.raises(BadModelError, match="quantized already: it holds QuantizeLinear") as caught:
        quantize(model, tmp_path / "out.onnx", feeds())
    assert "onnxfold optimize" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


TRAINED = """
g (float[1, 8, 12, 12] x) => (float[1, 8, 12, 12] y) {
    q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)
    wq = QuantizeLinear <axis = 0> (w, ws, wz)  wd = DequantizeLinear <axis = 0> (wq, ws, wz)
    c = Conv <pads = [1, 1, 1, 1]> (d, wd)
    b = BatchNormalization(c, g, h, m, v)  r = Relu(b)
    p = QuantizeLinear(r, s, n)  y = DequantizeLinear(p, s, n)
}
"""


def test_a_model_that_was_trained_quantized_is_left_equal() -> None:
    """A BatchNormalization would have to change integers, so it stays; so does every Q/DQ."""
    rng = np.random.default_rng(0)
    weights: dict[str, NDArray[Any]] = {
        "s": np.array(0.03, np.float32),
        "z": np.array(128, np.uint8),
        "n": np.array(0, np.uint8),
        "w": (0.1 * rng.standard_normal((8, 8, 3, 3))).astype(np.float32),
        "ws": np.full(8, 0.003, np.float32),
        "wz": np.zeros(8, np.int8),
        **{name: np.full(8, 1.5, np.float32) for name in "gv"},
        **{name: np.full(8, 0.1, np.float32) for name in "hm"},
    }
    model = parse(TRAINED, weights)
    result = optimize(model, options=OptimizeOptions(threads=1))
    assert result.report.verdict is not None
    assert result.report.verdict.equal
    before, after = (
        [node.op_type for node in each.graph.node] for each in (model, result.to_proto())
    )
    assert after == before
    assert any("not a floating-point constant" in each.reason for each in result.report.rejections)


def test_labels_of_other_samples() -> None:
    truth = [np.zeros((1, 24, 24), np.uint8)] * 3
    with pytest.raises(BadOptionError, match="there are 3 label maps for 8 samples"):
        quantize(net(), None, feeds(), truth=truth)


def test_nothing_is_left_to_quantize(tmp_path: Path) -> None:
    names = ("c0", "c1", "scores")
    options = QuantizeOptions(**{**QUICK, "force": False}, optimize=False, exclude=names)
    with pytest.raises(NotFasterError, match=r"nothing would run in INT8 on .*: it was excluded"):
        quantize(net(), tmp_path / "out.onnx", feeds(), options=options)
    assert not (tmp_path / "out.onnx").exists()


def test_what_is_excluded_stays_float() -> None:
    options = QuantizeOptions(**QUICK, optimize=False, exclude=("c1",))
    result = quantize(net(), None, feeds(), options=options)
    layers = {each.precision.layer: each.precision for each in result.report.layers}
    assert layers["c1"].precision is Precision.FLOAT
    assert layers["c1"].reason == "it was excluded"
    with pytest.raises(BadOptionError, match="there is no layer 'c9' to exclude"):
        quantize(net(), None, feeds(), options=QuantizeOptions(**QUICK, exclude=("c9",)))


@pytest.mark.parametrize(("target", "count"), [("ort-cpu", 1), ("openvino", 2), ("tensorrt", 0)])
def test_a_slower_model_is_refused(target: str, count: int) -> None:
    """A network of thirty times the work stands in for a quantized model that does not pay."""
    small, large = conv_net(1, 8), conv_net(6, 64)
    for floats, quantized in ((small, large), (large, small)):
        measured = latencies(
            target,
            floats,
            quantized,
            feeds(1)[0],
            seconds=0.01,
            threads=1,
            progress=lambda _: None,
        )
        assert len(measured) <= count
        assert bool(measured) is bool(count)
        if floats is small and count:
            with pytest.raises(NotFasterError, match=r"not faster .*: 0\.\d\d times its") as caught:
                refuse_slower(measured)
            assert caught.value.exit_code == 1
            assert "--force" in caught.value.hint
        else:
            refuse_slower(measured)


def test_a_budget_leaves_layers_in_float() -> None:
    options = QuantizeOptions(threads=1, max_drop=0.5, correct_biases=False)
    result = quantize(net(6), None, feeds(), target="tensorrt", options=options)
    (accuracy,) = result.report.accuracy
    assert accuracy.comparison.drop is not None
    assert accuracy.comparison.drop <= 0.5
    reasons = [layer.precision.reason for layer in result.report.float_layers]
    assert "it was too inexact in INT8" in reasons
    assert any("to keep the budget of 0.5 points" in note for note in result.report.notes)
    whole = quantize(net(6), None, feeds(), target="tensorrt", options=QuantizeOptions(**QUICK))
    drop = whole.report.accuracy[0].comparison.drop
    assert drop is not None
    assert drop > 1
    assert any(f"{drop:.1f} % of the labels change" in note for note in whole.report.notes)


def test_a_budget_that_cannot_be_kept(tmp_path: Path) -> None:
    options = QuantizeOptions(
        threads=1, seconds=0.01, max_drop=0.0, correct_biases=False, equalize=False
    )
    with pytest.raises((NotAccurateError, NotFasterError)) as caught:
        quantize(
            conv_net(1, 4), tmp_path / "out.onnx", feeds(2), target="tensorrt", options=options
        )
    assert caught.value.exit_code == 1
    assert not (tmp_path / "out.onnx").exists()


def test_float16_beside_int8(tmp_path: Path) -> None:
    options = QuantizeOptions(**QUICK, fp16=True)
    path = tmp_path / "net.onnx"
    result = quantize(net(), path, feeds(), target="tensorrt", options=options)
    made = onnx.load(path)
    assert made == result.model
    types = {each.data_type for each in made.graph.initializer}
    assert onnx.TensorProto.INT8 in types
    assert any("float16" in note for note in result.report.notes)
    assert all(f"--onnx={path}" in command for command in result.report.commands)


def test_float16_is_for_tensorrt() -> None:
    with pytest.raises(BadOptionError, match="is not faster with float16"):
        quantize(net(), None, feeds(), target="openvino", options=QuantizeOptions(fp16=True))


@pytest.mark.parametrize("count", [1, 31, 32, 33, 100, 500])
def test_samples_are_kept_apart(count: int) -> None:
    use = use_of(opened(count))
    calibrated, judged = set(use.calibrated.indices), set(use.judged.indices)
    assert calibrated | judged == set(range(count))
    assert use.held_out is (count >= 32)
    if use.held_out:
        assert not calibrated & judged
        assert len(judged) == min(32, count // 4)
        gaps = np.diff(sorted(judged))
        assert gaps.max() - gaps.min() <= 1
    else:
        assert calibrated == judged
    np.testing.assert_array_equal(
        use.judged.feed(0)["x"], opened(count).feed(use.judged.indices[0])["x"]
    )


@cache
def opened(count: int) -> Samples:
    arrays = ({"x": np.full((1, 3, 8, 8), index, np.float32)} for index in range(count))
    return open_samples(arrays, load(conv_net(1, 4, dims=("N", 3, "H", "W"))).model)


class Stopped(Exception):
    """Somebody pressed Ctrl-C."""


def test_an_interrupted_run_resumes(tmp_path: Path) -> None:
    whole = quantize(net(), None, feeds(24), target="tensorrt", options=QuantizeOptions(**QUICK))
    path = tmp_path / "out.onnx"

    def stop(text: str) -> None:
        if text == "calibrating: sample 16/24":
            raise Stopped

    with pytest.raises(Stopped):
        quantize(
            net(),
            path,
            feeds(24),
            target="tensorrt",
            options=QuantizeOptions(**QUICK),
            progress=stop,
        )
    assert [each.name for each in tmp_path.iterdir()] == ["out.onnx.channels.partial"]
    said: list[str] = []
    result = quantize(
        net(),
        path,
        feeds(24),
        target="tensorrt",
        options=QuantizeOptions(**QUICK),
        progress=said.append,
    )
    begun = [text for text in said if text.startswith("calibrating: ")]
    assert begun[0] == "calibrating: sample 24/24"
    assert result.model == whole.model
    assert [each.name for each in tmp_path.iterdir()] == ["out.onnx"]


def test_what_another_run_left_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "out.onnx"
    for what in ("channels", "ranges"):
        Path(f"{path}.{what}.partial").write_bytes(b"PK something else")
    quantize(net(), path, feeds(), target="tensorrt", options=QuantizeOptions(**QUICK))
    assert [each.name for each in tmp_path.iterdir()] == ["out.onnx"]


@pytest.mark.parametrize("equalize", [False, True])
def test_a_calibration_is_kept_and_taken_again(tmp_path: Path, equalize: bool) -> None:
    file = tmp_path / "ranges.npz"
    options = QuantizeOptions(**QUICK, equalize=equalize, calibration=file)
    first = quantize(net(), None, feeds(), target="tensorrt", options=options)
    kept = file.read_bytes()
    said: list[str] = []
    second = quantize(
        net(), None, feeds(), target="tensorrt", options=options, progress=said.append
    )
    assert second.model == first.model
    assert file.read_bytes() == kept
    if not equalize:
        assert not [text for text in said if text.startswith("calibrating")]
    with pytest.raises(BadOptionError, match="belongs to another graph"):
        quantize(net(3), None, feeds(), target="tensorrt", options=options)


BLOCK = """
g (float[1, 3, 24, 24] x) => (float[1, 4, 24, 24] y) {
    a = Conv <pads = [1, 1, 1, 1]> (x, wa)  r = Relu (a)
    k = Conv <pads = [1, 1, 1, 1]> (r, wk)  p = Conv (r, wp)  i = Conv (r, wi)
    s = Add (k, p)  m = Add (s, i)  q = Relu (m)  y = Conv (q, wy)
}
"""


@pytest.mark.parametrize(("identity", "harms"), [(0.02, False), (3.0, True)])
def test_merged_branches_that_harm_are_split(identity: float, harms: bool) -> None:
    """A strong skip in a merged kernel leaves few steps for the other weights."""
    rng = np.random.default_rng(1)

    def drawn(*shape: int, scale: float) -> NDArray[np.float32]:
        return (scale * rng.standard_normal(shape)).astype(np.float32)

    skip = identity * np.eye(32)[:, :, None, None]
    weights = {
        "wa": drawn(32, 3, 3, 3, scale=0.3),
        "wk": drawn(32, 32, 3, 3, scale=0.02),
        "wp": drawn(32, 32, 1, 1, scale=0.02),
        "wi": skip,
        "wy": drawn(4, 32, 1, 1, scale=1.0),
    }
    model = parse(BLOCK, {name: np.asarray(w, np.float32) for name, w in weights.items()})
    options = QuantizeOptions(
        **QUICK,
        method=Method.MINMAX,
        equalize=False,
        rounding=Rounding.NEAREST,  # the other one would nearly do without splitting
        correct_biases=False,
    )
    result = quantize(model, None, feeds(), target="tensorrt", options=options)
    notes = [note for note in result.report.notes if "merged" in note]
    assert len(notes) == 1, result.report.notes
    split = [node for node in result.model.graph.node if node.output[0] == "m.fine"]
    if harms:
        assert "split" in notes[0]
        assert len(split) == 1
    else:
        assert notes[0].startswith("merged branches cost no accuracy in INT8: ")
        assert not split


def test_not_a_number_names_the_layer() -> None:
    model = parse(
        "g (float[1, 2, 4, 4] x) => (float[1, 2, 4, 4] y) {"
        " l = Log(x)  c = Conv(l, w)  y = Relu(c) }",
        {"w": np.ones((2, 2, 1, 1), np.float32)},
    )
    bad = [{"x": np.full((1, 2, 4, 4), value, np.float32)} for value in (1.0, -1.0)]
    with pytest.raises(BadModelError, match=r"'?l'?.*NaN|NaN.*'l'"):
        quantize(model, None, bad, options=QuantizeOptions(**QUICK))


def test_too_few_samples_are_said() -> None:
    result = quantize(net(), None, feeds(2), target="tensorrt", options=QuantizeOptions(**QUICK))
    assert any("2" in text for text in result.report.warnings), result.report.warnings
    assert any("it was calibrated with" in note for note in result.report.notes)


@pytest.mark.parametrize(
    "bad", [{"max_drop": -1.0}, {"workers": 0}, {"threads": 0}, {"seconds": 0.0}]
)
def test_options_that_cannot_be_meant(bad: dict[str, Any]) -> None:
    with pytest.raises(OnnxfoldError) as caught:
        QuantizeOptions(**bad)
    assert caught.value.hint


def compared(noise: float, changed: int = 0, labels: int = 1000) -> Comparison:
    """A comparison of this much noise, in which this many labels have changed."""
    agreement = Agreement(labels - changed, labels)
    return Comparison({"y": OutputComparison(Distortion(1.0, noise), agreement)}, 1)


@pytest.mark.parametrize(
    ("found", "best"),
    [
        ({Method.MINMAX: compared(0.010), Method.MSE: compared(0.009)}, Method.MSE),
        ({Method.MSE: compared(0.010), Method.PERCENTILE: compared(0.009)}, Method.MSE),
        ({Method.MSE: compared(0.010), Method.PERCENTILE: compared(0.007)}, Method.PERCENTILE),
        ({Method.MINMAX: compared(0.010), Method.KL: compared(0.0085)}, Method.MINMAX),
        ({Method.MSE: compared(0.010, 50), Method.KL: compared(0.010, 20)}, Method.KL),
        ({Method.MSE: compared(0.010, 5, 100), Method.KL: compared(0.010, 2, 100)}, Method.MSE),
        ({Method.KL: compared(0.010)}, Method.KL),
    ],
)
def test_ranges_that_cut_have_to_be_clearly_better(
    found: dict[Method, Comparison], best: Method
) -> None:
    assert best_method(found) is best


def test_ranges_by_which_more_labels_are_right_than_in_float() -> None:
    truth, better = Confusion(np.array([[9, 1], [1, 9]])), Confusion(np.array([[10, 0], [1, 9]]))
    gains = replace(compared(0.01), truth=(truth, better))
    assert gains.drop is not None
    assert gains.drop < 0
    assert best_method({Method.MINMAX: compared(0.001), Method.MSE: gains}) is Method.MSE


def test_labels_have_a_budget_where_it_is_known_which_are_right() -> None:
    judged_by_truth = replace(compared(0.01), truth=(Confusion(np.eye(2, dtype=np.int64)),) * 2)
    assert QuantizeOptions().budget(compared(0.01)) is None
    assert QuantizeOptions().budget(judged_by_truth) == 0.3
    assert QuantizeOptions(max_drop=2.0).budget(compared(0.01)) == 2.0
    assert QuantizeOptions(max_drop=2.0).budget(judged_by_truth) == 2.0


NETWORKS = ("unet_mobilenet_v2.script", "fastvit_sa12_fpn.script", "segformer_b0.dynamo")


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("target", TARGETS)
def test_every_value_that_any_plan_wants_is_observed(name: str, target: str) -> None:
    model = with_shapes(zoo.load(name))
    known = set(observed_values(model, target_named(target), frozenset()))
    names = [node.outputs[0].name or "" for node in model.graph if node.outputs]
    generator = random.Random(name)
    for share in (0.0, 0.05, 0.1, 0.3, 0.5, 0.8):
        excluded = [each for each in names if generator.random() < share]
        wanted = target_named(target).plan(model.graph, excluded).sources()
        assert wanted.keys() <= known
