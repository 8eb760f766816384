"""Where TensorRT wants its Q/DQ.

It fuses layers with what is around them by itself, and extra Q/DQ breaks these fusions: so pairs
stand where a layer reads, and nowhere else but on the shortcut of a residual addition, whose
precision decides in which one the fused convolution writes, and around a pool between layers. All
zero points are 0, activations have one scale, biases stay float.

Sources: TensorRT's documentation of explicit quantization, onnx-tensorrt's importer, and the layers
that NVIDIA's Model Optimizer leaves out because their integer kernels are slow or missing.
"""

import onnx_ir as ir

from onnxfold.calibrate.scheme import INT8
from onnxfold.ir.constants import is_constant
from onnxfold.ir.graph import is_op
from onnxfold.ir.ops import Conv
from onnxfold.ir.shapes import static_shape
from onnxfold.quantize.plan import Plan, Read, Site, WeightSite
from onnxfold.targets.layers import Layer, layer_name, layers_of
from onnxfold.targets.pointwise import is_pointwise
from onnxfold.targets.residual import residual_of

_SMALLEST = 16
"""Integer kernels for fewer channels, rows or columns are no faster than those for fp16."""

_ALIGNMENT = 8
_TRANSPARENT = ("MaxPool", "Concat", "Resize", "Reshape", "Transpose", "Slice", "Split", "Pad")
_POOLS = ("AveragePool", "GlobalAveragePool")


def plan(graph: ir.Graph, excluded: frozenset[str] = frozenset()) -> Plan:
    """What to quantize for TensorRT.

    Args:
        graph: Of a float model, shapes inferred.
        excluded: Names of layers that stay float. Other nodes, by the name of their first output,
            are not made to compute with integers.
    """
    layers, float_layers = layers_of(graph, excluded)
    for name, layer in list(layers.items()):
        if (reason := _refusal(layer)) is not None:
            float_layers[name] = reason
            del layers[name]
    return Plan(
        sites=_sites(graph, layers, excluded),
        weights=tuple(WeightSite(name, 1, layer.axis) for name, layer in layers.items()),
        biases=(),
        float_layers=float_layers,
    )


def _refusal(layer: Layer) -> str | None:
    if is_op(layer.node, "Gemm", "MatMul"):
        if min(layer.extents) < _SMALLEST:
            return f"one of its dimensions is below {_SMALLEST}"
        shape = static_shape(layer.node.outputs[0])
        if shape is not None and len(shape) == 2 and 1 in shape:
            return "it multiplies a single row"
        return None
    convolution = Conv.of(layer.node)
    if convolution is None or min(layer.extents[:2]) >= _SMALLEST:
        return None
    if convolution.group == 1:
        return None if _is_fast(layer, convolution) else _FEW_CHANNELS
    aligned = layer.extents[0] % _ALIGNMENT == 0
    large = all(extent >= 3 for extent in convolution.window.kernel_shape)
    return None if aligned and large else "its groups are too small for an integer kernel"


_FEW_CHANNELS = f"it has fewer than {_SMALLEST} channels, in a form without a fast integer kernel"


def _is_fast(layer: Layer, convolution: Conv) -> bool:
    """Whether a Conv of few channels is one of those with a fast integer kernel."""
    channels = layer.extents[:2]
    aligned = any(extent % _ALIGNMENT == 0 for extent in channels)
    wide = layer.x.is_graph_input() or max(channels) >= _SMALLEST
    return aligned and wide and len(set(convolution.window.kernel_shape)) == 1


def _sites(graph: ir.Graph, layers: dict[str, Layer], excluded: frozenset[str]) -> tuple[Site, ...]:
    nodes = frozenset(layer.node for layer in layers.values())
    wanted = _wanted(graph, nodes)
    readers: dict[str, list[Read]] = {}
    for node in graph:
        if not node.outputs or layer_name(node) in excluded:
            continue
        index = 0 if node in nodes or _is_inner_pool(node, nodes) else None
        residual = residual_of(node, nodes)
        if residual is not None and node.outputs[0] in wanted:
            index = residual.skip
        value = None if index is None else node.inputs[index]
        if value is not None and index is not None:
            readers.setdefault(value.name or "", []).append((layer_name(node), index))
    return tuple(Site(name, INT8, name, tuple(reads)) for name, reads in readers.items())


def _wanted(graph: ir.Graph, layers: frozenset[ir.Node]) -> set[ir.Value]:
    """The values that a layer reads, at once or behind what quantization can be moved across."""
    found: set[ir.Value] = set()
    for node in reversed(graph):
        hands_on = is_pointwise(node) or is_op(node, *_TRANSPARENT)
        if node in layers:
            found.update(v for v in node.inputs[:1] if v is not None)
        elif hands_on and not found.isdisjoint(node.outputs):
            found.update(v for v in node.inputs if v is not None and not is_constant(v))
    return found


def _is_inner_pool(node: ir.Node, layers: frozenset[ir.Node]) -> bool:
    """Whether the pool reads what a layer reads as well, and a layer alone reads the pool.

    It then has integers in and out; elsewhere it stays float.
    """
    if not is_op(node, *_POOLS):
        return False
    x, uses = node.inputs[0], node.outputs[0].uses()
    if x is None or node.outputs[0].is_graph_output() or not uses:
        return False
    return all(use.node in layers for use in uses) and any(use.node in layers for use in x.uses())
