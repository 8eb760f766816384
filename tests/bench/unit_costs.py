"""What operators cost on this machine: measures small graphs and fits a `CostModel` to them.

    python -m tests.bench.unit_costs [--runtime ort,openvino] [--threads 2] [--sittings 7]
    python -m tests.bench.unit_costs --save FILE     # keeps what was measured
    python -m tests.bench.unit_costs --load FILE     # fits again to what was kept

The numbers of `onnxfold/cost/machines.py` come from here, in under two minutes. Every graph is some
operators between two small 1×1 convolutions, as they stand in a network: blocked layouts and fused
additions count as they do there. Many come in pairs that compute the same, before and after a
rewrite: what decides in the end is how well the ratio of a pair is predicted, and `MARGIN` in
`pricing.py` is more than the median error of that. Printed are the fitted numbers, then measured
and predicted ratio of every pair, then the errors. Nothing else may run meanwhile.
"""

import argparse
import json
import math
import random
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxfold.bench.runners import Settings, open_runtime
from onnxfold.bench.sittings import run_rounds, shuffled
from onnxfold.cost.machine import CostModel
from onnxfold.ir.graph import stamp_opset_versions
from onnxfold.ir.shapes import infer_shapes
from onnxfold.linear.pricing import MARGIN, price_as_it_stands
from onnxfold.linear.reading import Reading, reading_of
from onnxfold.model import load

_EDGE = 8
"""Channels of what goes in and out."""

_PAIR_WEIGHT = 3.0
"""How much more the ratio of a pair counts than the time of one graph."""

_VAIN_WEIGHT = 9.0
"""The same where a gain is predicted that does not come: the rewrite is then made, and loses."""

_LEAST_START = 5e-7
"""Calling an operator takes as long at least; times of whole graphs do not show less."""

_ROUNDS, _WARM_UP = 15, 3


class Sketch:
    """A graph that grows from its inputs.

    Attributes:
        nodes: So far.
        weights: Their weights.
        inputs: Shapes by name.
        channels: Of every value.
    """

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.inputs: dict[str, tuple[int, ...]] = {}
        self._numbers = count()
        self.channels: dict[str, int] = {}
        self._draw = np.random.default_rng(0)

    def enter(self, channels: int, extent: int) -> str:
        """An image with so many channels that an operator of the graph has computed."""
        name = f"in{len(self.inputs)}"
        self.inputs[name] = (1, _EDGE, extent, extent)
        self.channels[name] = _EDGE
        return self.relu(self.conv(name, channels, 1))

    def op(self, kind: str, inputs: Sequence[str], channels: int, **attributes: Any) -> str:
        """One more node; its output."""
        name = f"v{next(self._numbers)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        self.channels[name] = channels
        return name

    def _weight(self, *shape: int) -> str:
        name = f"w{next(self._numbers)}"
        numbers = self._draw.standard_normal(shape, np.float32) / math.sqrt(math.prod(shape[1:]))
        self.weights.append(numpy_helper.from_array(numbers.astype(np.float32), name))
        return name

    def conv(self, x: str, channels: int, size: int, dilation: int = 1, groups: int = 1) -> str:
        """A convolution that keeps the extents."""
        weight = self._weight(channels, self.channels[x] // groups, size, size)
        inputs, pads = [x, weight, self._weight(channels)], [dilation * (size // 2)] * 4
        dilations = [dilation] * 2
        return self.op("Conv", inputs, channels, pads=pads, dilations=dilations, group=groups)

    def depthwise(self, x: str, size: int) -> str:
        """A convolution of every channel alone."""
        return self.conv(x, self.channels[x], size, groups=self.channels[x])

    def transposed(self, x: str, channels: int, size: int) -> str:
        """What nearest ×2 and a convolution with one tap less become."""
        inputs = [x, self._weight(self.channels[x], channels, size, size), self._weight(channels)]
        pads = [size // 2 - 1] * 4
        return self.op("ConvTranspose", inputs, channels, strides=[2, 2], pads=pads)

    def upsampled(self, x: str) -> str:
        """Every pixel twice in a row and twice in a column."""
        name = f"w{next(self._numbers)}"
        self.weights.append(numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), name))
        style = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return self.op("Resize", [x, "", name], self.channels[x], mode="nearest", **style)

    def pooled(self, x: str) -> str:
        """The mean of 3×3 pixels, padding counted."""
        return self.op(
            "AveragePool", [x], self.channels[x],
            kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1,
        )  # fmt: skip

    def relu(self, x: str) -> str:
        """An activation, which runtimes fuse into what stands before it."""
        return self.op("Relu", [x], self.channels[x])

    def add(self, x: str, y: str) -> str:
        """The sum of two."""
        return self.op("Add", [x, y], self.channels[x])

    def concat(self, x: str, y: str) -> str:
        """Both beside each other."""
        return self.op("Concat", [x, y], self.channels[x] + self.channels[y], axis=1)

    def model(self, last: str) -> onnx.ModelProto:
        """The graph that ends in a small convolution of `last`."""
        result = self.conv(self.relu(last), _EDGE, 1)
        image = TensorProto.FLOAT
        graph = helper.make_graph(
            self.nodes,
            "g",
            [helper.make_tensor_value_info(n, image, list(s)) for n, s in self.inputs.items()],
            [helper.make_tensor_value_info(result, image, None)],
            self.weights,
        )
        opset = [helper.make_opsetid("", 17)]
        return helper.make_model(graph, opset_imports=opset, ir_version=8)


def _chain(kind: str, channels: int, extent: int, size: int) -> onnx.ModelProto:
    sketch = Sketch()
    x = sketch.enter(channels, extent)
    for _ in range(3):
        if kind == "conv":
            x = sketch.relu(sketch.conv(x, channels, size))
        elif kind == "depthwise":
            x = sketch.relu(sketch.depthwise(x, size))
        elif kind == "pool":
            x = sketch.pooled(x)
        else:
            x = sketch.relu(sketch.add(x, sketch.conv(x, channels, size)))
    return sketch.model(x)


def _stage(up: int, skip: int, out: int, extent: int, folded: bool) -> onnx.ModelProto:
    """A stage of a decoder, from an image of this extent to one twice as large."""
    sketch = Sketch()
    x = sketch.enter(up, extent)
    beside = sketch.enter(skip, 2 * extent) if skip else None
    if folded:
        y = sketch.transposed(x, out, 4)
        return sketch.model(y if beside is None else sketch.add(y, sketch.conv(beside, out, 3)))
    x = sketch.upsampled(x)
    return sketch.model(sketch.conv(x if beside is None else sketch.concat(x, beside), out, 3))


def _repeated(
    block: Callable[[Sketch, str, bool], str], channels: int, extent: int, merged: bool
) -> onnx.ModelProto:
    """So often one after the other that what tiny ones cost shows beside what stands around."""
    sketch = Sketch()
    x = sketch.enter(channels, extent)
    for _ in range(6 if extent <= 16 else 1):
        x = sketch.relu(block(sketch, x, merged))
    return sketch.model(x)


def _separable(sketch: Sketch, x: str, merged: bool) -> str:
    apart = x if merged else sketch.depthwise(x, 3)
    return sketch.conv(apart, sketch.channels[x], 3 if merged else 1)


def _bottleneck(sketch: Sketch, x: str, merged: bool) -> str:
    apart = x if merged else sketch.conv(x, sketch.channels[x] // 4, 1)
    return sketch.conv(apart, sketch.channels[x], 3)


def _wide_bottleneck(sketch: Sketch, x: str, merged: bool) -> str:
    apart = x if merged else sketch.conv(x, sketch.channels[x] // 2, 1)
    return sketch.conv(apart, sketch.channels[x], 3)


def _dilated(sketch: Sketch, x: str, merged: bool) -> str:
    channels = sketch.channels[x]
    if merged:
        return sketch.conv(x, channels, 5)
    return sketch.add(sketch.conv(x, channels, 3), sketch.conv(x, channels, 3, dilation=2))


def _branches(sketch: Sketch, x: str, merged: bool) -> str:
    channels = sketch.channels[x]
    y = sketch.conv(x, channels, 3)
    return y if merged else sketch.add(y, sketch.conv(x, channels, 1))


def _laterals(channels: int, out: int, extent: int, merged: bool) -> onnx.ModelProto:
    """Small images that are brought to few channels, upsampled and added up."""
    sketch = Sketch()
    x = sketch.enter(channels, extent)
    total = ""
    for _ in range(4):
        y = sketch.transposed(x, out, 2) if merged else sketch.upsampled(sketch.conv(x, out, 1))
        total = sketch.add(total, y) if total else y
    return sketch.model(total)


def graphs() -> dict[str, onnx.ModelProto]:
    """What is measured; the halves of a pair are called `… before` and `… after`."""
    found: dict[str, onnx.ModelProto] = {}
    for kind, channels, extent, size in (
        *(("conv", *each) for each in ((32, 64, 1), (64, 32, 1), (128, 32, 1), (256, 16, 1))),
        *(("conv", *each) for each in ((512, 8, 1), (16, 64, 3), (32, 64, 3), (64, 32, 3))),
        *(("conv", *each) for each in ((128, 16, 3), (256, 16, 3), (512, 8, 3), (32, 32, 5))),
        *(("depthwise", *each) for each in ((32, 64, 3), (128, 32, 3), (256, 16, 3), (64, 32, 7))),
        *(("pool", *each) for each in ((64, 32, 3), (256, 16, 3))),
        *(("residual", *each) for each in ((32, 64, 3), (128, 16, 3), (256, 16, 1))),
    ):
        found[f"{kind} {size}x{size} {channels} at {extent}"] = _chain(kind, channels, extent, size)
    for late, word in ((False, "before"), (True, "after")):
        for up, skip, out, extent in _STAGES:
            name = f"upsample {up}+{skip} to {out} from {extent}"
            found[f"{name} {word}"] = _stage(up, skip, out, extent, late)
        for name, block, sizes in _BLOCKS:
            for channels, extent in sizes:
                model = _repeated(block, channels, extent, late)
                found[f"{name} {channels} at {extent} {word}"] = model
        for channels, out, extent in ((36, 18, 8), (72, 36, 4), (256, 128, 16), (64, 32, 32)):
            name = f"laterals {channels} to {out} from {extent}"
            found[f"{name} {word}"] = _laterals(channels, out, extent, late)
    return found


_STAGES = (
    *((512, 256, 256, 4), (512, 256, 256, 8), (512, 256, 256, 16), (256, 128, 128, 8)),
    *((256, 128, 128, 16), (256, 128, 128, 32), (128, 64, 64, 16), (128, 64, 64, 32)),
    *((128, 64, 64, 64), (64, 64, 32, 32), (64, 64, 32, 64), (256, 0, 256, 16)),
    *((256, 0, 128, 8), (256, 0, 128, 16), (128, 0, 64, 32), (128, 0, 128, 16)),
    *((64, 0, 32, 64), (32, 0, 16, 64), (32, 0, 16, 128)),
)
"""Channels that are upsampled and that stand beside them, channels that come out, and extent."""


_BLOCKS: tuple[tuple[str, Callable[[Sketch, str, bool], str], Sequence[tuple[int, int]]], ...] = (
    ("separable", _separable, ((8, 64), (16, 64), (32, 64), (64, 32), (128, 16))),
    ("separable", _separable, ((24, 28), (24, 14), (48, 7), (96, 4))),
    ("bottleneck", _bottleneck, ((64, 32), (32, 8), (64, 4))),
    ("wide bottleneck", _wide_bottleneck, ((32, 64), (128, 16), (32, 8))),
    ("dilated", _dilated, ((16, 64), (32, 32), (128, 16), (12, 32), (24, 16), (24, 8))),
    ("branches", _branches, ((16, 64), (64, 32), (256, 16), (24, 8))),
)
"""Name, what it is apart and merged, and channels and extents."""


def seconds_of(
    models: Mapping[str, onnx.ModelProto], runtime: str, threads: int | None, sittings: int
) -> dict[str, float]:
    """Seconds of one run of each graph: the lower quartile of a sitting, median over sittings."""
    opened, generator = open_runtime(runtime), random.Random(0)
    found: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(sittings):
        runners = {}
        for name in shuffled(models, generator):
            runners[name] = opened.load(models[name].SerializeToString(), Settings(threads))
            runners[name].bind(_feed(models[name]))
        _, run_ms = run_rounds(
            {name: runners[name].run for name in models},
            generator,
            _WARM_UP,
            lambda rounds, _: rounds >= _ROUNDS,
        )
        for name, times in run_ms.items():
            found[name].append(1e-3 * statistics.quantiles(times, n=4)[0])
    return {name: statistics.median(times) for name, times in found.items()}


def _feed(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(1)
    return {
        each.name: draw.standard_normal(
            [dim.dim_value for dim in each.type.tensor_type.shape.dim], np.float32
        )
        for each in model.graph.input
    }


@dataclass(frozen=True, slots=True)
class Fit:
    """A cost model, and what it predicts.

    Attributes:
        costs: The model.
        run_seconds: What every run costs besides.
        errors: By graph, the logarithm of predicted over measured.
        ratios: By pair, measured and predicted time before over time after.
    """

    costs: CostModel
    run_seconds: float
    errors: dict[str, float]
    ratios: dict[str, tuple[float, float]]

    @property
    def loss(self) -> float:
        """Weighted sum of the absolute errors."""
        off = [math.log(found / real) for real, found in self.ratios.values()]
        pairs = (_VAIN_WEIGHT * each if each > 0 else -_PAIR_WEIGHT * each for each in off)
        return sum(map(abs, self.errors.values())) + sum(pairs)


def readings_of(model: onnx.ModelProto) -> list[Reading]:
    """The operators of a graph that are priced."""
    loaded = load(model).model
    infer_shapes(loaded)
    stamp_opset_versions(loaded)
    found = (reading_of(node.outputs[0]) for node in loaded.graph)
    return [each for each in found if isinstance(each, Reading)]


def predicted(
    costs: CostModel,
    run_seconds: float,
    measured: Mapping[str, float],
    readings: Mapping[str, Sequence[Reading]],
) -> Fit:
    """How a cost model compares with what was measured."""
    prices = {
        name: run_seconds + sum(price_as_it_stands(each, costs).seconds for each in readings[name])
        for name in measured
    }
    ratios = {}
    for name in measured:
        if name.endswith(" before"):
            after = re.sub("before$", "after", name)
            pair = tuple(each[name] / each[after] for each in (measured, prices))
            ratios[name.removesuffix(" before")] = (pair[0], pair[1])
    errors = {name: math.log(prices[name] / seconds) for name, seconds in measured.items()}
    return Fit(costs, run_seconds, errors, ratios)


_FITTED = tuple(field.name for field in fields(CostModel) if field.name != "element_bytes")


def fitted(measured: Mapping[str, float], readings: Mapping[str, Sequence[Reading]]) -> Fit:
    """The numbers with the least loss, found one at a time in ever smaller steps."""
    best = predicted(CostModel(), 2e-5, measured, readings)
    step = 2.0
    while step > 1.01:
        before = best.loss
        for name in (*_FITTED, "run_seconds"):
            for factor in (step, 1 / step):
                best = min(best, _moved(best, name, factor, measured, readings), key=_loss)
        if best.loss > before * 0.9999:
            step = math.sqrt(step)
    return best


def _loss(fit: Fit) -> float:
    return fit.loss


def _moved(
    fit: Fit,
    name: str,
    factor: float,
    measured: Mapping[str, float],
    readings: Mapping[str, Sequence[Reading]],
) -> Fit:
    if name == "run_seconds":
        return predicted(fit.costs, fit.run_seconds * factor, measured, readings)
    number = getattr(fit.costs, name) * factor
    if name == "start_seconds":
        number = max(number, _LEAST_START)
    costs = replace(fit.costs, **{name: number})
    return predicted(costs, fit.run_seconds, measured, readings)


def _report(runtime: str, fit: Fit) -> Iterable[str]:
    numbers = ", ".join(f"{name}={getattr(fit.costs, name):.3g}" for name in _FITTED)
    yield f"{runtime}: {numbers}; {1e6 * fit.run_seconds:.0f} us a run"
    for name, (real, found) in fit.ratios.items():
        yield f"  {name:40} gains {real:5.2f}, predicted {found:5.2f}, off {found / real:5.2f}"
    for name, error in fit.errors.items():
        if not name.endswith((" before", " after")):
            yield f"  {name:40} off {math.exp(error):5.2f}"
    singles = sorted(abs(error) for error in fit.errors.values())
    pairs = sorted(abs(math.log(found / real)) for real, found in fit.ratios.values())
    for what, errors in (("time of a graph", singles), ("ratio of a pair", pairs)):
        middle, most = statistics.median(errors), errors[int(0.9 * (len(errors) - 1))]
        yield f"  error of the {what}: median {math.expm1(middle):.0%}, 90 % {math.expm1(most):.0%}"
    made = [real for real, found in fit.ratios.values() if found * (1 - MARGIN) > 1]
    if made:
        yield f"  {len(made)} pairs gain enough by the fit; the least of them gains {min(made):.2f}"


def main() -> None:
    """Measure, fit, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runtime", default="ort,openvino")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sittings", type=int, default=7)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--load", type=Path)
    options = parser.parse_args()
    models = graphs()
    if options.load is None:
        times = {
            runtime: seconds_of(models, runtime, options.threads, options.sittings)
            for runtime in options.runtime.split(",")
        }
    else:
        times = json.loads(options.load.read_text(encoding="utf-8"))
    if options.save is not None:
        options.save.write_text(json.dumps(times, indent=1), encoding="utf-8")
    readings = {name: readings_of(model) for name, model in models.items()}
    for runtime, measured in times.items():
        for line in _report(runtime, fitted(measured, readings)):
            print(line, flush=True)


if __name__ == "__main__":
    main()
