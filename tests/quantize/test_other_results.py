"""A model that its target computes wrongly is not handed out."""

import numpy as np
import pytest

from onnxfold.errors import NotAccurateError
from onnxfold.quantization.accuracy import refuse_other_results
from onnxfold.quantize.metrics import Comparison

TITLE = "OpenVINO on a CPU"
EXACT = np.random.default_rng(0).normal(size=(1, 4, 8, 8)).astype(np.float32)


def off_by(decibels: float) -> Comparison:
    noise = np.random.default_rng(1).normal(size=EXACT.shape) * 10 ** (-decibels / 20)
    return Comparison.of({"y": EXACT}, {"y": (EXACT + noise).astype(np.float32)})


@pytest.mark.parametrize(("expected", "measured"), [(30, 30), (60, 28), (4, 3), (35, 12), (20, 40)])
def test_what_is_about_as_near_is_taken(expected: float, measured: float) -> None:
    refuse_other_results(off_by(expected), off_by(measured), TITLE)


@pytest.mark.parametrize(("expected", "measured"), [(30, 0), (60, 5), (4, -20)])
def test_what_is_far_off_is_refused(expected: float, measured: float) -> None:
    with pytest.raises(NotAccurateError, match="computes something else than ONNX Runtime") as info:
        refuse_other_results(off_by(expected), off_by(measured), TITLE)
    assert "--exclude" in info.value.hint


def test_not_a_number_is_refused() -> None:
    broken = Comparison.of({"y": EXACT}, {"y": np.full_like(EXACT, np.nan)})
    with pytest.raises(NotAccurateError, match="-inf dB, and not 30"):
        refuse_other_results(off_by(30), broken, TITLE)
