"""The nodes to blame are found by running both models."""

from __future__ import annotations

import numpy as np
import pytest

from onnxfold.errors import CannotRunError
from onnxfold.precision import offenders
from tests.precision.halves import convert, sqnr
from tests.toolkit import Array, parse, run_ort

F = np.float32
RANDOM = np.random.default_rng(0)
FEEDS = [{"x": RANDOM.normal(size=(1, 4, 8, 8)).astype(F)} for _ in range(2)]
HEAD = "c = Conv(x, w)"
TAIL = "y = Conv(d, w)"
W: dict[str, Array] = {"w": RANDOM.normal(size=(4, 4, 1, 1)).astype(F)}


def test_a_sane_network_has_none() -> None:
    model = parse(f"g (float[1,4,8,8] x) => (float[] y) {{ {HEAD} d = Tanh(c) {TAIL} }}", W)
    assert offenders(model, convert(model).after, FEEDS) == []


def test_overflow() -> None:
    body = f"{HEAD} b = Conv(c, large) d = Tanh(b) {TAIL}"
    model = parse(f"g (float[1,4,8,8] x) => (float[] y) {{ {body} }}",
                  {**W, "large": np.full((4, 4, 1, 1), 6e4, F)})  # fmt: skip
    found = offenders(model, convert(model).after, FEEDS)
    assert [(each.value, each.op_type, each.error) for each in found] == [("b", "Conv", np.inf)]


def test_cancellation_is_found_and_mended() -> None:
    """A large constant is added and taken away again, and with it all digits."""
    body = f"{HEAD} a = Add(c, k) b = Sub(a, k) d = Tanh(b) {TAIL}"
    model = parse(f"g (float[1,4,8,8] x) => (float[] y) {{ {body} }}",
                  {**W, "k": np.array(5000, F)})  # fmt: skip
    naive = convert(model)
    assert naive.reasons == {}
    found = offenders(model, naive.after, FEEDS)
    assert [each.value for each in found] == ["b"]
    assert found[0].error > 0.5 > found[0].error_before
    mended = convert(model, keep=("a", "b"))
    assert offenders(model, mended.after, FEEDS) == []
    expected = run_ort(model, FEEDS[0])
    assert sqnr(expected, naive.run(FEEDS[0])) < 10
    assert sqnr(expected, mended.run(FEEDS[0])) > 50


def test_a_converted_interface() -> None:
    body = f"{HEAD} a = Add(c, k) d = Sub(a, k) {TAIL}"
    model = parse(f"g (float[1,4,8,8] x) => (float[] y) {{ {body} }}",
                  {**W, "k": np.array(5000, F)})  # fmt: skip
    found = offenders(model, convert(model, keep_io=False).after, FEEDS)
    assert [each.value for each in found] == ["d"]


def test_a_model_that_does_not_run() -> None:
    model = parse("g (float[1] x) => (float[1] y) { y = test.custom.Custom(x) }")
    with pytest.raises(CannotRunError):
        offenders(model, model, FEEDS)
