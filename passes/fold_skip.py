"""Fold the tensor that is added to a convolution of it into the kernel.

    x + conv(x) = (conv + δ)(x),
    because the identity is a kernel with a single tap of one at its centre

What it does:
    At an addition, adds a convolution and the scaled, shifted or plain tensor that it reads up to
    one convolution: residual skips around a single Conv, layer scale, and token mixers such as
    `x + γ · (mix(x) − norm(x))`. Two kernels over the same tensor are left to `merge_branches`.
When it applies:
    The convolution keeps extents and channels, and the result is cheaper by the cost model.
When it refuses:
    A convolution whose result has another reader, where folding would not gain; a constant in front
    of a padded border; a tensor that may be broadcast; a skip that would make a grouped kernel
    dense.
Exactness:
    reassociated: computed in float64 and rounded once.
Example:
    before: c = Conv<pads=[1,1,1,1]>(x, w)  y = Add(c, x)
    after:  y = Conv<pads=[1,1,1,1]>(x, w.folded)       # one is added to the centre taps
"""

from collections.abc import Sequence

import onnx_ir as ir

from onnxfold.linear.affine import AFFINE_OPS
from onnxfold.linear.emit import emit_collapse
from onnxfold.linear.reading import SUM_OPS, WINDOW_OPS
from onnxfold.linear.region import Collapse, Steps, collapse
from onnxfold.linear.roots import is_inside_larger
from onnxfold.pipeline.passes import NoOptions, RulePass
from onnxfold.rewrite.builder import Builder
from onnxfold.rewrite.rule import AnyRule, Reject, Rule

STEPS = Steps(inlined=SUM_OPS | AFFINE_OPS | WINDOW_OPS, joins_kernels=False)


def match(node: ir.Node) -> Collapse | Reject | None:
    """An addition of a tensor to a convolution of it, or constants behind one."""
    return None if is_inside_larger(node) else collapse(node, STEPS)


def rewrite(found: Collapse, build: Builder) -> ir.Value | Reject:
    """Record the convolution with the skip in its kernel."""
    return emit_collapse(found, build)


def rules(_: NoOptions) -> Sequence[AnyRule]:
    """The one rule."""
    return (RULE,)


RULE = Rule("skip_around_conv", SUM_OPS | AFFINE_OPS, match, rewrite)
PASS = RulePass("fold_skip", rules, __doc__ or "")
