"""Two real networks measured beside each other."""

import json
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxfold.bench import RUNTIMES, Measurement, Stop, measure
from onnxfold.errors import BadModelError, BadOptionError, CannotRunError
from tests.benchmarking.networks import DEEP, FEED, FOLDED, NET, parsed
from tests.verify.networks import copied

MODELS = {"net": NET, "folded": FOLDED, "deep": DEEP}


@pytest.fixture(scope="module", params=sorted(RUNTIMES))
def measurement(request: pytest.FixtureRequest) -> Measurement:
    pytest.importorskip("onnxruntime" if request.param == "ort" else request.param)
    return measure(MODELS, request.param, rounds=20, threads=1, feed=FEED, seed=3)


def test_every_model_runs_once_in_every_round(measurement: Measurement) -> None:
    assert measurement.rounds == 20
    assert measurement.stopped is Stop.ROUNDS
    assert len(measurement.sittings) == 9
    for sitting in measurement.sittings:
        assert set(sitting.load_ms) == set(MODELS)
        assert all(sorted(order) == sorted(MODELS) for order in sitting.orders)
        for name in MODELS:
            assert len(sitting.run_ms[name]) == len(sitting.orders)
            assert min(sitting.run_ms[name]) > 0
            assert sitting.load_ms[name] > 0


def test_orders_of_running_and_loading_are_drawn(measurement: Measurement) -> None:
    ran = {order for sitting in measurement.sittings for order in sitting.orders}
    loaded = {tuple(sitting.load_ms) for sitting in measurement.sittings}
    assert len(ran) > 3
    assert len(loaded) > 3


def test_the_figures_are_those_of_the_samples(measurement: Measurement) -> None:
    for name in MODELS:
        timing = measurement[name]
        assert timing.name == name
        medians = [statistics.median(s.run_ms[name]) for s in measurement.sittings]
        assert timing.run_ms.median == statistics.median(medians)
        assert timing.load_ms == statistics.median([s.load_ms[name] for s in measurement.sittings])
        assert timing.peak_bytes is None
    assert measurement["net"].speed_up is None
    speed_up = measurement["deep"].speed_up
    assert speed_up is not None
    paired = [
        statistics.median(a / b for a, b in zip(s.run_ms["net"], s.run_ms["deep"], strict=True))
        for s in measurement.sittings
    ]
    assert speed_up.median == statistics.median(paired)
    # The second smallest and the second largest of nine.
    assert speed_up.interval == (sorted(paired)[1], sorted(paired)[-2])
    with pytest.raises(KeyError):
        measurement["other"]


def test_equal_networks_raise_no_doubt_and_others_do(measurement: Measurement) -> None:
    (note,) = measurement.notes
    assert note.startswith("deep does not compute the same as net (output 0 is off by ")


def test_plain_data_says_everything(measurement: Measurement) -> None:
    data = json.loads(json.dumps(measurement.to_dict(), allow_nan=False))
    assert data["runtime"] == measurement.runtime
    assert data["version"].count(".") == 2
    assert data["threads"] == 1
    assert data["precision"] == ("f32" if measurement.runtime == "openvino" else None)
    assert data["inputs"] == {"x": {"shape": [1, 3, 24, 24], "dtype": "float32"}}
    assert sum(data["rounds_by_sitting"]) == data["rounds"] == 20
    first, second, _ = data["models"]
    assert first["speed_up"] is None
    for summary in (first["run_ms"], second["run_ms"], second["speed_up"]):
        assert set(summary) == {"median", "quartiles", "interval", "medians"}
        assert len(summary["medians"]) == 9
        assert summary["interval"][0] <= summary["median"] <= summary["interval"][1]


def test_without_a_number_of_rounds_it_ends_by_itself() -> None:
    done = measure({"net": NET, "again": NET}, seconds=0.5, threads=1, feed=FEED)
    assert done.stopped in (Stop.NARROW, Stop.TIME)
    assert len(done.sittings) >= 6
    assert all(len(sitting.orders) >= 3 for sitting in done.sittings)
    assert done["again"].speed_up is not None
    assert done["again"].speed_up.interval is not None


def test_a_model_alone_has_times_only() -> None:
    done = measure({"net": NET}, rounds=6, warm_up=0, feed=FEED)
    assert [timing.speed_up for timing in done.timings] == [None]
    assert done["net"].run_ms.interval is not None


def test_too_few_rounds_have_no_interval() -> None:
    done = measure({"net": NET, "folded": FOLDED}, rounds=5, feed=FEED)
    assert done["folded"].speed_up is not None
    assert done["folded"].speed_up.interval is None


def test_inputs_are_made_up_as_for_verification() -> None:
    done = measure({"net": NET, "folded": FOLDED}, rounds=1)
    assert done.feed["x"].dtype == np.float32
    assert done.feed["x"].min() < -1 < 1 < done.feed["x"].max()
    shaped = measure({"net": NET}, rounds=1, input_shapes={"x": (2, 3, 16, 8)})
    assert shaped.feed["x"].shape == (2, 3, 16, 8)
    again = measure({"net": NET}, rounds=1, input_shapes={"x": (2, 3, 16, 8)})
    assert np.array_equal(shaped.feed["x"], again.feed["x"])


def test_types_other_than_floats() -> None:
    body = "(int64[N, 7] ids, bool[N] keep) => (int64[N, 7] y, bool[N] z) "
    model = parsed(body + "{ y = Add(ids, ids) z = Not(keep) }")
    for name in RUNTIMES:
        pytest.importorskip("onnxruntime" if name == "ort" else name)
        done = measure({"a": model, "b": model}, name, rounds=1)
        assert done.feed["ids"].dtype == np.int64
        assert done.notes == ()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_measured_when_asked_for() -> None:
    done = measure({"net": NET}, rounds=1, memory=True)
    assert done["net"].peak_bytes is not None
    assert done["net"].peak_bytes > 0
    assert done.notes == ()


def test_paths_with_external_weights(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(copied(NET), path, save_as_external_data=True, size_threshold=0, location="net.data")
    done = measure({"memory": NET, "disk": path}, rounds=1, feed=FEED)
    assert done.notes == ()


def test_progress_is_told_between_sittings() -> None:
    said: list[str] = []
    measure({"net": NET}, rounds=2, feed=FEED, progress=said.append)
    assert said[0] == "trying net on ONNX Runtime"
    assert said[-1] == "measuring on ONNX Runtime, sitting 2"


def test_openvino_tells_the_precision_it_chose() -> None:
    pytest.importorskip("openvino")
    done = measure({"net": NET}, "openvino", rounds=1, feed=FEED, precision="default")
    assert done.precision in ("f32", "bf16", "f16")
    assert done.threads is not None
    assert done.threads > 0


OTHER = parsed("(float[1, 3, 24, 24] image) => (float[1, 3, 24, 24] y) { y = Relu(image) }")
CUSTOM = parsed("(float[1, 3, 24, 24] x) => (float[1, 3, 24, 24] y) { y = Baz(x) }")
SIZED = parsed(
    "(float[N, 3, H, W] x) => (float[N, 3, P, W] y)"
    "{ s = Constant<value_ints = [1, 3, 25, -1]>() y = Reshape(x, s) }"
)


@pytest.mark.parametrize(
    ("models", "options", "error", "message"),
    [
        ({}, {}, BadOptionError, "there is no model"),
        ({"a": NET}, {"runtime": "onnx"}, BadOptionError, "there is no runtime 'onnx'"),
        ({"a": NET}, {"rounds": 0}, BadOptionError, "rounds is 0"),
        ({"a": NET}, {"warm_up": -1}, BadOptionError, "warm-up is -1"),
        ({"a": NET}, {"threads": 0}, BadOptionError, "threads is 0"),
        ({"a": NET}, {"seconds": 0.0}, BadOptionError, "seconds is 0"),
        ({"a": NET, "b": OTHER}, {}, BadOptionError, "a takes x, and b takes image"),
        ({"a": NET}, {"input_shapes": {"y": (1,)}}, BadOptionError, "no input y"),
        ({"a": NET}, {"feed": {"x": np.ones((1, 2, 3, 4))}}, BadOptionError, "1x2x3x4"),
        ({"a": NET}, {"feed": {}}, BadOptionError, "lacks input x"),
        ({"a": "gone.onnx"}, {}, BadModelError, "cannot read gone.onnx"),
        ({"a": NET, "b": CUSTOM}, {}, CannotRunError, "^b: the runtime does not know .* Baz"),
        ({"a": CUSTOM}, {"runtime": "openvino"}, CannotRunError, "^a: OpenVINO refuses"),
        ({"a": NET, "b": SIZED}, {"feed": FEED}, CannotRunError, "^b does not run on the inputs"),
        (
            {"a": NET, "b": SIZED},
            {"feed": FEED, "runtime": "openvino"},
            CannotRunError,
            "^b does not run on the inputs",
        ),
    ],
)
def test_what_cannot_be_measured(
    models: Mapping[str, Any], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    if options.get("runtime") == "openvino":
        pytest.importorskip("openvino")
    with pytest.raises(error, match=message) as raised:
        measure(models, **options)
    assert getattr(raised.value, "hint", "")
