"""What a caller of the model sees: names, order, types, shapes, dynamic axes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import onnx

Dim: TypeAlias = int | str | None

#: IR versions below this list every initializer among the inputs.
FIRST_IR_WITH_CONSTANT_INITIALIZERS = 4


@dataclass(frozen=True, slots=True)
class Port:
    """One graph input or output.

    Attributes:
        name: Its name.
        kind: The type in ONNX's words, as `tensor(float)`.
        element: `TensorProto` element type of a dense tensor, 0 for anything else.
        dims: Sizes: an int, a symbol, or None if not stated; None as a whole if the rank is not.
    """

    name: str
    kind: str
    element: int
    dims: tuple[Dim, ...] | None


@dataclass(frozen=True, slots=True)
class Interface:
    """A model's inputs and outputs.

    Attributes:
        inputs: Those that must be fed, in order.
        overridable: Inputs that have a default, in order; empty below IR version 4, where the
            format forces every weight to be listed as an input.
        outputs: In order.
    """

    inputs: tuple[Port, ...]
    overridable: tuple[Port, ...]
    outputs: tuple[Port, ...]

    @staticmethod
    def of(proto: onnx.ModelProto) -> "Interface":
        """The interface of a model."""
        graph = proto.graph
        defaults = {tensor.name for tensor in graph.initializer}
        defaults.update(tensor.values.name for tensor in graph.sparse_initializer)
        optional = proto.ir_version >= FIRST_IR_WITH_CONSTANT_INITIALIZERS
        return Interface(
            inputs=tuple(_port(v) for v in graph.input if v.name not in defaults),
            overridable=tuple(_port(v) for v in graph.input if optional and v.name in defaults),
            outputs=tuple(_port(v) for v in graph.output),
        )


def _port(value: onnx.ValueInfoProto) -> Port:
    which = value.type.WhichOneof("value")
    if which != "tensor_type":
        return Port(value.name, (which or "untyped").removesuffix("_type"), 0, None)
    tensor = value.type.tensor_type
    kind = f"tensor({onnx.TensorProto.DataType.Name(tensor.elem_type).lower()})"
    if not tensor.HasField("shape"):
        return Port(value.name, kind, tensor.elem_type, None)
    return Port(value.name, kind, tensor.elem_type, tuple(_dim(d) for d in tensor.shape.dim))


def _dim(dim: onnx.TensorShapeProto.Dimension) -> Dim:
    if dim.HasField("dim_value") and dim.dim_value >= 0:
        return dim.dim_value
    return dim.dim_param or None


def differences(reference: Interface, candidate: Interface) -> list[str]:
    """Every way in which a caller could tell the candidate from the reference.

    Inputs must declare the same. An output may say more than the reference did (tools add
    inferred shapes), but a size that the reference left open may become fixed only where all
    inputs have fixed sizes: anywhere else it is a dynamic axis lost.

    Returns:
        One clause per difference; empty when there is none.
    """
    fixed = all(
        port.dims is not None and all(isinstance(dim, int) for dim in port.dims)
        for port in reference.inputs
    )
    return [
        *_ports("input", reference.inputs, candidate.inputs, may_narrow=False),
        *_ports(
            "overridable input", reference.overridable, candidate.overridable, may_narrow=False
        ),
        *_ports("output", reference.outputs, candidate.outputs, may_narrow=fixed),
    ]


def _ports(
    role: str, reference: Sequence[Port], candidate: Sequence[Port], *, may_narrow: bool
) -> Iterator[str]:
    before = [port.name for port in reference]
    after = [port.name for port in candidate]
    if before != after:
        what = "come in another order" if sorted(before) == sorted(after) else "are not the same"
        yield f"the {role}s {what}: {_listed(before)} became {_listed(after)}"
        return
    for old, new in zip(reference, candidate, strict=True):
        if old.kind != new.kind:
            yield f"{role} {old.name} was {old.kind} and became {new.kind}"
        elif not _same_shape(old.dims, new.dims, role == "output", may_narrow):
            yield f"{role} {old.name} was {_shape(old.dims)} and became {_shape(new.dims)}"


def _same_shape(
    old: tuple[Dim, ...] | None, new: tuple[Dim, ...] | None, is_output: bool, may_narrow: bool
) -> bool:
    if old is None:
        return new is None or is_output  # stating what was not stated loses nothing
    if new is None or len(old) != len(new):
        return False
    return all(
        before == after
        if isinstance(before, int)
        else (not isinstance(after, int) or (is_output and may_narrow))
        for before, after in zip(old, new, strict=True)
    )


def _shape(dims: tuple[Dim, ...] | None) -> str:
    if dims is None:
        return "of unstated rank"
    return "(" + ", ".join("?" if dim is None else str(dim) for dim in dims) + ")"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:6]) or "none"
    return shown + (f" and {len(names) - 6} more" if len(names) > 6 else "")
