"""What the values of a network are on real data, and which range of them integers should cover."""

from onnxfold.calibrate.histogram import Histogram
from onnxfold.calibrate.ranges import Method, quantization_error, select_range
from onnxfold.calibrate.scheme import (
    INT8,
    INT8_NARROW,
    UINT8,
    UINT8_CENTRED,
    UINT8_NON_NEGATIVE,
    Quantization,
    Range,
    Scheme,
    quantization_of,
)
from onnxfold.calibrate.statistics import Calibration, TensorStatistics

__all__ = [
    "INT8",
    "INT8_NARROW",
    "UINT8",
    "UINT8_CENTRED",
    "UINT8_NON_NEGATIVE",
    "Calibration",
    "Histogram",
    "Method",
    "Quantization",
    "Range",
    "Scheme",
    "TensorStatistics",
    "quantization_error",
    "quantization_of",
    "select_range",
]
