"""The main job: load, rewrite, prove equal, write."""

from onnxfold.optimization.job import Optimization, optimize
from onnxfold.optimization.options import Data, OptimizeOptions, Progress, Source

__all__ = ["Data", "Optimization", "OptimizeOptions", "Progress", "Source", "optimize"]
