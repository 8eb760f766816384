"""What is known about the values of a tensor without looking at data."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from onnxfold.calibrate.scheme import Range
from onnxfold.ir.constants import constant_array
from onnxfold.ir.graph import input_at, is_op, string_attribute

_ALWAYS = ("Relu", "Sigmoid", "HardSigmoid", "Softmax", "Exp", "Abs", "Sqrt", "Softplus")
_HANDS_ON = (
    *("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax"),
    *("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split", "Gather"),
    *("DepthToSpace", "SpaceToDepth", "Expand", "Tile", "Identity", "Dropout"),
)
_COMBINES = ("Add", "Mul", "Concat", "Sum", "Max")
_UNIT = ("Sigmoid", "HardSigmoid", "Softmax")


class Signs:
    """Remembers for each value whether it can be negative."""

    def __init__(self) -> None:
        self._known: dict[ir.Value, bool] = {}

    def is_non_negative(self, value: ir.Value) -> bool:
        """Whether no element of `value` is ever negative."""
        pending = [value]
        while pending:
            top = pending[-1]
            unknown = [v for v in _needed(top) if v not in self._known]
            pending += unknown
            if not unknown:
                self._known[top] = _decide(top, self._known.__getitem__)
                pending.pop()
        return self._known[value]


def _needed(value: ir.Value) -> list[ir.Value]:
    """The values on whose signs that of `value` depends."""
    node = value.producer()
    if node is None:
        return []
    if is_op(node, *_COMBINES):
        return [v for v in node.inputs if v is not None]
    x = input_at(node, 0)
    return [x] if x is not None and (is_op(node, *_HANDS_ON) or _is_convex_resize(node)) else []


def _decide(value: ir.Value, is_non_negative: Callable[[ir.Value], bool]) -> bool:
    node = value.producer()
    array = constant_array(value) if node is None or is_op(node, "Constant") else None
    if array is not None:
        return array.dtype.kind == "f" and bool((array.astype(np.float64) >= 0).all())
    if node is None:
        return False
    if is_op(node, *_ALWAYS):
        return True
    if is_op(node, "Clip"):
        limits = clip_limits(node)
        return limits is not None and limits[0] >= 0.0
    needed = _needed(value)
    return bool(needed) and all(map(is_non_negative, needed))


def _is_convex_resize(node: ir.Node) -> bool:
    """Cubic interpolation overshoots; the others stay between the values they read."""
    return is_op(node, "Resize", "Upsample") and string_attribute(node, "mode", "") != "cubic"


def clip_limits(node: ir.Node) -> tuple[float, float] | None:
    """Lower and upper limit of a Clip, infinite where it has none; None when not constant."""
    found = []
    for index, name, default in ((1, "min", -np.inf), (2, "max", np.inf)):
        value = input_at(node, index)
        if name in node.attributes:
            found.append(node.attributes[name].as_float())
        elif value is None:
            found.append(default)
        else:
            array = constant_array(value)
            if array is None or array.size != 1:
                return None
            found.append(float(array.reshape(-1)[0]))
    return found[0], found[1]


def bounds_of(value: ir.Value) -> Range | None:
    """Limits that `value` cannot leave, when both are known and zero lies between them."""
    node = value.producer()
    if is_op(node, *_UNIT):
        return Range(0.0, 1.0)
    if node is None or not is_op(node, "Clip"):
        return None
    limits = clip_limits(node)
    if limits is None or not -np.inf < limits[0] <= 0.0 <= limits[1] < np.inf:
        return None
    return Range(*limits)
