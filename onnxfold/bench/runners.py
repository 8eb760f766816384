"""ONNX Runtime and OpenVINO as somebody who deploys a model uses them: optimizations on."""

import difflib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import onnx
import onnxruntime as ort

from onnxfold.errors import BadOptionError, CannotRunError
from onnxfold.verify.session import RUNTIME_ERRORS, Array, FeedRefusedError, explain
from onnxfold.verify.sources import ModelSource, first_line, serialized

Precision: TypeAlias = Literal["f32", "default"]
"""`f32`: floats are computed in single precision; `default`: as the runtime thinks best."""

Content: TypeAlias = str | bytes
"""A model as every runtime takes it: a path, or a serialized model."""

_OPENVINO_ERRORS = (RuntimeError, ValueError, TypeError)


@dataclass(frozen=True, slots=True)
class Settings:
    """How a runtime runs models.

    Attributes:
        threads: Threads per operator, None for the runtime's own choice.
        precision: Of OpenVINO, which may compute a float32 model in bfloat16; ONNX Runtime
            computes in the types that the model states.
    """

    threads: int | None = None
    precision: Precision = "f32"


class Runner(Protocol):
    """A loaded model with inputs to run it on.

    Attributes:
        threads: How many it runs with, None where the runtime does not tell.
        precision: In which precision it computes floats, None for the types that the model states.
    """

    threads: int | None
    precision: str | None

    def bind(self, feed: Mapping[str, Array]) -> None:
        """Take these inputs from now on.

        Raises:
            FeedRefusedError: The runtime does not take them.
        """
        ...

    def run(self) -> object:
        """Run once; this alone is timed.

        Raises:
            FeedRefusedError: The runtime does not run on these inputs.
        """
        ...

    def outputs(self) -> list[Array]:
        """Run once; copies of the outputs that are tensors, in the model's order.

        Raises:
            FeedRefusedError: The runtime does not run on these inputs.
        """
        ...


class Runtime(Protocol):
    """A runtime on this machine.

    Attributes:
        title: Its name for people.
        version: Its version.
    """

    title: str
    version: str

    def load(self, content: Content, settings: Settings) -> Runner:
        """Load a model.

        Raises:
            CannotRunError: The runtime refuses it.
        """
        ...


def content_of(source: ModelSource) -> Content:
    """What to hand to a runtime.

    Raises:
        CannotRunError: A model in memory is too large for protobuf.
    """
    return serialized(source) if isinstance(source, onnx.ModelProto) else os.fspath(source)


def open_runtime(name: str) -> Runtime:
    """The runtime called `name`, as in `RUNTIMES`.

    Raises:
        BadOptionError: There is none of that name.
        CannotRunError: It is not installed.
    """
    if name not in RUNTIMES:
        near = difflib.get_close_matches(name, RUNTIMES, n=1)
        hint = f"did you mean '{near[0]}'" if near else f"there are {' and '.join(RUNTIMES)}"
        raise BadOptionError(f"there is no runtime '{name}'", hint)
    return RUNTIMES[name]()


class _OnnxRuntime:
    """ONNX Runtime on the CPU."""

    title = "ONNX Runtime"

    def __init__(self) -> None:
        self.version: str = ort.__version__

    def load(self, content: Content, settings: Settings) -> Runner:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        # Threads that wait for work by spinning slow down whatever runs next.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if settings.threads is not None:
            options.intra_op_num_threads = settings.threads
        try:
            session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except RUNTIME_ERRORS as error:
            raise CannotRunError(*explain(error)) from error
        return _OnnxRuntimeRunner(session, settings.threads)


class _OnnxRuntimeRunner:
    def __init__(self, session: Any, threads: int | None) -> None:
        self.threads = threads
        self.precision: str | None = None
        self._session = session
        self._options = ort.RunOptions()
        self._options.log_severity_level = 4
        self._feed: dict[str, Array] = {}

    def bind(self, feed: Mapping[str, Array]) -> None:
        self._feed = {name: np.ascontiguousarray(array) for name, array in feed.items()}

    def run(self) -> list[Any]:
        try:
            values: list[Any] = self._session.run(None, self._feed, self._options)
        except RUNTIME_ERRORS as error:
            raise FeedRefusedError(explain(error)[0]) from error
        return values

    def outputs(self) -> list[Array]:
        return [value.copy() for value in self.run() if isinstance(value, np.ndarray)]


class _OpenVino:
    """OpenVINO on the CPU."""

    title = "OpenVINO"

    def __init__(self) -> None:
        try:
            import openvino  # an extra
        except ImportError as error:
            raise CannotRunError(
                "OpenVINO is not installed", "pip install 'onnxfold[openvino]'"
            ) from error
        self.version: str = openvino.__version__.partition("-")[0]
        self._openvino: Any = openvino
        self._core = openvino.Core()

    def load(self, content: Content, settings: Settings) -> Runner:
        config: dict[str, Any] = {}
        if settings.threads is not None:
            config["INFERENCE_NUM_THREADS"] = settings.threads
        if settings.precision == "f32":
            config["INFERENCE_PRECISION_HINT"] = "f32"
        try:
            compiled = self._core.compile_model(self._core.read_model(content), "CPU", config)
        except _OPENVINO_ERRORS as error:
            raise CannotRunError(
                f"OpenVINO refuses the model: {_last_words(error)}",
                "check that it supports every operator of the model",
            ) from error
        return _OpenVinoRunner(compiled, self._openvino.Tensor)


class _OpenVinoRunner:
    def __init__(self, compiled: Any, tensor_of: Callable[..., Any]) -> None:
        self.threads: int | None = compiled.get_property("INFERENCE_NUM_THREADS")
        self.precision: str | None = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        self._request = compiled.create_infer_request()
        self._tensor_of = tensor_of
        self._feed: list[Array] = []

    def bind(self, feed: Mapping[str, Array]) -> None:
        # The tensors are views of these arrays, and OpenVINO makes none of what is read-only.
        self._feed = [np.require(array, requirements=("C", "W")) for array in feed.values()]
        try:
            for name, array in zip(feed, self._feed, strict=True):
                self._request.set_tensor(name, self._tensor_of(array, shared_memory=True))
        except _OPENVINO_ERRORS as error:
            raise FeedRefusedError(_last_words(error)) from error

    def run(self) -> Any:
        try:
            return self._request.infer(share_outputs=True)
        except _OPENVINO_ERRORS as error:
            raise FeedRefusedError(_last_words(error)) from error

    def outputs(self) -> list[Array]:
        return [np.array(value) for value in self.run().to_tuple()]


def _last_words(error: Exception) -> str:
    """OpenVINO's own message: it follows its source locations."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip(". ")[:300] if lines else first_line(error)


RUNTIMES: Mapping[str, Callable[[], Runtime]] = MappingProxyType(
    {"ort": _OnnxRuntime, "openvino": _OpenVino}
)
"""The runtimes that can measure, by the name that options call them."""
