"""Remove nodes that hand on their input unchanged.

What it does:
    Removes Identity, Dropout outside training, and Cast, Reshape, Transpose, Expand, Pad, Slice,
    Concat, Sum, Flatten, Squeeze, Unsqueeze, Resize and constant arithmetic where the attributes,
    constants and shapes show that nothing changes, and a Relu of a Relu. Two Transposes in a row
    become one, and so do two Reshapes or Concats. CastLike becomes Cast where the type is known.
When it applies:
    The output equals the input element by element, in type and in shape.
When it refuses:
    Nothing that a user would expect: what is not provably unchanged is left alone.
Exactness:
    exact.
Example:
    before: i = Identity(x)  y = Relu(i)
    after:  y = Relu(x)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxfold.ir.constants import constant_array, int_constant, is_constant
from onnxfold.ir.graph import (
    has_other_readers,
    input_at,
    int_attribute,
    ints_attribute,
    is_op,
    producer,
)
from onnxfold.ir.ops import Pad
from onnxfold.ir.shapes import dim, rank, repeated_names
from onnxfold.pipeline.passes import NoOptions, RulePass
from onnxfold.rewrite.builder import Builder
from onnxfold.rewrite.rule import AnyRule, Exactness, Rule


@dataclass(frozen=True, slots=True)
class Unchanged:
    """A node whose first output equals `value`."""

    node: ir.Node
    value: ir.Value


def match(node: ir.Node) -> Unchanged | None:
    """A node that hands on one of its inputs."""
    if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
        return None
    value = _HANDED_ON[node.op_type](node)
    if value is None or value.dtype != node.outputs[0].dtype or value.dtype is None:
        return None
    if node.outputs[0].is_graph_output() and not _can_be_output(value, node):
        return None
    return Unchanged(node, value)


def _can_be_output(value: ir.Value, node: ir.Node) -> bool:
    """Whether `value` can take the name of a graph output, so that no Identity is needed."""
    producing = value.producer()
    return producing is not None and producing.graph is node.graph and not value.is_graph_output()


def rewrite(found: Unchanged, _: Builder) -> list[ir.Value | None]:
    """The value that is handed on, for the one output that is read."""
    return [found.value, *(None for _ in found.node.outputs[1:])]


def _always(node: ir.Node) -> ir.Value | None:
    return node.inputs[0]


def _dropout(node: ir.Node) -> ir.Value | None:
    """Dropout does nothing unless its third input may be true; before opset 7, unless is_test=0."""
    if (node.version or 0) < 7 and not int_attribute(node, "is_test", 0):
        return None
    mode = input_at(node, 2)
    if mode is None:
        return node.inputs[0]
    training = constant_array(mode)
    return node.inputs[0] if training is not None and not training.any() else None


def _same_type(node: ir.Node) -> ir.Value | None:
    x = node.inputs[0]
    target = node.attributes.get("to")
    if x is None or target is None or x.dtype is None:
        return None
    return x if int(x.dtype) == target.as_int() else None


def _same_shape(node: ir.Node) -> ir.Value | None:
    """Rearrangements in row-major order change nothing when the shape stays the same."""
    x, y = node.inputs[0], node.outputs[0]
    return x if x is not None and has_same_shape(x, y) else None


def _view(node: ir.Node) -> ir.Value | None:
    """What a view of a view looks at, where the second one restores its shape."""
    viewed, y = node.inputs[0], node.outputs[0]
    while viewed is not None:
        if has_same_shape(viewed, y):
            return viewed
        inner = producer(viewed)
        viewed = inner.inputs[0] if is_op(inner, *_VIEWS) and inner is not None else None
    return None


def _relu(node: ir.Node) -> ir.Value | None:
    return node.inputs[0] if is_op(producer(node.inputs[0]), "Relu") else None


_VIEWS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
"""Other shapes for the same numbers in the same order."""


def has_same_shape(x: ir.Value, y: ir.Value) -> bool:
    """Whether both shapes are known and equal.

    Names of dynamic extents do not count where an output declares them, which nothing checks, nor
    where one stands for several extents of a shape.
    """
    if x.shape is None or y.shape is None or len(x.shape) != len(y.shape):
        return False
    declared = y.is_graph_output() or bool(repeated_names(y.shape))
    return all(
        a == b if isinstance(a, int) and isinstance(b, int) else not declared and _same_name(a, b)
        for a, b in zip(x.shape, y.shape, strict=True)
    )


def _same_name(a: int | ir.SymbolicDim, b: int | ir.SymbolicDim) -> bool:
    if isinstance(a, int) or isinstance(b, int):
        return False
    return a.value is not None and a.value == b.value


def _transpose(node: ir.Node) -> ir.Value | None:
    permutation = ints_attribute(node, "perm", ())
    if permutation:
        return node.inputs[0] if permutation == tuple(range(len(permutation))) else None
    return node.inputs[0] if rank(node.inputs[0]) in (0, 1) else None


def _pad(node: ir.Node) -> ir.Value | None:
    pad = Pad.of(node)
    if pad is None or pad.pads is None:
        return None
    return pad.x if all(pair == (0, 0) for pair in pad.pads) else None


def _slice(node: ir.Node) -> ir.Value | None:
    """A Slice with step 1 that keeps the shape keeps everything."""
    steps = input_at(node, 4)
    if steps is not None and set(int_constant(steps) or (0,)) != {1}:
        return None
    return _same_shape(node)


def _single_operand(node: ir.Node) -> ir.Value | None:
    return node.inputs[0] if len(node.inputs) == 1 else None


def _resize(node: ir.Node) -> ir.Value | None:
    """Resize to the same extent is the identity in every mode but tf_crop_and_resize."""
    mode = node.attributes.get("coordinate_transformation_mode")
    if mode is not None and mode.as_string() == "tf_crop_and_resize":
        return None
    x, y = node.inputs[0], node.outputs[0]
    if x is None or x.shape is None or not all(isinstance(extent, int) for extent in x.shape):
        return None
    scales = input_at(node, 2 if (node.version or 0) >= 11 else 1)
    factors = np.ones(0) if scales is None else constant_array(scales)
    if factors is None or not (factors == 1).all():
        return None
    return x if has_same_shape(x, y) else None


def _neutral(number: float, sides: tuple[int, ...]) -> Callable[[ir.Node], ir.Value | None]:
    """Arithmetic with a neutral constant on one of these sides."""

    def handed_on(node: ir.Node) -> ir.Value | None:
        for side in sides:
            constant, x = node.inputs[side], node.inputs[1 - side]
            if x is None or not is_constant(constant) or is_constant(x):
                continue
            array = constant_array(constant)
            assert array is not None
            if array.size == 0 or not np.all(array == number):
                continue
            if has_same_shape(x, node.outputs[0]) or _broadcasts_into(array, x):
                return x
        return None

    return handed_on


def _broadcasts_into(array: np.ndarray, x: ir.Value) -> bool:
    """Whether a constant leaves the shape of `x` as it is, whatever its dynamic extents are."""
    known = rank(x)
    return array.size == 1 and known is not None and array.ndim <= known


_HANDED_ON: dict[str, Callable[[ir.Node], ir.Value | None]] = {
    "Identity": _always,
    "Relu": _relu,
    "Dropout": _dropout,
    "Cast": _same_type,
    "CastLike": _always,
    "Reshape": _view,
    "Flatten": _view,
    "Squeeze": _view,
    "Unsqueeze": _view,
    "Expand": _same_shape,
    "Transpose": _transpose,
    "Pad": _pad,
    "Slice": _slice,
    "Concat": _single_operand,
    "Sum": _single_operand,
    "Max": _single_operand,
    "Min": _single_operand,
    "Resize": _resize,
    "Add": _neutral(0, (0, 1)),
    "Sub": _neutral(0, (1,)),
    "Mul": _neutral(1, (0, 1)),
    "Div": _neutral(1, (1,)),
}


@dataclass(frozen=True, slots=True)
class TransposeOfTranspose:
    """Two Transposes in a row."""

    outer: ir.Node
    x: ir.Value
    permutation: tuple[int, ...]


def match_transposes(node: ir.Node) -> TransposeOfTranspose | None:
    """A Transpose of a Transpose that nothing else reads, or that it takes back."""
    middle = node.inputs[0]
    inner = producer(middle)
    if middle is None or inner is None or not is_op(inner, "Transpose"):
        return None
    first, second = ints_attribute(inner, "perm", ()), ints_attribute(node, "perm", ())
    x = inner.inputs[0]
    if not first or not second or x is None:
        return None
    joined = tuple(first[axis] for axis in second)
    if has_other_readers(middle) and joined != tuple(range(len(joined))):
        return None
    return TransposeOfTranspose(node, x, joined)


def rewrite_transposes(found: TransposeOfTranspose, build: Builder) -> ir.Value:
    """One Transpose that does both permutations."""
    return build.like(found.outer, [found.x], {"perm": found.permutation})


@dataclass(frozen=True, slots=True)
class ViewOfView:
    """A Reshape to `shape` of what is another view of `x`."""

    x: ir.Value
    shape: tuple[int, ...]


def match_views(node: ir.Node) -> ViewOfView | None:
    """A Reshape to a constant shape of a view that nothing else reads."""
    middle = node.inputs[0]
    inner = producer(middle)
    if middle is None or inner is None or not is_op(inner, *_VIEWS) or has_other_readers(middle):
        return None
    x, target = inner.inputs[0], int_constant(input_at(node, 1))
    if x is None or target is None or (0 in target and int_attribute(node, "allowzero", 0)):
        return None
    # Zero copies an extent of the tensor in between.
    copied = [extent or dim(middle, axis) for axis, extent in enumerate(target)]
    shape = tuple(-1 if extent is None else extent for extent in copied)
    return None if 0 in shape or shape.count(-1) > 1 else ViewOfView(x, shape)


def rewrite_views(found: ViewOfView, build: Builder) -> ir.Value:
    """One Reshape to the last shape."""
    shape = build.tensor(np.array(found.shape, np.int64), ir.DataType.INT64)
    return build.op("Reshape", [found.x, shape])


@dataclass(frozen=True, slots=True)
class ConcatOfConcat:
    """A Concat, and what it joins in the end."""

    outer: ir.Node
    inputs: tuple[ir.Value | None, ...]


def match_concats(node: ir.Node) -> ConcatOfConcat | None:
    """A Concat of a Concat along the same axis that nothing else reads."""
    inputs: list[ir.Value | None] = []
    for value in node.inputs:
        inner = producer(value)
        if inner is not None and value is not None and _joins_alike(inner, node):
            inputs += [value] if has_other_readers(value) else inner.inputs
        else:
            inputs.append(value)
    return None if len(inputs) == len(node.inputs) else ConcatOfConcat(node, tuple(inputs))


def _joins_alike(inner: ir.Node, outer: ir.Node) -> bool:
    if not is_op(inner, "Concat") or inner.graph is not outer.graph:
        return False
    # Before opset 4 the axis may be left out, and is 1.
    return int_attribute(inner, "axis", 1) == int_attribute(outer, "axis", 1)


def rewrite_concats(found: ConcatOfConcat, build: Builder) -> ir.Value:
    """One Concat of everything."""
    return build.like(found.outer, found.inputs)


@dataclass(frozen=True, slots=True)
class CastToKnownType:
    """A CastLike whose target type is known, so that it need not read the second input."""

    x: ir.Value
    dtype: ir.DataType


def match_cast_like(node: ir.Node) -> CastToKnownType | None:
    """A CastLike that changes the type."""
    x, like = node.inputs
    if x is None or like is None or like.dtype is None or x.dtype is None:
        return None
    return None if x.dtype == like.dtype else CastToKnownType(x, like.dtype)


def rewrite_cast_like(found: CastToKnownType, build: Builder) -> ir.Value:
    """A Cast, which depends on one input only and so may be computed beforehand."""
    return build.op("Cast", [found.x], {"to": int(found.dtype)})


def rules(_: NoOptions) -> Sequence[AnyRule]:
    """The rules in the order in which a node is offered to them."""
    return (UNCHANGED, TRANSPOSES, VIEWS, CONCATS, CAST_LIKE)


UNCHANGED = Rule("unchanged", frozenset(_HANDED_ON), match, rewrite, exactness=Exactness.EXACT)
TRANSPOSES = Rule(
    "transposes",
    frozenset({"Transpose"}),
    match_transposes,
    rewrite_transposes,
    exactness=Exactness.EXACT,
)
VIEWS = Rule(
    "views",
    frozenset({"Reshape"}),
    match_views,
    rewrite_views,
    exactness=Exactness.EXACT,
)
CONCATS = Rule(
    "concats",
    frozenset({"Concat"}),
    match_concats,
    rewrite_concats,
    exactness=Exactness.EXACT,
)
CAST_LIKE = Rule(
    "cast_like",
    frozenset({"CastLike"}),
    match_cast_like,
    rewrite_cast_like,
    exactness=Exactness.EXACT,
)
PASS = RulePass("drop_identities", rules, __doc__ or "", exactness=Exactness.EXACT)
