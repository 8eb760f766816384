"""Small float models with Q/DQ where a target wants it, and what runtimes make of them."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from onnxfold.calibrate.scheme import Range
from onnxfold.ir.graph import stamp_opset_versions
from onnxfold.ir.shapes import infer_shapes
from onnxfold.model import load, to_proto
from onnxfold.quantize.emit import EmitOptions, insert
from onnxfold.quantize.plan import Plan
from onnxfold.rewrite.ledger import Ledger
from onnxfold.rewrite.rewriter import Rewriter
from onnxfold.rewrite.tensor_store import MemoryStore
from onnxfold.targets.target import target_named

Array = NDArray[Any]
Feed = Mapping[str, Array]

SIZES = {"N": 1, "H": 16, "W": 12}
"""Extents of symbolic axes."""


def normal(name: str, *shape: int, scale: float = 1.0) -> NDArray[np.float32]:
    """Normally distributed numbers, drawn from the name."""
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    return (scale * generator.standard_normal(shape)).astype(np.float32)


def layer(name: str, *shape: int) -> dict[str, Array]:
    """Weight `<name>` of an operator, scaled to keep magnitudes, and its bias `<name>b`."""
    fan_in = int(np.prod(shape[1:]))
    return {
        name: normal(name, *shape, scale=fan_in**-0.5),
        f"{name}b": normal(f"{name}b", shape[0]),
    }


def feeds(model: onnx.ModelProto, count: int = 2) -> list[dict[str, Array]]:
    """Inputs of either sign for a model, or its integer inputs in 0 to 3."""
    given = {initializer.name for initializer in model.graph.initializer}
    found = []
    for index in range(count):
        feed: dict[str, Array] = {}
        for value in model.graph.input:
            if value.name not in given:
                kind = value.type.tensor_type
                shape = [d.dim_value or SIZES.get(d.dim_param, 4) for d in kind.shape.dim]
                drawn = normal(f"{value.name}{index}", *shape)
                dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
                feed[value.name] = np.asarray(drawn if dtype.kind == "f" else drawn > 0, dtype)
        found.append(feed)
    return found


def plan_of(model: onnx.ModelProto, target: str, excluded: Collection[str] = ()) -> Plan:
    """What a target wants quantized in a model."""
    loaded = load(model).model
    infer_shapes(loaded)
    stamp_opset_versions(loaded)
    return target_named(target).plan(loaded.graph, excluded)


def ranges(model: onnx.ModelProto, values: Sequence[str], data: Sequence[Feed]) -> dict[str, Range]:
    """The extremes of values over some inputs."""
    seen = onnx.ModelProto()
    seen.CopyFrom(model)
    outputs = {output.name for output in seen.graph.output}
    inputs = {value.name for value in seen.graph.input}
    wanted = [value for value in values if value not in inputs]
    for value in wanted:
        if value not in outputs:
            seen.graph.output.append(
                onnx.helper.make_tensor_value_info(value, onnx.TensorProto.FLOAT, None)
            )
    runs = [dict(feed) for feed in data]
    for each in runs if wanted else ():
        each.update(zip(wanted, run(seen, each, wanted), strict=True))
    return {
        value: Range(
            min(0.0, *(float(each[value].min()) for each in runs)),
            max(0.0, *(float(each[value].max()) for each in runs)),
        )
        for value in values
    }


def emitted(
    model: onnx.ModelProto,
    target: str,
    excluded: Collection[str] = (),
    *,
    data: Sequence[Feed] | None = None,
    options: EmitOptions | None = None,
    ledger: Ledger | None = None,
) -> tuple[Plan, onnx.ModelProto]:
    """The plan for a model, and the model with its Q/DQ, which the checker has seen."""
    plan = plan_of(model, target, excluded)
    observed = ranges(model, list(plan.sources()), feeds(model) if data is None else data)
    loaded = load(model).model
    infer_shapes(loaded)
    stamp_opset_versions(loaded)
    insert(Rewriter(loaded, ledger or Ledger(), MemoryStore()), plan, observed, options)
    proto = to_proto(loaded)
    onnx.checker.check_model(proto, full_check=True)
    return plan, proto


def run(
    model: onnx.ModelProto, feed: Feed, outputs: Sequence[str] | None = None, *, fused: bool = False
) -> list[Array]:
    """Outputs by ONNX Runtime, as the nodes say or with its integer kernels."""
    levels = ort.GraphOptimizationLevel
    session = _session(model, levels.ORT_ENABLE_ALL if fused else levels.ORT_DISABLE_ALL)
    names = None if outputs is None else list(outputs)
    return [np.asarray(each) for each in session.run(names, dict(feed))]


def fused(model: onnx.ModelProto, folder: Path) -> onnx.GraphProto:
    """What ONNX Runtime makes of a model before it chooses layouts."""
    path = folder / "fused.onnx"
    _session(model, ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED, path)
    return onnx.load(path).graph


def _session(
    model: onnx.ModelProto, level: ort.GraphOptimizationLevel, path: Path | None = None
) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if path is not None:
        options.optimized_model_filepath = str(path)
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def kernels(graph: onnx.GraphProto) -> dict[str, int]:
    """How many nodes of each type there are."""
    return dict(Counter(node.op_type for node in graph.node))


def weights_dequantized_at_run_time(graph: onnx.GraphProto) -> list[str]:
    """The constants that a compiled graph still dequantizes."""
    constants = {initializer.name for initializer in graph.initializer}
    return [
        node.input[0]
        for node in graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in constants
    ]


def sqnr(reference: Array, other: Array) -> float:
    """Signal to quantization noise, in dB."""
    signal = reference.astype(np.float64)
    noise = np.square(signal - other).sum()
    return float(10 * np.log10(np.square(signal).sum() / max(noise, 1e-30)))
