"""Whether the quantized model is faster than the float one on its target."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import onnx

from onnxfold.bench.inputs import Feed
from onnxfold.bench.measurement import Measurement, measure
from onnxfold.bench.runners import Precision
from onnxfold.errors import NotFasterError

Progress = Callable[[str], None]

FLOAT, INT8 = "float", "int8"
"""What the two models are called in measurements; the float one is folded as well."""

RUNTIMES: Mapping[str, tuple[str, tuple[Precision, ...]]] = MappingProxyType(
    {"ort-cpu": ("ort", ("f32",)), "openvino": ("openvino", ("default", "f32"))}
)
"""On which runtime a target is timed, and in which precisions of what stays float."""


def latencies(
    target: str,
    floats: onnx.ModelProto,
    quantized: onnx.ModelProto,
    feed: Feed,
    *,
    seconds: float,
    threads: int | None,
    progress: Progress,
) -> tuple[Measurement, ...]:
    """Time both models; nothing where the target does not run here."""
    runtime, precisions = RUNTIMES.get(target, ("", ()))
    found: list[Measurement] = []
    for precision in precisions:
        if any(measured.precision == precision for measured in found):
            continue  # what the runtime likes best is that already
        measured = measure(
            {FLOAT: floats, INT8: quantized},
            runtime,
            seconds=seconds,
            threads=threads,
            feed=feed,
            precision=precision,
            progress=progress,
        )
        found.append(measured)
    return tuple(found)


def refuse_slower(measurements: Sequence[Measurement]) -> None:
    """Do not hand out a quantized model that does not pay.

    Raises:
        NotFasterError: On one of the runtimes, or in one precision, it is not the faster one.
    """
    for measured in measurements:
        speed = measured[INT8].speed_up
        if speed is not None and speed.median <= 1:
            precision = f" in {measured.precision}" if measured.precision else ""
            raise NotFasterError(
                f"the INT8 model is not faster than the float one on {measured.title}{precision}: "
                f"{speed.median:.2f} times its speed",
                "leave the model in float, or write it all the same with --force",
            )
