"""Which inputs and outputs of a node may become float16, as the ONNX operator schemas say."""

from dataclasses import dataclass
from functools import cache

import onnx
import onnx_ir as ir

_HALF = frozenset({"tensor(float16)", "seq(tensor(float16))"})

_PARAMETERS: dict[str, frozenset[int]] = {
    "Resize": frozenset({1, 2}),
    "Upsample": frozenset({1}),
    "Dropout": frozenset({1}),
    "OneHot": frozenset({0, 1}),
}
"""Inputs that say how much or how many, whatever type the schema would let them have."""


@dataclass(frozen=True, slots=True)
class Slots:
    """The places at which a node holds float32 and could hold float16.

    Attributes:
        inputs: Indices of inputs.
        outputs: Indices of outputs.
    """

    inputs: frozenset[int]
    outputs: frozenset[int]

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self.inputs or self.outputs)


@dataclass(frozen=True, slots=True)
class _Signature:
    """Per formal parameter whether float16 is allowed; the last may repeat."""

    inputs: tuple[bool, ...]
    outputs: tuple[bool, ...]


def half_slots(node: ir.Node) -> Slots:
    """The float32 inputs and outputs of a default-domain node that its schema lets be float16.

    Parameters such as the scales of a Resize are never among them.

    Args:
        node: Its operator set version must be noted on it (`stamp_opset_versions`).
    """
    signature = _signature(node.op_type, node.version or 0)
    if signature is None:
        return Slots(frozenset(), frozenset())
    fixed = _PARAMETERS.get(node.op_type, frozenset())
    inputs = frozenset(
        index
        for index, value in enumerate(node.inputs)
        if is_float(value) and index not in fixed and _allowed(signature.inputs, index)
    )
    outputs = frozenset(
        index
        for index, value in enumerate(node.outputs)
        if is_float(value) and _allowed(signature.outputs, index)
    )
    return Slots(inputs, outputs)


def op_types(names: str) -> frozenset[str]:
    """The operator types of a list with spaces between them."""
    return frozenset(names.split())


def is_float(value: ir.Value | None) -> bool:
    """Whether a value is float32: a tensor, or a sequence of such tensors."""
    return value is not None and value.dtype == ir.DataType.FLOAT


def is_sequence(value: ir.Value) -> bool:
    """Whether a value is no tensor, so that no Cast can change its type."""
    return value.type is not None and not isinstance(value.type, ir.TensorType)


def _allowed(formal: tuple[bool, ...], index: int) -> bool:
    return bool(formal) and formal[min(index, len(formal) - 1)]


@cache
def _signature(op_type: str, version: int) -> _Signature | None:
    try:
        schema = onnx.defs.get_schema(op_type, max_inclusive_version=version, domain="")
    except onnx.defs.SchemaError:
        return None
    half = {
        constraint.type_param_str
        for constraint in schema.type_constraints
        if not _HALF.isdisjoint(constraint.allowed_type_strs)
    }
    return _Signature(
        tuple(formal.type_str in half for formal in schema.inputs),
        tuple(formal.type_str in half for formal in schema.outputs),
    )
