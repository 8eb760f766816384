"""Small networks with everything that a calibration can meet, and samples for them."""

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from tests.toolkit import parse

Array = NDArray[Any]
Feed = dict[str, Array]


def drawn(seed: int, *shape: int, scale: float = 1.0) -> NDArray[np.float32]:
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def conv_net(opset: int = 17, size: str = "24, 20") -> onnx.ModelProto:
    """Convolutions, a skip, a pool, a product of matrices: values of rank 2 to 4."""
    body = f"""net (float[1, 3, {size}] image) => (float[] logits, float[] scores) {{
        c1 = Conv <pads = [1, 1, 1, 1]> (image, w1, b1)
        r1 = Relu (c1)
        c2 = Conv <pads = [1, 1, 1, 1], group = 2> (r1, w2)
        s1 = Add (r1, c2)
        pooled = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (s1)
        logits = Conv (pooled, w3)
        mean = GlobalAveragePool (pooled)
        flat = Flatten (mean)
        scores = MatMul (flat, w4)
    }}"""
    weights = {
        "w1": drawn(1, 8, 3, 3, 3, scale=0.4),
        "b1": drawn(2, 8),
        "w2": drawn(3, 8, 4, 3, 3, scale=0.2),
        "w3": drawn(4, 5, 8, 1, 1, scale=0.5),
        "w4": drawn(5, 8, 6),
    }
    return parse(body, weights, opset=opset)


CONV_NET_VALUES = [
    "image",
    "c1",
    "r1",
    "c2",
    "s1",
    "pooled",
    "logits",
    "mean",
    "flat",
    "scores",
]


def feeds(count: int, height: int = 24, width: int = 20, seed: int = 100) -> list[Feed]:
    return [{"image": drawn(seed + index, 1, 3, height, width)} for index in range(count)]


@dataclass(frozen=True)
class DrawnSamples:
    """What `feeds` gives, drawn in the process that asks for it."""

    count: int
    height: int = 24
    width: int = 20

    def __len__(self) -> int:
        return self.count

    def feed(self, index: int) -> Feed:
        (feed,) = feeds(1, self.height, self.width, seed=100 + index)
        return {name: array * np.float32(1.0 + 0.1 * index) for name, array in feed.items()}


@dataclass(frozen=True)
class DeadlySamples:
    """The same, but who asks for one of them is killed, as often as the file has letters."""

    samples: DrawnSamples
    deadly: int
    lives: Path

    def __len__(self) -> int:
        return len(self.samples)

    def feed(self, index: int) -> Feed:
        left = self.lives.read_text()
        if index == self.deadly and left:
            self.lives.write_text(left[1:])
            os.kill(os.getpid(), signal.SIGKILL)
        return self.samples.feed(index)


def outputs_added(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """The model with these values, and no others, as outputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    for name in names:
        copy.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    return copy
