"""lower_prelu: a PRelu with one slope is a LeakyRelu."""

import numpy as np
import onnx
import pytest

from tests.toolkit import folds, parse, unchanged

NAME = "lower_prelu"


def prelu(slopes: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> onnx.ModelProto:
    return parse("g (float[N,4,7,6] x) => (float[] y) { y = PRelu(x, s) }", {"s": slopes})


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1), (4, 1, 1), (4, 7, 6)])
def test_one_slope(shape: tuple[int, ...]) -> None:
    result = folds(prelu(np.full(shape, 0.1, np.float32)), NAME, ops={"LeakyRelu": 1})
    (node,) = result.after.graph.node
    assert np.float32(node.attribute[0].f) == np.float32(0.1)


def test_a_slope_for_each_channel() -> None:
    slopes = np.array([0.25, 0.25, 0.5, 0.25], np.float32).reshape(4, 1, 1)
    unchanged(prelu(slopes), NAME, reason="its slopes differ, and a LeakyRelu has one")


def test_slopes_that_are_fed_stay() -> None:
    text = "g (float[N,4,7,6] x, float[4,1,1] s) => (float[] y) { y = PRelu(x, s) }"
    unchanged(parse(text), NAME)
