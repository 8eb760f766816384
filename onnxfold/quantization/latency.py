"""Whether the quantized model is faster than the float one on its target."""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

import onnx

from onnxfold.bench.inputs import Feed
from onnxfold.bench.measurement import Measurement, measure
from onnxfold.bench.runners import Precision

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


def slower(measurements: tuple[Measurement, ...]) -> Iterator[Measurement]:
    """Those in which the quantized model is not the faster one."""
    for measured in measurements:
        speed = measured[INT8].speed_up
        if speed is not None and speed.median <= 1:
            yield measured
