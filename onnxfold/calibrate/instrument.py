"""A model that also computes what is to be known about its values, in a few small outputs.

For each observed value the graph gets, beside what it had:

    ReduceMin, ReduceMax, ReduceMean   over everything but the channels, or over everything
    Reshape to one axis → Slice        every `step`-th element, beginning at `phase mod step`

so that a run returns thousands of numbers instead of millions. `phase` is a further input, another
one for each sample. Steps share no factor with the number of elements, hence all rows, columns and
channels are met alike.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper

from onnxfold.calibrate.channels import channel_axes
from onnxfold.errors import BadModelError, BadOptionError
from onnxfold.ir.graph import captured_values, opset_version
from onnxfold.ir.shapes import infer_shapes, rank, static_shape
from onnxfold.model import LoadedModel, to_proto
from onnxfold.verify.sources import read_skeleton, serialized

SAMPLED = 4096
"""How many elements of a value are looked at in each sample at least, if it has so many."""

REDUCTIONS = ("ReduceMin", "ReduceMax", "ReduceMean")

_FIRST_OPSET = 12
_AXES_ARE_INPUTS = 18
_MOST_STEPS = 4096
_TO_THE_END = np.iinfo(np.int64).max
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)


@dataclass(frozen=True, slots=True)
class ObservedValue:
    """One observed value and the outputs that tell about it.

    Attributes:
        name: Of the value.
        has_channels: Whether the reductions keep a channel axis.
        size: How many elements it has; None where shapes are open.
        outputs: Minimum, maximum, mean, sampled elements, and the size where it is open.
    """

    name: str
    has_channels: bool
    size: int | None
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FedTensor:
    """An input that must be fed.

    Attributes:
        name: Of the input.
        dtype: numpy's type.
        dims: Declared extents, None for one that is open; None as a whole without a rank.
    """

    name: str
    dtype: np.dtype[np.generic]
    dims: tuple[int | None, ...] | None


@dataclass(frozen=True, slots=True, eq=False)
class InstrumentedModel:
    """A model with further outputs; equal to another when both are the same model.

    Attributes:
        digest: Tells one from another.
        source: Serialised, or where it lies.
        folder: Where its external weights lie.
        phase: Name of the further input.
        inputs: What must be fed besides.
        values: What is observed, in topological order.
    """

    digest: str
    source: bytes | Path
    folder: Path | None
    phase: str
    inputs: tuple[FedTensor, ...]
    values: tuple[ObservedValue, ...]

    def __eq__(self, other: object) -> bool:
        """Whether both are the same model, wherever it lies."""
        return isinstance(other, InstrumentedModel) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


def observable_values(model: ir.Model) -> tuple[str, ...]:
    """The names of all floating-point values that change with the inputs, in topological order.

    Args:
        model: With its shapes and types inferred. Results inside bodies of control flow, what
            nobody reads and what has no elements are left out.
    """
    varying = {value for value in model.graph.inputs if not value.is_initializer()}
    for node in model.graph:
        if any(value in varying for value in (*node.inputs, *captured_values(node))):
            varying.update(node.outputs)
    return tuple(
        value.name
        for value in _floating_point(model)
        if value.name and value in varying and (value.uses() or value.is_graph_output())
    )


def _floating_point(model: ir.Model) -> list[ir.Value]:
    """Inputs that must be fed and results of nodes, in topological order."""
    fed = [value for value in model.graph.inputs if not value.is_initializer()]
    computed = [output for node in model.graph for output in node.outputs]
    return [
        value
        for value in (*fed, *computed)
        if value.name and value.dtype in _FLOATS and 0 not in (value.shape or ())
    ]


def instrument(loaded: LoadedModel, names: Sequence[str] | None = None) -> InstrumentedModel:
    """Add the outputs that observe values.

    Args:
        loaded: The model; the shapes of its values are inferred on the way.
        names: Values to observe; None for all that change with the inputs.

    Raises:
        BadOptionError: A name is not that of a floating-point value of the main graph.
        BadModelError: The model's operator set is too old.
    """
    model = loaded.model
    version = opset_version(model)
    if version < _FIRST_OPSET:
        raise BadModelError(
            f"the model uses opset {version}, and calibration needs {_FIRST_OPSET} or newer",
            "convert it with onnx.version_converter, or export it again",
        )
    infer_shapes(model)
    values = _wanted(model, names)
    proto, folder = _proto(loaded)
    addition = _Addition(proto.graph, version, channel_axes(model.graph))
    observed = tuple(addition.observe(value) for value in values)
    data = serialized(proto)
    return InstrumentedModel(
        digest=hashlib.sha256(data).hexdigest(),
        source=data,
        folder=folder,
        phase=addition.phase,
        inputs=tuple(_fed(model.graph)),
        values=observed,
    )


def _wanted(model: ir.Model, names: Sequence[str] | None) -> list[ir.Value]:
    """The values in topological order."""
    possible = {value.name or "": value for value in _floating_point(model)}
    chosen = set(observable_values(model) if names is None else names)
    unknown = chosen.difference(possible)
    if unknown:
        raise BadOptionError(
            f"there is no floating-point value {min(unknown)!r} in the model",
            "name inputs or results of nodes of its main graph",
        )
    if not chosen:
        raise BadOptionError(
            "there are no values to observe", "calibrate a model with floating-point values"
        )
    return [value for name, value in possible.items() if name in chosen]


def _proto(loaded: LoadedModel) -> tuple[onnx.ModelProto, Path | None]:
    """The model as a message to add to, and the folder of its external weights."""
    if not loaded.has_external_data or loaded.path is None:
        return to_proto(loaded.model), None
    return read_skeleton(loaded.path), loaded.path.absolute().parent


def _fed(graph: ir.Graph) -> Iterator[FedTensor]:
    for value in graph.inputs:
        if value.is_initializer() or value.dtype is None or not value.name:
            continue
        dims = None
        if value.shape is not None:
            dims = tuple(extent if isinstance(extent, int) else None for extent in value.shape)
        yield FedTensor(value.name, np.dtype(value.dtype.numpy()), dims)


class _Addition:
    """Adds nodes, constants and outputs under names that the graph does not use."""

    def __init__(
        self, graph: onnx.GraphProto, version: int, axes: Mapping[str, int | None]
    ) -> None:
        self._graph, self._axes_are_inputs = graph, version >= _AXES_ARE_INPUTS
        self._channel_axes = axes
        self._prefix = _unused_prefix(graph)
        self._shared: dict[tuple[int, ...], str] = {}
        self._count = 0
        self.phase = f"{self._prefix}phase"
        graph.input.append(helper.make_tensor_value_info(self.phase, onnx.TensorProto.INT64, [1]))

    def observe(self, value: ir.Value) -> ObservedValue:
        """Add what observes one value."""
        name = source = value.name or ""
        if value.dtype is not ir.DataType.FLOAT:
            source = self._node("Cast", [name], to=onnx.TensorProto.FLOAT)
        axis, extents = self._channel_axes.get(name), rank(value)
        shape = static_shape(value)
        axes = (
            None
            if axis is None or extents is None
            else tuple(each for each in range(extents) if each != axis)
        )
        outputs = [self._reduction(kind, source, axes) for kind in REDUCTIONS]
        flat = self._node("Reshape", [source, self._integers(-1)])
        size = None if shape is None else math.prod(shape)
        elements = self._node("Size", [source]) if size is None else None
        step = self._step(elements or "") if size is None else self._integers(step_for(size))
        start = self._node("Mod", [self.phase, step])
        limits = [start, self._integers(_TO_THE_END), self._integers(0), step]
        outputs.append(self._node("Slice", [flat, *limits]))
        outputs += [] if elements is None else [elements]
        for output in outputs:
            kind = onnx.TensorProto.INT64 if output == elements else onnx.TensorProto.FLOAT
            self._graph.output.append(helper.make_tensor_value_info(output, kind, None))
        return ObservedValue(name, axes is not None, size, tuple(outputs))

    def _step(self, elements: str) -> str:
        """The step for a size that is only known when the model runs: a prime from a table."""
        ratio = self._node("Div", [elements, self._integers(SAMPLED)])
        row = self._node("Min", [ratio, self._integers(_MOST_STEPS - 1)])
        return self._node("Gather", [self._primes, row])

    @cached_property
    def _primes(self) -> str:
        """The name of the steps by how many times `SAMPLED` fits into the size."""
        return self._integers(*(_prime_up_to(ratio) for ratio in range(_MOST_STEPS)))

    def _reduction(self, kind: str, source: str, axes: tuple[int, ...] | None) -> str:
        if axes is None:
            return self._node(kind, [source], keepdims=0)
        if not self._axes_are_inputs:
            return self._node(kind, [source], keepdims=0, axes=axes)
        return self._node(kind, [source, self._integers(*axes)], keepdims=0)

    def _integers(self, *numbers: int) -> str:
        """The name of a constant int64 vector."""
        if numbers not in self._shared:
            name = self._shared[numbers] = self._fresh()
            array = np.array(numbers, np.int64)
            self._graph.initializer.append(numpy_helper.from_array(array, name))
        return self._shared[numbers]

    def _node(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        name = self._fresh()
        self._graph.node.append(helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def _fresh(self) -> str:
        self._count += 1
        return f"{self._prefix}{self._count}"


def step_for(size: int) -> int:
    """The largest step without a common factor that meets `SAMPLED` of `size` elements.

    Raises:
        ValueError: There are no elements.
    """
    if size < 1:
        raise ValueError("a value without elements cannot be sampled")
    step = max(1, size // SAMPLED)
    while math.gcd(step, size) != 1:
        step -= 1
    return step


def _prime_up_to(number: int) -> int:
    """The largest prime up to a number; 1 where there is none."""
    while any(number % divisor == 0 for divisor in range(2, math.isqrt(number) + 1)):
        number -= 1
    return max(1, number)


def _unused_prefix(graph: onnx.GraphProto) -> str:
    names = {value.name for value in (*graph.input, *graph.output)}
    names.update(tensor.name for tensor in graph.initializer)
    names.update(name for node in graph.node for name in (node.name, *node.output))
    prefix = "observe:"
    while any(name.startswith(prefix) for name in names):
        prefix = f"_{prefix}"
    return prefix
