"""Compute a PRelu that has one slope for all channels as a LeakyRelu.

    PRelu with the slopes (a, a, …, a) = LeakyRelu with alpha = a

What it does:
    Replaces the PRelu by the operator that ONNX Runtime has an integer kernel for, a table of 256
    entries.
When it applies:
    All slopes are constant and equal, as those of a PReLU with a single parameter are.
When it refuses:
    The slopes differ: that is no LeakyRelu.
Exactness:
    exact: the same product.
Example:
    before: y = PRelu(x, slope)
    after:  y = LeakyRelu<alpha = 0.25>(x)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxfold.ir.constants import FLOAT_TYPES, float_constant
from onnxfold.ir.graph import input_at
from onnxfold.ir.shapes import rank
from onnxfold.pipeline.passes import NoOptions, RulePass
from onnxfold.rewrite.builder import Builder
from onnxfold.rewrite.rule import AnyRule, Exactness, Reject, Rule


@dataclass(frozen=True, slots=True)
class OneSlope:
    """A PRelu with one slope.

    Attributes:
        x: What it reads.
        slope: What negative numbers are multiplied by.
    """

    x: ir.Value
    slope: float


def match(node: ir.Node) -> OneSlope | Reject | None:
    """A PRelu whose slopes are known."""
    x, slopes = input_at(node, 0), float_constant(input_at(node, 1))
    if x is None or x.dtype not in FLOAT_TYPES or slopes is None or not slopes.size:
        return None
    if (rank(x) or 0) < slopes.ndim:
        return None
    if (slopes != slopes.flat[0]).any():
        return Reject("its slopes differ, and a LeakyRelu has one", node)
    return OneSlope(x, float(slopes.flat[0]))


def rewrite(found: OneSlope, build: Builder) -> ir.Value:
    """Record the LeakyRelu."""
    return build.op("LeakyRelu", [found.x], {"alpha": found.slope})


def rules(_: NoOptions) -> Sequence[AnyRule]:
    """The one rule."""
    return (RULE,)


RULE = Rule("one_slope", frozenset({"PRelu"}), match, rewrite, exactness=Exactness.EXACT)
PASS = RulePass("lower_prelu", rules, __doc__ or "", exactness=Exactness.EXACT)
