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

_RUNS = 30


def openvino_kernel_times(
    model: onnx.ModelProto, feed: Feed, threads: int = 1, runs: int = _RUNS
) -> KernelTimes:
    """Run a model with the profiler on, in the precision that OpenVINO prefers for floats.

    Args:
        model: Float or with Q/DQ; left as it is.
        feed: What to run it on.
        threads: Threads to use.
        runs: How often; the shortest time of each kernel counts.

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
    try:
        core = openvino.Core()
        compiled = core.compile_model(core.read_model(named.SerializeToString()), "CPU", config)
        request = compiled.create_infer_request()
        for _ in range(runs):
            request.infer({name: np.asarray(array) for name, array in feed.items()})
            for told in request.get_profiling_info():
                seconds = told.real_time.total_seconds()
                known = shortest.get(told.node_name)
                if seconds > 0 and (known is None or seconds < known[0]):
                    shortest[told.node_name] = (seconds, told.exec_type)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise CannotRunError(
            f"OpenVINO does not run the model: {(lines or ['no reason given'])[-1][:300]}",
            "check that it supports every operator of the model",
        ) from error
    return times_of(model, _kernels(named, compiled.get_runtime_model(), shortest))


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
