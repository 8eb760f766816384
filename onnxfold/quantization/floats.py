"""The float model that is quantized: folded, lowered for the target, equalized."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from onnxfold.calibrate import store
from onnxfold.calibrate.chunks import Samples
from onnxfold.calibrate.statistics import Calibration
from onnxfold.errors import BadModelError
from onnxfold.ir.graph import describe, opset_version
from onnxfold.ir.interface import pin_input_shapes
from onnxfold.ir.shapes import infer_shapes
from onnxfold.model import load, to_proto
from onnxfold.model.read import PROTOBUF_LIMIT
from onnxfold.optimization import OptimizeOptions, Source, optimize
from onnxfold.pipeline.manager import PassManager
from onnxfold.pipeline.passes import ConfiguredPass
from onnxfold.pipeline.registry import Registry
from onnxfold.pipeline.report import OptimizationReport
from onnxfold.quantization.adapted import (
    needs_adapting,
    with_new_opset,
    with_single_precision,
)
from onnxfold.quantization.options import QuantizeOptions
from onnxfold.quantize.equalize import values_to_observe
from onnxfold.targets.layers import quantized_node
from onnxfold.targets.target import Target

Progress = Callable[[str], None]

_VERIFIED_SAMPLES = 2


@dataclass(frozen=True, slots=True)
class Changed:
    """A float model that passes made of another one.

    Attributes:
        model: The result.
        report: What was done; None when there was nothing to do.
    """

    model: onnx.ModelProto
    report: OptimizationReport | None


@dataclass(frozen=True, slots=True)
class ReadModel:
    """The model to quantize.

    Attributes:
        model: In float32, of an operator set that has scales per channel; shapes are pinned.
        as_it_came: What it was converted from; None where nothing had to be converted.
        notes: What was converted.
    """

    model: ir.Model
    as_it_came: onnx.ModelProto | None
    notes: tuple[str, ...]


def read(source: Source, options: QuantizeOptions) -> ReadModel:
    """The model as it came, with its shapes pinned, in a form that can be quantized.

    Raises:
        BadModelError: It cannot be read or converted, is quantized already, or is too large.
        BadOptionError: A shape does not fit.
    """
    model = load(source).model
    pin_input_shapes(model, options.input_shapes)
    refuse_quantized(model)
    weights = (value.const_value for value in model.graph.initializers.values())
    if sum(tensor.nbytes for tensor in weights if tensor is not None) > PROTOBUF_LIMIT // 2:
        raise BadModelError(
            "the weights are over 1 GB, and a model is quantized in memory as one message",
            "quantize it in parts",
        )
    return _adapted(model)


def _adapted(model: ir.Model) -> ReadModel:
    infer_shapes(model)
    notes: list[str] = []
    before = to_proto(model) if needs_adapting(model) else None
    if (converted := with_new_opset(model)) is not model:
        notes.append(
            f"converted from operator set {opset_version(model)} to {opset_version(converted)}, "
            "and proven equal"
        )
        infer_shapes(converted)
    if with_single_precision(converted):
        notes.append("converted from float16 to float32, but for inputs and outputs")
    return ReadModel(converted, before, tuple(notes))


def refuse_quantized(model: ir.Model) -> None:
    """Do not quantize twice.

    Raises:
        BadModelError: The model holds Q/DQ or integer operators.
    """
    node = quantized_node(model.graph)
    if node is not None:
        raise BadModelError(
            f"the model is quantized already: it holds {describe(node)}",
            "quantize the float model, or run `onnxfold optimize` on this one: it keeps the scales",
        )


def folded(
    source: onnx.ModelProto, samples: Samples, options: QuantizeOptions, progress: Progress
) -> Changed:
    """The model after the default passes, proven equal."""
    if not options.optimize:
        return Changed(source, None)
    from onnxfold.passes.presets import DEFAULT

    passes = [ConfiguredPass(step, step.options_type()) for step in DEFAULT]
    return _verified(source, passes, samples, options, progress)


def lowered(
    model: onnx.ModelProto,
    target: Target,
    samples: Samples,
    options: QuantizeOptions,
    progress: Progress,
) -> Changed:
    """The model with what the target has no integer kernels for in operators that have some."""
    from onnxfold.passes.presets import BUILTIN

    passes = Registry(BUILTIN).parse(",".join(target.lowering))
    if not PassManager(passes).run(load(model).model).ledger.applied:
        return Changed(model, None)
    return _verified(model, passes, samples, options, progress)


def equalizable(model: onnx.ModelProto) -> list[str]:
    """The values whose channels have to be known to equalize the model."""
    graph = load(model).model
    infer_shapes(graph)
    return values_to_observe(graph.graph)


def equalized(
    model: onnx.ModelProto,
    calibration: Calibration,
    samples: Samples,
    options: QuantizeOptions,
    progress: Progress,
) -> Changed:
    """The model with channels scaled between layers, proven equal."""
    from onnxfold.passes.presets import BUILTIN

    step = Registry(BUILTIN).get("equalize_layers")
    with tempfile.TemporaryDirectory(prefix="onnxfold-") as folder:
        file = Path(folder, "channels.npz")
        store.save(calibration, file)
        passes = [ConfiguredPass(step, step.options_type(calibration=str(file)))]
        changed = _verified(model, passes, samples, options, progress)
    unchanged = changed.report is None or not changed.report.applied
    return Changed(model, None) if unchanged else changed


def _verified(
    model: onnx.ModelProto,
    passes: Sequence[ConfiguredPass],
    samples: Samples,
    options: QuantizeOptions,
    progress: Progress,
) -> Changed:
    result = optimize(
        model,
        passes=passes,
        options=OptimizeOptions(threads=options.threads),
        data=[samples.feed(index) for index in range(min(_VERIFIED_SAMPLES, len(samples)))],
        progress=progress,
    )
    return Changed(result.to_proto(), result.report)


def with_shapes(model: onnx.ModelProto) -> ir.Model:
    """A copy of the model to plan on and to rewrite."""
    graph = load(model).model
    infer_shapes(graph)
    return graph
