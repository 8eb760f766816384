"""The observed values are the ones named, and what is told about them is true."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxfold.calibrate import Histogram, TensorStatistics
from onnxfold.calibrate.channels import channel_axes
from onnxfold.calibrate.collect import NonFiniteError, Observer, phase_of
from onnxfold.calibrate.instrument import SAMPLED, instrument, observable_values, step_for
from onnxfold.errors import BadModelError, BadOptionError, CannotRunError
from onnxfold.ir.shapes import infer_shapes
from onnxfold.model import load
from tests import zoo
from tests.calibrate.networks import (
    CONV_NET_VALUES,
    Array,
    Feed,
    conv_net,
    drawn,
    feeds,
    outputs_added,
)
from tests.toolkit import parse, run_ort


def observed(
    model: onnx.ModelProto, samples: list[Feed], *, optimized: bool = True
) -> dict[str, TensorStatistics]:
    observer = Observer(instrument(load(model)), optimized=optimized)
    return observer.observe(enumerate(samples))


def values_of(model: onnx.ModelProto, names: list[str], feed: Feed) -> dict[str, Array]:
    """The values by an unoptimised session; inputs as they are."""
    computed = [name for name in names if name not in feed]
    outputs = run_ort(outputs_added(model, computed), feed)
    return {**feed, **dict(zip(computed, outputs, strict=True))}


def sampled(array: Array, index: int) -> Array:
    step = step_for(array.size)
    return array.ravel()[phase_of(index) % step :: step]


def agrees(found: TensorStatistics, arrays: list[Array], indices: list[int], axis: int) -> None:
    """Up to the rounding that the runtime's optimizations change."""
    scale = max(float(np.abs(array).max()) for array in arrays)
    slack = 2e-4 * scale + 1e-30
    assert found.count == sum(array.size for array in arrays)
    np.testing.assert_allclose(found.minimum, min(a.min() for a in arrays), rtol=0, atol=slack)
    np.testing.assert_allclose(found.maximum, max(a.max() for a in arrays), rtol=0, atol=slack)
    parts = [sampled(array, index) for array, index in zip(arrays, indices, strict=True)]
    expected = Histogram.of(np.concatenate(parts))
    assert found.histogram.total == expected.total
    one, two = (np.cumsum(h.counts) / h.total for h in (found.histogram, expected))
    width = 2.0 ** max(found.histogram.exponent, expected.exponent)
    for share in (0.05, 0.5, 0.95):
        places = [
            h.edges[int(np.searchsorted(c, share))]
            for h, c in ((found.histogram, one), (expected, two))
        ]
        assert abs(places[0] - places[1]) <= 4 * width + slack
    if found.channels is None:
        return
    for array, reduce, seen in (
        (arrays, np.min, found.channel_minimum),
        (arrays, np.max, found.channel_maximum),
        (arrays, np.mean, found.channel_mean),
    ):
        rows = [
            reduce(np.moveaxis(each, axis, 0).reshape(each.shape[axis], -1), axis=1)
            for each in array
        ]
        expected_rows = np.mean(rows, axis=0) if reduce is np.mean else reduce(rows, axis=0)
        np.testing.assert_allclose(np.asarray(seen), expected_rows, rtol=0, atol=slack)


@pytest.mark.parametrize("opset", [12, 13, 17, 18, 21])
def test_what_is_told_is_true(opset: int) -> None:
    model, samples = conv_net(opset), feeds(5)
    found = observed(model, samples)
    assert list(found) == CONV_NET_VALUES
    runs = [values_of(model, CONV_NET_VALUES, feed) for feed in samples]
    for name, stats in found.items():
        agrees(stats, [run[name] for run in runs], list(range(5)), 1)
        assert stats.channels is not None


def test_inputs_are_told_to_the_bit() -> None:
    samples = feeds(3, 40, 60)
    stats = observed(conv_net(size="40, 60"), samples)["image"]
    arrays = [feed["image"] for feed in samples]
    expected = Histogram.of(np.concatenate([sampled(a, i) for i, a in enumerate(arrays)]))
    assert stats.histogram == expected
    assert SAMPLED < expected.total / 3 <= 2 * SAMPLED
    whole = TensorStatistics.of(np.concatenate(arrays), 1)
    assert (stats.minimum, stats.maximum) == (whole.minimum, whole.maximum)
    np.testing.assert_array_equal(stats.channel_minimum, whole.channel_minimum)
    np.testing.assert_array_equal(stats.channel_maximum, whole.channel_maximum)


def test_zeros_are_counted() -> None:
    found = observed(conv_net(), feeds(2))
    assert found["image"].zeros == 0
    relu = values_of(conv_net(), ["r1"], feeds(1)[0])["r1"]
    share = found["r1"].zeros / found["r1"].histogram.total
    assert share == pytest.approx(np.mean(relu == 0.0), abs=0.05)
    assert found["r1"].histogram.first == 0


def test_open_shapes_give_what_fixed_ones_give() -> None:
    samples = [*feeds(2, 24, 20), *feeds(1, 60, 100, seed=7)]
    open_net = conv_net(size="H, W")
    found = observed(open_net, samples)
    assert list(found) == CONV_NET_VALUES
    runs = [values_of(open_net, CONV_NET_VALUES, feed) for feed in samples]
    for name, stats in found.items():
        arrays = [run[name] for run in runs]
        assert stats.count == sum(array.size for array in arrays)
        scale = 2e-4 * max(float(np.abs(array).max()) for array in arrays)
        assert abs(stats.minimum - min(array.min() for array in arrays)) <= scale
        assert abs(stats.maximum - max(array.max() for array in arrays)) <= scale
        assert stats.histogram.total <= sum(min(each.size, 2 * SAMPLED) for each in arrays)
        assert stats.histogram.total >= sum(min(each.size, SAMPLED) for each in arrays) - 3


ONE_OF_EACH = """
net (float[2, 6, 5] x, double[3] d, int64[1] k, float s) => (float[] y, double[] e) {
    h = Cast <to = 10> (x)
    g = Cast <to = 1> (h)
    m = MatMul (g, w)
    n = Add (m, v)
    t = Transpose <perm = [0, 2, 1]> (n)
    e = Neg (d)
    kk = Add (k, k)
    p = Mul (s, s)
    c = Constant <value = float[1] {2.0}> ()
    cc = Neg (c)
    unread = Relu (x)
    q = Mul (t, cc)
    y = Add (q, p)
}"""


FLOATS = ("x", "d", "s", "h", "g", "m", "n", "t", "e", "p", "q", "y")


def test_types_and_ranks() -> None:
    model = parse(ONE_OF_EACH, {"w": drawn(1, 5, 4), "v": drawn(2, 4)})
    feed: Feed = {
        "x": drawn(3, 2, 6, 5),
        "d": drawn(4, 3).astype(np.float64),
        "k": np.array([3], np.int64),
        "s": np.array(2.0, np.float32),
    }
    found = observed(model, [feed])
    assert set(found) == set(FLOATS)
    names = ["x", "h", "m", "n", "t", "e", "p", "q", "y"]
    truth = values_of(model, names, feed)
    for name in names:
        assert found[name].minimum == pytest.approx(float(truth[name].min()), rel=1e-5)
        assert found[name].count == truth[name].size == found[name].histogram.total
    channels = {name: found[name].channel_mean for name in found}
    assert channels["d"] is None
    assert channels["p"] is None
    assert {name: len(each) for name, each in channels.items() if each is not None} == {
        **{"x": 6, "h": 6, "g": 5, "m": 4, "n": 4},
        **{"t": 4, "q": 4, "y": 4},
    }


def test_channel_axes() -> None:
    body = """net (float[1, 4, 8, 8] x) => (float[] y) {
        a = Conv (x, k)
        b = Relu (a)
        f = Transpose <perm = [0, 2, 3, 1]> (b)
        n = LayerNormalization <axis = -1> (f, g)
        u = Sigmoid (n)
        m = MatMul (u, w)
        r = Relu (m)
        y = Transpose <perm = [0, 3, 1, 2]> (r)
    }"""
    weights = {"k": drawn(1, 5, 4, 1, 1), "g": drawn(2, 5), "w": drawn(3, 5, 7)}
    model = load(parse(body, weights)).model
    infer_shapes(model)
    axes = channel_axes(model.graph)
    assert {name: axes[name] for name in "xabfnumry"} == {
        **{"x": 1, "a": 1, "b": 1, "f": 3},
        **{"n": 3, "u": 3, "m": 3, "r": 3, "y": 1},
    }


def test_steps_meet_every_row_and_column() -> None:
    for size in (1, 4096, 4097, 3 * 224 * 224, 64 * 56 * 56, 7**6, 2**20, 10_000_019):
        step = step_for(size)
        assert math.gcd(step, size) == 1
        assert step <= max(1, size / SAMPLED)
        assert step >= min(0.9 * size / SAMPLED, size / SAMPLED - 6)
    with pytest.raises(ValueError, match="without elements"):
        step_for(0)


def test_phases_look_drawn() -> None:
    phases = [phase_of(index) for index in range(1000)]
    assert len(set(phases)) == 1000
    assert all(0 <= phase < 2**62 for phase in phases)
    for step in (2, 3, 17, 49):
        counts = np.bincount([phase % step for phase in phases], minlength=step)
        assert counts.min() > 0.4 * 1000 / step


PADDED = """net (float[1, 3, 8, 8] x) => (float[] y) {
    n = Neg (x)
    p = Pad (n, pads)
    y = MaxPool <kernel_shape = [3, 3], strides = [2, 2]> (p)
}"""


def test_a_wrong_fusion_of_the_runtime_is_kept_out() -> None:
    """Zeros that Pad adds are the greatest numbers here, and the fused pool would not see them."""
    pads = np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64)
    model = parse(PADDED, {"pads": pads})
    feed = {"x": np.abs(drawn(1, 1, 3, 8, 8))}
    instrumented = instrument(load(model), ["x", "y"])
    found = Observer(instrumented).observe([(0, feed)])["y"]
    truth = values_of(model, ["y"], feed)["y"]
    assert found == TensorStatistics.of(truth, 1)
    assert found.maximum == 0.0


@pytest.mark.parametrize(
    "name",
    ["unet_resnet18.dynamo_opt", "mobilenetv3_small_100.script", "segformer_b0.dynamo"],
)
def test_real_networks_say_what_they_say_without_optimizations(name: str) -> None:
    model, samples = zoo.load(name), [zoo.feeds(name, seed=seed) for seed in range(2)]
    instrumented = instrument(load(model))
    fast = Observer(instrumented).observe(enumerate(samples))
    slow = Observer(instrumented, optimized=False).observe(enumerate(samples))
    assert fast.keys() == slow.keys()
    assert len(fast) > 50
    for value, found in fast.items():
        expected = slow[value]
        reach = max(abs(expected.minimum), abs(expected.maximum))
        assert found.count == expected.count, value
        assert abs(found.minimum - expected.minimum) <= 2e-3 * reach + 1e-6, value
        assert abs(found.maximum - expected.maximum) <= 2e-3 * reach + 1e-6, value
        assert (found.channels is None) == (expected.channels is None)
        if found.channel_mean is not None and expected.channel_mean is not None:
            error = np.abs(found.channel_mean - expected.channel_mean).max()
            assert error <= 2e-3 * reach + 1e-6, value


def test_only_what_is_asked_for_is_observed() -> None:
    loaded = load(conv_net())
    instrumented = instrument(loaded, ["pooled", "r1", "r1"])
    assert [value.name for value in instrumented.values] == ["r1", "pooled"]
    found = Observer(instrumented).observe([(4, feeds(1)[0])])
    assert list(found) == ["r1", "pooled"]
    constant = instrument(load(parse(ONE_OF_EACH, {"w": drawn(1, 5, 4), "v": drawn(2, 4)})), ["cc"])
    assert [value.name for value in constant.values] == ["cc"]
    again = Observer(instrument(load(conv_net()), ["r1", "pooled"]))
    assert again.observe([(4, feeds(1)[0])]) == found


def test_observable_values() -> None:
    model = load(parse(ONE_OF_EACH, {"w": drawn(1, 5, 4), "v": drawn(2, 4)})).model
    infer_shapes(model)
    assert observable_values(model) == FLOATS


@pytest.mark.parametrize("name", ["nothing", "w1", ""])
def test_values_that_cannot_be_observed(name: str) -> None:
    with pytest.raises(BadOptionError, match="no floating-point value"):
        instrument(load(conv_net()), [name])


def test_models_that_cannot_be_observed() -> None:
    integers = parse("net (int64[2] x) => (int64[2] y) { y = Neg (x) }")
    with pytest.raises(BadOptionError, match="no values to observe"):
        instrument(load(integers))
    with pytest.raises(BadModelError, match="opset 11"):
        instrument(load(conv_net(11)))
    unknown = parse("net (float[2] x) => (float[2] y) { y = test.custom.Odd (x) }")
    with pytest.raises(CannotRunError, match=r"the runtime does not know the operator"):
        Observer(instrument(load(unknown)))


def test_names_that_are_taken() -> None:
    model = conv_net()
    model.graph.node[0].name = "observe:1"
    instrumented = instrument(load(model), ["r1"])
    names = [name for value in instrumented.values for name in value.outputs]
    assert not any(name.startswith("observe:") for name in names)
    Observer(instrumented).observe([(0, feeds(1)[0])])


def test_external_weights(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(conv_net(), path, save_as_external_data=True, size_threshold=0)
    found = Observer(instrument(load(path))).observe([(0, feeds(1)[0])])
    assert found == observed(conv_net(), feeds(1))


FEED = feeds(1)[0]


@pytest.mark.parametrize(
    ("feed", "message"),
    [
        ({}, "sample 7 has no array for the input image"),
        ({"picture": FEED["image"]}, "sample 7 has no array for the input image"),
        ({"image": drawn(1, 1, 3, 20, 24)}, "the shape 1x3x20x24, and the model takes 1x3x24x20"),
        ({"image": drawn(1, 3, 24, 20)}, "the shape 3x24x20, and the model takes 1x3x24x20"),
        ({"image": np.float32(1.0)}, "the shape scalar, and the model takes"),
        (
            {"image": FEED["image"].astype(np.complex64)},
            "as complex64, and the model takes float32",
        ),
    ],
)
def test_feeds_that_do_not_fit(feed: Mapping[str, Array], message: str) -> None:
    observer = Observer(instrument(load(conv_net())))
    with pytest.raises(BadOptionError) as caught:
        observer.observe([(7, feed)])
    assert message in caught.value.message
    assert caught.value.hint


def test_feeds_that_the_runtime_refuses() -> None:
    body = "net (float[N] x, float[M] z) => (float[] y) { y = Add (x, z) }"
    observer = Observer(instrument(load(parse(body)), ["y"]))
    with pytest.raises(CannotRunError, match="sample 0 cannot be run: "):
        observer.observe([(0, {"x": drawn(1, 3), "z": drawn(1, 4)})])


def test_doubles_are_taken_for_floats() -> None:
    feed = feeds(1)[0]
    wide = {"image": feed["image"].astype(np.float64)}
    assert observed(conv_net(), [wide]) == observed(conv_net(), [feed])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_noticed(bad: float) -> None:
    feed = feeds(1)[0]
    feed["image"][0, 1, 2, 3] = bad
    observer = Observer(instrument(load(conv_net()), ["s1", "logits"]))
    with pytest.raises(NonFiniteError) as caught:
        observer.observe([(3, feed)])
    assert (caught.value.index, caught.value.value) == (3, "s1")
