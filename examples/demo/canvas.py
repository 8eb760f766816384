"""A small rasteriser and a portable source of chance, in numpy alone.

The pictures have to come out the same with any version of numpy on any machine, so only operations
that IEEE 754 rounds correctly (add, multiply, divide, square root, compare) and the raw stream of
PCG64, which numpy promises to keep, are used: no sine, no power, no matrix product, no `Generator`
method, no drawing library.

Coordinates: x to the right and y downwards, both in units of the picture's height; the centre of
the pixel in row r and column c is at ((c + 0.5) / height, (r + 0.5) / height).
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, floor
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]
Mask: TypeAlias = npt.NDArray[np.bool_]
Colour: TypeAlias = tuple[float, float, float]


class Dice:
    """Uniform numbers from the raw 64-bit stream of PCG64."""

    def __init__(self, seed: int) -> None:
        self._bits = np.random.PCG64(seed)

    def field(self, height: int, width: int) -> Floats:
        """Return float64 [height, width] of independent numbers in [0, 1)."""
        raw = np.asarray(self._bits.random_raw(height * width), dtype=np.uint64)
        unit: Floats = (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return unit.reshape(height, width)

    def uniform(self, low: float, high: float) -> float:
        """Return one number in [low, high)."""
        return low + (high - low) * (int(self._bits.random_raw()) >> 11) * 2.0**-53

    def integer(self, low: int, high: int) -> int:
        """Return one integer in [low, high], both included."""
        return low + floor(self.uniform(0.0, high - low + 1))

    def chance(self, probability: float) -> bool:
        """Return True with the given probability."""
        return self.uniform(0.0, 1.0) < probability

    def pick(self, colours: tuple[Colour, ...], spread: float = 0.0) -> Colour:
        """Return one of the colours, each channel moved by at most `spread`."""
        red, green, blue = colours[self.integer(0, len(colours) - 1)]
        return (
            red + self.uniform(-spread, spread),
            green + self.uniform(-spread, spread),
            blue + self.uniform(-spread, spread),
        )


def smooth_noise(dice: Dice, height: int, width: int, cell: float) -> Floats:
    """Return value noise in [-1, 1): random lattice values joined by smoothstep.

    Args:
        dice: The source of the lattice values.
        height: Rows.
        width: Columns.
        cell: Distance between lattice points, in units of the height.
    """
    y = (np.arange(height) + 0.5) / (height * cell)
    x = (np.arange(width) + 0.5) / (height * cell)
    row, column = y.astype(np.int64), x.astype(np.int64)
    v, u = y - row, x - column
    v = (v * v * (3.0 - 2.0 * v))[:, None]
    u = (u * u * (3.0 - 2.0 * u))[None, :]
    lattice = dice.field(int(row[-1]) + 2, int(column[-1]) + 2) * 2.0 - 1.0
    upper = lattice[row][:, column] * (1.0 - u) + lattice[row][:, column + 1] * u
    lower = lattice[row + 1][:, column] * (1.0 - u) + lattice[row + 1][:, column + 1] * u
    mixed: Floats = upper * (1.0 - v) + lower * v
    return mixed


@dataclass(frozen=True, slots=True)
class Shape:
    """A region of the plane: its bounding box and a membership function of (x, y)."""

    left: float
    top: float
    right: float
    bottom: float
    inside: Callable[[Floats, Floats], Mask]


def box(left: float, top: float, right: float, bottom: float) -> Shape:
    """Return an axis-aligned rectangle."""
    return Shape(
        left,
        top,
        right,
        bottom,
        lambda x, y: (x >= left) & (x < right) & (y >= top) & (y < bottom),
    )


def ellipse(x0: float, y0: float, half_width: float, half_height: float) -> Shape:
    """Return an ellipse with horizontal and vertical axes."""

    def inside(x: Floats, y: Floats) -> Mask:
        across, along = (x - x0) / half_width, (y - y0) / half_height
        return across * across + along * along < 1.0

    return Shape(x0 - half_width, y0 - half_height, x0 + half_width, y0 + half_height, inside)


def convex(*corners: tuple[float, float]) -> Shape:
    """Return the convex polygon with these corners, given in either sense of rotation."""
    xs, ys = [x for x, _ in corners], [y for _, y in corners]
    edges = list(zip(corners, (*corners[1:], corners[0]), strict=True))
    area = sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in edges)

    def inside(x: Floats, y: Floats) -> Mask:
        kept = np.ones(np.broadcast_shapes(x.shape, y.shape), dtype=np.bool_)
        for (x0, y0), (x1, y1) in edges:
            kept &= ((x1 - x0) * (y - y0) - (y1 - y0) * (x - x0)) * area >= 0.0
        return kept

    return Shape(min(xs), min(ys), max(xs), max(ys), inside)


class Canvas:
    """A picture being painted from far to near.

    Attributes:
        pixels: float64 [H, W, 3], linear intensities about 0 to 1.
        labels: uint8 [H, W], class indices.
        nearness: float64 [H, W], 0 at the horizon to 1 at the viewer's feet.
    """

    def __init__(self, dice: Dice, height: int, width: int) -> None:
        self.height, self.width = height, width
        self.aspect = width / height
        self.x: Floats = ((np.arange(width) + 0.5) / height)[None, :]
        self.y: Floats = ((np.arange(height) + 0.5) / height)[:, None]
        self.pixels: Floats = np.zeros((height, width, 3))
        self.labels: npt.NDArray[np.uint8] = np.zeros((height, width), dtype=np.uint8)
        self.nearness: Floats = np.zeros((height, width))
        self.textures: dict[str, Floats] = {
            "coarse": smooth_noise(dice, height, width, 0.25),
            "medium": smooth_noise(dice, height, width, 0.08),
            "leafy": smooth_noise(dice, height, width, 0.03),
            "grainy": dice.field(height, width) * 2.0 - 1.0,
        }

    def paint(
        self,
        shape: Shape,
        colour: Colour,
        label: int | None = None,
        *,
        near: float = 0.0,
        texture: str = "medium",
        depth: float = 0.12,
    ) -> None:
        """Fill a shape.

        Args:
            shape: What to fill; parts outside the picture are dropped.
            colour: Mean colour.
            label: Class index, or None to change the picture alone (a window, a lane marking).
            near: Nearness to record where a label is set.
            texture: Name of the texture that modulates the colour.
            depth: Amplitude of that modulation.
        """
        rows, columns = self._window(shape)
        if rows.start >= rows.stop or columns.start >= columns.stop:
            return
        mask = shape.inside(self.x[:, columns], self.y[rows])
        shade = 1.0 + depth * self.textures[texture][rows, columns][mask]
        self.pixels[rows, columns][mask] = shade[:, None] * np.array(colour)
        if label is None:
            return
        self.labels[rows, columns][mask] = label
        self.nearness[rows, columns][mask] = near

    def darken(self, shape: Shape, factor: float) -> None:
        """Multiply what lies under a shape, as a shadow does."""
        rows, columns = self._window(shape)
        if rows.start >= rows.stop or columns.start >= columns.stop:
            return
        mask = shape.inside(self.x[:, columns], self.y[rows])
        self.pixels[rows, columns][mask] *= factor

    def _window(self, shape: Shape) -> tuple[slice, slice]:
        def pixel_range(low: float, high: float, size: int) -> slice:
            start = max(0, floor(low * self.height) - 1)
            return slice(start, max(start, min(size, ceil(high * self.height) + 1)))

        rows = pixel_range(shape.top, shape.bottom, self.height)
        return rows, pixel_range(shape.left, shape.right, self.width)
