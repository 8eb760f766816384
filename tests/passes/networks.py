"""Random small networks whose arithmetic float32 does without rounding."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

_LARGEST = 2.0**20
"""Magnitude times resolution of any tensor: four bits below what float32 holds exactly."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A value with what is known about its numbers.

    Attributes:
        name: Its name.
        shape: Its shape.
        bound: No number is larger.
        bits: Every number is a multiple of 2^-bits.
    """

    name: str
    shape: tuple[int, ...]
    bound: float
    bits: int


@dataclass(slots=True)
class Network:
    """A graph under construction."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)

    def weight(self, array: np.ndarray) -> str:
        """The name of a new initializer."""
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def add(self, op: str, inputs: list[str], like: Tensor, **attributes: Any) -> None:
        """A node, unless its numbers could outgrow float32."""
        if like.bound * 2.0**like.bits > _LARGEST or 0 in like.shape or min(like.shape) > 16:
            return
        name = f"t{len(self.tensors)}"
        self.nodes.append(helper.make_node(op, inputs, [name], **attributes))
        self.tensors.append(Tensor(name, like.shape, like.bound, like.bits))


@st.composite
def networks(draw: st.DrawFn) -> onnx.ModelProto:
    """Models of one input and up to a dozen nodes with random fan-out."""
    channels, extent = draw(st.integers(1, 4)), draw(st.integers(3, 6))
    net = Network()
    net.tensors.append(Tensor("x", (2, channels, extent, extent + 1), 4.0, 0))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    for _ in range(draw(st.integers(4, 14))):
        recent = draw(st.integers(0, 2))
        source = net.tensors[max(0, len(net.tensors) - 1 - recent)]
        _STEPS[draw(st.sampled_from(sorted(_STEPS)))](net, source, random)
    read = {name for node in net.nodes for name in node.input}
    outputs = [t for t in net.tensors if t.name not in read or draw(st.integers(0, 9)) == 0]
    shapes = [helper.make_tensor_value_info(t.name, TensorProto.FLOAT, t.shape) for t in outputs]
    x = net.tensors[0]
    batch = draw(st.sampled_from(("N", "2")))
    graph = helper.make_graph(
        net.nodes,
        "random",
        [
            helper.make_tensor_value_info(
                "x", TensorProto.FLOAT, [batch if batch == "N" else 2, *x.shape[1:]]
            )
        ],
        shapes,
        net.weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def _small(random: np.random.Generator, *shape: int) -> np.ndarray:
    return random.integers(-1, 2, shape).astype(np.float32)


def _power(random: np.random.Generator, *shape: int, positive: bool = False) -> np.ndarray:
    sign = 1.0 if positive else random.choice([-1.0, 1.0], shape)
    return np.asarray(sign * 2.0 ** random.integers(-1, 2, shape), np.float32)


def _conv(net: Network, x: Tensor, random: np.random.Generator) -> None:
    batch, channels, height, width = x.shape
    group = channels if random.integers(3) == 0 else 1
    out = group * int(random.integers(1, 3)) if group > 1 else int(random.integers(1, 5))
    kernel = [
        int(random.integers(1, 1 + min(3, height))),
        int(random.integers(1, 1 + min(3, width))),
    ]
    pads = [int(random.integers(0, 2)) * int(random.integers(0, 2)) for _ in range(4)]
    stride = int(random.integers(1, 3))
    weight = _small(random, out, channels // group, *kernel)
    inputs = [x.name, net.weight(weight)]
    if random.integers(2):
        inputs.append(net.weight(_small(random, out)))
    shape = (
        batch,
        out,
        (height + pads[0] + pads[2] - kernel[0]) // stride + 1,
        (width + pads[1] + pads[3] - kernel[1]) // stride + 1,
    )
    bound = x.bound * float(np.abs(weight).sum(axis=(1, 2, 3)).max()) + 1
    like = Tensor("", shape, bound, x.bits)
    net.add("Conv", inputs, like, group=group, pads=pads, strides=[stride, stride])


def _transposed(net: Network, x: Tensor, random: np.random.Generator) -> None:
    batch, channels, height, width = x.shape
    weight = _small(random, channels, 2, 2, 2)
    stride = int(random.integers(1, 3))
    shape = (batch, 2, stride * (height - 1) + 2, stride * (width - 1) + 2)
    bound = x.bound * float(np.abs(weight).sum(axis=(0, 2, 3)).max())
    like = Tensor("", shape, bound, x.bits)
    net.add("ConvTranspose", [x.name, net.weight(weight)], like, strides=[stride, stride])


def _batch_norm(net: Network, x: Tensor, random: np.random.Generator) -> None:
    channels = x.shape[1]
    zero = bool(random.integers(4) == 0)
    gamma = _power(random, channels, positive=bool(random.integers(2)))
    shift = [np.zeros(channels, np.float32) if zero else _small(random, channels) for _ in "bm"]
    variance = _power(random, channels, positive=True) ** 2
    inputs = [x.name, *map(net.weight, (gamma, *shift, variance))]
    like = Tensor("", x.shape, 4 * (x.bound + 1) + 1, x.bits + 2)
    net.add("BatchNormalization", inputs, like, epsilon=0.0)


def _arithmetic(net: Network, x: Tensor, random: np.random.Generator) -> None:
    op = str(random.choice(["Mul", "Add", "Sub", "Div"]))
    channels, height, width = x.shape[1:]
    forms = [(), (1,), (channels, 1, 1), (1, channels, 1, 1), (width,), (height, 1), (1, 1, 1, 1)]
    shape = forms[int(random.integers(len(forms)))]
    constant = net.weight(_power(random, *shape, positive=bool(random.integers(2))))
    inputs = [x.name, constant] if op == "Div" or random.integers(2) else [constant, x.name]
    net.add(op, inputs, Tensor("", x.shape, 2 * x.bound + 2, x.bits + 1))


def _unary(net: Network, x: Tensor, random: np.random.Generator) -> None:
    net.add(str(random.choice(["Relu", "Identity", "Neg"])), [x.name], x)


def _join(net: Network, x: Tensor, random: np.random.Generator) -> None:
    op = str(random.choice(["Add", "Sub", "Sum"]))
    fits = [t for t in net.tensors if t.shape == x.shape]
    other = fits[int(random.integers(len(fits)))]
    like = Tensor("", x.shape, x.bound + other.bound, max(x.bits, other.bits))
    net.add(op, [x.name, other.name], like)


def _concat(net: Network, x: Tensor, random: np.random.Generator) -> None:
    axis = int(random.integers(-3, 4)) or 1
    rest = [extent for index, extent in enumerate(x.shape) if index != axis % 4]
    fits = [t for t in net.tensors if [e for i, e in enumerate(t.shape) if i != axis % 4] == rest]
    other = fits[int(random.integers(len(fits)))]
    shape = list(x.shape)
    shape[axis % 4] += other.shape[axis % 4]
    if axis % 4 == 0 or shape[axis % 4] > 12:
        return
    like = Tensor("", tuple(shape), max(x.bound, other.bound), max(x.bits, other.bits))
    net.add("Concat", [x.name, other.name], like, axis=axis)


def _pad(net: Network, x: Tensor, random: np.random.Generator) -> None:
    amounts = [int(random.integers(0, 2)) for _ in range(4)]
    value = float(random.choice([0.0, 0.0, 1.0]))
    pads = np.array([0, 0, *amounts[:2], 0, 0, *amounts[2:]], np.int64)
    inputs = [x.name, net.weight(pads), net.weight(np.array(value, np.float32))]
    shape = (
        *x.shape[:2],
        x.shape[2] + amounts[0] + amounts[2],
        x.shape[3] + amounts[1] + amounts[3],
    )
    net.add("Pad", inputs, Tensor("", shape, max(x.bound, 1.0), x.bits))


def _pool(net: Network, x: Tensor, random: np.random.Generator) -> None:
    op = str(random.choice(["MaxPool", "AveragePool"]))
    pads = [int(random.integers(0, 2)) for _ in range(4)]
    height, width = x.shape[2] + pads[0] + pads[2] - 1, x.shape[3] + pads[1] + pads[3] - 1
    attributes: dict[str, Any] = {"kernel_shape": [2, 2], "pads": pads}
    if op == "AveragePool":
        attributes["count_include_pad"] = int(random.integers(2))
    if min(x.shape[2:]) < 2:
        return
    like = Tensor("", (*x.shape[:2], height, width), x.bound, x.bits + 2 * (op[0] == "A"))
    net.add(op, [x.name], like, **attributes)


def _transpose(net: Network, x: Tensor, random: np.random.Generator) -> None:
    perm = [0, *(1 + random.permutation(3)).tolist()]
    shape = tuple(x.shape[axis] for axis in perm)
    net.add("Transpose", [x.name], Tensor("", shape, x.bound, x.bits), perm=perm)


def _reshape(net: Network, x: Tensor, random: np.random.Generator) -> None:
    batch, channels, height, width = x.shape
    forms = [
        (channels, width, height),
        (channels, height * width, 1),
        (channels, 1, height * width),
        (1, channels, height * width),
        (width, channels, height),
    ]
    form = forms[int(random.integers(len(forms)))]
    target = net.weight(np.array([0, *form], np.int64))
    net.add("Reshape", [x.name, target], Tensor("", (batch, *form), x.bound, x.bits))


_STEPS = {
    "arithmetic": _arithmetic,
    "batch_norm": _batch_norm,
    "batch_norm_again": _batch_norm,
    "concat": _concat,
    "conv": _conv,
    "conv_again": _conv,
    "join": _join,
    "pad": _pad,
    "pool": _pool,
    "reshape": _reshape,
    "transpose": _transpose,
    "transposed": _transposed,
    "unary": _unary,
}
