"""Rewrites are numbered, can be cut anywhere, and are made whole or not at all."""

import numpy as np
import onnx_ir as ir
import pytest

from onnxfold.ir.graph import stamp_opset_versions
from onnxfold.ir.shapes import infer_shapes
from onnxfold.model import load, to_proto
from onnxfold.rewrite.builder import Builder
from onnxfold.rewrite.driver import apply_rules
from onnxfold.rewrite.ledger import Ledger
from onnxfold.rewrite.rewriter import RULE_KEY, SOURCES_KEY, RewriteError, Rewriter
from onnxfold.rewrite.rule import Reject, Rule
from onnxfold.rewrite.tensor_store import MemoryStore
from tests.toolkit import (
    BN,
    assert_equal,
    batch_norm,
    check_invariants,
    integers,
    parse,
    powers,
    rewritten,
)

MODEL = parse(
    f"g (float[N,4,8,8] x) => (float[] y, float[] t) {{ i = Identity(x) q = Pad(i, p)"
    f" a = Conv(q, w) c = {BN}(a, g, b, m, v) d = Conv(q, w) r = Relu(c) l = Relu(c)"
    " j = Concat<axis=1>(r, l, d) s = Mul(j, k) y = Conv(s, u) t = Neg(i) }",
    {"w": integers("w", 3, 4, 3, 3), "u": integers("u", 5, 9, 1, 1), "k": powers("k", 9, 1, 1),
     "p": np.array([0, 0, 1, 1, 0, 0, 1, 1]), **batch_norm(3)},
)  # fmt: skip


def test_a_run_can_be_cut_at_every_rewrite() -> None:
    _, whole = rewritten(MODEL)
    assert len(whole.applied) > 5
    for limit in range(len(whole.applied) + 1):
        after, ledger = rewritten(MODEL, ledger=Ledger(limit=limit))
        assert [each.key for each in ledger.applied] == [e.key for e in whole.applied[:limit]]
        check_invariants(MODEL, after)
        assert_equal(MODEL, after, reference=False)


def test_each_rewrite_can_be_left_out_alone() -> None:
    _, whole = rewritten(MODEL)
    for each in whole.applied:
        after, ledger = rewritten(MODEL, ledger=Ledger(blocked=frozenset({each.key})))
        assert each.key not in [other.key for other in ledger.applied]
        check_invariants(MODEL, after)
        assert_equal(MODEL, after, reference=False)


def test_provenance_names_what_was_folded() -> None:
    model = parse(
        f"g (float[N,4,H,W] x) => (float[] y) {{ c = Conv(x, w) n = {BN}(c, g, b, m, v)"
        " y = Mul(n, k) }",
        {"w": integers("w", 3, 4, 3, 3), "k": np.array(2, np.float32), **batch_norm(3)},
    )
    for node, name in zip(model.graph.node, ("conv", "norm", "scale"), strict=True):
        node.name = name
    after, ledger = rewritten(model)
    (node,) = after.graph.node
    notes = {each.key: each.value for each in node.metadata_props}
    assert notes[RULE_KEY] == "fuse_bn/after_linear"
    assert set(notes[SOURCES_KEY].split(", ")) == {"conv", "norm", "scale"}
    assert [each.number for each in ledger.applied] == [1, 2]


def rewriter_of(text: str) -> Rewriter:
    model = load(parse(text)).model
    infer_shapes(model)
    stamp_opset_versions(model)
    return Rewriter(model, Ledger(), MemoryStore())


CHAIN = "g (float[3] x) => (float[3] y) { a = Relu(x) y = Neg(a) }"


def test_a_replacement_of_another_type_is_refused_and_nothing_changes() -> None:
    rewriter = rewriter_of(CHAIN)
    relu = next(iter(rewriter.model.graph))
    build = rewriter.builder(relu)
    wrong = build.tensor(np.zeros(3, np.int64), ir.DataType.INT64)
    with pytest.raises(RewriteError, match="INT64"):
        rewriter.replace(relu, [wrong], build, pass_name="p", rule="r")
    with pytest.raises(RewriteError, match="2 values were offered"):
        rewriter.replace(relu, [None, None], build, pass_name="p", rule="r")
    with pytest.raises(RewriteError, match="no replacement was offered"):
        rewriter.replace(relu, [None], build, pass_name="p", rule="r")
    assert to_proto(rewriter.model) == to_proto(rewriter_of(CHAIN).model)
    assert not rewriter.ledger.applied


def test_a_rule_that_raises_is_reported_and_asked_no_more() -> None:
    seen: list[str] = []

    def match(node: ir.Node) -> ir.Node:
        seen.append(node.op_type)
        return node

    def rewrite(node: ir.Node, build: Builder) -> ir.Value:
        build.op("Exp", [node.inputs[0]])
        raise ZeroDivisionError("no")

    rewriter = rewriter_of(CHAIN)
    apply_rules(rewriter, "p", [Rule("r", frozenset({"Relu", "Neg"}), match, rewrite)])
    assert seen == ["Relu"]
    assert [each.error for each in rewriter.ledger.failures] == ["ZeroDivisionError: no"]
    assert len(rewriter.model.graph.inputs[0].uses()) == 1


def test_a_rule_without_an_end_is_stopped() -> None:
    rule = Rule(
        "again",
        frozenset({"Relu"}),
        lambda node: node,
        lambda node, build: build.op("Relu", [node.inputs[0]]),
    )
    with pytest.raises(RewriteError, match="does not come to an end"):
        apply_rules(rewriter_of(CHAIN), "p", [rule])


def test_a_near_miss_that_is_none_any_more_is_forgotten() -> None:
    answers = {"Relu": iter([Reject("not yet", ir.node("Relu", [])), None])}

    def match(node: ir.Node) -> Reject | None:
        return next(answers[node.op_type], None)

    rewriter = rewriter_of(CHAIN)
    rule: Rule[Reject] = Rule("r", frozenset({"Relu"}), match, lambda found, _: found)
    apply_rules(rewriter, "p", [rule])
    assert [each.reason for each in rewriter.ledger.rejections] == ["not yet (Relu of 'None')"]
    apply_rules(rewriter, "p", [rule])
    assert rewriter.ledger.rejections == []
