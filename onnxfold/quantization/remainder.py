"""Float16 for what stays float in a quantized model."""

import onnx

from onnxfold.calibrate.statistics import Calibration
from onnxfold.model import to_proto
from onnxfold.precision import Float16Options, convert_to_float16
from onnxfold.quantization.floats import with_shapes
from onnxfold.rewrite.tensor_store import MemoryStore


def with_float16(model: onnx.ModelProto, calibration: Calibration) -> tuple[onnx.ModelProto, int]:
    """The model with float16 between its Q/DQ, and how many nodes stay float32.

    Args:
        model: With Q/DQ.
        calibration: Of the float model; values keep their names.
    """
    converted = with_shapes(model)
    ranges = {name: (each.minimum, each.maximum) for name, each in calibration.tensors.items()}
    islands = convert_to_float16(converted, Float16Options(), ranges, MemoryStore())
    return to_proto(converted), len(islands)
