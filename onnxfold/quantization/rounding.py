"""How the weights of one float model are rounded, made once for all that is quantized of it."""

from collections.abc import Callable

import onnx

from onnxfold.quantization.options import QuantizeOptions
from onnxfold.quantization.samples import Subset
from onnxfold.quantize.adaptive_rounding import AdaptiveRounding, Rounding
from onnxfold.quantize.second_moments import second_moments

_ENOUGH = 16
"""Samples that tell what the inputs of layers are like."""


def rounding_of(
    model: onnx.ModelProto,
    samples: Subset,
    options: QuantizeOptions,
    progress: Callable[[str], None],
) -> AdaptiveRounding | None:
    """What rounds the weights of a float model; None for the nearest integers.

    Args:
        model: The float model.
        samples: Those that it is calibrated with.
        options: Whether to, and threads.
        progress: Told what is being done.
    """
    if options.rounding is Rounding.NEAREST:
        return None
    progress("looking at what layers read")
    moments = second_moments(model, samples.first(_ENOUGH), options.runtime_threads)
    return AdaptiveRounding(model, moments)
