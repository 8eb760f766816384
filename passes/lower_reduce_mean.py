"""Compute a ReduceMean over the whole image as a GlobalAveragePool.

    mean over all spatial axes = GlobalAveragePool, flattened where the axes are dropped

What it does:
    Replaces the ReduceMean, which some exporters write for an average over the image, by the
    operator that integer backends know; and by a Flatten behind it where the axes are dropped.
When it applies:
    It reduces over every axis but batch and channel, and nothing else.
When it refuses:
    Nothing that a user would expect.
Exactness:
    reassociated: the same sum, taken by another kernel.
Example:
    before: y = ReduceMean<axes = [2, 3]>(x)
    after:  y = GlobalAveragePool(x)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxfold.ir.constants import FLOAT_TYPES, int_constant
from onnxfold.ir.graph import input_at, int_attribute, ints_attribute, is_op
from onnxfold.ir.shapes import rank
from onnxfold.pipeline.passes import NoOptions, RulePass
from onnxfold.rewrite.builder import Builder
from onnxfold.rewrite.rule import AnyRule, Rule


@dataclass(frozen=True, slots=True)
class MeanOverImage:
    """A mean over all spatial axes.

    Attributes:
        x: What is averaged, (N, C, …).
        keeps_axes: Whether the averaged axes stay, with extent 1.
    """

    x: ir.Value
    keeps_axes: bool


def match(node: ir.Node) -> MeanOverImage | None:
    """A ReduceMean over axes 2 and up."""
    x = input_at(node, 0)
    known = rank(x)
    if x is None or known is None or known < 3 or x.dtype not in FLOAT_TYPES:
        return None
    if not is_op(node, "ReduceMean"):
        return None
    axes = ints_attribute(node, "axes", ()) or int_constant(input_at(node, 1)) or ()
    if {axis % known for axis in axes} != set(range(2, known)):
        return None
    return MeanOverImage(x, bool(int_attribute(node, "keepdims", 1)))


def rewrite(found: MeanOverImage, build: Builder) -> ir.Value:
    """Record the pool."""
    pooled = build.op("GlobalAveragePool", [found.x])
    pooled.type, shape = found.x.type, found.x.shape
    assert shape is not None
    pooled.shape = ir.Shape([*shape[:2], *(1,) * (len(shape) - 2)])
    return pooled if found.keeps_axes else build.op("Flatten", [pooled], {"axis": 1})


def rules(_: NoOptions) -> Sequence[AnyRule]:
    """The one rule."""
    return (RULE,)


RULE = Rule("over_image", frozenset({"ReduceMean"}), match, rewrite)
PASS = RulePass("lower_reduce_mean", rules, __doc__ or "")
