"""Plans: what they say about groups, layers and what to observe."""

import pytest

from onnxfold.calibrate.ranges import Method
from onnxfold.calibrate.scheme import INT8, UINT8, UINT8_NON_NEGATIVE, Range
from onnxfold.calibrate.statistics import Calibration, TensorStatistics
from onnxfold.errors import BadOptionError
from onnxfold.quantize.grids import grids_of, ranges_of
from onnxfold.quantize.plan import Plan, Site, WeightSite, observed_values
from tests.targets.emitted import normal

PLAN = Plan(
    sites=(
        Site("x", UINT8, "x", (("c", 0),)),
        Site("r", UINT8_NON_NEGATIVE, "r", None, bounds=Range(0.0, 6.0)),
        Site("p", UINT8_NON_NEGATIVE, "r", None, is_source=False),
        Site("k", UINT8, "k", (("a", 1),), is_source=False),
    ),
    weights=(WeightSite("c", 1, 0), WeightSite("d", 1, 0)),
    biases=(),
)


def test_layers_groups_and_sources() -> None:
    assert PLAN.layers == {"c", "d"}
    assert {name: [s.value for s in sites] for name, sites in PLAN.groups().items()} == {
        "x": ["x"],
        "r": ["r", "p"],
        "k": ["k"],
    }
    assert PLAN.sources() == {"x": UINT8, "r": UINT8_NON_NEGATIVE}


def test_values_are_observed_once_for_all_plans() -> None:
    other = Plan((Site("x", INT8, "x", None), Site("z", INT8, "z", None)), (), ())
    assert observed_values([PLAN, other]) == ("x", "r", "z")


def test_grids_reach_the_ranges_and_no_further_than_the_bounds() -> None:
    grids = grids_of(PLAN, {"x": Range(-1.0, 1.55), "r": Range(0.0, 9.0)})
    assert set(grids) == {"x", "r"}  # a constant has a grid of its own
    assert grids["x"].zero_point == 100
    assert grids["r"].zero_point == 0
    assert float(grids["r"].scale) == pytest.approx(6.0 / 255)


def test_a_group_reaches_what_any_of_its_sources_does() -> None:
    sites = (Site("a", INT8, "a", None), Site("b", INT8, "a", None))
    grids = grids_of(Plan(sites, (), ()), {"a": Range(-1.27, 1.0), "b": Range(0.0, 2.54)})
    assert float(grids["a"].scale) == pytest.approx(0.02)


def test_a_range_that_is_missing_is_named() -> None:
    with pytest.raises(BadOptionError, match="the calibration says nothing about 'r'"):
        grids_of(PLAN, {"x": Range(0.0, 1.0)})


def test_ranges_come_from_the_calibration() -> None:
    stats = TensorStatistics.of(normal("x", 1000))
    calibration = Calibration("hash", "", (0,), {"x": stats, "unwanted": stats})
    widest = ranges_of(PLAN, calibration, Method.MINMAX)
    assert widest == {"x": Range(stats.minimum, stats.maximum)}
    narrower = ranges_of(PLAN, calibration, Method.PERCENTILE)["x"]
    assert narrower.high <= stats.maximum
