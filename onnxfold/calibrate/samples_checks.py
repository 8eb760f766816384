"""Looks at every sample once, and says what is suspicious about them, with numbers."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from onnxfold.calibrate.images import WHITE, ChannelOrder, ImageOptions, UnreadableError, Values
from onnxfold.calibrate.samples_model import ImageInput
from onnxfold.calibrate.samples_stem import Stem, Takes
from onnxfold.errors import BadOptionError

FEW = 32
"""Fewer samples than this give ranges that depend on which they are."""

_SHOWN = 3
_THREADS = 4
"""Decoders release the lock; more threads would hold more images in memory."""

_IMAGENET = np.array([0.485, 0.456, 0.406])
"""Means of red, green and blue over ImageNet, as torchvision documents them."""

Array = NDArray[Any]


class Labelled(Protocol):
    """Something that messages can name."""

    @property
    def label(self) -> str: ...  # noqa: D102


Sample = TypeVar("Sample", bound=Labelled)


@dataclass(frozen=True, slots=True)
class Skipped:
    """A sample that was left out.

    Attributes:
        label: Which.
        reason: Why it cannot be read.
    """

    label: str
    reason: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What one look at a sample tells.

    Attributes:
        label: Which sample.
        low: Least value.
        high: Greatest value.
        is_constant: Whether every pixel is like every other; False for what is no image.
        digest: Equal for equal samples.
    """

    label: str
    low: float
    high: float
    is_constant: bool
    digest: bytes


def facts_of(label: str, feed: Mapping[str, Array], image: ImageInput | None) -> Facts:
    """Look at a sample.

    Args:
        label: Which.
        feed: The arrays by input name; that of the image input may lack the batch axis.
        image: The image input, if the model has one.
    """
    array = feed[image.name] if image is not None else max(feed.values(), key=lambda a: a.size)
    is_constant = False
    if image is not None and array.size:
        axis = array.ndim - 3 if image.layout.value == "nchw" else array.ndim - 1
        pixels = np.moveaxis(array, axis, -1)
        is_constant = bool((pixels == pixels.reshape(-1, pixels.shape[-1])[0]).all())
    low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
    return Facts(label, low, high, is_constant, _digest(feed).digest())


def fingerprint_of(facts: Sequence[Facts], others: Mapping[str, Array], feeds: int) -> str:
    """A text that differs where a sample does.

    Args:
        facts: About the samples, in order.
        others: What is fed beside each.
        feeds: How many feeds the samples make.
    """
    digest = _digest(others)
    for each in facts:
        digest.update(each.digest)
    digest.update(f"{feeds}".encode())
    return digest.hexdigest()


def _digest(feed: Mapping[str, Array]) -> hashlib.blake2b:
    digest = hashlib.blake2b(digest_size=16)
    for name, array in feed.items():
        digest.update(f"{name}{array.dtype}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest


def inspect(
    samples: Sequence[Sample],
    read: Callable[[Sample], Mapping[str, Array]],
    image: ImageInput | None,
    strict: bool,
    progress: Callable[[int, int], None],
) -> tuple[list[Sample], list[Facts], list[Skipped]]:
    """Look at every sample.

    Args:
        samples: They have labels.
        read: Gives the arrays of a sample by input name, or raises `UnreadableError`.
        image: The image input, if the model has one.
        strict: Refuse what cannot be read.
        progress: Called with how many are done, and how many there are.

    Returns:
        The samples that can be read, the facts about them, and the others.

    Raises:
        BadOptionError: A sample cannot be read and `strict` is set, or none can be read.
    """
    kept: list[Sample] = []
    facts: list[Facts] = []
    skipped: list[Skipped] = []

    def look(sample: Sample) -> Facts | Skipped:
        try:
            return facts_of(sample.label, read(sample), image)
        except UnreadableError as error:
            return Skipped(sample.label, str(error))

    pool = ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1))
    try:
        for sample, found in zip(samples, pool.map(look, samples), strict=True):
            if isinstance(found, Facts):
                kept.append(sample)
                facts.append(found)
            else:
                skipped.append(found)
                refuse_unreadable(skipped, strict, nothing_left=False)
            progress(len(facts) + len(skipped), len(samples))
    finally:
        pool.shutdown(cancel_futures=True)
    refuse_unreadable(skipped, strict, not kept)
    return kept, facts, skipped


def refuse_unreadable(skipped: Sequence[Skipped], strict: bool, nothing_left: bool) -> None:
    """Refuse samples that cannot be read, if any is one too many or there are no others.

    Raises:
        BadOptionError: As it says.
    """
    if not skipped:
        return
    first = skipped[0]
    if strict:
        raise BadOptionError(
            f"{first.label} cannot be read: {first.reason}",
            "mend or remove it, or leave out what cannot be read by running without --strict",
        )
    if nothing_left:
        which = "the sample" if len(skipped) == 1 else f"none of the {len(skipped)} samples"
        verb = "cannot" if len(skipped) == 1 else "can"
        raise BadOptionError(
            f"{which} {verb} be read: {first.label}: {first.reason}", "check the data"
        )


def about_the_set(facts: Sequence[Facts], skipped: Sequence[Skipped]) -> list[str]:
    """Warnings about how many samples there are, and how much they differ."""
    warnings: list[str] = []
    total = len(facts)
    if skipped:
        shown = "; ".join(f"{each.label}: {each.reason}" for each in skipped[:_SHOWN])
        warnings.append(
            f"{len(skipped)} of {total + len(skipped)} samples cannot be read and are left out"
            f" ({shown}{_more(len(skipped))})"
        )
    if total < FEW:
        warnings.append(
            f"only {_samples(total)}: with fewer than {FEW}, ranges depend on which they are"
        )
    constant = [each.label for each in facts if each.is_constant]
    if constant:
        warnings.append(
            f"{len(constant)} of {_samples(total)} {_have(len(constant))} one single colour "
            f"({', '.join(constant[:_SHOWN])}{_more(len(constant))})"
        )
    distinct = len({each.digest for each in facts})
    if distinct == 1 < total:
        warnings.append(f"all {total} samples are the same")
    elif distinct < FEW <= total:
        warnings.append(f"only {distinct} of {total} samples differ from each other")
    return warnings


def about_the_options(options: ImageOptions, values: Values, order: ChannelOrder) -> list[str]:
    """Warnings about a normalisation that cannot be meant."""
    warnings: list[str] = []
    white = WHITE * values.scale
    if options.mean is not None and not all(0.0 <= mean <= white for mean in values.mean):
        warnings.append(
            f"--mean {_numbers(options.mean)} lies outside of 0 to {white:.4g}, the values that "
            f"pixels have after --scale {values.scale:.5g}"
        )
    said = _order_of_mean(np.asarray(values.mean) / white)
    if options.mean is not None and said not in (None, order):
        warnings.append(
            f"--mean {_numbers(options.mean)} is ImageNet's mean in the order {said}, but the "
            f"channel order is {order}"
        )
    return warnings


def about_the_stem(
    options: ImageOptions,
    stem: Stem,
    order: ChannelOrder,
    facts: Sequence[Facts],
    pixels: bool,
) -> list[str]:
    """Warnings where the samples are not what the model's first nodes are made for.

    Args:
        options: What the user said.
        stem: What the first nodes do.
        order: The channels that are fed.
        facts: What the samples are.
        pixels: Whether they come from pixels, which are scaled to fit unless the user says how.
    """
    warnings: list[str] = []
    if stem.steps and (options.mean is not None or options.std is not None):
        warnings.append(
            f"the model normalises its input itself ({', '.join(stem.steps)}), so that --mean and "
            "--std normalise twice"
        )
    high = max(each.high for each in facts)
    factor = "255" if stem.takes is Takes.PIXELS else "0.0039216"
    fits = "leave out --scale" if pixels else f"--scale {factor} fits"
    if stem.takes is Takes.PIXELS and high <= 2.0:
        warnings.append(f"the samples reach only {high:.4g}, but {stem.reason}: {fits}")
    if stem.takes is Takes.UNIT and high > 2.0:
        warnings.append(f"the samples reach {high:.4g}, but {stem.reason}: {fits}")
    said = _order_of_mean(stem.centre / (WHITE if stem.takes is Takes.PIXELS else 1.0))
    if stem.takes is not None and said not in (None, order):
        warnings.append(
            f"the model subtracts ImageNet's mean in the order {said}, but the channel order is "
            f"{order}: --channel-order {said} fits"
        )
    return warnings


def about_given_values(options: ImageOptions, values: Values, facts: Sequence[Facts]) -> list[str]:
    """Warnings about arrays that are not what --mean and --std are for."""
    if options.mean is None and options.std is None:
        return []
    low, high = min(each.low for each in facts), max(each.high for each in facts)
    mean, std = np.asarray(values.mean), np.asarray(values.std)
    of_unit = bool(mean.max() <= 1.0)
    least = float(np.min(-mean / std))
    most = float(np.max(((1.0 if of_unit else WHITE) - mean) / std))
    slack = 0.01 * (most - least)
    if low < least - slack:
        return [
            f"the samples reach down to {low:.4g}, below {least:.4g}, which is what --mean and "
            "--std make of zero: they seem to be normalised already"
        ]
    if high > most + slack:
        fits = ": pixels 0 to 255 need --scale 0.0039216" if of_unit else ""
        return [
            f"the samples reach up to {high:.4g}, above {most:.4g}, which is what --mean and "
            f"--std make of white{fits}"
        ]
    return []


def _order_of_mean(mean: NDArray[np.float64]) -> ChannelOrder | None:
    """The order in which a mean for values 0 to 1 is that of ImageNet."""
    if mean.shape != (3,):
        return None
    if np.allclose(mean, _IMAGENET, atol=0.005):
        return ChannelOrder.RGB
    return ChannelOrder.BGR if np.allclose(mean, _IMAGENET[::-1], atol=0.005) else None


def _numbers(numbers: Sequence[float]) -> str:
    return ",".join(f"{number:g}" for number in numbers)


def _samples(count: int) -> str:
    return "1 sample" if count == 1 else f"{count} samples"


def _have(count: int) -> str:
    return "has" if count == 1 else "have"


def _more(count: int) -> str:
    return f" and {count - _SHOWN} more" if count > _SHOWN else ""
