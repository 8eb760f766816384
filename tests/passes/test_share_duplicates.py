"""What counts as equal, and what does not."""

import numpy as np
import pytest

from tests.toolkit import batch_norm, folds, integers, parse, run, unchanged

NAME = "share_duplicates"


def test_equal_nodes_and_what_reads_them() -> None:
    model = parse("g (float[3] x) => (float[] y)"
                  " { a = Relu(x) b = Relu(x) c = Neg(a) d = Neg(b) y = Add(c, d) }")  # fmt: skip
    folds(model, NAME, ops={"Relu": 1, "Neg": 1, "Add": 1})


def test_nodes_with_equal_weights() -> None:
    w = integers("w", 6, 4, 3, 3)
    model = parse("g (float[N,4,H,W] x) => (float[] y)"
                  " { a = Conv(x, w) b = Conv(x, u) y = Add(a, b) }",
                  {"w": w, "u": w.copy()})  # fmt: skip
    folds(model, NAME, ops={"Conv": 1, "Add": 1})


@pytest.mark.parametrize(("left", "right"), [
    ("Constant<value_int = 1>()", "Constant<value_float = 1.0>()"),
    ("Constant<value_float = 0.0>()", "Constant<value_float = -0.0>()"),
    ("Constant<value_ints = [1]>()", "Constant<value_floats = [1.0]>()"),
    ("Constant<value_int = 1>()", "Constant<value_ints = [1]>()"),
    ("Constant<value = int32[1] {1}>()", "Constant<value = int64[1] {1}>()"),
    ("Constant<value = int64[1] {1}>()", "Constant<value = int64 {1}>()"),
    ('Constant<value_string = "1">()', "Constant<value_int = 1>()"),
])  # fmt: skip
def test_attributes_that_only_look_equal(left: str, right: str) -> None:
    model = parse(
        "g (float[1] x) => (float[1] y, float[] t, float[] u)"
        f" {{ a = {left} b = {right} t = Cast<to=1>(a) u = Cast<to=1>(b) y = Relu(x) }}"
    )
    unchanged(model, NAME)


def test_equal_lists_and_strings() -> None:
    pool = 'MaxPool<kernel_shape=[2,2], auto_pad="SAME_UPPER">(x)'
    model = parse("g (float[N,4,H,W] x) => (float[] y)"
                  f" {{ a = {pool} b = {pool} y = Add(a, b) }}")  # fmt: skip
    folds(model, NAME, ops={"MaxPool": 1, "Add": 1})


@pytest.mark.parametrize("node", ["RandomNormalLike(x)", "RandomUniform<shape=[3]>()",
                                  "Bernoulli(h)", "Dropout(x, h, t)"])  # fmt: skip
def test_random_nodes_stay_apart(node: str) -> None:
    if "(h)" in node:
        node = node.replace("h", "x")
    model = parse(f"g (float[3] x) => (float[] y) {{ a = {node} b = {node} y = Add(a, b) }}",
                  {"h": np.array(0.5, np.float32), "t": np.array(True)})  # fmt: skip
    unchanged(model, NAME)


def test_operators_of_other_domains_stay_apart() -> None:
    model = parse(
        "g (float[3] x) => (float[3] y)"
        " { a = test.custom.Noise(x) b = test.custom.Noise(x) y = Add(a, b) }"
    )
    unchanged(model, NAME)  # fmt: skip


def test_an_output_left_out_is_no_output() -> None:
    model = parse(
        "g (float[N,4,H,W] x) => (float[] y, int64[] t)"
        " { a = MaxPool<kernel_shape=[2,2]>(x) b, t = MaxPool<kernel_shape=[2,2]>(x)"
        " y = Add(a, b) }"
    )
    unchanged(model, NAME)


def test_outputs_with_empty_names() -> None:
    lstm = "LSTM<hidden_size=1>(x, w, r)"
    model = parse(
        f"g (float[3,1,2] x) => (float[] y, float[] t) {{ a, b = {lstm} v, i = {lstm}"
        " y = Relu(v) t = Neg(b) }",
        {"w": integers("w", 1, 4, 2), "r": integers("r", 1, 4, 1)},
    )
    model.graph.node[0].output[0] = ""
    model.graph.node[1].output[1] = ""
    folds(model, NAME, ops={"LSTM": 2, "Relu": 1, "Neg": 1}, reference=False)


def test_two_outputs_keep_two_nodes() -> None:
    model = parse("g (float[3] x) => (float[] y, float[] t) { y = Relu(x) t = Relu(x) }")
    unchanged(model, NAME)


def test_an_output_takes_over_a_duplicate() -> None:
    model = parse("g (float[3] x) => (float[] y, float[] t) { a = Relu(x) y = Relu(x) t = Neg(a) }")
    folds(model, NAME, ops={"Relu": 1, "Neg": 1})


def test_nodes_with_bodies_stay() -> None:
    branch = "<then_branch = t () => (float[3] z) { z = Neg(x) }, else_branch = e () =>"
    branch += " (float[3] o) { o = Relu(x) }>"
    model = parse(
        "g (float[3] x, bool f) => (float[] y)"
        f" {{ a = If(f) {branch} b = If(f) {branch} y = Add(a, b) }}"
    )
    unchanged(model, NAME)


def test_inside_a_body() -> None:
    model = parse(
        "g (float[3] x, bool f) => (float[3] y)"
        " { y = If(f) <then_branch = t () => (float[3] z) { a = Neg(x) b = Neg(x) z = Mul(a, b) },"
        " else_branch = e () => (float[3] o) { o = Neg(x) }> }"
    )
    feeds = [{"x": integers("x", 3), "f": np.array(f)} for f in (True, False)]
    folds(model, NAME, ops={"If": 1, "Neg": 2, "Mul": 1}, feeds=feeds)


def test_overridable_and_strings_stay() -> None:
    ones = np.ones(3, np.float32)
    model = parse("g (float[3] x, float[3] k) => (float[] y) { a = Add(x, k) y = Add(a, l) }",
                  {"k": ones, "l": ones})  # fmt: skip
    unchanged(model, NAME)


def test_equal_bytes_of_other_types_and_shapes_stay() -> None:
    weights = {"k": np.zeros(4, np.float32), "l": np.zeros((1, 4), np.float32),
               "m": np.zeros(4, np.int32)}  # fmt: skip
    model = parse(
        "g (float[4] x) => (float[] y)"
        " { a = Add(x, k) b = Add(a, l) c = Cast<to=1>(m) y = Add(b, c) }",
        weights,
    )
    unchanged(model, NAME)  # fmt: skip


def test_parameters_of_batch_norms() -> None:
    params = {**batch_norm(4), "v": np.ones(4, np.float32), "g": np.ones(4, np.float32)}
    model = parse(
        "g (float[N,4,H,W] x) => (float[N,4,H,W] y) { c = Sigmoid(x)"
        " y = BatchNormalization(c, g, b, m, v) }",
        params,
    )
    result = run(model, NAME)
    assert len(result.after.graph.initializer) == 3
    folds(model, NAME, ops={"Sigmoid": 1, "BatchNormalization": 1})
