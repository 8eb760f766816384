"""onnxfold: folds what is linear in an ONNX graph, and proves the result equal.

import onnxfold
result = onnxfold.optimize("in.onnx", "out.onnx")
print(result.report.after.nodes)
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxfold.interop.graphsurgeon import graphsurgeon_pass
    from onnxfold.model import load, save
    from onnxfold.optimization import Optimization, OptimizeOptions, optimize
    from onnxfold.pipeline.manager import PassManager
    from onnxfold.pipeline.passes import EditPass, ModelPass, RulePass
    from onnxfold.quantization import Quantization, QuantizeOptions
    from onnxfold.verify import VerifyOptions

_HOMES = {
    "EditPass": "onnxfold.pipeline.passes",
    "ModelPass": "onnxfold.pipeline.passes",
    "Optimization": "onnxfold.optimization",
    "OptimizeOptions": "onnxfold.optimization",
    "PassManager": "onnxfold.pipeline.manager",
    "Quantization": "onnxfold.quantization",
    "QuantizeOptions": "onnxfold.quantization",
    "RulePass": "onnxfold.pipeline.passes",
    "VerifyOptions": "onnxfold.verify",
    "graphsurgeon_pass": "onnxfold.interop.graphsurgeon",
    "load": "onnxfold.model",
    "optimize": "onnxfold.optimization",
    "save": "onnxfold.model",
}
"""Where the public names live: imported on first use, because `onnxfold --help` must be quick."""

__all__ = [
    "EditPass",
    "ModelPass",
    "Optimization",
    "OptimizeOptions",
    "PassManager",
    "Quantization",
    "QuantizeOptions",
    "RulePass",
    "VerifyOptions",
    "graphsurgeon_pass",
    "load",
    "optimize",
    "save",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'onnxfold' has no attribute '{name}'")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
