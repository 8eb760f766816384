"""Takes the mean error of every layer out of its bias.

Rounding weights and clipping activations shifts the mean of each output channel, and a shift adds
up over a network where noise averages out. The shift is measured and subtracted from the bias:

    b' = b − E[y_quantized − y_float]     per output channel

Layers are corrected in topological order, each with the quantized and corrected layers before it,
as if the model were run once per layer. One run per sample is enough: the paired graph takes the
mean error of each layer out where it arises, so that the layers behind it see corrected inputs.
What a few samples can tell of a mean is limited; the estimate is shrunk by its own sampling noise,
`max(0, 1 − s² / (n · m²))` with s² the variance of the mean error from sample to sample.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxfold.calibrate.chunks import Samples
from onnxfold.quantize.bias_editor import BiasEditor
from onnxfold.quantize.evaluation import Feed, held
from onnxfold.quantize.layers import Layer, layers_of
from onnxfold.quantize.paired import PairedModel

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class BiasCorrection:
    """What was corrected.

    Attributes:
        model: The quantized model with new biases.
        corrected: Names of the layers, with the root mean square of the shift that was taken out as
            a share of that of the layer's output.
        skipped: Names of the others, with the reason.
    """

    model: onnx.ModelProto
    corrected: Mapping[str, float]
    skipped: Mapping[str, str]


@dataclass(slots=True)
class _Shift:
    """Sums over samples of the mean error of a layer's channels, and of its square."""

    total: Floats
    squares: Floats
    signal: float = 0.0
    count: int = 0

    def estimate(self, samples: int) -> Floats:
        """The mean over samples, shrunk by what the spread between samples leaves open."""
        mean = self.total / samples
        if samples < 2:
            return mean
        variance = np.maximum(self.squares - samples * mean**2, 0) / (samples - 1)
        known = np.zeros_like(mean)
        np.divide(variance, samples * mean**2, out=known, where=mean != 0)
        return mean * np.maximum(1 - known, 0)

    def share(self, shift: Floats) -> float:
        """Root mean square of `shift` over that of the output."""
        if self.signal == 0:
            return 0.0
        energy = float((shift**2).mean()) * self.count * shift.size
        return float(np.sqrt(energy / self.signal))


def correct_biases(
    model: onnx.ModelProto,
    quantized: onnx.ModelProto,
    samples: Samples | Sequence[Feed],
    threads: int = 1,
) -> BiasCorrection:
    """Correct the biases of a Q/DQ model of any target.

    Integer biases stay integers of their scale, float ones stay float; a layer without a bias gets
    one of the kind that the model uses elsewhere.

    Args:
        model: The float model that was quantized.
        quantized: Its Q/DQ form; left as it is.
        samples: What to measure with; a few dozen are enough.
        threads: Threads per operator.

    Raises:
        CannotRunError: The runtime does not take the models or a sample.
    """
    layers = layers_of(model, quantized)
    source = held(samples)
    if not layers or not len(source):
        return BiasCorrection(quantized, {}, {})
    shifts = _measure(model, quantized, layers, source, threads)
    result = onnx.ModelProto()
    result.CopyFrom(quantized)
    editor = BiasEditor(result.graph)
    corrected: dict[str, float] = {}
    skipped: dict[str, str] = {}
    for layer in layers:
        shift = shifts[layer.name].estimate(len(source))
        if not np.isfinite(shift).all():
            skipped[layer.name] = "its error is not finite"
        elif (reason := editor.subtract(layer, shift)) is not None:
            skipped[layer.name] = reason
        else:
            corrected[layer.name] = shifts[layer.name].share(shift)
    editor.drop_unread()
    return BiasCorrection(result, corrected, skipped)


def _measure(
    model: onnx.ModelProto,
    quantized: onnx.ModelProto,
    layers: Sequence[Layer],
    samples: Samples,
    threads: int,
) -> dict[str, _Shift]:
    names = [layer.name for layer in layers]
    paired = PairedModel(model, quantized, layers, cancelled=names, threads=threads)
    shifts = {
        layer.name: _Shift(np.zeros(layer.channels), np.zeros(layer.channels)) for layer in layers
    }
    for index in range(len(samples)):
        for name, error in paired.run(samples.feed(index)).items():
            shift, mean = shifts[name], error.mean_error
            shift.total += mean
            shift.squares += mean**2
            shift.signal += error.distortion.signal
            shift.count += error.count
    return shifts
