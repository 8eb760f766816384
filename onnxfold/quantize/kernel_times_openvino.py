"""The profile of OpenVINO's CPU plugin."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx

from onnxfold.errors import CannotRunError
from onnxfold.quantize.evaluation import Feed
from onnxfold.quantize.kernel_times import Kernel, KernelTimes, times_of
from onnxfold.targets.proof_placement import TAG

_COMPILATIONS = 3
_WARM_UP = 2
_RUNS = 10


def openvino_kernel_times(
    model: onnx.ModelProto, feed: Feed, threads: int = 1, runs: int = _RUNS
) -> KernelTimes:
    """Run a model with the profiler on, in the precision that OpenVINO prefers for floats.

    Args:
        model: Float or with Q/DQ; left as it is.
        feed: What to run it on.
        threads: Threads to use.
        runs: How often each time that it is compiled; the compilation in which a kernel was the
            fastest counts.

    Raises:
        CannotRunError: OpenVINO is not installed, or does not run the model.
    """
    try:
        import openvino
    except ImportError as error:
        raise CannotRunError(
            "OpenVINO is not installed", "pip install 'onnxfold[openvino]'"
        ) from error
    named = onnx.ModelProto()
    named.CopyFrom(model)
    for index, node in enumerate(named.graph.node):
        node.name = f"onnxfold:{index}:"
    config: dict[str, Any] = {"PERF_COUNT": True, "INFERENCE_NUM_THREADS": threads}
    shortest: dict[str, tuple[float, str]] = {}
    inputs = {name: np.asarray(array) for name, array in feed.items()}
    try:
        core = openvino.Core()
        read = core.read_model(named.SerializeToString())
        compiled = core.compile_model(read, "CPU", config)
        for another in range(_COMPILATIONS):
            if another:
                compiled = core.compile_model(read, "CPU", config)
            for name, told in _mean_times(compiled, inputs, runs).items():
                shortest[name] = min(shortest.get(name, told), told)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise CannotRunError(
            f"OpenVINO does not run the model: {(lines or ['no reason given'])[-1][:300]}",
            "check that it supports every operator of the model",
        ) from error
    return times_of(model, _kernels(named, compiled.get_runtime_model(), shortest))


def _mean_times(compiled: Any, inputs: Feed, runs: int) -> dict[str, tuple[float, str]]:
    """Seconds of every kernel and what it runs as.

    The profiler tells the mean over all runs since compilation, and the first ones prepare what
    later ones use: for a kernel that may take longer than all the runs that follow.
    """
    request = compiled.create_infer_request()
    for _ in range(_WARM_UP):
        request.infer(inputs)
    before = {told.node_name: told.real_time for told in request.get_profiling_info()}
    for _ in range(runs):
        request.infer(inputs)
    found = {}
    for told in request.get_profiling_info():
        total = told.real_time * (_WARM_UP + runs) - before[told.node_name] * _WARM_UP
        if total.total_seconds() > 0:
            found[told.node_name] = (total.total_seconds() / runs, told.exec_type)
    return found


def _kernels(
    model: onnx.ModelProto, executed: Any, shortest: dict[str, tuple[float, str]]
) -> Iterator[Kernel]:
    """The kernels that ran; each tells of which nodes it was made, and reorders for whom."""
    layers = {layer.get_friendly_name(): layer for layer in executed.get_ordered_ops()}
    for name, (seconds, kind) in shortest.items():
        layer = layers.get(name)
        told = {} if layer is None else layer.get_rt_info()
        sources = str(told["originalLayersNames"]) if "originalLayersNames" in told else ""
        indices = dict.fromkeys(int(found) for found in TAG.findall(f"{sources},{name}"))
        covers = tuple(model.graph.node[index].output[0] for index in indices)
        yield Kernel((), seconds, kind, covers, 0 if layer is None else _elements(layer))


def _elements(layer: Any) -> int:
    if not layer.outputs():
        return 0
    shape = layer.output(0).partial_shape
    return math.prod(shape.to_shape()) if shape.is_static else 0
