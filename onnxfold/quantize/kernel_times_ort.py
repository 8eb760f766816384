"""The profile of ONNX Runtime's CPU provider."""

import json
import math
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from onnxfold.quantize.evaluation import Feed, RuntimeModel
from onnxfold.quantize.kernel_times import Kernel, KernelTimes, times_of
from onnxfold.quantize.layers import producers_of
from onnxfold.targets.proof_placement import tagged

_RUNS = 30
_EVENT = "_kernel_time"
_LAYOUT = re.compile(r"(_bn)?_nchwc$")
"""How the runtime names a convolution in blocked layout: after the value that it computes."""
_FUSED_NODES = 6
"""As many nodes may follow in a kernel on the one that it is named for."""


def ort_kernel_times(
    model: onnx.ModelProto, feed: Feed, threads: int = 1, runs: int = _RUNS
) -> KernelTimes:
    """Run a model with the profiler on.

    Args:
        model: Float or with Q/DQ; left as it is.
        feed: What to run it on.
        threads: Threads per operator.
        runs: How often; the shortest time of each kernel counts.

    Raises:
        CannotRunError: The runtime does not take the model.
    """
    named = onnx.ModelProto()
    named.CopyFrom(model)
    for index, node in enumerate(named.graph.node):
        node.name = f"onnxfold:{index}:"
    with tempfile.TemporaryDirectory(prefix="onnxfold-") as folder:
        made = Path(folder, "made.onnx")
        settings = {
            "enable_profiling": True,
            "profile_file_prefix": str(Path(folder, "profile")),
            "optimized_model_filepath": str(made),
        }
        entries = {
            "session.optimized_model_external_initializers_file_name": "weights",
            "session.optimized_model_external_initializers_min_size_in_bytes": "1024",
        }
        runtime = RuntimeModel(named, threads, settings, entries)
        for _ in range(runs):
            runtime.run(feed)
        events = json.loads(Path(runtime.session.end_profiling()).read_text(encoding="utf-8"))
        compiled = onnx.load(str(made), load_external_data=False)
    return times_of(model, _kernels(named, compiled.graph, _shortest(events)))


@dataclass(frozen=True, slots=True)
class _Event:
    seconds: float
    elements: int


def _shortest(events: list[dict[str, Any]]) -> dict[str, _Event]:
    """The shortest run of each node, by its name."""
    found: dict[str, _Event] = {}
    for event in events:
        name = event.get("name", "")
        if event.get("cat") != "Node" or not name.endswith(_EVENT):
            continue
        own, seconds = name.removesuffix(_EVENT), event["dur"] * 1e-6
        if own not in found or seconds < found[own].seconds:
            shapes = event["args"].get("output_type_shape", [])
            extents = [extent for shape in shapes[:1] for extent in next(iter(shape.values()))]
            found[own] = _Event(seconds, math.prod(extents))
    return found


def _kernels(
    model: onnx.ModelProto, compiled: onnx.GraphProto, events: Mapping[str, _Event]
) -> Iterator[Kernel]:
    """The kernels that were timed, by the values of the model that they compute."""
    tracer = _Tracer(model, compiled)
    for node in reversed(compiled.node):
        ends = tracer.trace(node)
        if (event := events.get(node.name)) is not None:
            yield Kernel(ends, event.seconds, node.op_type, elements=event.elements)


class _Tracer:
    """Finds what the nodes of a compiled graph compute, from its end to its beginning.

    Most values keep their names. What was fused or laid out anew has another one, and is what
    the model's own reader reads where the compiled reader reads it.
    """

    def __init__(self, model: onnx.ModelProto, compiled: onnx.GraphProto) -> None:
        self._nodes = model.graph.node
        self._producers = producers_of(model.graph)
        self._ends: dict[str, tuple[str, ...]] = {}
        self._readers: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
        for node in compiled.node:
            for index, name in enumerate(node.input):
                self._readers.setdefault(name, []).append((node, index))

    def trace(self, node: onnx.NodeProto) -> tuple[str, ...]:
        """The values of the model that a node computes; those of its reader when not known."""
        ends = self._by_name(node) or self._by_reader(node)
        self._ends[node.output[0]] = ends
        return ends

    def _by_name(self, node: onnx.NodeProto) -> tuple[str, ...]:
        ends = tuple(name for name in node.output if name in self._producers)
        if ends:
            return ends
        blocked = _LAYOUT.sub("", node.name)
        if blocked in self._producers:
            return (blocked,)
        index = tagged(node.name)
        return () if index is None else tuple(self._nodes[index].output[:1])

    def _by_reader(self, node: onnx.NodeProto) -> tuple[str, ...]:
        borrowed: tuple[str, ...] = ()
        for reader, index in self._readers.get(node.output[0], []):
            ends = self._ends.get(reader.output[0], ())
            own = self._own_form(reader, ends)
            if own is not None and index < len(own.input) and own.input[index] in self._producers:
                return (own.input[index],)
            borrowed = borrowed or ends
        return borrowed

    def _own_form(self, compiled: onnx.NodeProto, ends: tuple[str, ...]) -> onnx.NodeProto | None:
        """The node of the model that a compiled node was made of, among the last before its end."""
        op_type = compiled.op_type.removeprefix("QLinear").removeprefix("Fused")
        node = self._producers.get(ends[0]) if ends else None
        for _ in range(_FUSED_NODES):
            if node is None or node.op_type == op_type:
                return node
            node = next(
                (self._producers[name] for name in node.input if name in self._producers), None
            )
        return None
