"""Fold what moves pixels into channels, or back, into the kernel of the convolution beside it.

    conv_k(space_to_depth_b(x)) = conv_kb(x) with stride b,
    because each tap over a channel of a block is a tap over a pixel of it

What it does:
    Lets a Conv read the image itself where it reads a rearrangement of it: Reshape, Transpose and
    Reshape, SpaceToDepth, strided Slices joined by a Concat (Focus), in every order of the phases,
    and channels picked or permuted by Slice, Split, Gather and Concat. A Split of a Concat, and
    movement that puts everything back in its place, cancel. Convolutions of parts of a tensor whose
    results are joined again become one, in groups if the parts are alike. What a Conv computes and
    nobody reads, because its channels are cut away or moved to pixels behind it, goes into its
    weight in the same way.
When it applies:
    The result is cheaper by the cost model. Chains through Reshape need known extents behind the
    batch; all others do not.
When it refuses:
    A result that is no single convolution with padding by zeros; a rearranged tensor with another
    reader; a kernel that would cost more than moving the pixels does, as dilated and depthwise ones
    would.
Exactness:
    reassociated: the same products are added in another order.
Example:
    before: s = SpaceToDepth<blocksize=2>(x)  y = Conv<pads=[1,1,1,1]>(s, w)    # w is 16x12x3x3
    after:  y = Conv<strides=[2,2], pads=[2,2,2,2]>(x, w.folded)                 # 16x3x6x6
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxfold.ir.graph import int_attribute, is_op, producer
from onnxfold.ir.shapes import dim, rank
from onnxfold.linear.emit import emit_collapse
from onnxfold.linear.reading import MOVING_OPS
from onnxfold.linear.region import Collapse, Steps, collapse
from onnxfold.pipeline.passes import NoOptions, RulePass
from onnxfold.rewrite.builder import Builder
from onnxfold.rewrite.rule import AnyRule, Reject, Rule

_MOVING = MOVING_OPS - {"Resize", "Upsample"}
_MOVES = Steps(inlined=_MOVING, into_kernels=_MOVING, only_meeting=False)
_BEFORE = Steps(inlined=_MOVING, into_kernels=_MOVING, only_meeting=False)
_BEHIND = Steps(inlined=_MOVING | {"Conv"}, into_kernels=_MOVING | {"Conv"}, only_meeting=False)


def match_before(node: ir.Node) -> Collapse | Reject | None:
    """A convolution behind operators that only move elements."""
    return collapse(node, _BEFORE)


def match_behind(node: ir.Node) -> Collapse | Reject | None:
    """Operators that only move elements, behind a convolution."""
    return collapse(node, _BEHIND, wanted=frozenset({"Conv"}))


def rewrite(found: Collapse, build: Builder) -> ir.Value | Reject:
    """Record the convolution that reads the image itself."""
    return emit_collapse(found, build)


def match_moved(node: ir.Node) -> Collapse | None:
    """Operators that only move elements, and together put each back in its place."""
    found = collapse(node, _MOVES)
    if not isinstance(found, Collapse) or len(found.terms) != 1:
        return None
    (expression,) = found.terms.values()
    return found if expression.is_identity else None


@dataclass(frozen=True, slots=True)
class SplitOfConcat:
    """A Split that takes apart what a Concat has joined.

    Attributes:
        axis: Of both, not negative.
        parts: What each output of the Split is made of, in order.
    """

    axis: int
    parts: tuple[tuple[ir.Value, ...], ...]


def match_split(node: ir.Node) -> SplitOfConcat | None:
    """A Split whose cuts lie where the Concat in front of it has joined."""
    joined, joining = node.inputs[0], producer(node.inputs[0])
    known = rank(joined)
    if joining is None or known is None or not is_op(joining, "Concat"):
        return None
    axis = int_attribute(node, "axis", 0) % known
    if int_attribute(joining, "axis", 0) % known != axis or joining.graph is not node.graph:
        return None
    sizes = [dim(value, axis) for value in joining.inputs]
    wanted = [dim(value, axis) for value in node.outputs]
    if None in sizes or None in wanted:
        return None
    ends = np.cumsum([size or 0 for size in sizes]).tolist()
    parts: list[tuple[ir.Value, ...]] = []
    start = 0
    for end in np.cumsum([size or 0 for size in wanted]).tolist():
        if end not in ends:
            return None
        last = ends.index(end) + 1
        parts.append(tuple(value for value in joining.inputs[start:last] if value is not None))
        start = last
    return SplitOfConcat(axis, tuple(parts)) if all(parts) else None


def rewrite_split(found: SplitOfConcat, build: Builder) -> list[ir.Value]:
    """Hand the parts on; record a Concat where an output is made of several."""
    return [
        part[0] if len(part) == 1 else build.op("Concat", list(part), {"axis": found.axis})
        for part in found.parts
    ]


def rules(_: NoOptions) -> Sequence[AnyRule]:
    """Both sides of a convolution, and movement that comes to nothing."""
    return (SPLIT, MOVED, BEFORE, BEHIND)


SPLIT = Rule("split_of_concat", frozenset({"Split"}), match_split, rewrite_split)
MOVED = Rule("moved_and_back", _MOVING - {"Split"}, match_moved, rewrite)
BEFORE = Rule("moved_before_conv", frozenset({"Conv", "ConvTranspose"}), match_before, rewrite)
BEHIND = Rule("moved_behind_conv", _MOVING - {"Split"}, match_behind, rewrite)
PASS = RulePass("fold_data", rules, __doc__ or "")
