"""From a float model and samples to an INT8 model that its target really runs in INT8."""

from onnxfold.quantization.job import Quantization, quantize
from onnxfold.quantization.options import QuantizeOptions
from onnxfold.quantization.report import QuantizationReport

__all__ = ["Quantization", "QuantizationReport", "QuantizeOptions", "quantize"]
