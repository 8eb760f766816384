"""What the main job takes."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray

Source = str | os.PathLike[str] | bytes | onnx.ModelProto
Progress = Callable[[str], None]
Data = Iterable[Mapping[str, NDArray[np.generic]]]


@dataclass(frozen=True, slots=True)
class OptimizeOptions:
    """How to optimize.

    Attributes:
        input_shapes: Extents to pin, by input name; the result takes these shapes only.
        verify: Prove that the result computes the same before it is written or returned.
        rtol: Allowed error relative to an output's scale, instead of the measured tolerance.
        atol: Allowed absolute error, instead of the measured tolerance.
        rewrite_limit: Make only this many rewrites; for finding the one that matters.
        keep_overridable: Take no initializer for a constant that a caller may override, even
            where IR versions below 4 make every initializer such a one.
        threads: Threads of the runtime during verification; None for its own choice.
    """

    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    verify: bool = True
    rtol: float | None = None
    atol: float | None = None
    rewrite_limit: int | None = None
    keep_overridable: bool = False
    threads: int | None = None
