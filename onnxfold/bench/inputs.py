"""One set of inputs for all models, and whether the models agree on it."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from onnxfold.errors import BadOptionError, CannotRunError
from onnxfold.verify.feeds import FeedFinder, Outputs
from onnxfold.verify.interface import Dim, Interface, Port
from onnxfold.verify.session import Array

Feed: TypeAlias = Mapping[str, Array]

_FAR = 0.5
"""Outputs that differ by more than this, relative to their root mean square, are not of one
network; quantization or half precision costs far less."""


def common_inputs(interfaces: Mapping[str, Interface]) -> tuple[Port, ...]:
    """The inputs of all models; an axis is as open as the strictest of them leaves it.

    Args:
        interfaces: By the models' names.

    Raises:
        BadOptionError: They take different inputs; says which.
    """
    (first, reference), *others = interfaces.items()
    common = {port.name: port for port in reference.inputs}
    for name, interface in others:
        theirs = {port.name: port for port in interface.inputs}
        if theirs.keys() != common.keys():
            raise _unequal(
                f"{first} takes {_listed(list(common))}, and {name} takes {_listed(list(theirs))}"
            )
        for key, port in theirs.items():
            common[key] = _common(common[key], port, first, name)
    return tuple(common.values())


def _common(known: Port, other: Port, first: str, name: str) -> Port:
    if known.kind != other.kind:
        raise _unequal(f"input {known.name} is {known.kind} in {first}, {other.kind} in {name}")
    if known.dims is None or other.dims is None:
        return known if other.dims is None else other
    if len(known.dims) != len(other.dims) or any(map(_contradict, known.dims, other.dims)):
        shapes = f"{_shape(known.dims)} in {first}, {_shape(other.dims)} in {name}"
        raise _unequal(f"input {known.name} is {shapes}")
    dims = tuple(
        b if isinstance(b, int) else a for a, b in zip(known.dims, other.dims, strict=True)
    )
    return Port(known.name, known.kind, known.element, dims)


def _contradict(one: Dim, other: Dim) -> bool:
    return isinstance(one, int) and isinstance(other, int) and one != other


def _unequal(difference: str) -> BadOptionError:
    return BadOptionError(
        f"the models do not take the same inputs: {difference}",
        "only models with the same inputs can be measured beside each other",
    )


def _shape(dims: Sequence[Dim]) -> str:
    return "x".join("?" if dim is None else str(dim) for dim in dims) or "scalar"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def choose_feed(
    ports: tuple[Port, ...],
    run: Callable[[Feed], Outputs],
    given: Feed | None,
    input_shapes: Mapping[str, tuple[int, ...]],
    seed: int,
) -> Feed:
    """The values for every input: those given, or signed normal ones of sizes the model runs.

    Args:
        ports: The inputs.
        run: Runs the first model; raises `FeedRefusedError`.
        given: The user's own values.
        input_shapes: Shapes that the user fixed, by input name.
        seed: Seed of the values.

    Raises:
        BadOptionError: The values or a shape do not fit.
        CannotRunError: No values can be made up that the model takes.
    """
    finder = FeedFinder(ports, input_shapes, seed)
    found = finder.synthetic(run) if given is None else finder.from_data([given], run)
    for feed, _ in found:
        return feed.arrays
    raise CannotRunError("there is nothing to feed the model with", "give data that fits")


def doubts(outputs: Mapping[str, Sequence[Array]]) -> list[str]:
    """What makes it doubtful that the models do the same work.

    Args:
        outputs: What each model made of the same inputs, by name; the first is the reference.
    """
    (first, reference), *others = outputs.items()
    notes = [
        f"{name} gives NaN or infinity, which some processors are slow at"
        for name, arrays in outputs.items()
        if not all(_is_finite(array) for array in arrays)
    ]
    for name, arrays in others:
        difference = _difference(reference, arrays)
        if difference:
            notes.append(
                f"{name} does not compute the same as {first} ({difference}); see onnxfold verify"
            )
    return notes


def _is_finite(array: Array) -> bool:
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())


def _difference(reference: Sequence[Array], arrays: Sequence[Array]) -> str:
    if len(reference) != len(arrays):
        return f"{len(arrays)} outputs, not {len(reference)}"
    for index, (before, after) in enumerate(zip(reference, arrays, strict=True)):
        if before.shape != after.shape:
            return f"output {index} is {_shape(after.shape)}, not {_shape(before.shape)}"
        far = _distance(before, after)
        if far > _FAR:
            return f"output {index} is off by {far:.0%}"
    return ""


def _distance(before: Array, after: Array) -> float:
    """Root mean square difference over root mean square; of labels, the share that differs."""
    if before.size == 0 or before.dtype.kind not in "f":
        return float(np.mean(before != after)) if before.size else 0.0
    wide, other = before.astype(np.float64), after.astype(np.float64)
    both = np.isfinite(wide) & np.isfinite(other)
    scale = float(np.sqrt(np.mean(np.square(wide[both])))) if both.any() else 0.0
    error = float(np.sqrt(np.mean(np.square((wide - other)[both])))) if both.any() else 0.0
    return error / scale if scale else float(error > 0)
