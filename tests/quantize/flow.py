"""From a float model to one with Q/DQ, as the parts under test expect it, on small networks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

import onnxfold
from examples.demo.evaluate import image_to_input
from examples.demo.scenes import CALIBRATION_SEEDS, FRESH_SEEDS, draw_scene
from onnxfold.calibrate.calibrate import calibrate
from onnxfold.calibrate.ranges import Method
from onnxfold.calibrate.statistics import Calibration
from onnxfold.ir.graph import stamp_opset_versions
from onnxfold.ir.shapes import infer_shapes
from onnxfold.model import load, to_proto
from onnxfold.quantize.emit import EmitOptions, insert
from onnxfold.quantize.grids import ranges_of
from onnxfold.quantize.weights import WeightMethod
from onnxfold.rewrite.ledger import Ledger
from onnxfold.rewrite.rewriter import Rewriter
from onnxfold.rewrite.tensor_store import MemoryStore
from onnxfold.targets.target import target_named
from tests.toolkit import parse

Array = NDArray[Any]
Feed = dict[str, Array]

DEMO = Path(__file__).parents[2] / "examples" / "demo" / "demo.onnx"
SIZE = 128


def inferred(model: onnx.ModelProto) -> ir.Model:
    """The model in memory, as passes meet it."""
    loaded = load(model).model
    infer_shapes(loaded)
    stamp_opset_versions(loaded)
    return loaded


class Quantizer:
    """Makes the Q/DQ models of one float model; the calibration is made once."""

    def __init__(
        self,
        model: onnx.ModelProto,
        feeds: Sequence[Feed],
        target: str = "ort-cpu",
        method: str = "minmax",
    ) -> None:
        self.model = model
        self.calibration: Calibration = calibrate(model, feeds)
        self._target = target_named(target)
        self._method = method

    def build(self, excluded: Iterable[str] = ()) -> onnx.ModelProto:
        """The Q/DQ model in which these layers stay float."""
        loaded = inferred(self.model)
        plan = self._target.plan(loaded.graph, excluded)
        rewriter = Rewriter(loaded, Ledger(), MemoryStore())
        ranges = ranges_of(plan, self.calibration, Method(self._method))
        insert(rewriter, plan, ranges, EmitOptions(WeightMethod(self._method)))
        return to_proto(rewriter.model)

    def layers(self) -> list[str]:
        """The names of the layers that run in INT8, in the order of the network."""
        plan = self._target.plan(inferred(self.model).graph)
        return [node.output[0] for node in self.model.graph.node if node.output[0] in plan.layers]


def drawn(seed: int, *shape: int, scale: float = 1.0) -> NDArray[np.float32]:
    """Normal numbers."""
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def pictures(count: int, size: int = 24, seed: int = 0, channels: int = 3) -> list[Feed]:
    """Smooth pictures around zero, for an input called `image`."""
    generator = np.random.default_rng(seed)
    feeds = []
    for _ in range(count):
        coarse = generator.normal(size=(1, channels, size // 4, size // 4))
        smooth = coarse.repeat(4, axis=2).repeat(4, axis=3)
        noise = generator.normal(size=smooth.shape)
        feeds.append({"image": (smooth + 0.3 * noise).astype(np.float32)})
    return feeds


def depthwise_net(spread: float = 2.0, activation: str = "Relu", size: int = 24) -> onnx.ModelProto:
    """Conv, depthwise, pointwise with a skip, classifier; channel scales spread like e^(spread·N).

    The layers are `a`, `d`, `p` and `scores`.
    """
    scales = np.exp(spread * np.random.default_rng(7).normal(size=16)).astype(np.float32)
    body = f"""net (float[1, 3, {size}, {size}] image) => (float[] scores) {{
        a = Conv <pads = [1, 1, 1, 1]> (image, wa, ba)
        f = {activation} (a)
        d = Conv <pads = [1, 1, 1, 1], group = 16> (f, wd, bd)
        g = {activation} (d)
        p = Conv (g, wp, bp)
        s = Add (f, p)
        scores = Conv (s, wc, bc)
    }}"""
    mixing = drawn(4, 16, 16, 1, 1, scale=0.3) * scales[:, None, None, None]
    weights = {
        "wa": drawn(1, 16, 3, 3, 3, scale=0.3) * scales[:, None, None, None],
        "ba": drawn(2, 16, scale=0.2) * scales,
        "wd": drawn(3, 16, 1, 3, 3, scale=0.4),
        "bd": drawn(5, 16, scale=0.2) * scales,
        "wp": mixing / scales[None, :, None, None],
        "bp": drawn(6, 16, scale=0.2) * scales,
        "wc": drawn(8, 5, 16, 1, 1, scale=0.5) / scales[None, :, None, None],
        "bc": drawn(9, 5, scale=0.2),
    }
    return parse(body, weights, opset=17)


@cache
def demo() -> onnx.ModelProto:
    """The trained demonstration network, folded."""
    folded = onnxfold.optimize(DEMO)
    return to_proto(folded.model)


@cache
def demo_feeds(count: int, fresh: bool = False) -> tuple[Feed, ...]:
    """Pictures of scenes as the demonstration network takes them."""
    return tuple({"image": image_to_input(image)} for image, _ in _scenes(count, fresh))


@cache
def demo_labels(count: int, fresh: bool = False) -> tuple[Array, ...]:
    """The true labels of the same scenes."""
    return tuple(labels for _, labels in _scenes(count, fresh))


@cache
def _scenes(count: int, fresh: bool) -> tuple[tuple[Array, Array], ...]:
    seeds = (FRESH_SEEDS if fresh else CALIBRATION_SEEDS)[:count]
    return tuple(draw_scene(seed, SIZE, SIZE) for seed in seeds)


@cache
def demo_quantizer() -> Quantizer:
    """For the demonstration network on ONNX Runtime, calibrated on 16 scenes."""
    return Quantizer(demo(), demo_feeds(16))
