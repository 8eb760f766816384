"""Fold nearest upsampling into the convolution behind it.

    conv_k(up_n(x)) = a ConvTranspose of x with stride n and k + n − 1 taps,
    because the n copies of a pixel meet several taps, which can be added up beforehand

What it does:
    Lets a Conv behind a nearest Resize or Upsample read the small image: for n = 2 and a 3×3 kernel
    4 products for each output in place of 9. Where a Concat stands in between, as in a decoder, the
    Conv is split over its operands, and only the part that reads the small image changes. Option:
    `target` (any, ort-cpu, openvino or tensorrt), for what operators cost there.
When it applies:
    The result is cheaper by the cost model of the target: with few channels a ConvTranspose of
    ONNX Runtime costs more in memory traffic than it saves in products, one of OpenVINO does not.
When it refuses:
    A Resize that does not repeat every pixel the same number of times; an upsampled image with
    another reader; a result that would cost more.
Exactness:
    reassociated: taps are added in float64 and rounded once.
Example:
    before: u = Resize<mode="nearest">(x, , [1,1,2,2])  y = Conv<pads=[1,1,1,1]>(u, w)
    after:  y = ConvTranspose<strides=[2,2], pads=[1,1,1,1]>(x, w.folded)    # 4x4 taps
"""

from collections.abc import Sequence

import onnx_ir as ir

from onnxfold.cost.machine import CostModel
from onnxfold.cost.machines import MachineOptions, machine_named
from onnxfold.linear.emit import emit_collapse
from onnxfold.linear.region import Collapse, Steps, collapse
from onnxfold.pipeline.passes import RulePass
from onnxfold.rewrite.builder import Builder
from onnxfold.rewrite.rule import AnyRule, Reject, Rule

_UPSAMPLING = frozenset({"Resize", "Upsample"})
STEPS = Steps(
    inlined=_UPSAMPLING | {"Concat"}, into_kernels=_UPSAMPLING | {"Concat"}, only_meeting=False
)


def match(node: ir.Node, costs: CostModel) -> Collapse | Reject | None:
    """A convolution of an upsampled image, or of a Concat that holds one."""
    return collapse(node, STEPS, costs, wanted=_UPSAMPLING)


def rewrite(found: Collapse, build: Builder) -> ir.Value | Reject:
    """Record the transposed convolution, and the convolution of what is not upsampled."""
    return emit_collapse(found, build)


def rules(options: MachineOptions) -> Sequence[AnyRule]:
    """The one rule."""
    costs = machine_named(options.target)
    return (
        Rule("nearest_before_conv", frozenset({"Conv"}), lambda node: match(node, costs), rewrite),
    )


PASS = RulePass("fold_upsample", rules, __doc__ or "", options_type=MachineOptions)
