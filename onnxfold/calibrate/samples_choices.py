"""Chooses what the user left open about how images are fed, and says what was chosen."""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxfold.calibrate.images import WHITE, ChannelOrder, ImageOptions, Recipe, Values
from onnxfold.calibrate.samples_model import ImageInput, fed_inputs
from onnxfold.calibrate.samples_stem import Stem, Takes, read_stem
from onnxfold.errors import BadOptionError

_LARGE = (10_000, 10_000)
"""A size of images that no model takes."""


@dataclass(frozen=True, slots=True)
class Choices:
    """How the image input is fed.

    Attributes:
        options: What the user said.
        image: The input.
        stem: What the model does to it first.
        order: The channels it takes.
        values: How pixels are normalised; None feeds them as they are.
    """

    options: ImageOptions
    image: ImageInput
    stem: Stem
    order: ChannelOrder
    values: Values | None

    @staticmethod
    def of(model: ir.Model, image: ImageInput, options: ImageOptions) -> "Choices":
        """Choose.

        Raises:
            BadOptionError: The options do not fit the input.
        """
        stem = read_stem(model, image)
        order = options.channel_order
        if order is None:
            order = ChannelOrder.GRAY if image.channels == 1 else ChannelOrder.RGB
        if image.channels == 1 and order is not ChannelOrder.GRAY:
            raise BadOptionError(
                f"the channel order is {order}, but input {image.name} has one channel",
                "leave out --channel-order",
            )
        return Choices(options, image, stem, order, _values(options, image, stem))

    def given(self) -> Values | None:
        """How arrays of other types than uint8 are normalised: only if the user asks for it."""
        if not self.options.changes_values:
            return None
        return _of(self.options, self.image, self.options.scale or 1.0)

    def recipe(self) -> Recipe:
        """Everything that is done to an image file.

        Raises:
            BadOptionError: The size is not the model's, or differs within a batch.
        """
        options, image = self.options, self.image
        recipe = Recipe(
            image.size,
            options.resize,
            options.crop,
            options.pad,
            self._fill(),
            image.channels,
            self.order,
            self.values,
            image.layout,
            image.dtype,
        )
        _, goal = recipe.sizes(_LARGE)
        for fixed, side in zip(image.size, goal, strict=True):
            if fixed not in (None, side):
                raise BadOptionError(
                    f"images would become {goal[0]}x{goal[1]}, but input {image.name} takes "
                    f"{'x'.join('?' if each is None else str(each) for each in image.size)}",
                    "leave out --resize and --crop to get the model's own size",
                )
        if image.batch > 1 and self._leaves_size_open():
            raise BadOptionError(
                f"input {image.name} takes {image.batch} images of one size, and leaves it open",
                "say which with --resize 512x512",
            )
        if options.pad and self._leaves_size_open():
            raise BadOptionError(
                f"input {image.name} leaves its size open, so that there is nothing to pad to",
                "say what with --resize 512x512",
            )
        return recipe

    def notes(self) -> list[str]:
        """What is done to the values of pixels, and why."""
        if self.values is None:
            return [f"input {self.image.name} takes {self.image.dtype}: pixels as they are"]
        notes = []
        if self.options.scale is None and self.stem.reason:
            white = WHITE * self.values.scale
            notes.append(f"{self.stem.reason}, so white is {white:g} before --mean and --std")
        elif self.stem.takes is None and not self.options.changes_values:
            notes.append("pixels become 0 to 1; if the model wants it otherwise, say --mean, --std")
        return notes

    def note_on_size(self) -> str:
        """What is done to the size of images."""
        options, size = self.options, self.image.size
        target = options.crop or (options.resize if isinstance(options.resize, tuple) else None)
        shown = "x".join(map(str, target or [each or "?" for each in size]))
        how = "padded" if options.pad else "stretched"
        if options.crop is not None or isinstance(options.resize, int):
            how = "scaled and cropped"
        if self._leaves_size_open():
            kept = "keep their size"
            if isinstance(options.resize, int):
                kept = f"are scaled to {options.resize} on the shorter side"
            rounded = "open sides rounded to multiples of 32"
            return f"images {kept}, {rounded}, channels {self.order}"
        return f"images are {how} to {shown}, channels {self.order}"

    def _leaves_size_open(self) -> bool:
        decided = self.options.crop is not None or isinstance(self.options.resize, tuple)
        return not decided and None in self.image.size

    def _fill(self) -> tuple[int, ...]:
        """The pixel that becomes zero, by what is done here and then by the model."""
        mean = np.zeros(self.image.channels)
        if self.options.mean is not None and self.values is not None:
            mean = np.asarray(self.values.mean) / self.values.scale
        elif self.stem.takes is not None:
            mean = self.stem.centre * (WHITE if self.stem.takes is Takes.UNIT else 1.0)
        return tuple(int(each) for each in np.clip(np.round(mean), 0, WHITE))


def no_image_input(model: ir.Model) -> BadOptionError:
    """The error for images and a model that takes none."""
    inputs = ", ".join(
        f"{each.name} ({each.dtype} {each.declared})" for each in fed_inputs(model, None)
    )
    return BadOptionError(
        f"no input of the model takes images: {inputs}",
        "an image input has 4 axes, and 1 or 3 channels; give other data as .npy or .npz files",
    )


def _values(options: ImageOptions, image: ImageInput, stem: Stem) -> Values | None:
    if not image.takes_pixels:
        return _of(options, image, options.scale or _default_scale(stem))
    if options.changes_values:
        raise BadOptionError(
            f"input {image.name} takes {image.dtype}, so pixels are fed as they are",
            "leave out --mean, --std and --scale",
        )
    return None


def _default_scale(stem: Stem) -> float:
    return 1.0 if stem.takes is Takes.PIXELS else 1.0 / WHITE


def _of(options: ImageOptions, image: ImageInput, scale: float) -> Values:
    return Values(
        scale,
        _spread("mean", options.mean or (0.0,), image),
        _spread("std", options.std or (1.0,), image),
    )


def _spread(name: str, numbers: tuple[float, ...], image: ImageInput) -> tuple[float, ...]:
    if len(numbers) not in (1, image.channels):
        raise BadOptionError(
            f"--{name} has {len(numbers)} numbers, but input {image.name} has "
            f"{image.channels} channel{'s' * (image.channels > 1)}",
            "give one, or one for each channel",
        )
    return numbers * image.channels if len(numbers) == 1 else numbers
