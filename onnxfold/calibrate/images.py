"""From an image file to what a model takes: decode, orient, resize, crop, order, normalise.

Pillow decodes, and is needed only here; it comes with `onnxfold[images]`.
"""

import importlib.util
import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnxfold.errors import BadOptionError, CannotRunError

if TYPE_CHECKING:
    from PIL import Image

WHITE = 255.0
"""The largest value of a pixel; every image is brought to eight bits."""

_MULTIPLE = 32
"""Sides that the model leaves open are rounded to this: networks halve five times."""

Size = tuple[int, int]


class Layout(StrEnum):
    """Where the channels of a batch of images are."""

    NCHW = "nchw"
    NHWC = "nhwc"


class ChannelOrder(StrEnum):
    """Which channels a model takes, in which order."""

    RGB = "rgb"
    BGR = "bgr"
    GRAY = "gray"


class UnreadableError(Exception):
    """A sample that cannot be read; the text says why (internal: never reaches the user)."""


@dataclass(frozen=True, slots=True)
class ImageOptions:
    """How images become inputs: `(resized and cropped pixels · scale - mean) / std`.

    What is None is chosen from the model. Arrays are fed as they are, apart from `layout`, and from
    `scale`, `mean` and `std` where these are given or the array holds uint8 pixels.

    Attributes:
        mean: Subtracted after scaling; one number, or one for each channel in the model's order.
        std: Divided by afterwards, likewise.
        scale: Factor on pixels 0 to 255: 1/255, or 1 where the model normalises by itself.
        resize: `(height, width)` to stretch to, or the length of the shorter side, which keeps the
            ratio. By default the model's own size, or where that is open the image's own, rounded
            to multiples of 32.
        crop: `(height, width)` cut from the middle afterwards.
        pad: Keep the ratio by padding instead of stretching to the size.
        channel_order: What the model takes: rgb, or gray where it has one channel.
        layout: Axis order of arrays, if it is not the model's.
        input: Name of the model's image input, where it has several.

    Raises:
        BadOptionError: A value makes no sense.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    scale: float | None = None
    resize: int | Size | None = None
    crop: Size | None = None
    pad: bool = False
    channel_order: ChannelOrder | None = None
    layout: Layout | None = None
    input: str | None = None

    def __post_init__(self) -> None:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and not (values and all(map(math.isfinite, values))):
                raise BadOptionError(f"{name} {values} is no list of numbers", "give 0.5,0.5,0.5")
        if self.std is not None and min(self.std) <= 0.0:
            raise BadOptionError(
                f"std {min(self.std):g} is not above zero", "it is what values are divided by"
            )
        if self.scale is not None and not (math.isfinite(self.scale) and self.scale > 0.0):
            raise BadOptionError(f"scale {self.scale:g} is not above zero", "give 1 or 0.0039216")
        sizes = (self.resize,) if isinstance(self.resize, int) else (self.resize or ())
        if min((*sizes, *(self.crop or ())), default=1) < 1:
            raise BadOptionError("an image cannot be made smaller than one pixel", "give 512x512")
        if self.pad and (self.crop is not None or isinstance(self.resize, int)):
            raise BadOptionError(
                "an image is either padded to its size or cropped to it",
                "with padding, give the whole size (--resize 512x512) and no crop",
            )

    @property
    def changes_values(self) -> bool:
        """Whether a normalisation was asked for."""
        return any(each is not None for each in (self.mean, self.std, self.scale))


@dataclass(frozen=True, slots=True)
class Values:
    """The normalisation `(pixel · scale - mean) / std`, with one number for each channel."""

    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def applied(self, channels_last: NDArray[Any]) -> NDArray[np.float32]:
        """Normalise an array whose last axis is the channels."""
        values = channels_last.astype(np.float32)
        values *= np.float32(self.scale)
        values -= np.asarray(self.mean, np.float32)
        values /= np.asarray(self.std, np.float32)
        return values

    def undone(self, channels_last: NDArray[Any]) -> NDArray[np.float64]:
        """The pixels of an array that was normalised."""
        wide = np.asarray(channels_last, np.float64) * self.std + self.mean
        return np.asarray(wide / self.scale)


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that is done to an image file, with nothing left to choose.

    Attributes:
        size: Height and width that the model takes; None where it leaves them open.
        resize: As in `ImageOptions`.
        crop: As in `ImageOptions`.
        pad: As in `ImageOptions`.
        fill: Pixel that padding consists of, in the order of `channel_order`.
        channels: How many the model takes.
        channel_order: In which order.
        values: The normalisation; None feeds the pixels themselves.
        layout: Axis order that the model takes.
        dtype: Type that the model takes.
    """

    size: tuple[int | None, int | None]
    resize: int | Size | None
    crop: Size | None
    pad: bool
    fill: tuple[int, ...]
    channels: int
    channel_order: ChannelOrder
    values: Values | None
    layout: Layout
    dtype: np.dtype[Any]

    def read(self, path: str) -> NDArray[Any]:
        """The image as the model takes it, without the batch axis.

        Returns:
            (channels, height, width) or (height, width, channels), by `layout`.

        Raises:
            UnreadableError: The file cannot be decoded.
        """
        pixels = self._pixels(path)
        if self.values is not None:
            pixels = self.values.applied(pixels)
        if self.layout is Layout.NCHW:
            pixels = pixels.transpose(2, 0, 1)
        return np.ascontiguousarray(pixels, self.dtype)

    def sizes(self, own: Size) -> tuple[Size, Size]:
        """The size that an image is scaled to, and the one it is then cut or padded to.

        Args:
            own: Height and width of the image.
        """
        scaled = own if self.resize is None else _resized(own, self.resize)
        whole = self.resize if isinstance(self.resize, tuple) else None
        goal = self.crop or whole or self._open_sides_rounded(scaled)
        if self.pad:
            return _inside(own, goal), goal
        if self.crop is None and not isinstance(self.resize, int):
            return goal, goal
        return _covering(scaled, goal), goal

    def _open_sides_rounded(self, scaled: Size) -> Size:
        height, width = (
            fixed or (side if side == self.resize else _rounded(side))
            for fixed, side in zip(self.size, scaled, strict=True)
        )
        return height, width

    def _pixels(self, path: str) -> NDArray[Any]:
        """uint8 (height, width, channels)."""
        gray = self.channel_order is ChannelOrder.GRAY
        image = _decoded(path, "L" if gray else "RGB")
        scaled, goal = self.sizes((image.height, image.width))
        if scaled != (image.height, image.width):
            from PIL import Image

            image = image.resize((scaled[1], scaled[0]), Image.Resampling.BILINEAR)
        pixels = np.asarray(image)
        pixels = pixels[..., None] if gray else pixels
        if self.channel_order is ChannelOrder.BGR:
            pixels = pixels[..., ::-1]
        if gray and self.channels > 1:
            pixels = np.repeat(pixels, self.channels, axis=2)
        if scaled == goal:
            return pixels
        return self._padded(pixels, goal) if self.pad else _middle(pixels, goal)

    def _padded(self, pixels: NDArray[Any], goal: Size) -> NDArray[Any]:
        canvas = np.empty((*goal, self.channels), np.uint8)
        canvas[:] = np.asarray(self.fill, np.uint8)
        top, left = ((goal[axis] - pixels.shape[axis]) // 2 for axis in (0, 1))
        canvas[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
        return canvas


def has_pillow() -> bool:
    """Whether Pillow is installed."""
    try:
        return importlib.util.find_spec("PIL.Image") is not None
    except ImportError:
        return False


def require_pillow() -> None:
    """Make sure that images can be read.

    Raises:
        CannotRunError: Pillow is not installed.
    """
    if not has_pillow():
        raise CannotRunError(
            "images cannot be read because Pillow is not installed",
            "pip install 'onnxfold[images]', or give .npy or .npz files",
        )


def image_suffixes() -> frozenset[str]:
    """Suffixes, in lower case, of the files that Pillow can open."""
    from PIL import Image

    Image.init()
    known = Image.registered_extensions().items()
    return frozenset(suffix for suffix, kind in known if kind in Image.OPEN)


def _decoded(path: str, mode: str) -> "Image.Image":
    """The image in eight bits, upright, as `mode`: RGB or L."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as opened:
            opened.load()
            ImageOps.exif_transpose(opened, in_place=True)
            return _eight_bit(opened, mode)
    except UnreadableError:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableError("it is no image that Pillow knows") from error
    # Decoders of some forty formats meet bytes from anywhere: they raise whatever Python raises.
    except Exception as error:
        raise UnreadableError(_reason(error)) from error


def _reason(error: Exception) -> str:
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if "truncated" in words or isinstance(error, EOFError):
        return "the file is cut off"
    first = str(words).strip().splitlines()[0].rstrip(".")
    return first[:1].lower() + first[1:]


def _eight_bit(image: "Image.Image", mode: str) -> "Image.Image":
    from PIL import Image

    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        # Pillow's own conversion cuts such values off at 255 instead of scaling them.
        wide = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        narrow = ((wide + 128) // 257).astype(np.uint8)
        return Image.fromarray(narrow).convert(mode)
    if image.mode in ("I", "F"):
        raise UnreadableError("nothing says which of its 32-bit values is white")
    if image.mode in ("P", "PA") and "transparency" in image.info:
        return image.convert("RGBA").convert(mode)
    return image.convert(mode)


def _rounded(side: int) -> int:
    return max(_MULTIPLE, (side + _MULTIPLE // 2) // _MULTIPLE * _MULTIPLE)


def _scaled(own: Size, factor: float) -> Size:
    return max(1, round(own[0] * factor)), max(1, round(own[1] * factor))


def _resized(own: Size, resize: int | Size) -> Size:
    return resize if isinstance(resize, tuple) else _scaled(own, resize / min(own))


def _inside(own: Size, goal: Size) -> Size:
    height, width = _scaled(own, min(goal[0] / own[0], goal[1] / own[1]))
    return min(height, goal[0]), min(width, goal[1])


def _covering(scaled: Size, goal: Size) -> Size:
    """`scaled`, or larger in the same ratio where `goal` would not fit into it."""
    factor = max(1.0, goal[0] / scaled[0], goal[1] / scaled[1])
    height, width = _scaled(scaled, factor)
    return max(height, goal[0]), max(width, goal[1])


def _middle(pixels: NDArray[Any], goal: Size) -> NDArray[Any]:
    top, left = ((pixels.shape[axis] - goal[axis]) // 2 for axis in (0, 1))
    return pixels[top : top + goal[0], left : left + goal[1]]
