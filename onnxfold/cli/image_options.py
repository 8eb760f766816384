"""Options of all commands that take samples: where they are, and how images become inputs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import click

from onnxfold.calibrate.images import ChannelOrder, ImageOptions, Layout
from onnxfold.errors import BadOptionError

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

    from onnxfold.calibrate.samples import Samples

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """The samples that a user asks for.

    Attributes:
        sources: Folders, files and patterns; empty if none was given.
        options: How images become inputs.
        strict: Refuse what cannot be read.
        limit: How many to take at most.
    """

    sources: tuple[str, ...]
    options: ImageOptions
    strict: bool
    limit: int | None

    def open(self, model: ir.Model, progress: Callable[[int, int], None] | None = None) -> Samples:
        """Open them for a model as it came; see `open_samples`."""
        from onnxfold.calibrate.samples import open_samples

        return open_samples(
            list(self.sources), model, self.options, self.strict, self.limit, progress
        )

    def feeds(
        self,
        source: str,
        shapes: Mapping[str, tuple[int, ...]],
        most: int,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[dict[str, NDArray[Any]]] | None:
        """The samples themselves, spread over all that there are; None if none were asked for.

        What cannot be read is named on stderr.

        Args:
            source: The path of the model.
            shapes: Of inputs, where the user pins them.
            most: How many to take at most.
            progress: Called with how many have been looked at, and how many there are.
        """
        if not self.sources:
            return None
        from onnxfold.cli.talk import warn
        from onnxfold.ir.interface import pin_input_shapes
        from onnxfold.model import load

        model = load(source).model
        pin_input_shapes(model, shapes)
        opened = replace(self, limit=min(self.limit or most, most)).open(model, progress)
        for skipped in opened.skipped:
            warn(f"{skipped.label} is left out: {skipped.reason}")
        return [opened.feed(index) for index in range(len(opened))]


_KINDS = (
    "a folder of images (with all below it), an image, a quoted pattern as 'images/*.png', an .npz "
    "with one array for each input by name, or an .npy for a model with one input; may be "
    "repeated. Beside images, one .npz gives the model's other inputs."
)

_OPTIONS = (
    click.option(
        "--samples",
        "limit",
        type=click.IntRange(1),
        metavar="N",
        help="Take no more than N samples, spread evenly over the files in order of their names.",
    ),
    click.option(
        "--mean",
        metavar="M[,M,M]",
        help="Subtracted from images after --scale: one number, or one for each channel in the "
        "order that the model takes. By default nothing.",
    ),
    click.option(
        "--std", metavar="S[,S,S]", help="What images are divided by after --mean; likewise."
    ),
    click.option(
        "--scale",
        type=float,
        metavar="F",
        help="Factor on the pixels 0 to 255. By default 1/255, or 1 where the model's first nodes "
        "show that it takes pixels as they are.",
    ),
    click.option(
        "--resize",
        metavar="HxW|N",
        help="Stretch images to HxW, or scale the shorter side to N, which keeps the ratio and "
        "crops to the model's size. By default images are stretched to the model's size; where it "
        "is open they keep their own, rounded to multiples of 32.",
    ),
    click.option(
        "--crop", metavar="HxW|N", help="After --resize, cut HxW (or NxN) from the middle."
    ),
    click.option(
        "--pad", is_flag=True, help="Keep the ratio by padding to the size instead of stretching."
    ),
    click.option(
        "--channel-order",
        type=click.Choice([order.value for order in ChannelOrder]),
        help="What the model takes. By default rgb, or gray if it has one channel.",
    ),
    click.option(
        "--layout",
        type=click.Choice([layout.value for layout in Layout]),
        help="Axis order of arrays in .npy and .npz files. By default that of the model.",
    ),
    click.option(
        "--input",
        "image_input",
        metavar="NAME",
        help="The image input, where several inputs of the model take images.",
    ),
    click.option(
        "--strict", is_flag=True, help="Refuse unreadable samples instead of leaving them out."
    ),
)


def sample_options(purpose: str) -> Callable[[Command], Command]:
    """Give a command the options above; it is called with `samples`, a `SampleRequest`.

    Args:
        purpose: What the samples are for: the first words of the help of `--data`.

    Raises:
        BadOptionError: When the command runs: the text of an option cannot be read.
    """
    where = click.option(
        "--data",
        multiple=True,
        metavar="DIR|FILE",
        type=click.Path(readable=False),
        help=f"{purpose}: {_KINDS}",
    )

    def decorate(command: Command) -> Command:
        decorated: Any = _with_request(command)
        for option in reversed((where, *_OPTIONS)):
            decorated = option(decorated)
        return decorated  # type: ignore[no-any-return]

    return decorate


def _with_request(command: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(command)
    def with_request(
        *,
        data: tuple[str, ...],
        limit: int | None,
        strict: bool,
        mean: str | None,
        std: str | None,
        scale: float | None,
        resize: str | None,
        crop: str | None,
        pad: bool,
        channel_order: str | None,
        layout: str | None,
        image_input: str | None,
        **others: Any,
    ) -> Any:
        options = ImageOptions(
            mean=_numbers("--mean", mean),
            std=_numbers("--std", std),
            scale=scale,
            resize=_size("--resize", resize),
            crop=_square(_size("--crop", crop)),
            pad=pad,
            channel_order=None if channel_order is None else ChannelOrder(channel_order),
            layout=None if layout is None else Layout(layout),
            input=image_input,
        )
        return command(samples=SampleRequest(data, options, strict, limit), **others)

    return with_request


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise BadOptionError(
            f"'{text}' is no list of numbers for {option}", f"write {option} 0.485,0.456,0.406"
        ) from error


def _size(option: str, text: str | None) -> int | tuple[int, int] | None:
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isascii() and part.isdigit() for part in parts):
        raise BadOptionError(
            f"'{text}' is no size for {option}", f"write {option} 512x1024 or {option} 512"
        )
    return int(parts[0]) if len(parts) == 1 else (int(parts[0]), int(parts[1]))


def _square(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    return (size, size) if isinstance(size, int) else size
