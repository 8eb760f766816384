"""Runs a float model and quantized ones on the same samples, and compares them."""

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from onnxfold.calibrate.chunks import HeldSamples, Samples
from onnxfold.errors import BadOptionError, CannotRunError
from onnxfold.quantize.metrics import Array, Comparison, Confusion, labels
from onnxfold.verify.session import RUNTIME_ERRORS, explain

Feed = Mapping[str, Array]

_KEPT_BYTES = 256 * 2**20
"""Outputs of the float model that are kept; beyond this it runs again for every comparison."""


def held(samples: Samples | Sequence[Feed]) -> Samples:
    """Samples as they are, or feeds in memory as samples."""
    return samples if isinstance(samples, Samples) else HeldSamples.of(samples)


class RuntimeModel:
    """A model as ONNX Runtime really runs it: optimised, with integer kernels."""

    def __init__(
        self,
        model: onnx.ModelProto | bytes,
        threads: int = 1,
        settings: Mapping[str, Any] | None = None,
        entries: Mapping[str, str] | None = None,
    ) -> None:
        """Load it.

        Args:
            model: The model, weights included.
            threads: Threads per operator.
            settings: Further attributes of the session options.
            entries: Further entries of the session's configuration.

        Raises:
            CannotRunError: The runtime does not take the model.
        """
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads
        no_spinning = {"session.intra_op.allow_spinning": "0"}
        for key, text in {**no_spinning, **(entries or {})}.items():
            options.add_session_config_entry(key, text)
        for name, value in (settings or {}).items():
            setattr(options, name, value)
        content = model if isinstance(model, bytes) else model.SerializeToString()
        self.session = _loaded(content, options)
        self._names = [output.name for output in self.session.get_outputs()]

    def run(self, feed: Feed) -> dict[str, Array]:
        """Every output by name.

        Raises:
            CannotRunError: The runtime does not run the model on this feed.
        """
        try:
            values = self.session.run(None, dict(feed))
        except RUNTIME_ERRORS as error:
            raise CannotRunError(*explain(error)) from error
        return {name: np.asarray(value) for name, value in zip(self._names, values, strict=True)}


def _loaded(content: bytes, options: Any) -> Any:
    """A session, if need be without fusions: version 1.31 breaks some models of signed integers.

    In operator set 21 a QuantizeLinear that it adds itself then has two types.
    """
    try:
        return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except RUNTIME_ERRORS:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    try:
        return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except RUNTIME_ERRORS as error:
        raise CannotRunError(*explain(error)) from error


class Evaluation:
    """Compares quantized models with one float model on the same samples."""

    def __init__(
        self,
        model: onnx.ModelProto | bytes,
        samples: Samples | Sequence[Feed],
        truth: Sequence[Array] | None = None,
        threads: int = 1,
    ) -> None:
        """Load the float model.

        Args:
            model: The float model.
            samples: What to run both models on.
            truth: True labels of each sample, of the shape of the predicted ones; 255 is ignored.
            threads: Threads per operator.

        Raises:
            BadOptionError: There are no samples.
            CannotRunError: The runtime does not take the model.
        """
        self._float = RuntimeModel(model, threads)
        self._samples = held(samples)
        if not len(self._samples):
            raise BadOptionError("there are no samples to compare with", "give at least one")
        self._truth = truth
        self._threads = threads
        self._kept: dict[int, dict[str, Array]] = {}
        self._kept_bytes = 0

    def compare(self, quantized: onnx.ModelProto | bytes) -> Comparison:
        """Run `quantized` on every sample.

        Raises:
            CannotRunError: The runtime does not take the model, or not a sample.
        """
        candidate = RuntimeModel(quantized, self._threads)
        return reduce(
            Comparison.merged,
            (self._compare_one(index, candidate) for index in range(len(self._samples))),
        )

    def _compare_one(self, index: int, candidate: RuntimeModel) -> Comparison:
        feed = self._samples.feed(index)
        reference, found = self._reference(index, feed), candidate.run(feed)
        one = Comparison.of(reference, found)
        if self._truth is None:
            return one
        before, after = (_first_labels(outputs, reference) for outputs in (reference, found))
        if before is None or after is None:
            return one
        truth = np.asarray(self._truth[index]).reshape(before.shape)
        classes = _class_count(reference)
        confusions = (
            Confusion.of(truth, before, classes),
            Confusion.of(truth, after, classes),
        )
        return Comparison(one.outputs, one.samples, confusions)

    def _reference(self, index: int, feed: Feed) -> dict[str, Array]:
        if (kept := self._kept.get(index)) is not None:
            return kept
        outputs = self._float.run(feed)
        size = sum(each.nbytes for each in outputs.values())
        if self._kept_bytes + size <= _KEPT_BYTES:
            self._kept[index] = outputs
            self._kept_bytes += size
        return outputs


def _first_labels(outputs: Mapping[str, Array], reference: Mapping[str, Array]) -> Array | None:
    found = (labels(each, reference[name]) for name, each in outputs.items())
    return next((each for each in found if each is not None), None)


def _class_count(reference: Mapping[str, Array]) -> int:
    """How many classes the first class map tells apart; 256 where it holds labels already."""
    for each in reference.values():
        if labels(each) is not None:
            return max(2, each.shape[1]) if each.dtype.kind == "f" else 256
    return 2
