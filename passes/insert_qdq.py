"""Insert QuantizeLinear and DequantizeLinear where the target runs INT8 between them.

    x becomes DequantizeLinear(QuantizeLinear(x)), a weight w becomes DequantizeLinear(integers)

What it does:
    Chooses by the rules of the target which layers run in INT8 and which tensors have to be
    integers for that, gives each tensor a range from a calibration, stores weights as signed 8-bit
    integers with one scale per output channel, and biases as 32-bit integers where the target
    wants it. Options: `target` (ort-cpu, openvino or tensorrt); `calibration`, a file of
    `onnxfold calibrate` for this very graph; `method` for ranges (minmax, percentile, mse or kl);
    `weights` for scales of weights (minmax or mse); `weight_bits`, 7 for processors without VNNI,
    whose sums of two products overflow with 8; `exclude`, layers that stay float, separated by
    semicolons.
When it applies:
    The model is a float model of operator set 13 or later.
When it refuses:
    A model that is quantized already; layers whose weights or biases are computed at run time, or
    are of another type than float32; layers that the target cannot compute with integers, each
    with the reason.
Exactness:
    lossy: every tensor is rounded to 256 levels.
Example:
    before: c = Conv(x, w)  y = Relu(c)
    after:  q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)
            v = DequantizeLinear(w.folded, t, o)  c = Conv(d, v)  r = Relu(c)
            p = QuantizeLinear(r, u, n)  y = DequantizeLinear(p, u, n)
"""

from dataclasses import dataclass

import onnx_ir as ir

from onnxfold.calibrate.identity import graph_hash
from onnxfold.calibrate.ranges import Method
from onnxfold.calibrate.scheme import Range
from onnxfold.calibrate.store import load
from onnxfold.errors import BadOptionError
from onnxfold.ir.graph import describe
from onnxfold.pipeline.passes import EditPass
from onnxfold.quantize.emit import EmitOptions, insert
from onnxfold.quantize.grids import ranges_of
from onnxfold.quantize.plan import Plan
from onnxfold.quantize.weights import LIMIT, LIMIT_WITHOUT_VNNI, WeightMethod
from onnxfold.rewrite.ledger import Rejection
from onnxfold.rewrite.rewriter import Rewriter
from onnxfold.rewrite.rule import Exactness
from onnxfold.targets.layers import layer_name, quantized_node
from onnxfold.targets.target import target_named

_NAME, _RULE = "insert_qdq", "layer"
_LIMITS = {8: LIMIT, 7: LIMIT_WITHOUT_VNNI}


@dataclass(frozen=True, slots=True)
class InsertOptions:
    """Options of the pass.

    Attributes:
        target: ort-cpu, openvino or tensorrt.
        calibration: A file of `onnxfold calibrate` for this graph.
        method: How ranges of activations are chosen: minmax, percentile, mse or kl.
        weights: How scales of weights are chosen: minmax or mse.
        weight_bits: 8, or 7 for processors without VNNI.
        exclude: Names of layers that stay float, separated by semicolons.
    """

    target: str = "ort-cpu"
    calibration: str = ""
    method: str = "mse"
    weights: str = "mse"
    weight_bits: int = 8
    exclude: str = ""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            BadOptionError: There is no such target, or weights cannot have that many bits.
            ValueError: There is no such method.
        """
        if self.weight_bits not in _LIMITS:
            raise BadOptionError(f"weights cannot have {self.weight_bits} bits", "7 or 8 they can")
        target_named(self.target)
        Method(self.method)
        WeightMethod(self.weights)


def edit(rewriter: Rewriter, options: InsertOptions) -> None:
    """Plan for the target, look up ranges, and write the plan into the graph."""
    graph = rewriter.model.graph
    foreign = quantized_node(graph)
    if foreign is not None:
        _report(rewriter, foreign, "the model is quantized already")
        return
    excluded = [name.strip() for name in options.exclude.split(";") if name.strip()]
    plan = target_named(options.target).plan(graph, excluded)
    if plan.layers:
        ranges = _ranges(rewriter.model, plan, options)
        weights = EmitOptions(WeightMethod(options.weights), _LIMITS[options.weight_bits])
        insert(rewriter, plan, ranges, weights, pass_name=_NAME)
    for node in graph:
        if node.outputs and (reason := plan.float_layers.get(layer_name(node))) is not None:
            _report(rewriter, node, reason)


def _ranges(model: ir.Model, plan: Plan, options: InsertOptions) -> dict[str, Range]:
    if not options.calibration:
        raise BadOptionError(
            "insert_qdq has no calibration to take ranges from",
            "make one with `onnxfold calibrate` and add :calibration=FILE to the pass",
        )
    calibration = load(options.calibration, graph_hash(model))
    return ranges_of(plan, calibration, Method(options.method))


def _report(rewriter: Rewriter, node: ir.Node, reason: str) -> None:
    rewriter.ledger.reject(node, Rejection(_NAME, _RULE, describe(node), node.op_type, reason))


PASS = EditPass(_NAME, edit, __doc__ or "", Exactness.LOSSY, InsertOptions)
