"""A float model and its quantized form as one graph, so that errors are measured where they arise.

Both read the same inputs. For every layer the graph puts out a few small tensors: the energy of the
float value, the energy of the difference, and its sum per channel. No activation leaves the
runtime, so a whole network is compared in one run per sample, in the memory of two float models.

With `cancelled` layers the graph subtracts the mean error of each channel where it arises, before
anything reads it; with `restored` ones readers get the float values. What is then measured further
down is what the layers there add themselves.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.compose
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from onnxfold.calibrate.chunks import Samples
from onnxfold.errors import CannotRunError
from onnxfold.quantize.evaluation import Feed, held
from onnxfold.quantize.layers import Layer, layers_of
from onnxfold.quantize.metrics import Distortion
from onnxfold.verify.session import FeedRefusedError, Session

_PREFIX = "onnxfold.float/"
_SUFFIXES = ("signal", "noise", "drift", "count")


@dataclass(frozen=True, slots=True, eq=False)
class LayerError:
    """How far the quantized form of one layer's output is from the float one, over some samples.

    Attributes:
        distortion: Energy of the output and of the error.
        drift: Sum of the errors (quantized minus float) of each channel, float64, (channels,).
        count: How many numbers each of these sums has.
    """

    distortion: Distortion
    drift: NDArray[np.float64]
    count: int

    def merged(self, other: "LayerError") -> "LayerError":
        """Both together."""
        return LayerError(
            self.distortion.merged(other.distortion),
            self.drift + other.drift,
            self.count + other.count,
        )

    @property
    def mean_error(self) -> NDArray[np.float64]:
        """The mean error of each channel, (channels,)."""
        return self.drift / max(self.count, 1)


class PairedModel:
    """Runs both models at once."""

    def __init__(
        self,
        model: onnx.ModelProto,
        quantized: onnx.ModelProto,
        layers: Sequence[Layer],
        *,
        cancelled: Collection[str] = (),
        restored: Collection[str] = (),
        threads: int = 1,
    ) -> None:
        """Join the models and load them.

        Args:
            model: The float model.
            quantized: The same with Q/DQ nodes.
            layers: What to compare: `layers_of` both models.
            cancelled: Names of layers whose mean error is taken out before anything reads them.
            restored: Names of layers whose readers get the float values: what is measured further
                down is what the layers there do to undisturbed inputs.
            threads: Threads per operator.

        Raises:
            CannotRunError: The models do not fit together, or the runtime does not take them.
        """
        self._layers = tuple(layers)
        joined = _joined(model, quantized, self._layers, frozenset(cancelled), frozenset(restored))
        try:
            self._session = Session(joined, threads=threads)
        except ValueError as error:  # protobuf's limit of 2 GB
            raise CannotRunError(
                "the model is too large to be compared with its quantized form layer by layer",
                "leave out the correction of biases and the figures per layer",
            ) from error

    def run(self, feed: Feed) -> dict[str, LayerError]:
        """Compare one sample, by the name of the layer.

        Raises:
            CannotRunError: The runtime does not run the models on this sample.
        """
        try:
            outputs = self._session.run(feed)
        except FeedRefusedError as error:
            raise CannotRunError(
                f"the runtime refuses a sample: {error}", "check its shape and type"
            ) from error
        return {layer.name: _layer_error(layer, outputs) for layer in self._layers}

    def run_all(self, samples: Samples | Sequence[Feed]) -> dict[str, LayerError]:
        """Compare all samples, one by one, and merge what is found."""
        source = held(samples)
        merged: dict[str, LayerError] = {}
        for index in range(len(source)):
            for name, error in self.run(source.feed(index)).items():
                merged[name] = merged[name].merged(error) if name in merged else error
        return merged


def layer_errors(
    model: onnx.ModelProto,
    quantized: onnx.ModelProto,
    samples: Samples | Sequence[Feed],
    threads: int = 1,
) -> dict[str, LayerError]:
    """The error of every layer as it is in the quantized model, with all that came before it.

    Raises:
        CannotRunError: The runtime does not take the models or a sample.
    """
    layers = layers_of(model, quantized)
    return PairedModel(model, quantized, layers, threads=threads).run_all(samples)


def _layer_error(layer: Layer, outputs: Mapping[str, NDArray[Any]]) -> LayerError:
    signal, noise, drift, count = (outputs[_place(layer, suffix)] for suffix in _SUFFIXES)
    sums = np.asarray(drift, np.float64).reshape(-1)
    distortion = Distortion(float(signal), float(noise))
    return LayerError(distortion, sums, int(count) // max(sums.size, 1))


def _place(layer: Layer, suffix: str) -> str:
    return f"onnxfold.{suffix}/{layer.name}"


def _joined(
    model: onnx.ModelProto,
    quantized: onnx.ModelProto,
    layers: Sequence[Layer],
    cancelled: frozenset[str],
    restored: frozenset[str],
) -> onnx.ModelProto:
    joined = onnx.ModelProto(ir_version=max(model.ir_version, quantized.ir_version))
    for domain, version in _opsets(model, quantized).items():
        joined.opset_import.add(domain=domain, version=version)
    joined.functions.extend(model.functions)
    graph = joined.graph
    graph.name = "paired"
    graph.input.extend(quantized.graph.input)
    reference = onnx.compose.add_prefix_graph(model.graph, _PREFIX, rename_inputs=False)
    graph.node.extend(reference.node)
    graph.initializer.extend(reference.initializer)
    graph.initializer.extend(quantized.graph.initializer)
    probed = {layer.quantized: layer for layer in layers}
    renamed: dict[str, str] = {}
    for node in quantized.graph.node:
        graph.node.append(node)
        graph.node[-1].input[:] = [renamed.get(name, name) for name in node.input]
        for layer in (probed[name] for name in node.output if name in probed):
            _append_probes(graph, layer)
            if layer.name in restored:
                renamed[layer.quantized] = _PREFIX + layer.name
            elif layer.name in cancelled:
                renamed[layer.quantized] = _append_cancelled(graph, layer)
    return joined


def _opsets(model: onnx.ModelProto, quantized: onnx.ModelProto) -> dict[str, int]:
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    for entry in quantized.opset_import:
        if opsets.setdefault(entry.domain, entry.version) != entry.version:
            raise CannotRunError(
                "the float and the quantized model follow different operator sets",
                "convert them to the same one first",
            )
    return opsets


def _append(
    graph: onnx.GraphProto,
    layer: Layer,
    op_type: str,
    inputs: Sequence[str],
    suffix: str,
    **attributes: Any,
) -> str:
    output = _place(layer, suffix)
    graph.node.append(helper.make_node(op_type, inputs, [output], **attributes))
    return output


def _append_constant(
    graph: onnx.GraphProto, layer: Layer, numbers: NDArray[Any], suffix: str
) -> str:
    name = _place(layer, suffix)
    graph.initializer.append(numpy_helper.from_array(numbers, name))
    return name


def _append_probes(graph: onnx.GraphProto, layer: Layer) -> None:
    """Append the nodes that measure the error of one layer, with its channels along axis 1."""
    single = onnx.TensorProto.FLOAT
    reference = _append(graph, layer, "Cast", [_PREFIX + layer.name], "reference", to=single)
    found = _append(graph, layer, "Cast", [layer.quantized], "found", to=single)
    error = _append(graph, layer, "Sub", [found, reference], "error")
    rows, axes = error, [0, *range(2, layer.rank or 2)]
    if layer.rank is None:
        shape = _append_constant(graph, layer, np.array([-1, layer.channels]), "shape")
        rows = _append(graph, layer, "Reshape", [error, shape], "rows")
    _append(graph, layer, "ReduceSumSquare", [reference], "signal", keepdims=0)
    _append(graph, layer, "ReduceSumSquare", [error], "noise", keepdims=0)
    along = _append_constant(graph, layer, np.array(axes), "axes")
    _append(graph, layer, "ReduceSum", [rows, along], "drift", keepdims=1)
    _append(graph, layer, "Size", [error], "count")
    for suffix in _SUFFIXES:
        graph.output.add().name = _place(layer, suffix)


def _append_cancelled(graph: onnx.GraphProto, layer: Layer) -> str:
    """Append what takes the mean error out of a layer's output, and name the result."""
    total = _append(
        graph, layer, "Cast", [_place(layer, "count")], "total", to=onnx.TensorProto.FLOAT
    )
    channels = _append_constant(graph, layer, np.array(layer.channels, np.float32), "channels")
    share = _append(graph, layer, "Div", [total, channels], "share")
    mean = _append(graph, layer, "Div", [_place(layer, "drift"), share], "mean")
    if layer.rank is None:
        last = _append_constant(graph, layer, np.array([-1]), "last")
        mean = _append(graph, layer, "Reshape", [mean, last], "last_mean")
    cast = _append(graph, layer, "Cast", [mean], "cast_mean", to=layer.dtype)
    return _append(graph, layer, "Sub", [layer.quantized, cast], "cancelled")
