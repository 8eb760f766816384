"""lower_reduce_mean: a mean over the image is a GlobalAveragePool."""

import numpy as np
import onnx
import pytest

from tests.toolkit import folds, parse, unchanged

NAME = "lower_reduce_mean"


def mean(
    attributes: str, axes: str = "", *, opset: int = 17, extents: str = "4,4,8"
) -> onnx.ModelProto:
    weights = {"axes": np.array([int(a) for a in axes.split(",")])} if opset >= 18 and axes else {}
    inputs = "x, axes" if weights else "x"
    body = f"y = ReduceMean<{attributes}>({inputs})"
    return parse(f"g (float[N,{extents}] x) => (float[] y) {{ {body} }}", weights, opset=opset)


@pytest.mark.parametrize(("attributes", "axes", "opset"), [
    ("axes=[2,3]", "", 17),
    ("axes=[-1,-2], keepdims=1", "", 13),
    ("keepdims=1", "2,3", 18),
    ("keepdims=1, noop_with_empty_axes=0", "-1,2", 18),
])  # fmt: skip
def test_with_its_axes_kept(attributes: str, axes: str, opset: int) -> None:
    model = mean(attributes, axes, opset=opset)
    folds(model, NAME, ops={"GlobalAveragePool": 1})


def test_with_its_axes_dropped() -> None:
    model = mean("axes=[2,3], keepdims=0")
    folds(model, NAME, ops={"GlobalAveragePool": 1, "Flatten": 1})


def test_of_a_video() -> None:
    model = mean("axes=[2,3,4], keepdims=0", extents="3,2,4,4")
    folds(model, NAME, ops={"GlobalAveragePool": 1, "Flatten": 1})


@pytest.mark.parametrize("attributes", [
    "axes=[1]", "axes=[2]", "axes=[0,1,2,3]", "axes=[1,2,3]", "keepdims=1",
])  # fmt: skip
def test_other_means_stay(attributes: str) -> None:
    unchanged(mean(attributes), NAME)


def test_of_whole_numbers_or_unknown_rank() -> None:
    unchanged(
        parse("g (int32[N,4,4,8] x) => (int32[] y) { y = ReduceMean<axes=[2,3]>(x) }", opset=17),
        NAME,
    )
    unchanged(
        parse(
            "g (float[N,C,4,4] x, int64[K] k) => (float[N,C,A,B] y)"
            " { a = Reshape(x, k) y = ReduceMean<axes=[2,3]>(a) }",
            opset=17,
        ),
        NAME,
    )
