"""What float16 makes of a constant."""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxfold.ir.constants import constant_tensor, release

HALF_MAX = 65504.0
"""The largest finite float16."""

HALF_NORMAL = 2.0**-14
"""The smallest float16 with all its digits; below it they are lost one by one."""

MAX_ERROR = 2.0**-8
"""How much of a constant may be lost below the normal range, 8 times what rounding loses above it.

An epsilon of 1e-6 loses more, and so do weights that are all tiny. Tiny weights beside ordinary
ones lose far less, and should: they add nothing.
"""


@dataclass(frozen=True, slots=True)
class Weight:
    """How a constant survives the conversion.

    Attributes:
        largest: Its largest finite magnitude.
        smallest: Its smallest magnitude.
        error: Root mean square of what is lost below the normal range, over that of the constant.
        worst: The largest share that an element below the normal range loses.
    """

    largest: float
    smallest: float
    error: float
    worst: float

    @staticmethod
    def of(array: NDArray[np.floating]) -> "Weight":
        """Measure a constant; infinities and NaN stay what they are, and do not count."""
        magnitudes = np.abs(np.asarray(array).reshape(-1))
        finite = np.isfinite(magnitudes)
        if not finite.all():
            magnitudes = magnitudes[finite]
        if not magnitudes.size:
            return Weight(0.0, 0.0, 0.0, 0.0)
        largest, smallest = float(magnitudes.max()), float(magnitudes.min())
        tiny = magnitudes[(magnitudes < HALF_NORMAL) & (magnitudes > 0)].astype(np.float64)
        if not tiny.size:
            return Weight(largest, smallest, 0.0, 0.0)
        lost = np.abs(tiny.astype(np.float16).astype(np.float64) - tiny)
        # Over the largest, because the squares of very small numbers vanish.
        whole = float(np.linalg.norm(magnitudes / magnitudes.max()))
        error = float(np.linalg.norm(lost / largest)) / whole
        return Weight(largest, smallest, error, float((lost / tiny).max()))


class Weights:
    """What float16 makes of the constants of a graph, each looked at once."""

    def __init__(self) -> None:
        self._known: dict[ir.Value, Weight] = {}

    def of(self, value: ir.Value | None) -> Weight | None:
        """The facts about a floating-point constant; None when `value` is none."""
        if value is None:
            return None
        if value in self._known:
            return self._known[value]
        tensor = constant_tensor(value)
        if tensor is None or tensor.dtype not in _MEASURED:
            return None
        self._known[value] = Weight.of(tensor.numpy())
        release(tensor)
        return self._known[value]


_MEASURED = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE})


def as_half(array: NDArray[np.floating]) -> NDArray[np.float16]:
    """The numbers rounded to the nearest float16; finite numbers stay finite.

    Only the bounds of a Clip come here with numbers beyond the range, and a bound beyond the range
    is none.
    """
    with np.errstate(over="ignore"):
        rounded = array.astype(np.float16)
    beyond = np.isinf(rounded) & np.isfinite(array)
    if beyond.any():
        rounded = np.where(beyond, np.copysign(np.float16(HALF_MAX), rounded), rounded)
    return rounded
