"""SQNR, label agreement and mean IoU: against their definitions, and gathered in pieces."""

import math
from functools import reduce
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from examples.demo.evaluate import class_iou, confusion
from onnxfold.errors import BadOptionError
from onnxfold.quantize.evaluation import Evaluation
from onnxfold.quantize.metrics import (
    Agreement,
    Comparison,
    Confusion,
    Distortion,
    OutputComparison,
    labels,
)
from tests.quantize.flow import demo, demo_feeds, demo_labels, demo_quantizer, drawn

Array = NDArray[Any]


def test_sqnr_is_ten_decibels_for_a_tenth_of_the_energy() -> None:
    reference = np.full((4, 5), 2.0, np.float32)
    noisy = reference + np.float32(math.sqrt(0.4))
    assert Distortion.of(reference, noisy).decibels == pytest.approx(10.0, abs=1e-5)


def test_equal_arrays_have_no_noise() -> None:
    array = drawn(1, 3, 4)
    assert Distortion.of(array, array).decibels == math.inf
    assert Distortion.of(np.zeros(3), np.ones(3)).decibels == -math.inf
    assert Distortion.of(np.zeros(0), np.zeros(0)).decibels == math.inf


def test_what_is_not_finite_on_one_side_is_infinite_noise() -> None:
    clean = np.ones(4, np.float32)
    broken = np.array([1, np.nan, 1, 1], np.float32)
    assert Distortion.of(clean, broken).decibels == -math.inf
    assert Distortion.of(broken, clean).decibels == -math.inf
    assert Distortion.of(broken, broken) == Distortion(3.0, 0.0)


def test_half_precision_does_not_overflow() -> None:
    reference = np.full(1000, 600.0, np.float16)
    assert Distortion.of(reference, reference * 0).noise == pytest.approx(3.6e8)


def test_sums_over_samples_are_those_of_the_whole() -> None:
    reference, noisy = drawn(1, 6, 5, 4, 4), drawn(2, 6, 5, 4, 4)
    whole = OutputComparison.of(reference, noisy)
    parts = [OutputComparison.of(reference[i : i + 1], noisy[i : i + 1]) for i in range(6)]
    merged = reduce(OutputComparison.merged, parts)
    assert merged.agreement == whole.agreement
    assert merged.distortion.decibels == pytest.approx(whole.distortion.decibels)


def test_labels_of_a_class_map() -> None:
    scores = np.zeros((1, 3, 2, 2), np.float32)
    scores[0, 2, 0, 1] = scores[0, 1, 1, 1] = 1
    found = labels(scores)
    assert found is not None
    assert found.tolist() == [[[0, 2], [0, 1]]]


@pytest.mark.parametrize(
    ("reference", "threshold"),
    [([[0.2, 0.9], [0.5, 0.6]], 0.5), ([[-3.0, 0.2], [0.1, 4.0]], 0.0)],
    ids=["probabilities", "scores"],
)
def test_labels_of_a_single_class_map(reference: list[list[float]], threshold: float) -> None:
    before = np.array(reference, np.float32)[None, None]
    after = np.array([[-0.1, 0.4], [0.55, 1.5]], np.float32)[None, None]
    found = labels(after, before)
    assert found is not None
    assert found.tolist() == (after[:, 0] > threshold).tolist()


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (np.zeros((1, 4), np.float32), (1,)),
        (np.zeros((2, 3, 4), np.int64), (2, 3, 4)),
        (np.zeros((2, 3), np.bool_), (2, 3)),
        (np.zeros(4, np.float32), None),
        (np.zeros((4, 1), np.float32), None),
        (np.zeros((0, 3), np.float32), None),
        (np.zeros(4, np.int64), None),
    ],
)
def test_what_looks_like_labels(output: Array, expected: tuple[int, ...] | None) -> None:
    found = labels(output)
    assert (None if found is None else found.shape) == expected


def test_agreement_counts_positions() -> None:
    agreement = Agreement.of(np.array([1, 2, 3, 4]), np.array([1, 2, 0, 4]))
    assert agreement.percent == 75.0
    assert Agreement().percent == 100.0


def test_confusion_by_hand() -> None:
    truth = np.array([0, 0, 1, 1, 2, 255, 2])
    found = np.array([0, 1, 1, 1, 0, 1, 7])
    counts = Confusion.of(truth, found, classes=4)
    assert counts.counts.sum() == 5
    assert counts.class_iou[:3].tolist() == [1 / 3, 2 / 3, 0.0]
    assert math.isnan(counts.class_iou[3])
    assert counts.mean_iou == pytest.approx(100 * (1 / 3 + 2 / 3) / 3)


def test_no_labels_no_mean() -> None:
    assert math.isnan(Confusion.of(np.array([255]), np.array([0]), classes=2).mean_iou)


def test_mean_iou_is_that_of_the_demonstration() -> None:
    scenes = [(feed["image"][0].transpose(1, 2, 0), truth) for feed, truth in _demo_pairs(4)]
    expected = 100 * np.nanmean(class_iou(confusion(demo().SerializeToString(), scenes)))
    evaluation = Evaluation(demo(), demo_feeds(4), demo_labels(4))
    found = evaluation.compare(demo())
    assert found.mean_iou == pytest.approx((expected, expected))
    assert found.drop == 0.0
    assert found.agreement == 100.0
    assert found.sqnr == math.inf
    assert found.samples == 4


def _demo_pairs(count: int) -> list[tuple[dict[str, Array], Array]]:
    return list(zip(demo_feeds(count), demo_labels(count), strict=True))


def test_an_int8_model_is_close_but_not_equal() -> None:
    found = Evaluation(demo(), demo_feeds(4)).compare(demo_quantizer().build())
    assert 25 < found.sqnr < 45
    assert found.agreement is not None
    assert 99 < found.agreement < 100
    assert found.drop == pytest.approx(100 - found.agreement)
    assert found.mean_iou is None


def test_outputs_are_judged_by_the_worst() -> None:
    good = OutputComparison(Distortion(100.0, 1.0), Agreement(9, 10))
    bad = OutputComparison(Distortion(100.0, 10.0), None)
    found = Comparison({"a": good, "b": bad}, samples=1)
    assert found.sqnr == 10.0
    assert found.agreement == 90.0
    assert Comparison({"b": bad}, samples=1).drop is None


def test_no_samples_cannot_be_compared() -> None:
    with pytest.raises(BadOptionError, match="no samples"):
        Evaluation(demo(), [])
