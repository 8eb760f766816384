"""Finds out on the real backend where INT8 loses time, and leaves that in float."""

from collections.abc import Mapping
from dataclasses import dataclass

import onnx

from onnxfold.bench import measure
from onnxfold.errors import BadOptionError
from onnxfold.quantize.evaluation import Feed
from onnxfold.quantize.kernel_times import KernelTimes
from onnxfold.quantize.kernel_times_openvino import openvino_kernel_times
from onnxfold.quantize.kernel_times_ort import ort_kernel_times
from onnxfold.quantize.regions import float_regions
from onnxfold.quantize.sensitivity import Build
from onnxfold.targets.proof import Precision
from onnxfold.targets.prove import prove

_CAUTIONS = (1.0, 2.0, 4.0)
"""Conversions cost more than their kernels take: layouts change at borders, fusions are lost."""
_ALIKE = 0.01
"""Models within this share of the fastest one count as equally fast."""
_FLOAT, _INT8 = "float", "int8"
_RUNTIMES = {"ort-cpu": "ort", "openvino": "openvino"}


@dataclass(frozen=True, slots=True)
class Profit:
    """Which layers had better stay float on a target, and what was measured.

    Attributes:
        excluded: Names of what stays float; everything that could be INT8 when float is fastest.
        quantized: The fastest quantized model.
        milliseconds: Median time of one run: of the float model under `float`, of the fully
            quantized one under `int8`, and of the others that were tried.
        chosen: Under which name the quantized model was timed.
        seconds: What each layer that can run in INT8 costs more in float than in INT8, by profile:
            negative where INT8 loses.
    """

    excluded: frozenset[str]
    quantized: onnx.ModelProto
    milliseconds: Mapping[str, float]
    chosen: str
    seconds: Mapping[str, float]

    @property
    def speed_up(self) -> float:
        """How many times faster than the float model the quantized one is."""
        return self.milliseconds[_FLOAT] / self.milliseconds[self.chosen]


def profitable_layers(
    model: onnx.ModelProto,
    build: Build,
    target: str,
    feed: Feed,
    *,
    threads: int = 1,
    seconds: float = 20.0,
) -> Profit:
    """Choose what to leave in float so that the quantized model is as fast as can be.

    Both models run under the profiler of the backend; a minimum cut between what is cheaper in
    integers and what is cheaper in floats, conversions included, gives candidates, and the clock
    decides between them and the fully quantized model.

    Args:
        model: The float model.
        build: Makes the Q/DQ model in which given layers stay float.
        target: `ort-cpu` or `openvino`.
        feed: What to run them on.
        threads: Threads per operator.
        seconds: How long the candidates are timed.

    Raises:
        BadOptionError: The target cannot be timed here.
        CannotRunError: The backend is not installed or refuses a model.
    """
    if target not in _RUNTIMES:
        raise BadOptionError(
            f"the target {target} cannot be timed on this machine",
            "leave the choice of layers by speed out",
        )
    whole = build(frozenset())
    floats = _kernel_times(model, target, feed, threads)
    integers = _kernel_times(whole, target, feed, threads)
    convertible = [layer.layer for layer in prove(whole, target).of(Precision.INT8)]
    sets = {_INT8: frozenset[str]()}
    for caution in _CAUTIONS:
        found = float_regions(model, floats, integers, convertible, caution)
        if found not in sets.values():
            sets[f"mixed {len(sets)}"] = found
    built = {name: build(excluded) if excluded else whole for name, excluded in sets.items()}
    timed = measure(
        {_FLOAT: model, **built},
        _RUNTIMES[target],
        seconds=seconds,
        threads=threads,
        feed=feed,
        precision="default" if target == "openvino" else "f32",
    )
    milliseconds = {timing.name: timing.run_ms.median for timing in timed.timings}
    chosen = _fastest(milliseconds, sets)
    gains = {
        name: floats.nodes.get(name, 0.0) - integers.nodes.get(name, 0.0) for name in convertible
    }
    return Profit(sets[chosen], built[chosen], milliseconds, chosen, gains)


def _kernel_times(model: onnx.ModelProto, target: str, feed: Feed, threads: int) -> KernelTimes:
    if target == "openvino":
        return openvino_kernel_times(model, feed, threads)
    return ort_kernel_times(model, feed, threads)


def _fastest(milliseconds: Mapping[str, float], sets: Mapping[str, frozenset[str]]) -> str:
    """The set with the fewest layers in float among those that are about as fast as the fastest."""
    limit = min(milliseconds[name] for name in sets) * (1 + _ALIKE)
    alike = [name for name in sets if milliseconds[name] <= limit]
    return min(alike, key=lambda name: len(sets[name]))
