"""Finds the nodes at which a float16 model goes wrong on given inputs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxfold.precision.execution import rounding_model
from onnxfold.verify.session import Session

LARGEST_ERROR = 0.05
"""An activation that is wrong by a twentieth of its size is wrong."""

GROWTH = 8.0
"""A node that hands on an error is not to blame; one that multiplies it by more than this is."""

_TOGETHER = 64
"""How many values are looked at in one run; more cost memory, fewer cost time."""

_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)

Array = NDArray[np.generic]
Feed = Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class Offender:
    """A node whose result is wrong although its operands are not, or far less.

    Attributes:
        value: The name of its first output, which `Float16Options.keep` takes.
        op_type: Its operator.
        error: Root mean square error of the output over its root mean square; infinite where
            something is not finite that should be.
        error_before: The largest such error of its operands.
    """

    value: str
    op_type: str
    error: float
    error_before: float


def offenders(
    float_model: onnx.ModelProto,
    half_model: onnx.ModelProto,
    feeds: Sequence[Feed],
    *,
    largest_error: float = LARGEST_ERROR,
    growth: float = GROWTH,
) -> list[Offender]:
    """Run both models and compare all values that they have in common.

    Args:
        float_model: The model before its conversion, weights in the message.
        half_model: The model after it.
        feeds: Inputs as `float_model` takes them.
        largest_error: A node with a smaller relative error is fine.
        growth: So is one with an error less than this times that of its operands.

    Returns:
        The nodes in the order of the graph; the first are causes, later ones may be consequences.

    Raises:
        CannotRunError: The runtime does not run one of the models.
    """
    errors = _errors(float_model, rounding_model(half_model), feeds)
    found = []
    for node in float_model.graph.node:
        error = max((errors.get(name, 0.0) for name in node.output), default=0.0)
        before = max((errors.get(name, 0.0) for name in node.input), default=0.0)
        if error > max(largest_error, growth * before) and np.isfinite(before):
            found.append(Offender(node.output[0], node.op_type, error, before))
    return found


def _errors(
    reference: onnx.ModelProto, candidate: onnx.ModelProto, feeds: Sequence[Feed]
) -> dict[str, float]:
    """Relative root mean square errors by name of the value, over all feeds."""
    computed = {name for node in reference.graph.node for name in node.output}
    ours, theirs = _float_values(reference), _float_values(candidate)
    common = [name for name in ours if name in theirs and name in computed]
    errors: dict[str, float] = {}
    for start in range(0, len(common), _TOGETHER):
        names = common[start : start + _TOGETHER]
        totals = np.zeros((2, len(names)))
        runs = zip(_runs(reference, names, feeds), _runs(candidate, names, feeds), strict=True)
        for expected, given in runs:
            totals += [
                [_power(given[name] - expected[name]) for name in names],
                [_power(expected[name]) for name in names],
            ]
        for name, wrong, whole in zip(names, *totals, strict=True):
            errors[name] = _share(wrong, whole)
    return errors


def _float_values(model: onnx.ModelProto) -> list[str]:
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = (*graph.value_info, *graph.output)
    return [v.name for v in values if v.type.tensor_type.elem_type in _FLOATS]


def _runs(
    model: onnx.ModelProto, names: Sequence[str], feeds: Sequence[Feed]
) -> Iterator[dict[str, NDArray[np.float64]]]:
    """The values of these names for each feed, in float64."""
    observed = onnx.ModelProto()
    observed.CopyFrom(model)
    types = {v.name: v for v in onnx.shape_inference.infer_shapes(model).graph.value_info}
    given = {value.name for value in model.graph.output}
    observed.graph.output.extend(types[name] for name in names if name not in given)
    session = Session(observed)
    dtypes = {
        value.name: onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        for value in model.graph.input
    }
    for feed in feeds:
        outputs = session.run({name: array.astype(dtypes[name]) for name, array in feed.items()})
        yield {name: outputs[name].astype(np.float64) for name in names}


def _power(array: NDArray[np.float64]) -> float:
    return float(np.square(array).sum())


def _share(wrong: float, whole: float) -> float:
    if not np.isfinite(wrong):
        return float("inf")
    return float(np.sqrt(wrong / whole)) if whole else (float("inf") if wrong else 0.0)
