"""A rewrite rule of one's own: a division by a constant becomes a multiplication.

    python examples/own_rule.py [MODEL]

The rule looks at one node and says what stands in its place. It never edits the graph: the driver
does that, and names, numbers and undoes what the rule asks for. Because this file defines `PASS`,
it is a plugin as well, and the pass can be named like any other:

    onnxfold optimize MODEL -o OUT --plugin examples/own_rule.py --passes fuse_bn,div_to_mul
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxfold.ir.constants import float_constant
from onnxfold.ir.graph import is_op
from onnxfold.model.load import load
from onnxfold.model.proto import to_proto
from onnxfold.pipeline.manager import PassManager
from onnxfold.pipeline.passes import NoOptions, RulePass
from onnxfold.rewrite.builder import Builder
from onnxfold.rewrite.rule import AnyRule, Reject, Rule
from onnxfold.verify import verify

DEMO = Path(__file__).parent / "demo" / "demo.onnx"


@dataclass(frozen=True, slots=True)
class DivisionByConstant:
    """What the rule found.

    Attributes:
        x: The dividend.
        divisor: The constant, widened to float64.
        dtype: The type in which the model computes.
    """

    x: ir.Value
    divisor: NDArray[np.float64]
    dtype: ir.DataType


def match(node: ir.Node) -> DivisionByConstant | Reject | None:
    """None: not this pattern. Reject: nearly, and why not. Otherwise what was found."""
    x, by = node.inputs
    divisor = float_constant(by)
    if x is None or by is None or by.dtype is None or divisor is None:
        return None
    if not np.all(divisor):
        return Reject("a divisor is zero", node)
    return DivisionByConstant(x, divisor, by.dtype)


def rewrite(found: DivisionByConstant, build: Builder) -> ir.Value:
    """Record the new node; the reciprocal is rounded once, by `constant`."""
    factor = build.constant(1.0 / found.divisor, found.dtype)
    return build.op("Mul", [found.x, factor])


def rules(_: NoOptions) -> Sequence[AnyRule]:
    """The rules of the pass; more could be listed, or chosen by options."""
    return (Rule("reciprocal", frozenset({"Div"}), match, rewrite),)


PASS = RulePass(
    "div_to_mul", rules, "Multiply by the reciprocal instead of dividing by a constant."
)


def main(path: Path) -> int:
    """Run the pass over a model, and verify the result."""
    loaded = load(path)
    run = PassManager([PASS]).run(loaded.model)
    for applied in run.ledger.applied:
        print(f"{applied.number}. {applied.key}: {', '.join(applied.sources)}")
    for rejection in run.ledger.rejections:
        print(f"not at {rejection.node}: {rejection.reason}")
    left = sum(is_op(node, "Div") for node in run.model.graph)
    print(f"{len(run.ledger.applied)} divisions replaced, {left} left")
    verdict = verify(path, to_proto(run.model))
    print(verdict.reason)
    return 0 if verdict.equal else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else DEMO))
