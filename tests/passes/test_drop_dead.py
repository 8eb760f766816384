"""What nobody reads goes; what the user sees stays."""

import numpy as np

from tests.toolkit import folds, integers, parse, run, unchanged

NAME = "drop_dead"


def test_dead_chains_and_initializers() -> None:
    model = parse(
        "g (float[3] x, float[2] unread) => (float[] y)"
        " { a = Relu(x) b = Add(a, k) c = Neg(b) y = Neg(x) }",
        {"k": integers("k", 3), "l": integers("l", 3)},
    )
    result = folds(model, NAME, ops={"Neg": 1})
    assert not result.after.graph.initializer
    assert [each.name for each in result.after.graph.input] == ["x", "unread"]


def test_inside_bodies_and_what_only_they_captured() -> None:
    model = parse(
        "g (float[3] x, bool f) => (float[3] y) { a = Relu(x) b = Neg(k)"
        " y = If(f) <then_branch = t () => (float[3] z) { c = Add(a, b) z = Neg(x) },"
        " else_branch = e () => (float[3] o) { o = Relu(x) }> }",
        {"k": integers("k", 3)},
    )
    feeds = [{"x": integers("x", 3), "f": np.array(f)} for f in (True, False)]
    result = folds(model, NAME, ops={"If": 1, "Neg": 1, "Relu": 1}, feeds=feeds)
    assert not result.after.graph.initializer


def test_a_dead_if_goes_with_what_it_captured() -> None:
    model = parse(
        "g (float[3] x, bool f) => (float[3] y) { a = Relu(x)"
        " b = If(f) <then_branch = t () => (float[3] z) { z = Neg(a) },"
        " else_branch = e () => (float[3] o) { o = Relu(a) }> y = Neg(x) }"
    )
    feeds = [{"x": integers("x", 3), "f": np.array(True)}]
    folds(model, NAME, ops={"Neg": 1}, feeds=feeds)


def test_one_read_output_keeps_the_node() -> None:
    unchanged(parse("g (float[6] x) => (float[] y) { a, b = Split<axis=0, num_outputs=2>(x)"
                    " y = Neg(b) }"), NAME)  # fmt: skip


def test_outputs_that_are_inputs_or_weights() -> None:
    model = parse("g (float[3] x) => (float[3] x, float[3] k) { }", {"k": integers("k", 3)})
    unchanged(model, NAME)
    unchanged(model)


def test_empty_graph() -> None:
    for passes in ((NAME,), ()):
        assert run(parse("g (float[3] x) => (float[3] x) { }"), *passes).ops == {}
