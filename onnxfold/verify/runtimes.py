"""Other runtimes, to see that they accept a model and agree. Never the oracle."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

from onnxfold.errors import CannotRunError
from onnxfold.verify.session import Array
from onnxfold.verify.sources import ModelSource, first_line, serialized


class OpenVinoModel:
    """A model compiled by OpenVINO for the CPU in single precision."""

    def __init__(self, source: ModelSource, threads: int | None = None) -> None:
        """Read and compile.

        Raises:
            CannotRunError: OpenVINO is not installed, or refuses the model.
        """
        try:
            import openvino
        except ImportError as error:
            raise CannotRunError(
                "OpenVINO is not installed", "pip install 'onnxfold[openvino]'"
            ) from error
        config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
        if threads is not None:
            config["INFERENCE_NUM_THREADS"] = threads
        try:
            core = openvino.Core()
            model = (
                core.read_model(serialized(source))
                if isinstance(source, onnx.ModelProto)
                else core.read_model(os.fspath(source))
            )
            self._compiled = core.compile_model(model, "CPU", config)
        except RuntimeError as error:
            raise CannotRunError(
                f"OpenVINO refuses the model: {_last_words(error)}",
                "check that it supports every operator of the model",
            ) from error

    def run(self, feed: Mapping[str, Array]) -> list[Array]:
        """Every output in the model's order.

        Raises:
            CannotRunError: OpenVINO refuses the feed.
        """
        try:
            results = self._compiled({name: np.asarray(array) for name, array in feed.items()})
        except RuntimeError as error:
            raise CannotRunError(
                f"OpenVINO does not run on this feed: {_last_words(error)}",
                "check the feed's sizes",
            ) from error
        return [np.array(results[output]) for output in self._compiled.outputs]


def _last_words(error: RuntimeError) -> str:
    """OpenVINO's own message: it follows its source locations."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip(". ")[:300] if lines else first_line(error)
