"""Fold a space-to-depth in front of a convolution into the kernel.

    conv_k(space_to_depth_b(x)) = conv_kb(x) with stride b,
    because each tap over a channel of a block is a tap over a pixel of it

What it does:
    Follows the elements of an image through the Reshape, Transpose, SpaceToDepth and DepthToSpace
    nodes in front of a Conv. Where together they pick pixels by blocks, or permute channels, the
    Conv reads the image itself, with a larger kernel and a stride.
When it applies:
    The extents behind the batch are known, and no part of the chain has another reader.
When it refuses:
    Another reader of the rearranged tensor; a result that is no single convolution with padding by
    zeros; a kernel with more weights than before, as dilated and depthwise ones would become.
Exactness:
    reassociated: the same products are added in another order.
Example:
    before: s = SpaceToDepth<blocksize=2>(x)  y = Conv<pads=[1,1,1,1]>(s, w)    # w is 16x12x3x3
    after:  y = Conv<strides=[2,2], pads=[2,2,2,2]>(x, w.folded)                 # 16x3x6x6
"""

from collections.abc import Sequence

import onnx_ir as ir

from onnxfold.algebra.cost import footprint
from onnxfold.algebra.extents import ExtentRule
from onnxfold.algebra.refusal import Refusal
from onnxfold.ir.graph import has_other_readers, is_op, producer
from onnxfold.linear.emit import emit_collapse
from onnxfold.linear.expression import Expression, Obstacle, composed
from onnxfold.linear.reading import Reading, reading_of
from onnxfold.linear.region import Collapse
from onnxfold.linear.tracing import REARRANGEMENTS, Rearrangement, rearrangement_of
from onnxfold.pipeline.passes import NoOptions, RulePass
from onnxfold.rewrite.builder import Builder
from onnxfold.rewrite.rule import AnyRule, Reject, Rule


def match(node: ir.Node) -> Collapse | Reject | None:
    """A Conv behind operators that only move elements."""
    moving = producer(node.inputs[0])
    if moving is None or not is_op(moving, *REARRANGEMENTS) or moving.graph is not node.graph:
        return None
    found = rearrangement_of(moving)
    if found is None or any(up != 1 for up in found.conv_map.up):
        return None
    reading = reading_of(node)
    if not isinstance(reading, Reading):
        return reading
    ((middle, outer),) = reading.operands
    if has_other_readers(middle):
        return Reject("the rearranged tensor has another reader", moving)
    return _folded(reading, outer, middle, found)


def _folded(
    reading: Reading, outer: Expression, middle: ir.Value, found: Rearrangement
) -> Collapse | Reject:
    inner = _expression(found)
    folded = composed(outer, inner, found.source, middle, reading.output)
    if isinstance(folded, Refusal):
        return Reject(folded.reason, reading.node)
    if folded.footprint.weights > outer.footprint.weights:
        return Reject("the folded kernel would have more weights than before", reading.node)
    if isinstance(folded.value, Obstacle):
        return Reject(folded.value.reason, reading.node)
    return Collapse(reading.node, {found.source: folded}, reading.dtype)


def _expression(found: Rearrangement) -> Expression:
    conv_map = found.conv_map
    rules = tuple(ExtentRule(1, 0, stride) for stride in conv_map.stride)
    return Expression(footprint(conv_map), rules, lambda: conv_map, shifts=False)


def rewrite(found: Collapse, build: Builder) -> ir.Value | Reject:
    """Record the convolution that reads the image itself."""
    return emit_collapse(found, build)


def rules(_: NoOptions) -> Sequence[AnyRule]:
    """The one rule."""
    return (RULE,)


RULE = Rule("moved_before_conv", frozenset({"Conv"}), match, rewrite)
PASS = RulePass("fold_data", rules, __doc__ or "")
