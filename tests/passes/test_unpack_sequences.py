"""unpack_sequences: SequenceAt of a known sequence becomes an output of a Split."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxfold.rewrite.ledger import Ledger
from tests import zoo
from tests.toolkit import Array, assert_equal, folds, parse, rewritten, unchanged

X = "float[N,5,H,W] x"
ONE, TWO, LAST = (np.array(number, np.int64) for number in (1, 2, -1))
NAME = "unpack_sequences"


def network(
    body: str, weights: dict[str, Array], inputs: str = X, outputs: str = "y", opset: int = 18
) -> onnx.ModelProto:
    given = ", ".join(f"float[] {name}" for name in outputs.split())
    return parse(f"g ({inputs}) => ({given}) {{ {body} }}", weights, opset=opset)


@pytest.mark.parametrize("opset", [11, 13, 18, 22])
@pytest.mark.parametrize("axis", [1, -3])
@pytest.mark.parametrize("lengths", [[2, 3], [0, 5], 2, 3, 5, 9])
def test_known_lengths(opset: int, axis: int, lengths: int | list[int]) -> None:
    weights = {"k": np.array(lengths, np.int64), "i": LAST, "o": np.array(0, np.int64)}
    body = f"s = SplitToSequence<axis = {axis}>(x, k) y = SequenceAt(s, i) z = SequenceAt(s, o)"
    model = network(body, weights, outputs="y z", opset=opset)
    same = model.opset_import[0].version >= 13 and lengths != [0, 5]
    ops = {"Split": 1, "Identity": 1} if lengths in (5, 9) else {"Split": 1}
    folds(model, NAME, ops=ops, reference=same)


@pytest.mark.parametrize("opset", [11, 18])
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("axis", [1, -3])
def test_pieces_of_one(opset: int, keepdims: int, axis: int) -> None:
    cut = f"s = SplitToSequence<axis = {axis}, keepdims = {keepdims}>(x)"
    body = f"{cut} a = SequenceAt(s, i) b = SequenceAt(s, j) y = Add(a, b)"
    model = network(body, {"i": ONE, "j": LAST}, opset=opset)
    squeezes = {} if keepdims else {"Squeeze": 2}
    folds(model, NAME, ops={"Split": 1, "Add": 1, **squeezes}, reference=False)


def test_the_axis_may_be_dynamic_where_all_lengths_are_given() -> None:
    body = "s = SplitToSequence<axis = 2>(x, k) y = SequenceAt(s, i)"
    model = network(body, {"k": np.array([3, 4], np.int64), "i": ONE})
    feed = {"x": np.random.default_rng(0).normal(size=(1, 5, 7, 3)).astype(np.float32)}
    folds(model, NAME, ops={"Split": 1}, feeds=[feed])


def test_other_readers_keep_their_sequence() -> None:
    body = (
        "s = SplitToSequence<axis = 1>(x, k) a = SequenceAt(s, i) b = SequenceAt(s, i)"
        " c = ConcatFromSequence<axis = 1>(s) d = Add(a, b) y = Concat<axis = 1>(c, d)"
    )
    ops = {"SplitToSequence": 1, "Split": 1, "ConcatFromSequence": 1, "Add": 1, "Concat": 1}
    folds(network(body, {"k": np.array([2, 3], np.int64), "i": ONE}), NAME, ops=ops)


def test_operands_of_a_sequence() -> None:
    body = "a = Relu(x) b = Neg(x) s = SequenceConstruct(a, b) y = SequenceAt(s, i)"
    folds(network(body, {"i": LAST}), NAME, ops={"Neg": 1}, reference=False)


def test_in_a_body() -> None:
    cut = "s = SplitToSequence<axis = 1>(x, k) r = SequenceAt(s, i)"
    body = (
        f"y = If (c) <then_branch = t () => (float[] r) {{ {cut} }},"
        " else_branch = e () => (float[] q) { q = Neg(x) }>"
    )
    model = network(body, {"k": np.array([2, 3], np.int64), "i": ONE}, f"bool c, {X}")
    feeds = [{"c": np.array(c), "x": np.ones((2, 5, 3, 4), np.float32)} for c in (True, False)]
    folds(model, NAME, ops={"If": 1, "Split": 1, "Neg": 1}, feeds=feeds)


def test_a_sequence_of_an_outer_graph_is_left_alone() -> None:
    body = (
        "s = SplitToSequence<axis = 1>(x, k) y = If (c) <then_branch = t () => (float[] r) {"
        " r = SequenceAt(s, i) }, else_branch = e () => (float[] q) { q = Neg(x) }>"
    )
    unchanged(network(body, {"k": TWO, "i": ONE}, f"bool c, {X}"), NAME)


def test_a_limit_between_two_pieces() -> None:
    body = "s = SplitToSequence<axis = 1>(x, k) y = SequenceAt(s, i) z = SequenceAt(s, j)"
    model = network(body, {"k": TWO, "i": ONE, "j": LAST}, outputs="y z")
    _, whole = rewritten(model, [NAME])
    assert len(whole.applied) == 2
    for limit in range(3):
        after, _ = rewritten(model, [NAME], Ledger(limit))
        assert_equal(model, after)
    for each in whole.applied:
        after, ledger = rewritten(model, [NAME], Ledger(None, frozenset({each.key})))
        assert len(ledger.applied) == 1
        assert_equal(model, after)


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5.dynamo", "efficientvit_b0.dynamo"])
def test_real_networks_have_no_sequence_left(name: str) -> None:
    model = zoo.load(name)
    after, ledger = rewritten(model)
    assert not ledger.failures
    assert "SequenceAt" in {node.op_type for node in model.graph.node}
    assert not {node.op_type for node in after.graph.node} & {"SplitToSequence", "SequenceAt"}
