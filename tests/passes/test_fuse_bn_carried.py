"""What fuse_bn carries past Concat, additions, activations and pooling."""

import numpy as np
import pytest

from tests.toolkit import (
    BN,
    batch_norm,
    folds,
    integers,
    parse,
    powers,
    run,
)

PASS = "fuse_bn"


def conv_weights(*shape: int, bias: bool = True) -> dict[str, np.ndarray]:
    weights = {"w": integers("w", *shape)}
    return {**weights, "d": integers("d", shape[0])} if bias else weights


@pytest.mark.parametrize("axis", [1, -3])
def test_batch_norm_behind_concat_of_channels(axis: int) -> None:
    model = parse(
        f"g (float[N,4,H,W] x) => (float[] y) {{ a = Conv(x, w) c = Conv(x, u, e)"
        f" j = Concat<axis={axis}>(a, c) y = {BN}(j, g, b, m, v) }}",
        {"w": integers("w", 3, 4, 3, 3), "u": integers("u", 5, 4, 3, 3),
         "e": integers("e", 5), **batch_norm(8)},
    )  # fmt: skip
    folds(model, PASS, ops={"Conv": 2, "Concat": 1})


@pytest.mark.parametrize("axis", [2, -1, 0])
def test_batch_norm_behind_concat_of_another_axis(axis: int) -> None:
    model = parse(
        f"g (float[N,4,H,W] x) => (float[] y) {{ a = Conv(x, w) c = Conv(x, u)"
        f" j = Concat<axis={axis}>(a, c) y = {BN}(j, g, b, m, v) }}",
        {"w": integers("w", 3, 4, 3, 3), "u": integers("u", 3, 4, 3, 3), **batch_norm(3)},
    )
    folds(model, PASS, ops={"Conv": 2, "Concat": 1})


@pytest.mark.parametrize("join", ["Add(a, c)", "Sub(a, c)", "Sum(a, c, k)", "Add(a, k)",
                                  "Sub(k, c)"])  # fmt: skip
def test_batch_norm_behind_addition(join: str) -> None:
    body = f"a = Conv(x, w) c = Conv(x, u, e) j = {join} y = {BN}(j, g, b, m, v)"
    if "a" not in join[4:]:
        body = body.replace("a = Conv(x, w) ", "")
    if "c" not in join[4:]:
        body = body.replace("c = Conv(x, u, e) ", "")
    model = parse(
        f"g (float[N,4,7,6] x) => (float[] y) {{ {body} }}",
        {"w": integers("w", 3, 4, 3, 3), "u": integers("u", 3, 4, 3, 3), "e": integers("e", 3),
         "k": integers("k", 1, 3, 5, 4), **batch_norm(3)},
    )  # fmt: skip
    result = run(model, PASS)
    assert "BatchNormalization" not in result.ops, result.reasons
    folds(model, PASS, ops=result.ops)


def test_scale_passes_relu_and_max_pool() -> None:
    model = parse(
        "g (float[N,4,H,W] x) => (float[] y) { a = Conv(x, w, d) r = Relu(a)"
        " l = LeakyRelu<alpha=0.5>(r) p = MaxPool<kernel_shape=[2,2], pads=[1,0,0,1]>(l)"
        " y = Mul(p, k) }",
        {**conv_weights(6, 4, 3, 3), "k": powers("k", 6, 1, 1, negative=False)},
    )
    folds(model, PASS, ops={"Conv": 1, "Relu": 1, "LeakyRelu": 1, "MaxPool": 1}, reference=False)


def test_batch_norm_passes_max_pool() -> None:
    model = parse(
        f"g (float[N,4,H,W] x) => (float[] y) {{ a = Conv(x, w)"
        f" p = MaxPool<kernel_shape=[2,2], pads=[1,0,0,1]>(a) y = {BN}(p, g, b, m, v) }}",
        {"w": integers("w", 6, 4, 3, 3), **batch_norm(6, negative=False)},
    )
    folds(model, PASS, ops={"Conv": 1, "MaxPool": 1}, reference=False)


@pytest.mark.parametrize("pool", ["AveragePool<kernel_shape=[2,2]>(a)",
                                  "AveragePool<kernel_shape=[2,2], pads=[1,1,0,0]>(a)",
                                  "GlobalMaxPool(a)"])  # fmt: skip
def test_batch_norm_passes_averages_without_counted_padding(pool: str) -> None:
    model = parse(
        f"g (float[N,4,7,6] x) => (float[] y)"
        f" {{ a = Conv(x, w) p = {pool} y = {BN}(p, g, b, m, v) }}",
        {"w": 4 * integers("w", 6, 4, 3, 3), **batch_norm(6, negative=False)},
    )
    name = pool.split("<")[0].split("(")[0]
    folds(model, PASS, ops={"Conv": 1, name: 1}, reference=False)
