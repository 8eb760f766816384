"""Collapse any linear region into as few convolutions as the cost model likes.

    Between two nonlinearities everything is a sum of convolutions of what the region reads

What it does:
    All that `merge_branches`, `fold_skip`, `merge_sequential`, `fold_data` and `fold_upsample` do,
    at once and in any topology: what those reach only in several steps, each of which must gain by
    itself, is reached here when the whole gains. Option: `target` (any, ort-cpu, openvino or
    tensorrt), for what operators cost there.
When it applies:
    The result is cheaper by the cost model of the target; by a tenth if it multiplies more, or
    needs more convolutions and multiplies less.
When it refuses:
    Whatever those passes refuse: borders, other readers, unknown extents, rates that are those of
    no single convolution, and merges that would cost more than they save.
Exactness:
    reassociated: computed in float64 and rounded once.
Example:
    before: a = Conv(x, w1)  s = SpaceToDepth<blocksize=2>(a)  b = Conv(s, w2)  c = Conv(s, w3)
            y = Add(b, c)
    after:  y = Conv<strides=[2,2]>(x, w.folded)
"""

from collections.abc import Sequence

import onnx_ir as ir

from onnxfold.cost.machine import CostModel
from onnxfold.cost.machines import MachineOptions, machine_named
from onnxfold.linear.emit import emit_collapse
from onnxfold.linear.reading import LINEAR_OPS
from onnxfold.linear.region import Collapse, Steps, collapse
from onnxfold.linear.roots import is_inside_larger
from onnxfold.pipeline.passes import RulePass
from onnxfold.rewrite.builder import Builder
from onnxfold.rewrite.rule import AnyRule, Reject, Rule

STEPS = Steps(inlined=LINEAR_OPS, into_kernels=LINEAR_OPS, only_meeting=False)


def match(node: ir.Node, costs: CostModel) -> Collapse | Reject | None:
    """The last node of a linear region."""
    return None if is_inside_larger(node) else collapse(node, STEPS, costs)


def rewrite(found: Collapse, build: Builder) -> ir.Value | Reject:
    """Record the convolutions that are left."""
    return emit_collapse(found, build)


def rules(options: MachineOptions) -> Sequence[AnyRule]:
    """The one rule."""
    costs = machine_named(options.target)
    return (
        Rule("linear_region", LINEAR_OPS - {"Split"}, lambda node: match(node, costs), rewrite),
    )


PASS = RulePass("fold_linear", rules, __doc__ or "", options_type=MachineOptions)
