"""Fold what moves pixels into channels, or back, into the kernel of the convolution beside it.

    conv_k(space_to_depth_b(x)) = conv_kb(x) with stride b,
    because each tap over a channel of a block is a tap over a pixel of it

What it does:
    Lets a Conv read the image itself where it reads a rearrangement of it: Reshape, Transpose and
    Reshape, SpaceToDepth, strided Slices joined by a Concat (Focus), in every order of the phases,
    and channels picked or permuted by Slice, Split, Gather and Concat. What a Conv computes and
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

import onnx_ir as ir

from onnxfold.linear.emit import emit_collapse
from onnxfold.linear.reading import MOVING_OPS
from onnxfold.linear.region import Collapse, Steps, collapse
from onnxfold.pipeline.passes import NoOptions, RulePass
from onnxfold.rewrite.builder import Builder
from onnxfold.rewrite.rule import AnyRule, Reject, Rule

_MOVING = MOVING_OPS - {"Resize", "Upsample"}
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


def rules(_: NoOptions) -> Sequence[AnyRule]:
    """Both sides of a convolution."""
    return (BEFORE, BEHIND)


BEFORE = Rule("moved_before_conv", frozenset({"Conv", "ConvTranspose"}), match_before, rewrite)
BEHIND = Rule("moved_behind_conv", _MOVING - {"Split"}, match_behind, rewrite)
PASS = RulePass("fold_data", rules, __doc__ or "")
