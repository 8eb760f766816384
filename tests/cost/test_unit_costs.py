"""The calibration of the cost model: from times that a machine would take to its numbers."""

from __future__ import annotations

import math

import pytest

from onnxfold.cost.machine import CostModel
from onnxfold.cost.machines import MACHINES
from tests.bench.unit_costs import Fit, fitted, graphs, predicted, readings_of, seconds_of

MODELS = {
    name: model
    for name, model in graphs().items()
    if name.startswith(("upsample 64+0", "separable 16 at", "conv 3x3 16", "branches 16 at"))
}


@pytest.mark.parametrize("target", ["ort-cpu", "openvino"])
def test_the_machine_that_made_the_times_is_found(target: str) -> None:
    readings = {name: readings_of(model) for name, model in MODELS.items()}
    unknown = {name: 1.0 for name in MODELS}
    made = predicted(MACHINES[target], 4e-5, unknown, readings)
    times = {name: math.exp(error) for name, error in made.errors.items()}
    assert predicted(MACHINES[target], 4e-5, times, readings).loss == pytest.approx(0)
    found, before = fitted(times, readings), predicted(CostModel(), 2e-5, times, readings)
    assert found.loss < before.loss / 3
    assert all(abs(math.log(real / guess)) < 0.1 for real, guess in found.ratios.values())


def test_a_gain_in_vain_weighs_more_than_one_that_is_missed() -> None:
    vain = Fit(CostModel(), 0.0, {}, {"pair": (1.0, 1.2)})
    missed = Fit(CostModel(), 0.0, {}, {"pair": (1.2, 1.0)})
    assert vain.loss > missed.loss


def test_every_graph_runs_and_has_a_time() -> None:
    few = {name: model for name, model in MODELS.items() if "separable" in name}
    assert few
    times = seconds_of(few, "ort", threads=1, sittings=1)
    assert times.keys() == few.keys()
    assert all(0 < seconds < 1 for seconds in times.values())
