"""What OpenVINO's CPU plugin runs in INT8, read from the graph that it executes."""

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from onnxfold.errors import CannotRunError
from onnxfold.ir.graph import is_op
from onnxfold.model import save
from onnxfold.targets.proof import Precision, Proof
from onnxfold.targets.proof_graph import MULTIPLY_ADDS, infer_quantized_shapes, layers_of
from onnxfold.targets.proof_openvino_reasons import reason_for_float
from onnxfold.targets.proof_placement import (
    Placement,
    layer_precision,
    tag,
    tagged,
    unfused_values,
    untagged,
    with_absorbed,
)

_COMPUTING = frozenset({"Convolution", "Deconvolution", "FullyConnected", "MatMul"})
"""Types of executed layers that do the work of Conv, ConvTranspose, Gemm and MatMul."""

_NOT_COMPUTING = frozenset({"Const", "Convert", "Input", "Output", "Reorder"})

_INTEGERS = frozenset({"u8", "i8", "boolean"})


def prove_openvino(model: ir.Model, inference_precision: str | None = None) -> Proof:
    """Compile a model with OpenVINO for the CPU and say how every layer runs.

    Args:
        model: Its nodes are renamed and its shapes inferred.
        inference_precision: What to run the rest in, `f32` or `bf16`; OpenVINO's own choice for
            this processor when None.

    Raises:
        CannotRunError: OpenVINO is not installed or refuses the model.
    """
    infer_quantized_shapes(model)
    layers = layers_of(model)
    nodes = tag(model)
    executed = list(_executed(model, nodes, inference_precision))
    places = with_absorbed(nodes, _places(nodes, executed))
    return Proof(
        target="openvino",
        compiled=True,
        layers=tuple(
            layer_precision(layer, places.get(layer.node), reason_for_float) for layer in layers
        ),
        unfused=unfused_values(model, places),
        kernels=Counter(each.layer_type for each in executed),
    )


@dataclass(frozen=True, slots=True)
class _Executed:
    """A layer of the graph that is executed.

    Attributes:
        layer_type: What it does, in OpenVINO's words.
        primitive: The kernel that does it.
        precision: The element type that it computes on.
        names: The layers of the model that it was made of.
    """

    layer_type: str
    primitive: str
    precision: str
    names: tuple[str, ...]

    @property
    def integer(self) -> bool:
        """Whether it computes on 8-bit integers."""
        if self.layer_type in _COMPUTING:
            return self.primitive.upper().endswith("_I8")
        return self.precision in _INTEGERS


def _executed(
    model: ir.Model, nodes: list[ir.Node], inference_precision: str | None
) -> Iterator[_Executed]:
    try:
        import openvino
    except ImportError as error:
        raise CannotRunError(
            "OpenVINO is not installed", "pip install 'onnxfold[openvino]'"
        ) from error
    config: dict[str, Any] = {"INFERENCE_NUM_THREADS": 1}
    if inference_precision is not None:
        config["INFERENCE_PRECISION_HINT"] = inference_precision
    with tempfile.TemporaryDirectory(prefix="onnxfold-") as folder:
        path = Path(folder, "model.onnx")
        save(model, path)
        try:
            core = openvino.Core()
            compiled = core.compile_model(core.read_model(str(path)), "CPU", config)
        except RuntimeError as error:
            raise CannotRunError(
                f"OpenVINO refuses the model: {untagged(_last_line(error), nodes)}",
                "check that it supports every operator of the model",
            ) from error
        for layer in compiled.get_runtime_model().get_ordered_ops():
            told = layer.get_rt_info()
            yield _Executed(
                layer_type=_text(told, "layerType"),
                primitive=_text(told, "primitiveType"),
                precision=_text(told, "runtimePrecision"),
                names=(*_text(told, "originalLayersNames").split(","), layer.get_friendly_name()),
            )


def _text(told: Any, key: str) -> str:
    return str(told[key].value if hasattr(told[key], "value") else told[key]) if key in told else ""


def _last_line(error: RuntimeError) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip(". ")[:300] if lines else type(error).__name__


def _places(nodes: list[ir.Node], executed: Iterable[_Executed]) -> dict[ir.Node, Placement]:
    """How every node runs; the node before a graph output goes by the name of that output."""
    by_output = {
        output.name: node for node in nodes for output in node.outputs if output.is_graph_output()
    }
    found: dict[ir.Node, list[_Executed]] = {}
    for each in executed:
        if each.layer_type in _NOT_COMPUTING:
            continue
        for name in each.names:
            index = tagged(name)
            node = by_output.get(name) if index is None else nodes[index]
            if node is not None:
                found.setdefault(node, []).append(each)
    return {node: _placement(node, candidates) for node, candidates in found.items()}


def _placement(node: ir.Node, candidates: list[_Executed]) -> Placement:
    """One node may be executed in parts: its arithmetic counts, not what is around it."""
    if is_op(node, *MULTIPLY_ADDS):
        computing = [each for each in candidates if each.layer_type in _COMPUTING]
        candidates = computing or candidates
    one = candidates[0]
    precision = Precision.INT8 if one.integer else Precision.FLOAT
    return Placement(precision, f"{one.layer_type} {one.primitive}".strip())
