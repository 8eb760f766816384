"""Which parts of a network float16 is enough for, and the Casts around the others."""

from onnxfold.precision.comparison import Offender, offenders
from onnxfold.precision.conversion import Island, convert_to_float16
from onnxfold.precision.execution import rounding_model
from onnxfold.precision.magnitudes import values_to_measure
from onnxfold.precision.options import Float16Options

__all__ = [
    "Float16Options",
    "Island",
    "Offender",
    "convert_to_float16",
    "offenders",
    "rounding_model",
    "values_to_measure",
]
