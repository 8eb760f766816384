"""How large an error may be, measured on the reference itself.

**Origin.** A correct rewrite rounds some weights once more than the original and adds the same
products in another order. The first is imitated: the reference runs again with every weight and
float input moved by ±1 ulp at random (`perturb.py`), and the largest change of an output is that
output's *noise* on that feed. Conditioning, depth, cancellation in a normalization, half precision
and large feeds are all in that figure, with no model of them needed.

**FACTOR.** One rounding has a standard deviation of 0.29 ulp, so the noise already overstates the
first effect 3.5 times. The second effect grows with the length K of the dot products, up to
about √K roundings of the running sum against one of a weight, and is not imitated; and a maximum
over a few thousand elements varies by tens of percent between draws. `FACTOR` covers both. It was
fixed on forty real networks (classification, segmentation, detection): correct rewrites (float64
folding of every BatchNormalization, and every dense kernel reading its inputs in another order)
use 5 to 30 % of the tolerance, while 1 % on one weight tensor uses 6 to 4000 times it (unless
nothing depends on it, as on a kernel's scale in front of a GroupNormalization).
`tests/verify/test_margins.py` keeps watch over both sides.

**SPREAD.** A weak error everywhere hides below a maximum but not below a mean: over many elements
the root mean square hardly varies between draws. On the same networks correct rewrites reach 0.9
times the noise's (median; 2.2 at most), so `SPREAD` times it is the second condition, for outputs
with enough elements.

**Where.** Outputs are not homogeneous: a detector concatenates pixels and probabilities, class
scores differ by class. So the noise is also taken per slice along each axis (where a slice still
has enough elements for its maximum to mean anything) and an element is held to the smallest of its
slices', but never to less than the plain noise of the whole output, unmultiplied: a dead channel
has no noise of its own, yet one rounding away from it the others may wake it.

**Floor.** Some outputs have no noise in the measurement (saturated, or no weights in front). There
`FLOOR_ULPS` units in the last place of the slice's largest magnitude are allowed, enough for one
`exp` or division to be rounded otherwise.

**Integers and booleans** have no small errors: an `ArgMax` flips where two classes are nearly
equal. The share of elements that flip when the reference is moved by `FACTOR` ulp instead of one
is what may differ, doubled because counts are small, and one element more in a map large enough
to have ties by chance.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from onnxfold.verify.session import Array

#: Allowed error over measured noise.
FACTOR = 10
#: Allowed root mean square error over that of the noise.
SPREAD = 5
#: Allowed error in units in the last place of the output's scale, where no noise was measured.
FLOOR_ULPS = 8
#: A slice along an axis needs this many elements for its maximum to be a tolerance.
MIN_SLICE = 256
#: Outputs with fewer elements than this are measured more often: two draws of one number are no
#: measure of a third.
SMALL_OUTPUT = 16
#: A label map at least this large may have one tie broken otherwise.
TIES_FROM = 1024
#: Ulps for models with quantized activations: large enough to push values over a rounding edge
#: (a step of 8 bits is 2^15 ulp wide), so that what such a flip does is seen at all.
QUANTIZED_ULPS = 256
#: So strong a perturbation shows more flips than any rounding; its noise counts for less.
QUANTIZED_SLACK = 0.25

MEASURED = (
    f"{FACTOR} x the reference's own rounding noise (weights and inputs moved by 1 ulp), "
    "per slice of the output"
)
FLOORED = f"{FLOOR_ULPS} ulp of the reference's scale (no rounding noise was measured)"
FLIPS = f"share of elements that flip when the reference is moved by {FACTOR} ulp, doubled"
EXACT = "none: the reference's rounding noise cannot change it"


@dataclass(frozen=True, slots=True)
class Noise:
    """How much an output moves when the reference is perturbed.

    Attributes:
        peak: Largest change of a float output.
        rms: Its root mean square change.
        along: `peak` per slice, as (axis, one figure per index), where slices are large enough.
        flips: Share of elements of an integer, boolean or string output that changed.
        undefined: Elements of a float output that became finite or stopped being so.
    """

    peak: float = 0.0
    rms: float = 0.0
    along: tuple[tuple[int, Array], ...] = ()
    flips: float = 0.0
    undefined: int = 0

    def merged(self, other: "Noise") -> "Noise":
        """The larger of two measurements of one output on one feed."""
        ours, theirs = dict(self.along), dict(other.along)
        along = tuple((axis, np.maximum(figures, theirs[axis])) for axis, figures in ours.items())
        return Noise(
            max(self.peak, other.peak),
            max(self.rms, other.rms),
            along,
            max(self.flips, other.flips),
            max(self.undefined, other.undefined),
        )

    def scaled(self, factor: float) -> "Noise":
        """The noise of a model of which only a part was moved, brought up to the whole."""
        along = tuple((axis, figures * factor) for axis, figures in self.along)
        return Noise(self.peak * factor, self.rms * factor, along, self.flips, self.undefined)


def working(array: Array) -> Array:
    """The array in a type wide enough to subtract in: half precision becomes single."""
    return array.astype(np.float32) if array.dtype.itemsize < 4 else array


def profiles(magnitudes: Array) -> tuple[tuple[int, Array], ...]:
    """The largest magnitude of every slice along every axis that has large enough slices."""
    found: list[tuple[int, Array]] = []
    for axis, length in enumerate(magnitudes.shape):
        if length > 1 and magnitudes.size // length >= MIN_SLICE:
            others = tuple(a for a in range(magnitudes.ndim) if a != axis)
            found.append((axis, magnitudes.max(axis=others)))
    return tuple(found)


def root_mean_square(array: Array) -> float:
    """Over all elements, accumulated in double precision; 0 for an empty array."""
    if array.size == 0:
        return 0.0
    flat = array.reshape(-1)
    peak = float(np.abs(flat).max())
    if peak == 0.0 or not np.isfinite(peak):
        return peak
    return peak * float(np.sqrt(np.mean(np.square(flat / peak, dtype=np.float64))))


def spread_allowance(reference: Array, noise: Noise | None) -> float | None:
    """The largest allowed root mean square error, None where it says nothing."""
    if noise is None or noise.rms == 0.0 or reference.size < MIN_SLICE:
        return None
    rounding = float(np.finfo(reference.dtype).eps) * root_mean_square(finite_magnitudes(reference))
    return SPREAD * noise.rms + rounding


def finite_magnitudes(array: Array) -> Array:
    """Absolute values in the working type, 0 where not finite."""
    wide = np.abs(working(array))
    return np.where(np.isfinite(wide), wide, np.zeros((), wide.dtype))


def measure(reference: Array, moved: Array) -> Noise | None:
    """The noise that one perturbed run shows, None if it changed the shape of the output."""
    if reference.shape != moved.shape:
        return None
    if reference.dtype.kind != "f":
        return Noise(flips=float(np.mean(reference != moved)) if reference.size else 0.0)
    with np.errstate(invalid="ignore", over="ignore"):
        change = finite_magnitudes(working(moved) - working(reference))
    undefined = int(np.count_nonzero(np.isfinite(moved) != np.isfinite(reference)))
    return Noise(
        float(change.max(initial=0.0)),
        root_mean_square(change),
        profiles(change),
        undefined=undefined,
    )


def allowance(reference: Array, noise: Noise | None) -> Array:
    """The largest allowed error of every element of a float output, in the working type."""
    size = finite_magnitudes(reference)
    floor = _smallest(profiles(size), float(size.max(initial=0.0)), size)
    floor *= FLOOR_ULPS * float(np.finfo(reference.dtype).eps)
    if noise is None:
        return floor
    along = tuple((axis, FACTOR * figures) for axis, figures in noise.along)
    measured = _smallest(along, FACTOR * noise.peak, size)
    np.maximum(measured, noise.peak, out=measured)
    return np.asarray(np.maximum(measured, floor, out=measured))


def _smallest(along: Iterable[tuple[int, Array]], whole: float, like: Array) -> Array:
    """For every element the smallest figure of the slices it lies in."""
    result = np.full(like.shape, whole, like.dtype)
    for axis, figures in along:
        shape = [1] * like.ndim
        shape[axis] = -1
        np.minimum(result, figures.reshape(shape).astype(like.dtype), out=result)
    return result


def allowed_flips(rate: float, size: int) -> int:
    """How many elements of an integer output may differ.

    Args:
        rate: The share that flipped under the perturbation, over all feeds together.
        size: Elements in this output.
    """
    return int(np.ceil(2.0 * rate * size)) + (1 if size >= TIES_FROM else 0)
