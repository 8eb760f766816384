"""Makes quantized models, and takes back what the backend did not run in INT8."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import onnx
import onnx_ir as ir

from onnxfold.calibrate.ranges import Method
from onnxfold.calibrate.scheme import Range
from onnxfold.calibrate.statistics import Calibration
from onnxfold.ir.graph import stamp_opset_versions
from onnxfold.model import to_proto
from onnxfold.quantization.floats import with_shapes
from onnxfold.quantize.adaptive_rounding import AdaptiveRounding
from onnxfold.quantize.emit import insert
from onnxfold.quantize.grids import ranges_of
from onnxfold.quantize.plan import Plan
from onnxfold.rewrite.ledger import Ledger
from onnxfold.rewrite.rewriter import Rewriter
from onnxfold.rewrite.tensor_store import MemoryStore
from onnxfold.targets.layers import layer_name
from onnxfold.targets.proof import Precision, Proof
from onnxfold.targets.prove import prove
from onnxfold.targets.target import Target

_MOST_ROUNDS = 6
_NOT_FUSED = "its target does not run it in INT8"


@dataclass(frozen=True, slots=True)
class Settled:
    """A quantized model and what its target makes of it.

    Attributes:
        model: The model.
        plan: What was quantized.
        proof: What runs in INT8.
        taken_back: Names of what was planned for INT8 and is float again, with the reason.
    """

    model: onnx.ModelProto
    plan: Plan
    proof: Proof
    taken_back: Mapping[str, str]


@dataclass(slots=True)
class Builder:
    """Makes quantized models of one float model.

    Attributes:
        model: The float model.
        target: What they are for.
        calibration: Of the float model.
        method: How ranges are chosen.
        excluded: What stays float in all of them.
        rounding: Of their weights; None rounds each to the nearest integer.
    """

    model: onnx.ModelProto
    target: Target
    calibration: Calibration
    method: Method
    excluded: frozenset[str]
    rounding: AdaptiveRounding | None = None
    _ranges: dict[str, Range] = field(default_factory=dict, init=False)
    _floats: ir.Model = field(init=False)

    def __post_init__(self) -> None:
        """Read the model to plan on."""
        self._floats = with_shapes(self.model)

    def plan(self, excluded: frozenset[str] = frozenset()) -> Plan:
        """What would be quantized."""
        return self.target.plan(self._floats.graph, excluded | self.excluded)

    def insert(self, excluded: frozenset[str] = frozenset()) -> onnx.ModelProto:
        """The Q/DQ model in which these layers stay float, as planned."""
        return self._inserted(excluded)[0]

    def settled(self, excluded: frozenset[str] = frozenset()) -> Settled:
        """The same without what the target does not run in INT8 after all.

        Raises:
            CannotRunError: The target's runtime is not installed or refuses the model.
        """
        return self._settled(excluded, {}, _MOST_ROUNDS)

    def _settled(
        self, excluded: frozenset[str], taken_back: dict[str, str], rounds: int
    ) -> Settled:
        model, plan = self._inserted(excluded | taken_back.keys())
        proof = prove(model, self.target.name)
        useless = _useless(self._floats.graph, plan, proof)
        new = {name: reason for name, reason in useless.items() if name not in taken_back}
        if not new or not rounds:
            return Settled(model, plan, proof, taken_back)
        return self._settled(excluded, taken_back | new, rounds - 1)

    def _inserted(self, excluded: frozenset[str]) -> tuple[onnx.ModelProto, Plan]:
        plan = self.plan(excluded)
        copy = with_shapes(self.model)
        stamp_opset_versions(copy)
        rewriter = Rewriter(copy, Ledger(), MemoryStore())
        insert(rewriter, plan, self._ranges_of(plan))
        model = to_proto(rewriter.model)
        return model if self.rounding is None else self.rounding.apply(model), plan

    def _ranges_of(self, plan: Plan) -> dict[str, Range]:
        if not plan.sources().keys() <= self._ranges.keys():
            self._ranges |= ranges_of(plan, self.calibration, self.method)
        return self._ranges


def _useless(graph: ir.Graph, plan: Plan, proof: Proof) -> dict[str, str]:
    """What was quantized in vain: layers that run in float, and operators between Q/DQ that do."""
    precisions = {layer.layer: layer for layer in proof.layers}
    found = {}
    for name in plan.layers:
        layer = precisions.get(name)
        if layer is not None and layer.precision is Precision.FLOAT:
            found[name] = layer.reason or _NOT_FUSED
    for name in _around(graph, frozenset(proof.unfused)):
        layer = precisions.get(name)
        if name not in plan.layers and (layer is None or layer.precision is not Precision.INT8):
            found[name] = "Q/DQ beside it did not fuse"
    return found


def _around(graph: ir.Graph, values: frozenset[str]) -> Iterator[str]:
    """The nodes that make or read these values."""
    for node in graph:
        if node.outputs and values.intersection(
            value.name or "" for value in (*node.inputs, *node.outputs) if value is not None
        ):
            yield layer_name(node)
