"""How near the quantized model is to the float one, on the runtime that it is for."""

import math
from functools import reduce

import onnx

from onnxfold.bench.runners import Runner, Settings, content_of, open_runtime
from onnxfold.errors import NotAccurateError
from onnxfold.quantization.samples import Subset
from onnxfold.quantize.metrics import Comparison

_SURE, _MARGIN = 20.0, 10.0
"""In dB: what bfloat16 beside the integers never costs, even where all is exact."""


def compare_on(
    runtime: str,
    floats: onnx.ModelProto,
    quantized: onnx.ModelProto,
    samples: Subset,
    threads: int | None,
) -> Comparison:
    """Run both models on a runtime, what stays float in the precision that it likes best.

    The float model runs in single precision.

    Raises:
        CannotRunError: The runtime is not installed, or refuses a model.
    """
    opened = open_runtime(runtime)
    names = [value.name for value in floats.graph.output]
    before = opened.load(content_of(floats), Settings(threads, "f32"))
    after = opened.load(content_of(quantized), Settings(threads, "default"))
    return reduce(
        Comparison.merged,
        (_compare_one(before, after, names, samples, index) for index in range(len(samples))),
    )


def refuse_other_results(reference: Comparison, measured: Comparison, title: str) -> None:
    """Do not hand out a model that its target computes wrongly.

    Backends have bugs that only a run of theirs shows.

    Args:
        reference: The quantized model beside the float one on ONNX Runtime.
        measured: The same on the target.
        title: Of the target.

    Raises:
        NotAccurateError: The target is much further off.
    """
    limit = min(reference.sqnr, _SURE) - _MARGIN
    if math.isnan(reference.sqnr) or measured.sqnr >= limit:
        return
    raise NotAccurateError(
        f"{title} computes something else than ONNX Runtime from the quantized model: "
        f"{measured.sqnr:.1f} dB, and not {reference.sqnr:.1f} dB",
        "it has a bug: find the layers with --exclude and report them, or leave the model in float",
    )


def _compare_one(
    before: Runner, after: Runner, names: list[str], samples: Subset, index: int
) -> Comparison:
    feed = samples.feed(index)
    outputs = []
    for runner in (before, after):
        runner.bind(feed)
        outputs.append(dict(zip(names, runner.outputs(), strict=True)))
    return Comparison.of(*outputs)
