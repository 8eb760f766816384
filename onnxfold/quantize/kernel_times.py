"""How long the parts of a model take on a backend, told by the backend's own profiler.

Backends fuse: a kernel computes one value of the model and covers the nodes that lead there from
where other kernels ended. Its time goes to the first of these that multiplies by weights, or else
to the last one; where it covers nothing but Q/DQ nodes, it converts a value.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import onnx

from onnxfold.quantize.layers import layer_name, producers_of

_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_QDQ = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True, slots=True)
class Kernel:
    """Something that a backend ran.

    Attributes:
        ends: Names of the values of the model that it computes.
        seconds: The shortest of its runs.
        kind: What the backend calls it.
        covers: Names of the first outputs of the nodes that it was made of; empty when the backend
            does not tell.
        elements: How many numbers it computes; 0 when not known.
    """

    ends: tuple[str, ...]
    seconds: float
    kind: str
    covers: tuple[str, ...] = ()
    elements: int = 0


@dataclass(slots=True)
class KernelTimes:
    """Times of the parts of one model.

    Attributes:
        nodes: Seconds by layer name, the first output of a node in the float model. Nodes that run
            inside the kernel of another one are there with zero.
        conversions: Seconds that quantizing and dequantizing a value take, by its name.
        kinds: What the backend runs each node as, by layer name.
        elements: How many numbers a value holds, by its name, as far as the backend tells.
    """

    nodes: dict[str, float] = field(default_factory=dict)
    conversions: dict[str, float] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    elements: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> float:
        """Seconds of all kernels together."""
        return sum(self.nodes.values()) + sum(self.conversions.values())


def times_of(model: onnx.ModelProto, kernels: Iterable[Kernel]) -> KernelTimes:
    """Give the time of every kernel to the nodes of the model that it covers."""
    producers = producers_of(model.graph)
    listed = list(kernels)
    ends = {name for kernel in listed for name in kernel.ends}
    found = KernelTimes()
    for kernel in listed:
        if kernel.covers:
            covered = [producers[name] for name in kernel.covers if name in producers]
        else:
            covered = _covered(kernel.ends, ends.difference(kernel.ends), producers)
        _share(kernel, covered, producers, found)
    return found


def _converted(node: onnx.NodeProto, producers: Mapping[str, onnx.NodeProto]) -> str:
    """The float value that a Q or DQ node converts."""
    while (
        node.op_type == "DequantizeLinear" and (before := producers.get(node.input[0])) is not None
    ):
        node = before
    return node.input[0]


def _share(
    kernel: Kernel,
    covered: list[onnx.NodeProto],
    producers: Mapping[str, onnx.NodeProto],
    found: KernelTimes,
) -> None:
    computing = [node for node in covered if node.op_type not in _QDQ]
    if not computing:
        for node in covered[:1]:
            value = _converted(node, producers)
            found.conversions[value] = found.conversions.get(value, 0.0) + kernel.seconds
            found.elements[value] = kernel.elements
        return
    owner = next((node for node in computing if node.op_type in _WEIGHTED), computing[0])
    found.elements[layer_name(computing[0])] = kernel.elements
    for node in computing:
        name = layer_name(node)
        share = kernel.seconds if node is owner else 0.0
        found.nodes[name] = found.nodes.get(name, 0.0) + share
        if node is owner:
            found.kinds[name] = kernel.kind
        else:
            found.kinds.setdefault(name, kernel.kind)


def _covered(
    ends: Iterable[str], others: Collection[str], producers: Mapping[str, onnx.NodeProto]
) -> list[onnx.NodeProto]:
    """The nodes behind some values back to the ends of other kernels, the last nodes first."""
    pending = [producers[name] for name in ends if name in producers]
    covered: list[onnx.NodeProto] = []
    seen: set[int] = set()
    while pending:
        node = pending.pop(0)
        if id(node) in seen:
            continue
        seen.add(id(node))
        covered.append(node)
        pending += [
            producers[name] for name in node.input if name in producers and name not in others
        ]
    return covered
