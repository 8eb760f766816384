"""The samples that a model is calibrated with: images, arrays, or what Python gives.

`open_samples` looks at each sample once, leaves out what cannot be read, and says what is
suspicious. What it returns holds paths and no data, so that it can be sent to other processes.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxfold.calibrate import samples_checks as checks
from onnxfold.calibrate.images import ImageOptions, Layout, UnreadableError
from onnxfold.calibrate.samples_arrays import Bundle, Scratch, read_bundle, spilled
from onnxfold.calibrate.samples_checks import Facts, Skipped
from onnxfold.calibrate.samples_choices import Choices, no_image_input
from onnxfold.calibrate.samples_cut import ArrayRules, ArraySample
from onnxfold.calibrate.samples_feeds import ArrayFeeds, ImageFeeds
from onnxfold.calibrate.samples_files import File, find_files
from onnxfold.calibrate.samples_model import FedInput, fed_inputs, find_image_input
from onnxfold.calibrate.samples_probe import about_the_norm, probed
from onnxfold.errors import BadOptionError

Source = str | os.PathLike[str] | Iterable[Any]
Progress = Callable[[int, int], None]
Unit = TypeVar("Unit", bound=checks.Labelled)


@dataclass(frozen=True, slots=True)
class Samples:
    """Feeds for a model, read when they are asked for.

    Small when pickled; a copy in another process opens the files itself. Where the samples came
    from Python, the files are gone when the original is.

    Attributes:
        feeds: Where they come from.
        warnings: What is suspicious about them, a sentence each, with its number.
        notes: What was decided about how they are fed, a sentence each.
        skipped: What could not be read.
        fingerprint: Equal where every feed is equal: the same data, prepared in the same way.
    """

    feeds: ImageFeeds | ArrayFeeds
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    skipped: tuple[Skipped, ...]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.feeds)

    def __iter__(self) -> Iterator[dict[str, NDArray[Any]]]:
        return (self.feed(index) for index in range(len(self)))

    def label(self, index: int) -> str:
        """Where sample `index` comes from, for messages."""
        return self.feeds.label(index)

    def feed(self, index: int) -> dict[str, NDArray[Any]]:
        """Every input of the model, for sample `index`.

        Raises:
            IndexError: There is no such sample.
            BadOptionError: Its file has changed and cannot be read any more.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"there are {len(self)} samples, and none has the index {index}")
        try:
            return self.feeds.feed(index)
        except UnreadableError as error:
            raise BadOptionError(
                f"{self.label(index)} could be read before and cannot be now: {error}",
                "leave the data as it is until the run is over",
            ) from error


def open_samples(
    source: Source,
    model: ir.Model,
    options: ImageOptions | None = None,
    strict: bool = False,
    limit: int | None = None,
    progress: Progress | None = None,
) -> Samples:
    """Find the samples, look at each once, and decide how the model is fed with them.

    Images become inputs as `ImageOptions` says. An .npz holds an array for each input, by name; an
    .npy serves a model with one input. Several samples along the first axis are taken apart into
    feeds of the model's batch size. Beside images, one .npz may give the model's other inputs what
    they are fed with every image.

    Args:
        source: A path or several: folders with all below them, image, .npy and .npz files, or
            patterns. Or an iterable of feeds: dicts by input name, or arrays if the model has one
            input; it is gone through once and kept in a temporary folder.
        model: As it came, before any pass has run: what its first nodes do to the image tells how
            to feed it, and passes fold them away. Its input shapes are taken as they stand.
        options: How images become inputs.
        strict: Refuse unreadable samples instead of leaving them out.
        limit: Take no more than this many; of files they are spread evenly over their order.
        progress: Called with how many samples have been looked at, and how many there are.

    Raises:
        BadOptionError: There are no samples, or they do not fit the model or the options.
        CannotRunError: There are images, and Pillow is not installed.
        CannotWriteError: There is no room to keep what an iterable gives.
    """
    if limit is not None and limit < 1:
        raise BadOptionError(f"a limit of {limit} leaves no samples", "give a number above zero")
    opening = _Opening(model, options or ImageOptions(), strict, limit, progress or _silent)
    paths = _paths(source)
    if paths is None:
        return opening.iterable(source)  # type: ignore[arg-type]
    files = find_files(paths)
    images = tuple(file for file in files if not file.is_array)
    arrays = tuple(file for file in files if file.is_array)
    return opening.images(images, arrays) if images else opening.arrays(arrays)


def _silent(_done: int, _total: int) -> None:
    pass


def _paths(source: Source) -> list[str] | None:
    """The paths that are meant, None for an iterable of feeds."""
    if isinstance(source, str | os.PathLike):
        return [os.fspath(source)]
    if isinstance(source, Mapping | bytes) or not isinstance(source, Iterable):
        raise BadOptionError(
            f"the samples are a {type(source).__name__}, not a list of feeds",
            "give a path, or a list of dicts by input name",
        )
    if isinstance(source, list | tuple) and source:
        paths = [os.fspath(each) for each in source if isinstance(each, str | os.PathLike)]
        return paths if len(paths) == len(source) else None
    return None


class _Opening:
    """One call of `open_samples`."""

    def __init__(
        self,
        model: ir.Model,
        options: ImageOptions,
        strict: bool,
        limit: int | None,
        progress: Progress,
    ) -> None:
        self._model = model
        self._options, self._strict, self._limit = options, strict, limit
        self._progress = progress
        image = find_image_input(model, options.input)
        self._inputs = fed_inputs(model, image)
        self._choices = None if image is None else Choices.of(model, image, options)
        if not self._inputs:
            raise BadOptionError("the model has no inputs", "such a model needs no samples")

    def images(self, files: tuple[File, ...], arrays: Sequence[File]) -> Samples:
        """Samples of images, with arrays for the model's other inputs."""
        choices = self._choices
        if choices is None:
            raise no_image_input(self._model)
        if self._options.layout is not None:
            raise BadOptionError(
                "--layout is for arrays, and the samples are images", "leave it out"
            )
        image, recipe = choices.image, choices.recipe()
        others = self._others(image.name, arrays)
        kept, facts, skipped = self._inspected(
            _evenly(files, self._limit),
            lambda file: {image.name: recipe.read(file.path)},
        )
        feeds = ImageFeeds(tuple(kept), recipe, image.name, image.batch, others)
        warnings = checks.about_the_set(facts, skipped)
        if choices.values is not None:
            warnings += checks.about_the_options(self._options, choices.values, choices.order)
            warnings += self._about_values(choices, feeds, facts, pixels=True)
        notes = [choices.note_on_size(), *choices.notes()]
        return _samples(feeds, facts, warnings, notes, skipped)

    def arrays(self, files: tuple[File, ...]) -> Samples:
        """Samples of .npy and .npz files."""
        bundles: list[Bundle] = []
        broken: list[Skipped] = []
        for file in files:
            try:
                bundles.append(read_bundle(file))
            except UnreadableError as error:
                broken.append(Skipped(file.label, str(error)))
        return self._stored(bundles, broken, Scratch())

    def iterable(self, source: Iterable[Any]) -> Samples:
        """Samples of what Python gives."""
        scratch = Scratch()
        names = tuple(each.name for each in self._inputs)
        bundles = list(spilled(islice(source, self._limit), names, scratch))
        if not bundles:
            raise BadOptionError("there are no samples", "give at least one")
        return self._stored(bundles, [], scratch)

    def _stored(
        self, bundles: Sequence[Bundle], broken: list[Skipped], scratch: Scratch
    ) -> Samples:
        self._refuse_options_for_images()
        rules = self._rules()
        samples: list[ArraySample] = []
        for bundle in bundles:
            try:
                samples += rules.cut(bundle, scratch)
            except UnreadableError as error:
                broken.append(Skipped(bundle.label, str(error)))
        checks.refuse_unreadable(broken, self._strict, not samples)
        kept, facts, skipped = self._inspected(_evenly(samples, self._limit), rules.feed)
        feeds = ArrayFeeds(tuple(kept), rules, scratch)
        skipped = [*broken, *skipped]
        warnings = checks.about_the_set(facts, skipped)
        notes: list[str] = []
        choices = self._choices
        if choices is not None and choices.values is not None:
            pixels = _hold_pixels(kept, choices.image.name)
            if pixels:
                warnings += checks.about_the_options(self._options, choices.values, choices.order)
                notes = choices.notes()
            elif rules.given is not None:
                warnings += checks.about_given_values(self._options, rules.given, facts)
            warnings += self._about_values(choices, feeds, facts, pixels=pixels)
        return _samples(feeds, facts, warnings, notes, skipped)

    def _rules(self) -> ArrayRules:
        choices = self._choices
        if choices is None:
            if self._options.changes_values or self._options.layout is not None:
                raise no_image_input(self._model)
            return ArrayRules(self._inputs, None, None, None, None)
        return ArrayRules(
            self._inputs, choices.image, self._options.layout, choices.values, choices.given()
        )

    def _others(self, image: str, arrays: Sequence[File]) -> dict[str, NDArray[Any]]:
        """What the inputs beside the image are fed with each image."""
        others: tuple[FedInput, ...] = tuple(each for each in self._inputs if each.name != image)
        names = ", ".join(each.name for each in others)
        if not arrays and not others:
            return {}
        if not arrays:
            raise BadOptionError(
                f"images cannot give what else the model needs: {names}",
                "add an .npz with it, or give whole feeds as .npz files",
            )
        if not others or len(arrays) > 1 or not arrays[0].named:
            raise BadOptionError(
                f"there are both images and arrays, as {arrays[0].label}",
                "give either; *.png takes the images of a folder alone",
            )
        try:
            rules = ArrayRules(others, None, None, None, None)
            samples = list(rules.cut(read_bundle(arrays[0]), Scratch()))
            if len(samples) == 1:
                return rules.feed(samples[0])
        except UnreadableError as error:
            raise BadOptionError(
                f"{arrays[0].label} cannot be read: {error}", "check the file"
            ) from error
        raise BadOptionError(
            f"{arrays[0].label} holds {len(samples)} samples, but goes with every image",
            f"give one value for each of {names}",
        )

    def _refuse_options_for_images(self) -> None:
        for name in ("resize", "crop", "pad", "channel_order"):
            if getattr(self._options, name):
                raise BadOptionError(
                    f"--{name.replace('_', '-')} is for image files, and the samples are arrays",
                    "leave it out: arrays have the model's size and channels",
                )

    def _inspected(
        self, units: Sequence[Unit], read: Callable[[Unit], Mapping[str, NDArray[Any]]]
    ) -> tuple[list[Unit], list[Facts], list[Skipped]]:
        image = None if self._choices is None else self._choices.image
        return checks.inspect(units, read, image, self._strict, self._progress)

    def _about_values(
        self,
        choices: Choices,
        feeds: ImageFeeds | ArrayFeeds,
        facts: Sequence[Facts],
        *,
        pixels: bool,
    ) -> list[str]:
        warnings = checks.about_the_stem(self._options, choices.stem, choices.order, facts, pixels)
        norm, image = choices.stem.norm, choices.image
        if norm is None or warnings:
            return warnings
        some = [feeds.feed(index)[image.name] for index in probed(len(feeds))]
        if image.layout is Layout.NHWC:
            some = [np.moveaxis(array, -1, 1) for array in some]
        return about_the_norm(norm, image, some, choices.values if pixels else None)


def _samples(
    feeds: ImageFeeds | ArrayFeeds,
    facts: Sequence[Facts],
    warnings: Sequence[str],
    notes: Sequence[str],
    skipped: Sequence[Skipped],
) -> Samples:
    others = feeds.others if isinstance(feeds, ImageFeeds) else {}
    fingerprint = checks.fingerprint_of(facts, others, len(feeds))
    return Samples(feeds, tuple(warnings), tuple(notes), tuple(skipped), fingerprint)


def _hold_pixels(samples: Sequence[ArraySample], image: str) -> bool:
    return any(
        part.stored.dtype == np.uint8
        for sample in samples
        for part in sample.parts
        if part.target.name == image
    )


def _evenly(units: Sequence[Unit], limit: int | None) -> Sequence[Unit]:
    """At most `limit` of them, spread evenly over their order."""
    if limit is None or len(units) <= limit:
        return units
    return [units[index * len(units) // limit] for index in range(limit)]
