"""Cuts stored arrays into feeds of the model's batch size, and fits them to its inputs."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxfold.calibrate.images import Layout, UnreadableError, Values
from onnxfold.calibrate.samples_arrays import Bundle, Scratch, Stored, unpacked
from onnxfold.calibrate.samples_model import Extent, FedInput, ImageInput
from onnxfold.errors import BadOptionError

Array = NDArray[Any]
Rows = tuple[int, int]

_UNNAMED = "arr_0"
"""What numpy.savez calls an array that was given no name."""


@dataclass(frozen=True, slots=True)
class Part:
    """What one input is fed: these rows of an array, or all of it."""

    target: FedInput
    stored: Stored
    rows: Rows | None


@dataclass(frozen=True, slots=True)
class ArraySample:
    """One feed, as the places where its arrays are."""

    label: str
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class ArrayRules:
    """How arrays are fitted to a model.

    Attributes:
        inputs: What must be fed.
        image: The image input, if there is one.
        layout: Axis order of the arrays for it, None if it is the model's.
        pixels: Normalisation of uint8 arrays for an image input that takes floats.
        given: Normalisation that the user asked for, for all other arrays for it.
    """

    inputs: tuple[FedInput, ...]
    image: ImageInput | None
    layout: Layout | None
    pixels: Values | None
    given: Values | None

    def cut(self, bundle: Bundle, scratch: Scratch) -> Iterator[ArraySample]:
        """The feeds in a bundle.

        An axis in front that the input does not have counts samples, and so does the batch axis
        where the array has a multiple of the model's batch, or the model leaves it open (and has
        three axes or more: a list of points is one sample). What fits as a whole goes to each.

        Raises:
            BadOptionError: Names, shapes or types do not fit the model.
            UnreadableError: The file is damaged.
            CannotWriteError: There is no room to unpack an archive with several samples.
        """
        named = self._named(bundle)
        steps = {each.name: self._step(each, named[each.name], bundle) for each in self.inputs}
        counts = {
            named[name].shape[0] // step for name, step in steps.items() if step is not None
        } or {1}
        if len(counts) > 1:
            raise BadOptionError(
                f"{bundle.label} holds different numbers of samples: "
                + ", ".join(f"{name} {_shown(stored.shape)}" for name, stored in named.items()),
                "every input needs as many",
            )
        (count,) = counts
        for each in self.inputs:  # an open axis in front counts samples if it does elsewhere
            if steps[each.name] is None and _can_count(each.dims, named[each.name].shape, count):
                steps[each.name] = 1
        if count == 0:
            raise BadOptionError(f"{bundle.label} holds no sample", "its first axis is empty")
        if count > 1 and any(stored.member is not None for stored in named.values()):
            bundle = unpacked(bundle, scratch)
            named = self._named(bundle)
        for index in range(count):
            label = bundle.label if count == 1 else f"{bundle.label}[{index}]"
            yield ArraySample(
                label,
                tuple(
                    Part(each, named[each.name], _rows(steps[each.name], index))
                    for each in self.inputs
                ),
            )

    def feed(self, sample: ArraySample) -> dict[str, Array]:
        """The arrays of a sample as the model takes them.

        Raises:
            UnreadableError: The file is damaged.
        """
        return {part.target.name: self._fitted(part) for part in sample.parts}

    def _named(self, bundle: Bundle) -> dict[str, Stored]:
        wanted = [each.name for each in self.inputs]
        if set(bundle.arrays) <= {None, _UNNAMED} and len(wanted) == len(bundle.arrays) == 1:
            return {wanted[0]: next(iter(bundle.arrays.values()))}
        if None in bundle.arrays:
            raise BadOptionError(
                f"{bundle.label} holds one array, but the model has {len(wanted)} inputs",
                f"give an .npz or dicts with {', '.join(wanted) or 'nothing'}",
            )
        named = {str(name): stored for name, stored in bundle.arrays.items()}
        for name in [*wanted, *named]:
            if name not in named or name not in wanted:
                what = "lacks input" if name not in named else "has"
                rest = "" if name not in named else ", which is no input of the model"
                raise BadOptionError(
                    f"{bundle.label} {what} {name}{rest}",
                    f"the model's inputs are {', '.join(wanted) or 'none'}",
                )
        return named

    def _step(self, target: FedInput, stored: Stored, bundle: Bundle) -> int | None:
        """Rows that one sample takes of an array; None if it takes all."""
        _check_type(target, stored, bundle)
        shape = self._reordered(target, stored.shape)
        fit = _step(target.dims, shape)
        if fit is _NO_FIT:
            raise self._mismatch(target, stored.shape, bundle)
        return fit or None

    def _reordered(self, target: FedInput, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape if not self._is_moved(target) else _moved(shape, self.layout)

    def _is_moved(self, target: FedInput) -> bool:
        return (
            self.image is not None
            and target.name == self.image.name
            and self.layout not in (None, self.image.layout)
        )

    def _mismatch(self, target: FedInput, shape: tuple[int, ...], bundle: Bundle) -> BadOptionError:
        got = f"{bundle.label} is {_shown(shape)}, but input {target.name} is {target.declared}"
        is_image = self.image is not None and target.name == self.image.name
        if is_image and self.image is not None and len(shape) >= 3:
            other = Layout.NHWC if self.image.layout is Layout.NCHW else Layout.NCHW
            if self.layout is None and _step(target.dims, _moved(shape, other)) is not _NO_FIT:
                where = "last" if other is Layout.NHWC else "before height and width"
                return BadOptionError(
                    f"{got}: its channels seem to come {where}", f"say so with --layout {other}"
                )
        return BadOptionError(got, f"give arrays of shape {target.declared}")

    def _fitted(self, part: Part) -> Array:
        array = part.stored.read(part.rows)
        if self._is_moved(part.target):
            to_front = self.layout is Layout.NHWC
            array = np.moveaxis(array, -1, -3) if to_front else np.moveaxis(array, -3, -1)
        dims = part.target.dims
        if dims is not None and array.ndim != len(dims):
            array = array[0] if array.ndim > len(dims) else array[None]
        if self.image is not None and part.target.name == self.image.name:
            array = self._normalised(array, self.image)
        with np.errstate(over="ignore"):
            fitted = np.asarray(array, part.target.dtype, order="C")
        if fitted.dtype.kind == "f" and not np.isfinite(fitted).all():
            raise UnreadableError(
                f"it has values that are NaN, infinite or too large for {part.target.dtype}"
            )
        return fitted

    def _normalised(self, array: Array, image: ImageInput) -> Array:
        values = self.pixels if array.dtype == np.uint8 else self.given
        if values is None:
            return array
        if image.layout is Layout.NHWC:
            return values.applied(array)
        return np.moveaxis(values.applied(np.moveaxis(array, 1, -1)), -1, 1)


_NO_FIT = -1


def _step(dims: tuple[Extent, ...] | None, shape: tuple[int, ...]) -> int:
    """Rows for each sample, 0 where the array is one sample, `_NO_FIT` where it cannot be fed."""
    if dims is None:
        return 0
    if len(shape) == len(dims) + 1:
        return 1 if _fits(dims, shape[1:]) else _NO_FIT
    batch = dims[0] if dims else None
    if len(shape) == len(dims) - 1:
        is_one = batch == 1 or not isinstance(batch, int)
        return 0 if is_one and _fits(dims[1:], shape) else _NO_FIT
    if len(shape) != len(dims) or not _fits(dims[1:], shape[1:]):
        return _NO_FIT
    if not isinstance(batch, int):
        return 1 if len(dims) >= 3 else 0
    if not shape or shape[0] == batch:
        return 0
    return batch if batch > 0 and shape[0] % batch == 0 else _NO_FIT


def _can_count(dims: tuple[Extent, ...] | None, shape: tuple[int, ...], count: int) -> bool:
    return (
        bool(dims)
        and dims is not None
        and not isinstance(dims[0], int)
        and len(shape) == len(dims)
        and shape[0] == count
    )


def _fits(dims: tuple[Extent, ...], shape: tuple[int, ...]) -> bool:
    return len(dims) == len(shape) and all(
        not isinstance(dim, int) or dim == size for dim, size in zip(dims, shape, strict=True)
    )


def _moved(shape: tuple[int, ...], layout: Layout | None) -> tuple[int, ...]:
    """A shape in `layout` in the other one."""
    if len(shape) < 3:
        return shape
    *front, first, middle, last = shape
    return (*front, last, first, middle) if layout is Layout.NHWC else (*front, middle, last, first)


def _rows(step: int | None, index: int) -> Rows | None:
    return None if step is None else (index * step, (index + 1) * step)


def _check_type(target: FedInput, stored: Stored, bundle: Bundle) -> None:
    if target.dtype is None:
        raise BadOptionError(
            f"input {target.name} of the model takes no numbers", "such models cannot be calibrated"
        )
    if stored.dtype == target.dtype:
        return
    if stored.dtype.kind in "fiu" and np.can_cast(stored.dtype, target.dtype, "same_kind"):
        return
    raise BadOptionError(
        f"{bundle.label} is {stored.dtype}, but input {target.name} takes {target.dtype}",
        f"convert it with .astype({str(target.dtype)!r})",
    )


def _shown(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a scalar"
