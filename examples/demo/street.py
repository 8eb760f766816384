"""What the drawn scenes share: classes, perspective, and colours used in many places."""

from dataclasses import dataclass

from examples.demo.canvas import Colour, Shape, convex

CLASSES = ("sky", "road", "pavement", "building", "vegetation", "vehicle", "person", "sign")
SKY, ROAD, PAVEMENT, BUILDING, VEGETATION, VEHICLE, PERSON, SIGN = range(len(CLASSES))

WALLS: tuple[Colour, ...] = (
    (0.58, 0.34, 0.27),
    (0.62, 0.60, 0.56),
    (0.78, 0.70, 0.55),
    (0.42, 0.45, 0.50),
    (0.72, 0.74, 0.78),
    (0.55, 0.50, 0.40),
)
LEAVES: tuple[Colour, ...] = (
    (0.22, 0.42, 0.16),
    (0.32, 0.48, 0.20),
    (0.16, 0.30, 0.18),
    (0.58, 0.42, 0.16),
    (0.52, 0.28, 0.14),
)


@dataclass(frozen=True, slots=True)
class Street:
    """The perspective: where the horizon is and how the ground's edges leave the vanishing point.

    A ground point of nearness s lies at y = horizon + s * (1 - horizon); edges are horizontal
    distances from the vanishing point at s = 1, in units of the picture's height.
    """

    horizon: float
    vanishing: float
    road: tuple[float, float]
    pavement: tuple[float, float]

    def ground(self, near: float) -> float:
        """Return the y of the ground at a nearness."""
        return self.horizon + near * (1.0 - self.horizon)

    def across(self, edge: float, near: float) -> float:
        """Return the x of a ground edge at a nearness."""
        return self.vanishing + edge * near

    def strip(self, left: float, right: float, far: float = 0.0, near: float = 1.0) -> Shape:
        """Return the ground between two edges and two nearnesses."""
        return convex(
            (self.across(left, far), self.ground(far)),
            (self.across(right, far), self.ground(far)),
            (self.across(right, near), self.ground(near)),
            (self.across(left, near), self.ground(near)),
        )
