"""Merge parallel linear branches that are added up into one convolution.

    conv3x3(x) + conv1x1(x) + s · x + t   becomes   one 3×3 convolution of x,
    because each branch is a kernel over the same input, and kernels add up

What it does:
    At an addition or subtraction, and through constants behind it, adds up the kernels of all
    branches that read the same tensor: Conv and ConvTranspose of any kernel, dense, grouped,
    depthwise or dilated, BatchNormalization and per-channel constants, average pooling that counts
    its padding, and the tensor itself, in any association. Unequal pads are aligned by zero taps.
When it applies:
    The branches have the same rates and extents, and the result is cheaper by the cost model.
When it refuses:
    A branch whose intermediate result has another reader, where the merge would not gain; a
    constant or a reach across a padded border; branches of different extents; merges that make a
    depthwise branch dense, or a widely dilated one large.
Exactness:
    reassociated: computed in float64 and rounded once.
Example:
    before: a = Conv(x, w3)  b = Conv(x, w1)  s = Add(a, b)  y = Add(s, x)
    after:  y = Conv(x, w.folded, b.folded)
"""

from collections.abc import Sequence

import onnx_ir as ir

from onnxfold.linear.affine import AFFINE_OPS
from onnxfold.linear.emit import emit_collapse
from onnxfold.linear.reading import CHAINED_OPS, COMPUTING_OPS, SUM_OPS, WINDOW_OPS
from onnxfold.linear.region import Collapse, Steps, collapse
from onnxfold.linear.roots import is_inside_larger
from onnxfold.pipeline.passes import NoOptions, RulePass
from onnxfold.rewrite.builder import Builder
from onnxfold.rewrite.rule import AnyRule, Reject, Rule

STEPS = Steps(
    inlined=COMPUTING_OPS | CHAINED_OPS | {"Concat"}, into_kernels=WINDOW_OPS | CHAINED_OPS
)


def match(node: ir.Node) -> Collapse | Reject | None:
    """An addition of branches that read the same tensor, or constants behind one."""
    return None if is_inside_larger(node) else collapse(node, STEPS)


def rewrite(found: Collapse, build: Builder) -> ir.Value | Reject:
    """Record the merged convolution."""
    return emit_collapse(found, build)


def rules(_: NoOptions) -> Sequence[AnyRule]:
    """The one rule."""
    return (RULE,)


RULE = Rule("sum_of_branches", SUM_OPS | AFFINE_OPS | {"Concat"}, match, rewrite)
PASS = RulePass("merge_branches", rules, __doc__ or "")
