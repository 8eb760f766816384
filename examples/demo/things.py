"""What stands on the ground of a drawn scene, each thing painted at its nearness.

Every painter takes the dice, the canvas, the street and a nearness from 0 (the horizon) to 1; sizes
are proportional to the nearness, as in a photograph.
"""

import numpy as np

from examples.demo.canvas import Canvas, Colour, Dice, Floats, Mask, Shape, box, convex, ellipse
from examples.demo.street import BUILDING, LEAVES, PERSON, SIGN, VEGETATION, VEHICLE, WALLS, Street

_PAINTS: tuple[Colour, ...] = (
    (0.70, 0.12, 0.12),
    (0.14, 0.24, 0.60),
    (0.85, 0.85, 0.86),
    (0.12, 0.12, 0.14),
    (0.52, 0.54, 0.56),
    (0.80, 0.66, 0.16),
    (0.20, 0.42, 0.30),
)
_SKINS: tuple[Colour, ...] = ((0.86, 0.68, 0.55), (0.62, 0.44, 0.32), (0.36, 0.24, 0.18))
_CLOTHES: tuple[Colour, ...] = (
    (0.75, 0.20, 0.24),
    (0.18, 0.28, 0.55),
    (0.85, 0.82, 0.76),
    (0.15, 0.15, 0.18),
    (0.86, 0.70, 0.22),
    (0.30, 0.46, 0.30),
    (0.55, 0.36, 0.58),
)
_BOARDS: tuple[Colour, ...] = (
    (0.82, 0.10, 0.12),
    (0.10, 0.26, 0.72),
    (0.92, 0.80, 0.12),
    (0.92, 0.92, 0.92),
)


def _side(dice: Dice) -> int:
    return 0 if dice.chance(0.5) else 1


def _paint_building(dice: Dice, canvas: Canvas, street: Street, near: float) -> None:
    side = _side(dice)
    sign = -1.0 if side == 0 else 1.0
    edge = street.pavement[side] + sign * dice.uniform(0.0, 0.5)
    base = street.ground(near)
    top = base - near * dice.uniform(0.9, 2.2)
    inner = street.across(edge, near)
    outer = inner + sign * near * dice.uniform(0.6, 1.6)
    red, green, blue = dice.pick(WALLS, spread=0.06)
    back = near * 0.75
    shade = dice.uniform(0.6, 1.15)
    flank = convex(
        (inner, base),
        (inner, top),
        (street.across(edge, back), street.ground(back) - (base - top) * 0.75),
        (street.across(edge, back), street.ground(back)),
    )
    canvas.paint(flank, (red * shade, green * shade, blue * shade), BUILDING, near=near)
    left, right = min(inner, outer), max(inner, outer)
    canvas.paint(box(left, top, right, base), (red, green, blue), BUILDING, near=near)
    glass = dice.pick(((0.55, 0.68, 0.82), (0.14, 0.16, 0.20), (0.85, 0.75, 0.45)), spread=0.05)
    step = near * dice.uniform(0.2, 0.32)
    rows, columns = int((base - top) / step), int((right - left) / step)
    for row in range(min(rows, 9)):
        for column in range(min(columns, 7)):
            x, y = left + (column + 0.25) * step, top + (row + 0.25) * step
            canvas.paint(box(x, y, x + step * 0.5, y + step * 0.55), glass)


def _blob(canvas: Canvas, x: float, y: float, radius: float, ragged: float) -> Shape:
    """Return an ellipse whose outline is broken up by the leafy texture."""
    texture = canvas.textures["leafy"]
    height = canvas.height

    def inside(xs: Floats, ys: Floats) -> Mask:
        rows = (ys[:, 0] * height).astype(np.int64)
        columns = (xs[0] * height).astype(np.int64)
        across, along = (xs - x) / radius, (ys - y) / (radius * 0.85)
        return across * across + along * along < 1.0 + ragged * texture[rows][:, columns]

    reach = radius * (1.0 + ragged)
    return Shape(x - reach, y - reach, x + reach, y + reach, inside)


def _paint_tree(dice: Dice, canvas: Canvas, street: Street, near: float) -> None:
    side = _side(dice)
    edge = street.pavement[side] * dice.uniform(0.8, 1.3)
    x, base = street.across(edge, near), street.ground(near)
    tall = near * dice.uniform(0.5, 0.9)
    trunk = near * dice.uniform(0.025, 0.05)
    bark = dice.pick(((0.32, 0.22, 0.15), (0.40, 0.36, 0.32)), spread=0.03)
    canvas.paint(box(x - trunk, base - tall, x + trunk, base), bark, VEGETATION, near=near)
    leaves = dice.pick(LEAVES, spread=0.05)
    for _ in range(dice.integer(3, 6)):
        radius = near * dice.uniform(0.16, 0.30)
        dx, dy = near * dice.uniform(-0.2, 0.2), near * dice.uniform(-0.2, 0.15)
        light = dice.uniform(0.75, 1.25)
        colour = (leaves[0] * light, leaves[1] * light, leaves[2] * light)
        crown = _blob(canvas, x + dx, base - tall + dy, radius, 0.5)
        canvas.paint(crown, colour, VEGETATION, near=near, texture="leafy", depth=0.45)


def _paint_bush(dice: Dice, canvas: Canvas, street: Street, near: float) -> None:
    edge = street.pavement[_side(dice)] * dice.uniform(0.95, 1.4)
    x, base = street.across(edge, near), street.ground(near)
    leaves = dice.pick(LEAVES, spread=0.05)
    for _ in range(dice.integer(2, 4)):
        radius = near * dice.uniform(0.08, 0.16)
        bush = _blob(canvas, x + near * dice.uniform(-0.15, 0.15), base - radius * 0.7, radius, 0.4)
        canvas.paint(bush, leaves, VEGETATION, near=near, texture="leafy", depth=0.45)


def _paint_vehicle(dice: Dice, canvas: Canvas, street: Street, near: float) -> None:
    left, right = street.road
    x = street.across(left + (right - left) * dice.uniform(0.08, 0.92), near)
    base = street.ground(near) + 0.02 * near
    van = dice.chance(0.3)
    half = near * (dice.uniform(0.20, 0.26) if dice.chance(0.7) else dice.uniform(0.36, 0.46))
    tall = near * (dice.uniform(0.40, 0.60) if van else dice.uniform(0.24, 0.34))
    paint = dice.pick(_PAINTS, spread=0.06)
    waist = base - tall * (0.45 if van else 0.55)
    canvas.darken(ellipse(x, base, half * 1.15, 0.05 * near), 0.5)
    for wheel in (-0.72, 0.72):
        tyre = ellipse(x + half * wheel, base - 0.05 * near, 0.06 * near, 0.06 * near)
        canvas.paint(tyre, (0.08, 0.08, 0.09), VEHICLE, near=near)
    narrow = 0.94 if van else dice.uniform(0.62, 0.80)
    cabin = convex(
        (x - half, waist),
        (x - half * narrow, base - tall),
        (x + half * narrow, base - tall),
        (x + half, waist),
    )
    canvas.paint(cabin, paint, VEHICLE, near=near, texture="coarse")
    canvas.paint(box(x - half, waist, x + half, base - 0.05 * near), paint, VEHICLE, near=near)
    glass = dice.pick(((0.12, 0.14, 0.18), (0.50, 0.60, 0.70)), spread=0.05)
    inset = narrow * 0.88
    pane = convex(
        (x - half * 0.86, waist - 0.01 * near),
        (x - half * inset, base - tall * 0.92),
        (x + half * inset, base - tall * 0.92),
        (x + half * 0.86, waist - 0.01 * near),
    )
    canvas.paint(pane, glass, texture="coarse", depth=0.3)
    lamp = (0.95, 0.92, 0.75) if dice.chance(0.5) else (0.75, 0.08, 0.08)
    for wing in (-0.8, 0.8):
        canvas.paint(ellipse(x + half * wing, waist + 0.06 * near, 0.03 * near, 0.02 * near), lamp)


def _paint_person(dice: Dice, canvas: Canvas, street: Street, near: float) -> None:
    left, right = street.pavement
    x = street.across(left + (right - left) * dice.uniform(0.05, 0.95), near)
    base = street.ground(near)
    tall = near * dice.uniform(0.36, 0.46)
    broad = tall * dice.uniform(0.13, 0.17)
    skin = dice.pick(_SKINS, spread=0.04)
    coat, legs = dice.pick(_CLOTHES, spread=0.08), dice.pick(_CLOTHES, spread=0.08)
    stride = broad * dice.uniform(0.0, 0.7)
    hip = base - tall * 0.45
    canvas.darken(ellipse(x, base, broad * 1.5, 0.02 * near), 0.6)
    for step in (-stride, stride):
        leg = convex(
            (x - broad * 0.8, hip),
            (x + broad * 0.8, hip),
            (x + step + broad * 0.4, base),
            (x + step - broad * 0.4, base),
        )
        canvas.paint(leg, legs, PERSON, near=near)
    canvas.paint(ellipse(x, base - tall * 0.62, broad, tall * 0.25), coat, PERSON, near=near)
    head = tall * 0.085
    canvas.paint(ellipse(x, base - tall + head, head, head * 1.2), skin, PERSON, near=near)


def _paint_sign(dice: Dice, canvas: Canvas, street: Street, near: float) -> None:
    edge = street.road[_side(dice)] * dice.uniform(1.03, 1.3)
    x, base = street.across(edge, near), street.ground(near)
    tall = near * dice.uniform(0.55, 0.80)
    steel = dice.uniform(0.30, 0.60)
    pole = max(0.012 * near, 0.009)
    canvas.paint(box(x - pole, base - tall, x + pole, base), (steel, steel, steel), SIGN, near=near)
    y, r = base - tall, near * dice.uniform(0.075, 0.11)
    if dice.chance(0.25):
        canvas.paint(box(x - r * 0.6, y - r, x + r * 0.6, y + r), (0.1, 0.1, 0.1), SIGN, near=near)
        lit = dice.integer(0, 2)
        for lamp, colour in enumerate(((0.95, 0.1, 0.1), (0.95, 0.7, 0.1), (0.1, 0.85, 0.3))):
            light = 1.0 if lamp == lit else 0.3
            bulb = ellipse(x, y + r * 0.62 * (lamp - 1), r * 0.3, r * 0.26)
            canvas.paint(bulb, (colour[0] * light, colour[1] * light, colour[2] * light))
        return
    outlines = (
        ellipse(x, y, r, r),
        convex((x - r, y + r * 0.8), (x + r, y + r * 0.8), (x, y - r)),
        box(x - r * 0.9, y - r * 0.9, x + r * 0.9, y + r * 0.9),
    )
    board = dice.pick(_BOARDS, spread=0.05)
    canvas.paint(outlines[dice.integer(0, 2)], board, SIGN, near=near, depth=0.05)
    canvas.paint(ellipse(x, y + r * 0.15, r * 0.45, r * 0.4), dice.pick(_BOARDS, spread=0.05))


PAINTERS = {
    "building": _paint_building,
    "tree": _paint_tree,
    "bush": _paint_bush,
    "vehicle": _paint_vehicle,
    "person": _paint_person,
    "sign": _paint_sign,
}
