"""Rounds weights so that the output of their layer keeps its value, not each weight its own.

Rounding to the nearest integer is best for each weight alone. But errors of weights that read
correlated inputs add up or cancel at the output, where only `tr(E H Eᵀ)` counts (H: the second
moments of the input). So the columns of a kernel are rounded one after another, and what rounding
one of them does to the output is made up for by those that are not rounded yet, as well as that
goes: Frantar et al., GPTQ, 2023, after Hassibi and Stork, Optimal Brain Surgeon, 1993. With
`H⁻¹ = Uᵀ U`, U upper triangular, the error e of column j moves column k by `−e · U_jk / U_jj`.

Scales stay as they are, and so does everything else about the model: only integers move, few of
them by more than one.
"""

from enum import StrEnum

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from onnxfold.quantize.layers import Layer, constants_of, layers_of, producers_of
from onnxfold.quantize.second_moments import Moments
from onnxfold.quantize.weights import LIMIT

Floats = NDArray[np.float64]

_DAMPING = 0.05
"""Added to the diagonal of the moments, as a share of its mean: new inputs have other moments."""
_LEAST = 1e-30
"""The same where a layer has read nothing but zeros."""
_TOGETHER = 32
"""Columns whose errors are handed on to the columns behind them in one product."""


class Rounding(StrEnum):
    """How weights become integers.

    Attributes:
        ADAPTIVE: So that the outputs of layers keep their values, as far as samples tell.
        NEAREST: Each to the nearest integer.
    """

    ADAPTIVE = "adaptive"
    NEAREST = "nearest"


class AdaptiveRounding:
    """Rounds the weights of any Q/DQ form of one float model.

    What was rounded is kept: forms differ in which layers are quantized, seldom in their scales.
    """

    def __init__(self, model: onnx.ModelProto, moments: Moments) -> None:
        """Take note of the weights.

        Args:
            model: The float model.
            moments: Of what its layers read; weights of other layers are left as they are.
        """
        self._moments = moments
        constants = constants_of(model.graph)
        self._weights = {
            node.output[0]: constants[node.input[1]]
            for node in model.graph.node
            if node.output and node.output[0] in moments
        }
        self._model = model
        self._rounded: dict[tuple[str, bytes], NDArray[np.int8]] = {}

    def apply(self, quantized: onnx.ModelProto) -> onnx.ModelProto:
        """The Q/DQ model with other integers as weights; `quantized` is left as it is."""
        result = onnx.ModelProto()
        result.CopyFrom(quantized)
        producers, constants = producers_of(result.graph), constants_of(result.graph)
        uses: dict[str, int] = {}
        for node in result.graph.node:
            for name in node.input:
                uses[name] = uses.get(name, 0) + 1
        for layer in layers_of(self._model, quantized):
            node = producers[layer.quantized]
            dequantize = producers.get(node.input[1])
            if layer.name not in self._weights or dequantize is None:
                continue
            held = constants.get(dequantize.input[0])
            shared = uses[node.input[1]] > 1 or uses[dequantize.input[0]] > 1
            if held is None or held.data_type != onnx.TensorProto.INT8 or shared:
                continue
            scales = numpy_helper.to_array(constants[dequantize.input[1]])
            integers = self._of_layer(layer, node, scales)
            held.CopyFrom(numpy_helper.from_array(integers, held.name))
        return result

    def _of_layer(
        self, layer: Layer, node: onnx.NodeProto, scales: NDArray[np.float32]
    ) -> NDArray[np.int8]:
        key = (layer.name, scales.tobytes())
        if key not in self._rounded:
            self._rounded[key] = self._computed(layer, node, scales)
        return self._rounded[key]

    def _computed(
        self, layer: Layer, node: onnx.NodeProto, scales: NDArray[np.float32]
    ) -> NDArray[np.int8]:
        weight = numpy_helper.to_array(self._weights[layer.name]).astype(np.float64)
        blocks = self._moments[layer.name]
        groups = blocks[0].moments.shape[0]
        outputs_first = node.op_type == "Conv" or _is_transposed(node)
        rows = weight if outputs_first else weight.T
        kernel = rows.reshape(groups, layer.channels // groups, -1)
        steps = np.broadcast_to(scales.astype(np.float64), (layer.channels,)).reshape(groups, -1)
        integers = np.empty(kernel.shape, np.int8)
        for block in blocks:
            integers[:, :, block.columns] = rounded(
                kernel[:, :, block.columns], steps, block.moments.astype(np.float64)
            )
        result = integers.reshape(rows.shape)
        return result if outputs_first else np.ascontiguousarray(result.T)


def _is_transposed(node: onnx.NodeProto) -> bool:
    return any(each.name == "transB" and each.i for each in node.attribute)


def rounded(kernel: Floats, steps: Floats, moments: Floats, limit: int = LIMIT) -> NDArray[np.int8]:
    """The integers of a kernel that keep its output.

    Args:
        kernel: (groups, outputs, columns).
        steps: What one is worth in each output, (groups, outputs).
        moments: Of the inputs, (groups, columns, columns); where they overflow, they tell nothing.
        limit: The largest integer; its negative is the smallest.

    Returns:
        int8, of the shape of `kernel`.
    """
    if not np.isfinite(moments).all():
        moments = np.zeros_like(moments)
    # First what carries most: what carries little can make up for much, and is rounded last.
    order = np.argsort(-np.einsum("gii->gi", moments), axis=1, kind="stable")
    factors = _factors(moments, order)
    # Columns first, so that what is changed at once lies together: (columns, groups, outputs).
    sorted_rows = np.take_along_axis(kernel, order[:, None, :], axis=2) / steps[:, :, None]
    left = np.ascontiguousarray(sorted_rows.transpose(2, 0, 1))
    total = len(left)
    for start in range(0, total, _TOGETHER):
        stop = min(start + _TOGETHER, total)
        errors = np.empty((stop - start, *left.shape[1:]))
        for column in range(start, stop):
            integers = np.clip(np.rint(left[column]), -limit, limit)
            error = left[column] - integers
            left[column] = integers
            left[column + 1 : stop] -= factors[column + 1 : stop, column, :, None] * error
            errors[column - start] = error
        left[stop:] -= np.einsum("kcg,cgo->kgo", factors[stop:, start:stop], errors, optimize=True)
    result = np.empty(kernel.shape, np.int8)
    np.put_along_axis(result, order[:, None, :], left.transpose(1, 2, 0).astype(np.int8), axis=2)
    return result


def _factors(moments: Floats, order: NDArray[np.intp]) -> Floats:
    """`U_jk / U_jj` of the moments in this order, as [k, j, group]."""
    damped = np.take_along_axis(moments, order[:, :, None], axis=1)
    damped = np.take_along_axis(damped, order[:, None, :], axis=2)
    mean = np.einsum("gii->g", moments) / moments.shape[1]
    damped = damped + np.eye(moments.shape[1]) * (_DAMPING * mean + _LEAST)[:, None, None]
    lower = np.linalg.cholesky(np.linalg.inv(damped))
    found = lower / np.einsum("gii->gi", lower)[:, None, :]
    return np.ascontiguousarray(found.transpose(1, 2, 0))
