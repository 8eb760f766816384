"""Street-like scenes with exact labels, drawn from a seed.

    image, labels = draw_scene(seed=7, height=128, width=128)

A scene is a road that runs to a vanishing point between pavements, buildings, trees and parked or
moving vehicles, with people and signs in front, painted from far to near so that things hide one
another. Classes share colours on purpose (grey road, pavement, buildings, vans and overcast sky;
glass that looks like sky; brick, autumn leaves and red cars), and light, haze, shadows, blur and
noise change from scene to scene. The same seed and size give the same bytes on every machine.
"""

import numpy as np
import numpy.typing as npt

from examples.demo.canvas import Canvas, Colour, Dice, Floats, box, ellipse
from examples.demo.street import BUILDING, LEAVES, PAVEMENT, ROAD, VEGETATION, WALLS, Street
from examples.demo.things import PAINTERS

# Disjoint, so that no picture that measures the network has trained it or chosen it.
TRAINING_SEEDS = range(0, 6000)
VALIDATION_SEEDS = range(1_000_000, 1_000_200)
COMMITTED_SEEDS = range(2_000_000, 2_000_008)
CALIBRATION_SEEDS = range(3_000_000, 3_000_200)
FRESH_SEEDS = range(4_000_000, 4_010_000)

_SKIES: tuple[Colour, ...] = (
    (0.45, 0.65, 0.92),
    (0.72, 0.76, 0.82),
    (0.62, 0.63, 0.65),
    (0.88, 0.66, 0.50),
    (0.20, 0.24, 0.38),
)


def draw_scene(
    seed: int, height: int, width: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Draw one scene.

    Args:
        seed: Any non-negative integer.
        height: Rows; shapes scale with it.
        width: Columns; a wider picture shows more of the street's sides.

    Returns:
        The picture, uint8 [height, width, 3], RGB 0 to 255, and its labels, uint8 [height, width],
        indices into CLASSES.
    """
    dice = Dice(seed)
    canvas = Canvas(dice, height, width)
    street = Street(
        horizon=dice.uniform(0.34, 0.50),
        vanishing=canvas.aspect * dice.uniform(0.32, 0.68),
        road=(-dice.uniform(0.45, 0.85), dice.uniform(0.45, 0.85)),
        pavement=(-dice.uniform(1.05, 1.45), dice.uniform(1.05, 1.45)),
    )
    sky = _paint_sky(dice, canvas)
    _paint_backdrop(dice, canvas, street)
    _paint_ground(dice, canvas, street)
    things = sorted(_place_things(dice), key=lambda thing: thing[0])
    for near, kind in things:
        PAINTERS[kind](dice, canvas, street, near)
    return _develop(dice, canvas, sky), canvas.labels


def _place_things(dice: Dice) -> list[tuple[float, str]]:
    """Return (nearness, kind) of everything that stands on the ground."""
    counts = {
        "building": (dice.integer(3, 8), 0.10, 0.75),
        "tree": (dice.integer(1, 5), 0.15, 0.85),
        "bush": (dice.integer(0, 3), 0.30, 0.90),
        "vehicle": (dice.integer(1, 4), 0.22, 0.95),
        "person": (dice.integer(1, 4), 0.38, 1.00),
        "sign": (dice.integer(1, 3), 0.40, 1.00),
    }
    return [
        (dice.uniform(low, high), kind)
        for kind, (count, low, high) in counts.items()
        for _ in range(count)
    ]


def _paint_sky(dice: Dice, canvas: Canvas) -> Colour:
    red, green, blue = dice.pick(_SKIES, spread=0.06)
    clouds = dice.uniform(0.0, 0.3)
    lift = 0.25 * canvas.y + clouds * np.maximum(canvas.textures["coarse"], 0.0)
    lift = (lift + 0.05 * canvas.textures["medium"])[:, :, None]
    canvas.pixels[:] = np.array((red, green, blue)) * (1.0 - lift) + 0.95 * lift
    return red, green, blue


def _paint_backdrop(dice: Dice, canvas: Canvas, street: Street) -> None:
    """Paint the far row of houses and trees on the horizon."""
    x = -0.05
    while x < canvas.aspect:
        broad, tall = dice.uniform(0.06, 0.22), dice.uniform(0.02, 0.14)
        outline = box(x, street.horizon - tall, x + broad, street.horizon + 0.02)
        if dice.chance(0.5):
            wall = dice.pick(WALLS, spread=0.05)
            canvas.paint(outline, wall, BUILDING, near=0.05)
        else:
            crown = ellipse(x + broad / 2, street.horizon, broad * 0.7, tall * 0.8 + 0.03)
            canvas.paint(crown, dice.pick(LEAVES), VEGETATION, near=0.05, texture="leafy")
        x += broad * dice.uniform(0.7, 1.4)


def _paint_ground(dice: Dice, canvas: Canvas, street: Street) -> None:
    beyond = box(0.0, street.horizon, canvas.aspect, 1.0)
    if dice.chance(0.6):
        canvas.paint(
            beyond, dice.pick(LEAVES[:4]), VEGETATION, near=0.5, texture="leafy", depth=0.3
        )
    else:
        plaza = dice.uniform(0.45, 0.62)
        canvas.paint(beyond, (plaza, plaza * 0.95, plaza * 0.88), PAVEMENT, near=0.5)
    pale = dice.uniform(0.48, 0.68)
    warm = dice.uniform(0.84, 1.0)
    slabs = (pale, pale * (1.0 + warm) / 2, pale * warm)
    canvas.paint(street.strip(*street.pavement), slabs, PAVEMENT, near=0.5, depth=0.08)
    joint = 0.12
    while joint < 1.0:
        line = street.strip(*street.pavement, far=joint, near=joint * 1.03)
        canvas.darken(line, 0.82)
        joint *= 1.28
    dark = dice.uniform(0.24, 0.46)
    asphalt = (dark, dark * 1.01, dark * dice.uniform(1.0, 1.1))
    canvas.paint(street.strip(*street.road), asphalt, ROAD, near=0.5, texture="grainy", depth=0.16)
    _paint_markings(dice, canvas, street)
    if dice.chance(0.6):
        far = dice.uniform(0.05, 0.6)
        shadow = street.strip(*street.pavement, far=far, near=far + dice.uniform(0.1, 0.4))
        canvas.darken(shadow, dice.uniform(0.45, 0.75))


def _paint_markings(dice: Dice, canvas: Canvas, street: Street) -> None:
    left, right = street.road
    white = (0.86, 0.85, 0.80)
    middle = (left + right) / 2 + dice.uniform(-0.1, 0.1)
    near = 0.10
    while near < 1.0:
        canvas.paint(street.strip(middle - 0.02, middle + 0.02, near, near * 1.25), white)
        near *= 1.6
    if dice.chance(0.4):
        far = dice.uniform(0.35, 0.7)
        for stripe in range(8):
            start = left + (right - left) * (stripe + 0.25) / 8
            canvas.paint(street.strip(start, start + 0.07, far, far + 0.12), white)


def _blur(pixels: Floats, amount: float) -> Floats:
    """Blend with a 3 x 3 binomial blur, borders repeated."""
    rows = np.concatenate((pixels[:1], pixels, pixels[-1:]))
    rows = (rows[:-2] + 2.0 * rows[1:-1] + rows[2:]) / 4.0
    both = np.concatenate((rows[:, :1], rows, rows[:, -1:]), axis=1)
    both = (both[:, :-2] + 2.0 * both[:, 1:-1] + both[:, 2:]) / 4.0
    return pixels * (1.0 - amount) + both * amount


def _develop(dice: Dice, canvas: Canvas, sky: Colour) -> npt.NDArray[np.uint8]:
    """Turn intensities into a photograph: haze, light, lens, sensor noise, 8 bits."""
    pixels = canvas.pixels
    haze = dice.uniform(0.0, 0.5) * (1.0 - np.minimum(canvas.nearness * 2.0, 1.0))
    haze = haze[:, :, None]
    pixels = pixels * (1.0 - haze) + (np.array(sky) * 0.6 + 0.3) * haze
    light = dice.uniform(0.55, 1.2) * (1.0 + dice.uniform(-0.3, 0.3) * (canvas.x - 0.5))
    cast = np.array([dice.uniform(0.9, 1.1) for _ in range(3)])
    pixels = _blur(pixels * light[:, :, None] * cast, dice.uniform(0.2, 1.0))
    # The mean of four uniforms stands in for a Gaussian; its deviation is 1 / sqrt(48).
    shape = (canvas.height, canvas.width * 3)
    bell = np.zeros(shape)
    for _ in range(4):
        bell += dice.field(*shape)
    bell = bell / 4.0 - 0.5
    noise = dice.uniform(0.05, 0.25) * bell.reshape(canvas.height, canvas.width, 3)
    contrast = dice.uniform(-0.25, 0.25)
    pixels = np.clip(pixels + noise, 0.0, 1.0)
    pixels = pixels * (1.0 + contrast * (1.0 - pixels))
    return np.asarray(np.floor(np.clip(pixels, 0.0, 1.0) * 255.0 + 0.5), dtype=np.uint8)
