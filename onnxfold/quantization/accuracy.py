"""How near the quantized model is to the float one, on the runtime that it is for."""

from functools import reduce

import onnx

from onnxfold.bench.runners import Runner, Settings, content_of, open_runtime
from onnxfold.quantization.samples import Subset
from onnxfold.quantize.metrics import Comparison


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


def _compare_one(
    before: Runner, after: Runner, names: list[str], samples: Subset, index: int
) -> Comparison:
    feed = samples.feed(index)
    outputs = []
    for runner in (before, after):
        runner.bind(feed)
        outputs.append(dict(zip(names, runner.outputs(), strict=True)))
    return Comparison.of(*outputs)
