"""Converts a model to float16, all of it or nothing."""

from dataclasses import dataclass

import onnx_ir as ir

from onnxfold.ir.graph import is_op, stamp_opset_versions
from onnxfold.precision.casts import carry_out
from onnxfold.precision.islands import plan
from onnxfold.precision.magnitudes import Ranges
from onnxfold.precision.opsets import raise_opset
from onnxfold.precision.options import Float16Options
from onnxfold.rewrite.tensor_store import MemoryStore, TensorStore

_QUANTIZE_OPSET = 19
"""From it on QuantizeLinear and DequantizeLinear have a float16 form."""


@dataclass(frozen=True, slots=True)
class Island:
    """A node that stays in float32.

    Attributes:
        node: The node.
        reason: Why, as a clause without a full stop.
    """

    node: ir.Node
    reason: str


def convert_to_float16(
    model: ir.Model,
    options: Float16Options | None = None,
    ranges: Ranges | None = None,
    store: TensorStore | None = None,
) -> tuple[Island, ...]:
    """Let a model compute in float16 wherever that is safe.

    A model with QuantizeLinear or DequantizeLinear is raised to operator set 19 first, where they
    may be float16; if one of its nodes would then mean something else, they stay in float32.

    Args:
        model: Changed in place; its shapes must have been inferred.
        options: How to do it.
        ranges: The least and the greatest number measured, by name of the value. Values that are
            not there are estimated.
        store: Where the rounded constants are kept; in memory when None.

    Returns:
        The nodes that must stay in float32. A few more may stay beside them, to save Casts.

    Raises:
        BadOptionError: The options name something that the model does not have.
    """
    options = options or Float16Options()
    if any(is_op(node, "QuantizeLinear", "DequantizeLinear") for node in model.graph):
        raise_opset(model, _QUANTIZE_OPSET)
    stamp_opset_versions(model)
    planned = plan(model.graph, options, ranges or {})
    carry_out(planned, model.graph, store or MemoryStore(), keep_io=options.keep_io)
    stamp_opset_versions(model)
    return tuple(Island(node, reason) for node, reason in planned.islands.items())
