"""Convert the model to float16, and leave in float32 what float16 would ruin.

What it does:
    Rounds constants to float16, and lets every node compute in it that can. What cannot stays in
    float32 islands, each reported with its reason. Every value that crosses a border has one Cast
    per direction, and islands take in cheap neighbours where that saves Casts. Inputs and outputs
    stay float32 unless `keep_io` is false. `calibration` names a file of `onnxfold calibrate` for
    this very model: ranges are then measured. `keep` lists what shall stay in float32: names of
    nodes or of values, or operator types, with `*` and `?`, separated by semicolons.
When it applies:
    When it is asked for. It is made whole or not at all, since a model converted in part has types
    that do not fit.
When it refuses:
    Per node: values or constants beyond `max_activation` or 65504; sums and sums of squares that
    may exceed it (unmeasured activations are taken to reach 64, inputs 256); constants that lose
    digits below 6e-5; quotients, logarithms, roots, powers and exponentials whose operands were not
    measured; softmax over more than 4096 elements; shapes, indices and coordinates; operators
    without a float16 form, of other domains, or without a rule; graphs inside nodes; what the model
    itself casts to float32. QuantizeLinear and DequantizeLinear need operator set 19, and what
    reads a DequantizeLinear goes with it. As a whole: a calibration of another model; a name in
    `keep` that nothing has.
Exactness:
    lossy: 11 significant bits instead of 24.
Example:
    before: y = Conv(x, w)  z = Exp(y)
    after:  h = Cast<to=float16>(x)  c = Conv(h, w.float16)  f = Cast<to=float>(c)  z = Exp(f)
"""

from dataclasses import dataclass

import onnx_ir as ir

from onnxfold.calibrate.identity import graph_hash
from onnxfold.calibrate.store import load
from onnxfold.ir.graph import describe
from onnxfold.pipeline.passes import EditPass
from onnxfold.precision import Float16Options, Island, convert_to_float16
from onnxfold.precision.options import MAX_ACTIVATION
from onnxfold.rewrite.ledger import Rejection
from onnxfold.rewrite.rewriter import Rewriter
from onnxfold.rewrite.rule import Exactness


@dataclass(frozen=True, slots=True)
class ToFp16Options:
    """Options of to_fp16.

    Attributes:
        keep_io: Inputs and outputs of the model stay float32.
        calibration: Path of a calibration of this model; without one, ranges are estimated.
        max_activation: Values of a larger magnitude stay in float32.
        keep: Names of nodes or values, or operator types, that stay in float32, separated by
            semicolons.

    Raises:
        BadOptionError: `max_activation` is not between 0 and the largest float16.
    """

    keep_io: bool = True
    calibration: str = ""
    max_activation: float = MAX_ACTIVATION
    keep: str = ""

    def __post_init__(self) -> None:
        """Refuse at once what cannot be meant."""
        self.conversion()

    def conversion(self) -> Float16Options:
        """The options of the conversion itself."""
        keep = tuple(name for name in self.keep.split(";") if name)
        return Float16Options(self.keep_io, self.max_activation, keep)


def edit(rewriter: Rewriter, options: ToFp16Options) -> None:
    """Convert a copy of the model, take it if it is sound, and report the islands.

    Raises:
        BadOptionError: The calibration or an option does not fit; nothing was changed.
    """
    ranges = _measured(rewriter.model, options.calibration)
    islands: list[Island] = []

    def transform(model: ir.Model) -> ir.Model:
        islands.extend(convert_to_float16(model, options.conversion(), ranges, rewriter.store))
        return model

    rewriter.adopt(transform, pass_name="to_fp16", may_shorten=not options.keep_io)
    for island in islands:
        node = island.node
        rejection = Rejection("to_fp16", "node", describe(node), node.op_type, island.reason)
        rewriter.ledger.reject(node, rejection)


def _measured(model: ir.Model, calibration: str) -> dict[str, tuple[float, float]]:
    if not calibration:
        return {}
    tensors = load(calibration, graph_hash(model)).tensors
    return {name: (stats.minimum, stats.maximum) for name, stats in tensors.items()}


PASS = EditPass(
    "to_fp16", edit, __doc__ or "", exactness=Exactness.LOSSY, options_type=ToFp16Options
)
"""An EditPass, although one rewrite does it all: a ModelPass could not report the islands."""
