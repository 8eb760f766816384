"""How fast models run beside each other, on the runtimes of this machine."""

from onnxfold.bench.measurement import Measurement, Timing, measure
from onnxfold.bench.runners import RUNTIMES, Precision
from onnxfold.bench.sittings import Sitting, Stop
from onnxfold.bench.statistics import Summary

__all__ = [
    "RUNTIMES",
    "Measurement",
    "Precision",
    "Sitting",
    "Stop",
    "Summary",
    "Timing",
    "measure",
]
