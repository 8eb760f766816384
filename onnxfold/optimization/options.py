"""What the main job takes."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxfold.cost.machines import ANY, machine_named
from onnxfold.pipeline.passes import ConfiguredPass, Pass, configured

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
        target: What the result is to run on, as in `onnxfold.cost.machines.MACHINES`: passes that
            weigh costs take those measured there.
    """

    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    verify: bool = True
    rtol: float | None = None
    atol: float | None = None
    rewrite_limit: int | None = None
    keep_overridable: bool = False
    threads: int | None = None
    target: str = ANY

    def __post_init__(self) -> None:
        """Refuse a target that is not known.

        Raises:
            BadOptionError: There is no such target.
        """
        machine_named(self.target)


def for_target(passes: Iterable[Pass | ConfiguredPass], target: str) -> list[ConfiguredPass]:
    """The passes; those that have an option `target` and were given none have this one."""
    entries = [configured(each) for each in passes]
    return entries if target == ANY else [_aimed(each, target) for each in entries]


def _aimed(entry: ConfiguredPass, target: str) -> ConfiguredPass:
    usual = getattr(entry.step.options_type(), "target", None)
    if not isinstance(usual, str) or entry.options.target != usual:
        return entry
    return ConfiguredPass(entry.step, replace(entry.options, target=target))
