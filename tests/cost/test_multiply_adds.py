"""The multiply-adds of each layer, and their sum."""

from __future__ import annotations

import numpy as np
import pytest

from onnxfold.cost.summary import multiply_adds_by_layer, summarize
from onnxfold.ir.shapes import infer_shapes
from onnxfold.model import load
from tests.toolkit import parse


@pytest.mark.parametrize(("size", "batch"), [(None, 1), (8, 2)])
def test_the_layers_add_up(size: int | None, batch: int) -> None:
    model = load(
        parse(
            """net (float[N, 4, S, S] x) => (float[] y) {
                c = Conv <pads = [1, 1, 1, 1]> (x, w)
                r = Relu (c)
                t = ConvTranspose <strides = [2, 2]> (r, u)
                p = GlobalAveragePool (t)
                f = Flatten (p)
                y = Gemm <transB = 1> (f, g)
            }""",
            {
                "w": np.ones((8, 4, 3, 3), np.float32),
                "u": np.ones((8, 6, 2, 2), np.float32),
                "g": np.ones((5, 6), np.float32),
            },
        )
    ).model
    infer_shapes(model)
    shapes = None if size is None else {"x": (batch, 4, size, size)}
    area = (224 if size is None else size) ** 2
    found = multiply_adds_by_layer(model, shapes)
    assert found == {
        "c": batch * 8 * area * 4 * 9,
        "t": batch * 8 * area * 6 * 4,
        "y": batch * 5 * 6,
    }
    assert summarize(model, shapes).multiply_adds == sum(filter(None, found.values()))


def test_what_cannot_be_inferred_is_not_known() -> None:
    model = load(
        parse(
            "net (float[N, 4, 8, 8] x, int64[4] s) => (float[] y) { r = Reshape (x, s) "
            "y = Conv (r, w) }",
            {"w": np.ones((8, 4, 3, 3), np.float32)},
        )
    ).model
    infer_shapes(model)
    assert multiply_adds_by_layer(model) == {"y": None}
    assert summarize(model).multiply_adds is None
