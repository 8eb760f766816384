"""Replace a negated negation by what is negated."""

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxfold.ir.graph import is_op, producer
from onnxfold.pipeline.passes import NoOptions, RulePass
from onnxfold.rewrite.builder import Builder
from onnxfold.rewrite.rule import AnyRule, Exactness, Rule


@dataclass(frozen=True, slots=True)
class DoubleNegation:
    """Two Neg nodes in a row.

    Attributes:
        x: What the first of them reads.
    """

    x: ir.Value


def match(node: ir.Node) -> DoubleNegation | None:
    """A Neg behind a Neg."""
    inner = producer(node.inputs[0])
    if inner is None or not is_op(inner, "Neg") or inner.inputs[0] is None:
        return None
    return DoubleNegation(inner.inputs[0])


def rewrite(found: DoubleNegation, build: Builder) -> ir.Value:
    """Nothing new is needed."""
    return found.x


def rules(_: NoOptions) -> Sequence[AnyRule]:
    """The one rule."""
    return (RULE,)


RULE = Rule("double_negation", frozenset({"Neg"}), match, rewrite, exactness=Exactness.EXACT)
drop_double_negation = RulePass(
    "drop_double_negation", rules, __doc__ or "", exactness=Exactness.EXACT
)
