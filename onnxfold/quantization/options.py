"""How to quantize."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from onnxfold.bench.machine import core_count
from onnxfold.calibrate.ranges import Method
from onnxfold.errors import BadOptionError
from onnxfold.quantize.adaptive_rounding import Rounding
from onnxfold.quantize.metrics import Comparison
from onnxfold.quantize.mixed_precision import DEFAULT_BUDGET


@dataclass(frozen=True, slots=True)
class QuantizeOptions:
    """How to quantize.

    Attributes:
        method: How ranges of activations are chosen; None takes the one whose model is nearest to
            the float one.
        max_drop: Points of mean IoU if true labels are known, else of label agreement, that
            quantization may cost; layers are left in float until it costs no more. None: 0.3
            points of mean IoU, and any number of labels, for nobody knows which of those that
            change had been right.
        exclude: Names of layers that stay float.
        input_shapes: Extents to pin, by input name; the result takes these shapes only.
        optimize: Run the default passes on the float model first.
        equalize: Scale channels between layers where that makes the result more exact.
        rounding: How weights become integers; adaptively only where that is more exact.
        correct_biases: Take the mean error of every layer out of its bias.
        force: Return and write the result also where it is slower than the float model, or less
            exact than `max_drop` allows.
        fp16: For TensorRT: convert what stays float to float16.
        calibration: A file that keeps the calibration: read if it is there, else written.
        workers: Processes that calibrate.
        threads: Threads of the runtimes; one for each core when None.
        seconds: How long models are timed on each runtime if the figures stay uncertain.
    """

    method: Method | None = None
    max_drop: float | None = None
    exclude: tuple[str, ...] = ()
    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    optimize: bool = True
    equalize: bool = True
    rounding: Rounding = Rounding.ADAPTIVE
    correct_biases: bool = True
    force: bool = False
    fp16: bool = False
    calibration: str | os.PathLike[str] | None = None
    workers: int = 1
    threads: int | None = None
    seconds: float = 20.0

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            BadOptionError: A number makes no sense.
        """
        if self.max_drop is not None and not 0 <= self.max_drop <= 100:
            raise BadOptionError(
                f"a drop of {self.max_drop:g} points is no budget", "give 0 to 100 points"
            )
        for name, value in (("workers", self.workers), ("threads", self.threads)):
            if value is not None and value < 1:
                raise BadOptionError(f"{name} is {value}", "give 1 or more")
        if not self.seconds > 0:
            raise BadOptionError(f"seconds is {self.seconds:g}", "give a positive number")

    def budget(self, comparison: Comparison) -> float | None:
        """How many points may be lost in this comparison; None for any number."""
        if self.max_drop is None and comparison.truth is not None:
            return DEFAULT_BUDGET
        return self.max_drop

    @property
    def runtime_threads(self) -> int:
        """How many threads runtimes get."""
        return self.threads or core_count()
