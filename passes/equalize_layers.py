"""Scale channels between layers so that quantization wastes fewer steps on them.

    conv2(f(conv1(x))) = conv2'(f(conv1'(x)))   with conv1' = conv1 / s per output channel,
    conv2' = conv2 · s per input channel, and f(x / s) = f(x) / s

What it does:
    Divides the output channels of Conv, ConvTranspose, Gemm and MatMul by numbers and multiplies
    the input channels of what reads them, so that all channels of a tensor reach about as far. The
    numbers make the predicted noise of 8-bit steps least, of activations and weights together.
    Nothing is added to the graph; weights and biases change.
When it applies:
    Between layers lie only operators that commute with a positive scale: Relu, LeakyRelu, PRelu,
    pooling, Resize, Pad with zeros, Concat, Split, Slice, additions, products with a gate and
    rearrangements. A residual stream is scaled as a whole. The gain and shift of a normalization
    take scales like the weights of a layer. Option `calibration`: the file that
    says how far channels reach, made by `onnxfold calibrate` for this very graph. Option
    `lift_clipped`: channels behind a Clip from zero may be lifted as far as the calibration leaves
    room below its ceiling.
When it refuses:
    No calibration, since weights alone say too little about ranges; an activation that does not
    commute with a scale; a channel that an output of the model, a body of control flow or an
    operator with computed weights reads; a Clip, unless lifting is asked for; a gain below 2 %.
Exactness:
    reassociated: computed in float64 and rounded once. With `lift_clipped` it is lossy for inputs
    that exceed the calibrated maximum of a channel by more than a quarter.
Example:
    before: a = Conv(x, w1, b1)  r = Relu(a)  y = Conv(r, w2, b2)
    after:  a = Conv(x, w1.folded, b1.folded)  r = Relu(a)  y = Conv(r, w2.folded, b2)
"""

from dataclasses import dataclass

import onnx_ir as ir

from onnxfold.calibrate.identity import graph_hash
from onnxfold.calibrate.store import load
from onnxfold.ir.graph import describe
from onnxfold.linear.hosts import Host, host_of
from onnxfold.pipeline.passes import EditPass
from onnxfold.quantize.equalize import channel_ranges, equalization
from onnxfold.quantize.scaled_weights import write_scales
from onnxfold.rewrite.ledger import Rejection
from onnxfold.rewrite.rewriter import Rewriter
from onnxfold.rewrite.rule import Exactness

_NAME, _RULE = "equalize_layers", "model"


@dataclass(frozen=True, slots=True)
class EqualizeOptions:
    """Options of the pass.

    Attributes:
        calibration: A file of `onnxfold calibrate` for this graph; without one nothing is done.
        lift_clipped: Whether channels behind a Clip from zero may be lifted.
    """

    calibration: str = ""
    lift_clipped: bool = False


def edit(rewriter: Rewriter, options: EqualizeOptions) -> None:
    """Choose scales for the whole graph and write them into the weights, as one rewrite."""
    graph = rewriter.model.graph
    if not options.calibration:
        first = next((node for node in graph if isinstance(host_of(node), Host)), None)
        if first is not None:
            _report(rewriter, first, "no calibration says how far its channels reach")
        return
    calibration = load(options.calibration, graph_hash(rewriter.model))
    found = equalization(graph, channel_ranges(calibration), lift_clipped=options.lift_clipped)
    for node, pin in found.refused:
        _report(rewriter, node, f"{pin.reason} ({describe(pin.node)})")
    refused = write_scales(rewriter, found.changes, _NAME)
    if refused is not None:
        _report(rewriter, refused.node, refused.reason)


def _report(rewriter: Rewriter, node: ir.Node, reason: str) -> None:
    rewriter.ledger.reject(node, Rejection(_NAME, _RULE, describe(node), node.op_type, reason))


PASS = EditPass(
    _NAME, edit, __doc__ or "", exactness=Exactness.REASSOCIATED, options_type=EqualizeOptions
)
