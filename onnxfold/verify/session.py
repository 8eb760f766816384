"""The oracle: ONNX Runtime on the CPU with every graph optimization off.

Optimized sessions are no oracle: at least one released fusion (`Pad` into `MaxPool`) changes the
result. Settings are the same on both sides of a comparison, because the kernel that a weight
layout selects already changes the last bits.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import (
    onnxruntime_pybind11_state as ort_state,  # pyright: ignore[reportAttributeAccessIssue]
)

from onnxfold.errors import CannotRunError
from onnxfold.verify.sources import (
    ModelSource,
    folder_of,
    is_external,
    read_skeleton,
    serialized,
    walk_graphs,
)

Array = NDArray[Any]

#: Above this many bytes of weights the runtime keeps them mapped instead of copying them.
MAP_WEIGHTS_FROM = 512 * 2**20

#: What the bindings raise: their own types derive from Exception, argument errors are built-in.
RUNTIME_ERRORS: tuple[type[Exception], ...] = (
    *(
        member
        for member in vars(ort_state).values()
        if isinstance(member, type) and issubclass(member, Exception)
    ),
    RuntimeError,
    ValueError,
    TypeError,
    MemoryError,
)

#: How the runtime says that it lacks something, and how onnxfold says it.
_COMPLAINTS: tuple[tuple[str, str, str], ...] = (
    (
        r"Could not find an implementation for ([\w.:]+)\((\d+)\)",
        "the runtime has no CPU kernel for {0} (version {1}) with these types",
        "try a newer onnxruntime",
    ),
    (
        r"Fatal error: :?([\w.:]+)\(-?\d+\) is not a registered function/op",
        "the runtime does not know the operator {0}",
        "a custom operator needs its own runtime library",
    ),
    (
        r"No Op registered for (\w+) with domain_version of (\d+)",
        "the runtime does not know the operator {0} in opset {1}",
        "check the operator's name, or try a newer onnxruntime",
    ),
    (
        r"Opset (\d+) is under development",
        "the runtime does not support opset {0}",
        "try a newer onnxruntime, or export with an older opset",
    ),
    (
        r"Integer (?:division|modulo) by zero",
        "the model divides an integer by zero",
        "check where its divisor comes from",
    ),
    (
        r"Unsupported model IR version: (\d+), max supported IR version: (\d+)",
        "the runtime does not support IR version {0}, only up to {1}",
        "try a newer onnxruntime",
    ),
)

#: The runtime's own prefix: status code, source path, function signature.
_PREFIX = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : (?:/\S+:\d+ .*?\) (?=[A-Z]))?", re.S)


class FeedRefusedError(Exception):
    """The runtime would not run the model on this feed (internal: never reaches the user)."""


def explain(error: BaseException) -> tuple[str, str]:
    """One sentence and a hint for what the runtime complained about."""
    text = str(error)
    for pattern, sentence, hint in _COMPLAINTS:
        found = re.search(pattern, text)
        if found:
            return sentence.format(*found.groups()), hint
    plain = " ".join(_PREFIX.sub("", text).split()).rstrip(". ")
    return f"the runtime refuses the model: {plain[:300] or type(error).__name__}", (
        "check the model with onnx.checker"
    )


class Session:
    """A model loaded for running; release it (`del`) before the next one is made."""

    def __init__(
        self,
        source: ModelSource,
        *,
        threads: int | None = None,
        map_weights: bool = False,
        folder: Path | None = None,
        overrides: Mapping[str, Array] | None = None,
    ) -> None:
        """Load the model.

        Args:
            source: The model. A proto goes through serialisation, a path does not.
            threads: Threads per operator, None for the runtime's choice.
            map_weights: Leave external weights mapped: no pre-packed copies, no memory arena.
            folder: Where a proto's external tensors lie.
            overrides: Initializers to replace, by name.

        Raises:
            CannotRunError: The runtime will not load the model; says which operator if it can.
        """
        if isinstance(source, onnx.ModelProto) and folder is None:
            _refuse_external(source)
        options = _session_options(threads, map_weights, folder)
        # The runtime reads the replacements' buffers for as long as the session lives.
        self._kept = {
            name: ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))
            for name, array in (overrides or {}).items()
        }
        for name, value in self._kept.items():
            options.add_initializer(name, value)
        model = serialized(source) if isinstance(source, onnx.ModelProto) else str(Path(source))
        try:
            self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except RUNTIME_ERRORS as error:
            raise CannotRunError(*explain(error)) from error
        self._names = [output.name for output in self._session.get_outputs()]
        self._run_options = ort.RunOptions()
        self._run_options.log_severity_level = 4

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Run once.

        Returns:
            Every output by name; an element of a sequence as `name[i]`.

        Raises:
            FeedRefusedError: The runtime refused this feed.
            CannotRunError: An output has a type that cannot be compared.
        """
        try:
            values = self._session.run(None, dict(feed), self._run_options)
        except RUNTIME_ERRORS as error:
            raise FeedRefusedError(explain(error)[0]) from error
        outputs: dict[str, Array] = {}
        for name, value in zip(self._names, values, strict=True):
            _flatten(name, value, outputs)
        return outputs


def _session_options(threads: int | None, map_weights: bool, folder: Path | None) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_mem_pattern = False  # every feed has its own shapes
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if threads is not None:
        options.intra_op_num_threads = threads
    if map_weights:
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.enable_cpu_mem_arena = False
    if folder is not None:
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(folder)
        )
    return options


def _refuse_external(proto: onnx.ModelProto) -> None:
    for graph in walk_graphs(proto.graph):
        for tensor in graph.initializer:
            if is_external(tensor):
                raise CannotRunError(
                    f"the weight {tensor.name} lies in an external file, and a model in memory "
                    "does not say where",
                    "verify the model by its path",
                )


def _flatten(name: str, value: Any, into: dict[str, Array]) -> None:
    """Add one output to `into`; sequences element by element, an empty optional not at all."""
    if isinstance(value, np.ndarray):
        into[name] = value
    elif isinstance(value, list):
        for index, element in enumerate(value):
            _flatten(f"{name}[{index}]", element, into)
    elif value is not None:
        raise CannotRunError(
            f"output {name} is a {type(value).__name__}, which cannot be compared",
            "verify a model that ends in tensors",
        )


def open_reference(source: ModelSource, threads: int | None, map_weights: bool) -> Session:
    """A session on the reference, whose refusal ends the verification.

    Raises:
        BadModelError: The file cannot be read.
        CannotRunError: The runtime will not load it, or it draws random numbers.
    """
    for graph in walk_graphs(read_skeleton(source).graph):
        for node in graph.node:
            if node.domain in ("", "ai.onnx") and node.op_type in _RANDOM:
                raise CannotRunError(
                    f"the model draws random numbers ({node.op_type} {node.name!r}), so two runs "
                    "cannot be compared",
                    "replace the node, or run with --no-verify",
                )
    return Session(source, threads=threads, map_weights=map_weights)


_RANDOM = frozenset(
    {
        "Bernoulli",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    }
)
__all__ = ["Array", "FeedRefusedError", "Session", "explain", "folder_of", "open_reference"]
