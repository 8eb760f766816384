"""Models that are measured beside each other take the same inputs and give much the same."""

import re

import numpy as np
import pytest

from onnxfold.bench.inputs import common_inputs, doubts
from onnxfold.errors import BadOptionError
from onnxfold.verify.interface import Interface
from onnxfold.verify.session import Array
from tests.benchmarking.networks import parsed


def interface(*inputs: str) -> Interface:
    names = ", ".join(f"{text} x{index}" for index, text in enumerate(inputs))
    body = f"({names}) => (float[1] y) {{ y = Constant<value_floats = [1.0]>() }}"
    return Interface.of(parsed(body))


def test_the_strictest_sizes_count() -> None:
    found = common_inputs(
        {
            "a": interface("float[N, 3, H, W]", "int64[4]"),
            "b": interface("float[1, 3, height, width]", "int64[K]"),
            "c": interface("float[batch, 3, 8, W]", "int64[4]"),
        }
    )
    assert [port.dims for port in found] == [(1, 3, 8, "W"), (4,)]


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (("float[1, 3, 8, 8]",), "a takes x0, x1, and b takes x0"),
        (("double[1, 3, 8, 8]", "int64[4]"), r"x0 is tensor\(float\) in a, tensor\(double\) in b"),
        (("float[1, 3, 9, 8]", "int64[4]"), "x0 is 1x3x8x8 in a, 1x3x9x8 in b"),
        (("float[1, 3, 8]", "int64[4]"), "x0 is 1x3x8x8 in a, 1x3x8 in b"),
    ],
)
def test_what_differs_is_said(other: tuple[str, ...], difference: str) -> None:
    models = {"a": interface("float[1, 3, 8, 8]", "int64[4]"), "b": interface(*other)}
    with pytest.raises(BadOptionError, match=f"do not take the same inputs: .*{difference}$"):
        common_inputs(models)


def noted(after: Array, before: Array | None = None) -> list[str]:
    reference = np.linspace(-1, 1, 64, dtype=np.float32) if before is None else before
    return doubts({"a": [reference], "b": [after]})


def test_small_errors_are_no_doubt() -> None:
    values = np.linspace(-1, 1, 64, dtype=np.float32)
    assert noted(values) == []
    assert noted(values + 0.05) == []  # what quantizing costs
    labels = np.arange(64)
    assert noted(np.where(labels < 60, labels, 0), labels) == []
    assert noted(np.zeros(0, np.float32), np.zeros(0, np.float32)) == []


def test_gross_errors_are_noted() -> None:
    values = np.linspace(-1, 1, 64, dtype=np.float32)
    see = r"b does not compute the same as a \(.*\); see onnxfold verify"
    for wrong in (-values, np.zeros_like(values), values[:32], values + 1):
        (note,) = noted(wrong)
        assert re.fullmatch(see, note)
    (note,) = noted(np.arange(64) + 1, np.arange(64))
    assert "off by 100%" in note
    (note,) = doubts({"a": [values, values], "b": [values]})
    assert "1 outputs, not 2" in note


def test_what_is_not_finite_is_noted() -> None:
    values = np.linspace(-1, 1, 64, dtype=np.float32)
    broken = values.copy()
    broken[3] = np.nan
    assert noted(broken) == ["b gives NaN or infinity, which some processors are slow at"]
