"""What the models are fed: deterministic values that show each family of wrong rewrites.

- Signed normal values with a heavy, off-centre ring on the spatial border: a wrong border, a bias
  folded in front of a padded kernel, a maximum padded with zero.
- Plain normal values, odd sizes, unequal sizes, batch 2: static shapes baked in, phases shifted.
- Zeros: constants lost or counted twice. Large values: saturation and overflow.
- The user's own data.

Every feed is one that the *reference* runs, giving finite, non-empty outputs where it can;
nothing here ever sees the candidate.
"""

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any, TypeAlias

import numpy as np
import onnx

from onnxfold.errors import BadOptionError, CannotRunError
from onnxfold.verify.interface import Port
from onnxfold.verify.session import Array, FeedRefusedError
from onnxfold.verify.shapes import (
    Plan,
    Role,
    Shape,
    Sizes,
    check_shape,
    near,
    plans,
    spatial_axes,
)

Outputs: TypeAlias = dict[str, Array]
Run: TypeAlias = Callable[[Mapping[str, Array]], Outputs]

#: How many items of the user's data are used.
MAX_DATA = 8
#: Upper bounds tried for integers of unknown meaning (token ids, classes, sizes).
INTEGER_BOUNDS = (10, 2, 1)
#: Factors tried on float values until the reference's outputs are finite.
DAMPING = (1.0, 0.1, 0.01)


@dataclass(frozen=True, slots=True)
class Feed:
    """Values for every input.

    Attributes:
        label: What it is, for people.
        arrays: The values by input name.
        slack: Factor on the tolerance.
    """

    label: str
    arrays: Mapping[str, Array]
    slack: float = 1.0


@dataclass(frozen=True, slots=True)
class Values:
    """How a feed's numbers are drawn.

    Attributes:
        label: For people.
        amplitude: Standard deviation of floats; 0 gives zeros for every dtype.
        border: Whether floats get a heavy ring on the spatial border.
        bound: Integers of unknown meaning lie below it.
        slack: Factor on the tolerance.
    """

    label: str
    amplitude: float = 1.0
    border: bool = False
    bound: int = INTEGER_BOUNDS[0]
    slack: float = 1.0


FIRST = Values("normal, heavy border", border=True)
PLAIN = Values("normal")
ZEROS = Values("zeros", amplitude=0.0)
# Large values put gates and saturated units on their edges, where a maximum over two measurements
# is a poor guide: on networks with squeeze-and-excitation its noise varies fourfold between draws.
# The feed is there for overflow and lost saturation, whose errors are not of that size.
LARGE = Values("large", amplitude=100.0, border=True, slack=4.0)


def draw(port: Port, shape: Shape, values: Values, seed: int) -> Array:
    """The values of one input.

    Args:
        port: The input; a dense tensor of numbers or booleans.
        shape: Its shape.
        values: How to draw.
        seed: The run's seed; the name, shape and kind of values are mixed in.
    """
    dtype = onnx.helper.tensor_dtype_to_np_dtype(port.element)
    if values.amplitude == 0.0:
        return np.zeros(shape, dtype)
    mixed = zlib.crc32(f"{port.name}/{values.label}".encode())
    rng = np.random.default_rng([seed, mixed, *shape])
    if dtype == np.bool_:
        drawn = rng.random(shape) < 0.7
        drawn.reshape(-1)[:1] = True  # an attention mask must leave something
        return np.asarray(drawn)
    if np.issubdtype(dtype, np.integer):
        return _integers(rng, port.name, shape, dtype, values.bound)
    normal = rng.standard_normal(shape)
    if values.border:
        _raise_border(normal, rng, spatial_axes(port.dims or shape))
    return np.asarray(normal * values.amplitude).astype(dtype)


def _integers(
    rng: np.random.Generator, name: str, shape: Shape, dtype: np.dtype[Any], bound: int
) -> Array:
    if dtype.itemsize == 1:
        limits = np.iinfo(dtype)
        return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)
    if len(shape) >= 4:
        return rng.integers(0, 255, shape, endpoint=True).astype(dtype)
    if len(shape) <= 1:  # a size, an index, a count: zero would empty the output
        return rng.integers(1, bound, shape, endpoint=True).astype(dtype)
    drawn = rng.integers(0, 2 if "mask" in name.lower() else bound, shape)
    if "mask" in name.lower():
        drawn[..., 0] = 1
    return drawn.astype(dtype)


def _raise_border(array: Array, rng: np.random.Generator, axes: range) -> None:
    """Make the outermost ring of `axes` large and off-centre, one sign per slice."""
    for axis in axes:
        for edge in (0, -1):
            ring = np.take(array, edge, axis=axis)
            sign = 1.0 if rng.random() < 0.5 else -1.0
            index = [slice(None)] * array.ndim
            index[axis] = slice(edge, 1) if edge == 0 else slice(-1, None)
            array[tuple(index)] = np.expand_dims(sign * (4.0 + 2.0 * np.abs(ring)), axis)


class FeedFinder:
    """Finds feeds that the reference runs."""

    def __init__(self, ports: tuple[Port, ...], fixed: Mapping[str, Shape], seed: int) -> None:
        """Prepare.

        Args:
            ports: The inputs that must be fed.
            fixed: Shapes that the user fixed, by input name.
            seed: Seed of every number drawn.

        Raises:
            BadOptionError: A fixed shape does not fit the model.
        """
        self._ports = ports
        self._seed = seed
        self._plans = list(plans(ports, fixed))
        self._refusal = ""

    def synthetic(self, run: Run) -> Iterator[tuple[Feed, Outputs]]:
        """Feeds drawn from the seed, the most telling first, with the reference's outputs.

        Args:
            run: Runs the reference; raises `FeedRefusedError`.

        Raises:
            CannotRunError: The model has an input for which no values can be drawn, or the
                reference refuses every size that was tried.
        """
        for port in self._ports:
            if not port.kind.startswith("tensor(") or port.element == onnx.TensorProto.STRING:
                raise CannotRunError(
                    f"no values can be made up for input {port.name} of type {port.kind}",
                    "give data for it",
                )
        start = self._first(run)
        if start is None:
            raise CannotRunError(
                f"no made-up input was accepted by the model: {self._refusal}",
                "give the sizes of its inputs (--input-shape) or data",
            )
        plan, base, bound, feed, outputs = start
        yield feed, outputs
        kinds = [ZEROS, LARGE] if plan.roles() else [PLAIN, ZEROS, LARGE]
        others = chain(
            self._sizes(run, plan, base, bound), self._kinds(run, plan, base, bound, kinds)
        )
        # With no input at all there is one feed, and it is empty.
        yield from islice(others, 0 if not self._ports else None)

    def _first(self, run: Run) -> tuple[Plan, Sizes, int, Feed, Outputs] | None:
        for plan in self._plans:
            tried: set[tuple[Shape, ...]] = set()
            for sizes in plan.first_sizes():
                shapes = tuple(plan.shapes(sizes).values())
                if shapes in tried:
                    continue
                tried.add(shapes)
                for bound in INTEGER_BOUNDS if self._takes_integers() else INTEGER_BOUNDS[:1]:
                    found = self._attempt(run, plan, sizes, FIRST, bound)
                    if found is not None:
                        return plan, sizes, bound, *found
        return None

    def _sizes(
        self, run: Run, plan: Plan, base: Sizes, bound: int
    ) -> Iterator[tuple[Feed, Outputs]]:
        """Odd, unequal and batched sizes, as far as axes are free and the reference agrees."""
        free = set(plan.roles().values())
        if free - {Role.BATCH}:
            yield from self._any(run, plan, plan.odd_sizes(base), FIRST, bound, base)
        for batch in (2, 1) if Role.BATCH in free else (1,):
            found = list(self._any(run, plan, plan.wide_sizes(base, batch), PLAIN, bound, base))
            yield from found
            if found:
                return

    def _any(
        self,
        run: Run,
        plan: Plan,
        choices: Iterable[Sizes],
        values: Values,
        bound: int,
        base: Sizes,
    ) -> Iterator[tuple[Feed, Outputs]]:
        """The first choice that differs from the base and that the reference runs."""
        for sizes in choices:
            if plan.shapes(sizes) == plan.shapes(base):
                continue
            found = self._attempt(run, plan, sizes, values, bound)
            if found is not None:
                yield found
                return

    def _kinds(
        self, run: Run, plan: Plan, base: Sizes, bound: int, kinds: Iterable[Values]
    ) -> Iterator[tuple[Feed, Outputs]]:
        for values in kinds:
            found = self._attempt(run, plan, base, values, bound)
            if found is not None:
                yield found

    def _attempt(
        self, run: Run, plan: Plan, sizes: Sizes, values: Values, bound: int
    ) -> tuple[Feed, Outputs] | None:
        """One feed with the reference's outputs, None if the reference refuses it.

        Values are damped where that makes the outputs finite: overflow in the reference says
        nothing about a candidate that rounds elsewhere.
        """
        shapes = plan.shapes(sizes)
        accepted: tuple[Feed, Outputs] | None = None
        for damping in DAMPING:
            scaled = replace(values, amplitude=values.amplitude * damping, bound=bound)
            arrays = {
                port.name: draw(port, shapes[port.name], scaled, self._seed) for port in plan.ports
            }
            try:
                outputs = run(arrays)
            except FeedRefusedError as error:
                self._refusal = str(error)
                return accepted
            if any(array.size == 0 for array in outputs.values()):
                self._refusal = "an output came out empty"
                return accepted
            found = Feed(_label(values.label, shapes), arrays, values.slack), outputs
            if all(_finite(array) for array in outputs.values()):
                return found
            accepted = accepted or found
            if not self._takes_floats() or values.amplitude == 0.0:
                break
        return accepted

    def _takes_integers(self) -> bool:
        return any(self._dtype_kind(port) in "iu" for port in self._ports)

    def _takes_floats(self) -> bool:
        return any(self._dtype_kind(port) not in "iub" for port in self._ports)

    @staticmethod
    def _dtype_kind(port: Port) -> str:
        return onnx.helper.tensor_dtype_to_np_dtype(port.element).kind

    def from_data(
        self, data: Iterable[Mapping[str, Array]], run: Run
    ) -> Iterator[tuple[Feed, Outputs]]:
        """The user's own data, at most `MAX_DATA` items, with the reference's outputs.

        Raises:
            BadOptionError: A name, type or shape that does not fit, or the reference refuses it.
        """
        for index, item in enumerate(islice(data, MAX_DATA)):
            feed = Feed(f"data {index}", self._checked(item, index))
            try:
                yield feed, run(feed.arrays)
            except FeedRefusedError as error:
                raise BadOptionError(
                    f"the model does not run on item {index} of the data: {error}",
                    "check the data's sizes and value ranges",
                ) from error

    def _checked(self, item: Mapping[str, Array], index: int) -> dict[str, Array]:
        names = [port.name for port in self._ports]
        for name in item:
            if name not in names:
                raise BadOptionError(
                    f"item {index} of the data has {name}, which is no input of the model",
                    near(name, names),
                )
        checked: dict[str, Array] = {}
        for port in self._ports:
            if port.name not in item:
                raise BadOptionError(
                    f"item {index} of the data lacks input {port.name}",
                    f"every item needs {', '.join(names)}",
                )
            checked[port.name] = _fitted(port, np.asarray(item[port.name]), index)
        return checked


def _fitted(port: Port, array: Array, index: int) -> Array:
    what = f"item {index} of the data for"
    check_shape(port, array.shape, what)
    if port.element == onnx.TensorProto.STRING:
        return array.astype(object)
    if port.element == 0:
        return array
    wanted = onnx.helper.tensor_dtype_to_np_dtype(port.element)
    if array.dtype == wanted:
        return array
    if array.dtype.kind in "fiu" and np.can_cast(array.dtype, wanted, "same_kind"):
        return array.astype(wanted)
    raise BadOptionError(
        f"{what} input {port.name} is {array.dtype}, but the model takes {wanted}",
        f"convert it with .astype({str(wanted)!r})",
    )


def _finite(array: Array) -> bool:
    return array.dtype.kind not in "fV" or bool(np.isfinite(array).all())


def _label(values: str, shapes: Mapping[str, Shape]) -> str:
    sizes = ", ".join("x".join(map(str, shape)) or "scalar" for shape in shapes.values())
    return f"{values} ({sizes})" if sizes else values
