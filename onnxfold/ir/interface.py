"""The part of a model that its users program against."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet

import onnx_ir as ir

from onnxfold.errors import BadOptionError
from onnxfold.ir.shapes import repeated_names

_SHORTENED = (ir.DataType.FLOAT, ir.DataType.FLOAT16)


def interface_difference(
    before: ir.Model, after: ir.Model, *, may_shorten: bool = False
) -> str | None:
    """How the inputs and outputs of two models differ, in words; None when they are the same.

    Compared: names, order, types, and declared shapes with their symbolic axes.

    Args:
        before: One model.
        after: The other.
        may_shorten: What is float32 in the first may be float16 in the other.
    """
    for kind, old, new in (
        ("inputs", before.graph.inputs, after.graph.inputs),
        ("outputs", before.graph.outputs, after.graph.outputs),
    ):
        old_names, new_names = [v.name for v in old], [v.name for v in new]
        if old_names != new_names:
            return f"{kind} {old_names} became {new_names}"
        for old_value, new_value in zip(old, new, strict=True):
            shortened = may_shorten and (old_value.dtype, new_value.dtype) == _SHORTENED
            if old_value.dtype != new_value.dtype and not shortened:
                return f"'{old_value.name}' changed from {old_value.dtype} to {new_value.dtype}"
            if old_value.shape is not None and old_value.shape != new_value.shape:
                return f"'{old_value.name}' changed from {old_value.shape} to {new_value.shape}"
    return None


def pin_input_shapes(model: ir.Model, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Give inputs the extents that a user asks for.

    A symbolic extent gets the same number wherever it stands in the declared inputs and outputs,
    unless an input has several of that name: whoever writes "?" for all does not mean one number.

    Args:
        model: Changed in place.
        shapes: Full shapes by input name.

    Raises:
        BadOptionError: There is no such input, or it cannot have that shape.
    """
    inputs = {value.name: value for value in model.graph.inputs if not value.is_initializer()}
    bindings: dict[str, int] = {}
    vague = {name for value in inputs.values() for name in repeated_names(value.shape or ())}
    for name, shape in shapes.items():
        if name not in inputs:
            raise BadOptionError(
                f"the model has no input '{name}'", f"its inputs: {', '.join(map(str, inputs))}"
            )
        _bind(inputs[name], shape, bindings, vague)
    for name, shape in shapes.items():
        inputs[name].shape = ir.Shape(shape)
    for value in (*inputs.values(), *model.graph.outputs):
        if value.shape is not None and bindings:
            value.shape = ir.Shape([_bound(extent, bindings) for extent in value.shape])


def _bind(
    value: ir.Value, shape: tuple[int, ...], bindings: dict[str, int], vague: AbstractSet[str]
) -> None:
    declared = value.shape
    if declared is None:
        return
    text = "x".join(map(str, shape))
    if len(declared) != len(shape):
        raise BadOptionError(
            f"input '{value.name}' has {len(declared)} axes, and {text} has {len(shape)}",
            f"its declared shape is {declared}",
        )
    for axis, (extent, wanted) in enumerate(zip(declared, shape, strict=True)):
        if isinstance(extent, int):
            known = extent
        elif extent.value is None or extent.value in vague:
            known = wanted
        else:
            known = bindings.setdefault(extent.value, wanted)
        if known != wanted:
            raise BadOptionError(
                f"input '{value.name}' cannot have shape {text}: "
                f"{f'axis {axis}' if isinstance(extent, int) else extent} is {known}",
                f"its declared shape is {declared}",
            )


def _bound(extent: int | ir.SymbolicDim, bindings: Mapping[str, int]) -> int | ir.SymbolicDim:
    if isinstance(extent, int) or extent.value is None:
        return extent
    return bindings.get(extent.value, extent)
