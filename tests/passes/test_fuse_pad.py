"""What fuse_pad folds, and that it computes the same to the bit."""

import numpy as np
import pytest

from tests.toolkit import folds, integers, parse, run, unchanged

PASS = "fuse_pad"
W = {"w": integers("w", 6, 4, 3, 3)}
INFINITY = np.array(-np.inf, np.float32)


def pads(*numbers: int) -> dict[str, np.ndarray]:
    return {"p": np.array(numbers, np.int64)}


@pytest.mark.parametrize("opset", [2, 6, 11, 13, 18, 19, 21])
def test_operator_sets(opset: int) -> None:
    old = opset < 11
    pad = "Pad<pads=[0,0,1,2,0,0,0,1]>(x)" if old else "Pad(x, p)"
    weights = W if old else {**W, **pads(0, 0, 1, 2, 0, 0, 0, 1)}
    model = parse(
        f"g (float[N,4,7,6] x) => (float[] y) {{ q = {pad} y = Conv<pads=[1,0,0,1]>(q, w) }}",
        weights,
        opset=opset,
    )
    result = folds(model, PASS, ops={"Conv": 1}, runtime=opset > 6, reference=not old)
    (found,) = [a.ints for a in result.after.graph.node[0].attribute if a.name == "pads"]
    assert list(found) == [2, 2, 0, 2]


@pytest.mark.parametrize("axes", [[2, 3], [-1, 2], [3], [-2]])
@pytest.mark.parametrize("value", ["", ", z"])
def test_axes_negative_and_unsorted(axes: list[int], value: str) -> None:
    amounts = list(range(1, 2 * len(axes) + 1))
    model = parse(
        f"g (float[N,4,H,W] x) => (float[N,6,a,b] y)"
        f" {{ q = Pad(x, p{value or ', '}, a) y = Conv(q, w) }}".replace(", , a", ", z, a"),
        {**W, **pads(*amounts), "a": np.array(axes, np.int64), "z": np.array(0, np.float32)},
    )
    if not value:
        model.graph.node[0].input[2] = ""
    folds(model, PASS, ops={"Conv": 1}, reference=bool(value))


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_automatic_pads(auto_pad: str) -> None:
    model = parse(
        f"g (float[N,4,7,6] x) => (float[] y)"
        f' {{ q = Pad(x, p) y = Conv<auto_pad="{auto_pad}", strides=[2,2]>(q, w) }}',
        {**W, **pads(0, 0, 1, 2, 0, 0, 0, 1)},
    )
    folds(model, PASS, ops={"Conv": 1})


def test_valid_needs_no_extents() -> None:
    model = parse(
        'g (float[N,4,H,W] x) => (float[] y) { q = Pad(x, p) y = Conv<auto_pad="VALID">(q, w) }',
        {**W, **pads(0, 0, 1, 2, 0, 0, 0, 1)},
    )
    folds(model, PASS, ops={"Conv": 1})


@pytest.mark.parametrize("rank", [1, 3])
def test_other_ranks(rank: int) -> None:
    extents = ",".join("567"[:rank])
    model = parse(
        f"g (float[N,4,{extents}] x) => (float[] y) {{ q = Pad(x, p) y = Conv<group=2>(q, w) }}",
        {"w": integers("w", 4, 2, *(3,) * rank), **pads(0, 0, *(1,) * rank, 0, 0, *(2,) * rank)},
    )
    folds(model, PASS, ops={"Conv": 1}, reference=False)


def test_shared_by_two_convs() -> None:
    model = parse(
        "g (float[N,4,H,W] x) => (float[] y, float[] t)"
        " { q = Pad(x, p) y = Conv(q, w) t = Conv<strides=[2,2]>(q, w) }",
        {**W, **pads(0, 0, 1, 1, 0, 0, 1, 1)},
    )
    folds(model, PASS, ops={"Conv": 2})


def test_average_pool_counts_the_zeros() -> None:
    model = parse(
        "g (float[N,4,H,W] x) => (float[] y)"
        " { q = Pad(x, p) y = AveragePool<kernel_shape=[2,2], strides=[2,1]>(q) }",
        pads(0, 0, 1, 0, 0, 0, 1, 1),
    )
    folds(model, PASS, ops={"AveragePool": 1})


def test_average_pool_with_counted_pads_of_its_own() -> None:
    model = parse(
        "g (float[N,4,H,W] x) => (float[] y) { q = Pad(x, p)"
        " y = AveragePool<kernel_shape=[4,4], pads=[1,1,1,1], count_include_pad=1>(q) }",
        pads(0, 0, 1, 0, 0, 0, 1, 2),
    )
    folds(model, PASS, ops={"AveragePool": 1}, reference=False)


def test_average_pool_that_leaves_out_its_own_pads() -> None:
    """M3: counting them as well would change every border."""
    model = parse(
        "g (float[N,4,H,W] x) => (float[] y)"
        " { q = Pad(x, p) y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(q) }",
        pads(0, 0, 1, 1, 0, 0, 1, 1),
    )
    unchanged(model, PASS)


def test_zeros_in_front_of_max_pool_stay() -> None:
    """M2: with nothing but negative data the padded zeros are the maximum."""
    model = parse(
        "g (float[1,2,5,5] x) => (float[] y) { q = Pad(x, p) y = MaxPool<kernel_shape=[3,3]>(q) }",
        pads(0, 0, 1, 1, 0, 0, 1, 1),
    )
    unchanged(model, PASS)
    unchanged(model)


@pytest.mark.parametrize("pool", ["kernel_shape=[3,3]", "kernel_shape=[3,3], strides=[2,2]",
                                  "kernel_shape=[3,3], pads=[1,1,0,0]"])  # fmt: skip
def test_minus_infinity_in_front_of_max_pool(pool: str) -> None:
    model = parse(
        f"g (float[N,2,H,W] x) => (float[] y) {{ q = Pad(x, p, i) y = MaxPool<{pool}>(q) }}",
        {**pads(0, 0, 1, 1, 0, 0, 1, 1), "i": INFINITY},
    )
    folds(model, PASS, ops={"MaxPool": 1}, reference=False)


def test_chain_of_pads() -> None:
    model = parse(
        "g (float[N,4,H,W] x) => (float[] y) { a = Pad(x, p) q = Pad(a, p) y = Conv(q, w) }",
        {**W, **pads(0, 0, 1, 1, 0, 0, 1, 1)},
    )
    folds(model, PASS, ops={"Conv": 1})


def test_pad_then_fold_of_batch_norm_is_not_confused() -> None:
    """A shift in front of a Pad and a Conv must not slip through once the Pad is gone."""
    model = parse(
        "g (float[N,4,H,W] x) => (float[] y) { s = Add(x, k) q = Pad(s, p) y = Conv(q, w) }",
        {**W, **pads(0, 0, 1, 1, 0, 0, 1, 1), "k": integers("k", 4, 1, 1) + 5},
    )
    result = run(model)
    assert result.ops == {"Add": 1, "Conv": 1}
    folds(model, ops=result.ops)


def test_pads_held_in_a_constant_node_and_shared_value() -> None:
    model = parse(
        "g (float[N,4,H,W] x) => (float[] y) { p = Constant<value = int64[8]"
        " {0,0,1,1,0,0,1,1}>() z = Constant<value = float {0.0}>()"
        " q = Pad(x, p, z) y = Conv(q, w) }",
        W,
    )
    folds(model, PASS, ops={"Conv": 1})


def test_zero_value_of_float16() -> None:
    model = parse(
        "g (float16[N,4,H,W] x) => (float16[] y) { q = Pad(x, p, z) y = Conv(q, w) }",
        {"w": W["w"].astype(np.float16), "z": np.array(0, np.float16),
         **pads(0, 0, 1, 1, 0, 0, 1, 1)},
    )  # fmt: skip
    folds(model, PASS, ops={"Conv": 1})


def test_inside_a_body_with_the_pad_outside() -> None:
    model = parse(
        "g (float[N,4,H,W] x, bool f) => (float[N,6,H,W] y) { q = Pad(x, p)"
        " y = If(f) <then_branch = t () => (float[] z) { z = Conv(q, w) },"
        " else_branch = e () => (float[] o) { o = Conv(q, u) }> }",
        {**W, "u": integers("u", 6, 4, 3, 3), **pads(0, 0, 1, 1, 0, 0, 1, 1)},
    )
    feeds = [{"x": integers("x", 2, 4, 7, 6), "f": np.array(f)} for f in (True, False)]
    folds(model, PASS, ops={"If": 1, "Conv": 2}, feeds=feeds)
