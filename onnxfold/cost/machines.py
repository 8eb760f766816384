"""The machines that a model can be optimized for, by the names of INT8's targets."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from onnxfold.cost.machine import CostModel
from onnxfold.errors import BadOptionError

ANY = "any"

_ONNX_RUNTIME = CostModel()
_OPENVINO = CostModel(
    multiply_adds_per_second=2.5e11,
    depthwise_multiply_adds_per_second=1.8e11,
    transposed_share=0.86,
    scatter_passes=0.9,
    bytes_per_second=1.3e11,
    start_seconds=0.7e-6,
)

MACHINES: Mapping[str, CostModel] = MappingProxyType(
    {
        ANY: _ONNX_RUNTIME,
        "ort-cpu": _ONNX_RUNTIME,
        "openvino": _OPENVINO,
        "tensorrt": _ONNX_RUNTIME,
    }
)
"""What operators cost there, by `python -m tests.bench.unit_costs` on two cores of a server CPU
with AVX-512, onnxruntime 1.31.1 and OpenVINO 2026.4.1 in float32, November 2026.

`any` takes those of ONNX Runtime, which gains least from folding: whatever gained there in these
measurements gained on OpenVINO too. TensorRT was not measured, and takes them for want of its own.
"""


def machine_named(name: str) -> CostModel:
    """What operators cost on the target of that name.

    Raises:
        BadOptionError: There is none.
    """
    if name not in MACHINES:
        raise BadOptionError(f"there is no target '{name}'", f"targets: {', '.join(MACHINES)}")
    return MACHINES[name]


@dataclass(frozen=True, slots=True)
class MachineOptions:
    """Options of a pass that weighs what operators cost.

    Attributes:
        target: What the result is to run on, as in `MACHINES`.
    """

    target: str = ANY

    def __post_init__(self) -> None:
        """Refuse a name that is not known.

        Raises:
            BadOptionError: There is no such target.
        """
        machine_named(self.target)
