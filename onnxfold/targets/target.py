"""The backends that INT8 models are made for."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import onnx_ir as ir

from onnxfold.errors import BadModelError, BadOptionError
from onnxfold.ir.graph import ONNX_DOMAINS, describe
from onnxfold.quantize.plan import Plan, observed_values
from onnxfold.targets import openvino, ort_cpu, tensorrt
from onnxfold.targets.layers import quantized_node

FIRST_OPSET = 13
"""The first operator set whose QuantizeLinear takes a scale per channel."""


@dataclass(frozen=True, slots=True)
class Target:
    """One backend.

    Attributes:
        name: As it is typed.
        title: As it is shown.
        lowering: Passes, as they are typed, that rewrite what it cannot compute with integers into
            what it can.
    """

    name: str
    title: str
    lowering: tuple[str, ...]
    _plan: Callable[[ir.Graph, frozenset[str]], Plan]

    def plan(self, graph: ir.Graph, excluded: Iterable[str] = ()) -> Plan:
        """What to quantize.

        Args:
            graph: Of a float model whose shapes are inferred.
            excluded: Names of layers that stay float.

        Raises:
            BadModelError: The model is quantized already, or its operator set is too old.
            BadOptionError: There is no such layer.
        """
        _check_model(graph)
        names = frozenset(excluded)
        _check_names(graph, names)
        return self._plan(graph, names)


TARGETS: Mapping[str, Target] = MappingProxyType(
    {
        target.name: target
        for target in (
            Target(
                name="ort-cpu",
                title="ONNX Runtime on a CPU",
                lowering=(
                    "lower_conv_transpose:overlapping=true",  # no integer kernel for any of them
                    "lower_prelu",
                    "lower_reduce_mean",
                    "split_depthwise",
                ),
                _plan=ort_cpu.plan,
            ),
            Target(
                name="openvino",
                title="OpenVINO on a CPU",
                lowering=("lower_conv_transpose", "lower_reduce_mean", "split_depthwise"),
                _plan=openvino.plan,
            ),
            Target(
                name="tensorrt",
                title="TensorRT",
                lowering=("lower_conv_transpose",),
                _plan=tensorrt.plan,
            ),
        )
    }
)

_FLOAT_ONLY = {
    "ort-cuda": "ONNX Runtime's CUDA provider",
    "cuda-ep": "ONNX Runtime's CUDA provider",
    "cuda": "ONNX Runtime's CUDA provider",
    "ort-dml": "ONNX Runtime's DirectML provider",
    "generic": "an unknown backend",
}


def target_named(name: str) -> Target:
    """The target of that name.

    Raises:
        BadOptionError: There is none, or INT8 does not pay there.
    """
    if name in TARGETS:
        return TARGETS[name]
    if name in _FLOAT_ONLY:
        raise BadOptionError(
            f"{_FLOAT_ONLY[name]} computes Q/DQ in float, which is slower than without them",
            "use fp16 there instead: --passes to_fp16",
        )
    raise BadOptionError(f"there is no target '{name}'", f"targets: {', '.join(TARGETS)}")


def values_to_observe(graph: ir.Graph, targets: Iterable[Target] | None = None) -> tuple[str, ...]:
    """The values whose ranges are needed by any of these targets; by all there are when None."""
    chosen = TARGETS.values() if targets is None else targets
    return observed_values(target.plan(graph) for target in chosen)


def _check_model(graph: ir.Graph) -> None:
    node = quantized_node(graph)
    if node is not None:
        raise BadModelError(
            f"the model is quantized already: it holds {describe(node)}",
            "start from the float model, or leave this one as it is",
        )
    found = [graph.opset_imports[d] for d in ONNX_DOMAINS if d in graph.opset_imports]
    version = max(found, default=0)
    if version < FIRST_OPSET:
        raise BadModelError(
            f"the model follows operator set {version}, and INT8 needs {FIRST_OPSET} or later",
            "export it again, or convert it with onnx.version_converter and verify the result",
        )


def _check_names(graph: ir.Graph, names: frozenset[str]) -> None:
    known = {output.name for node in graph for output in node.outputs[:1]}
    for name in sorted(names - known):
        raise BadOptionError(
            f"there is no layer '{name}' to exclude",
            "layers are named after the first output of their node",
        )
