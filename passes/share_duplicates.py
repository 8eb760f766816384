"""Keep one of several equal constants, and one of several nodes that compute the same.

What it does:
    Lets every reader of equal initializers (same type, shape and bytes) read one of them; then lets
    every reader of equal nodes (same operator, attributes and inputs) read one of them.
When it applies:
    The node is deterministic, of the ONNX domain, without a nested graph, and in the same graph.
When it refuses:
    Nothing that a user would expect.
Exactness:
    exact.
Example:
    before: a = Relu(x)  b = Relu(x)  y = Add(a, b)
    after:  a = Relu(x)  y = Add(a, a)
"""

import hashlib
from collections.abc import Hashable

import onnx_ir as ir

from onnxfold.ir.constants import release
from onnxfold.ir.graph import is_op, nested_graphs, subgraphs
from onnxfold.ir.shapes import tensor_extents
from onnxfold.pipeline.passes import EditPass, NoOptions
from onnxfold.rewrite.rewriter import Rewriter
from onnxfold.rewrite.rule import Exactness

_RANDOM = (
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Multinomial",
    "Bernoulli",
    "Dropout",
)

_SCALARS = frozenset({ir.AttributeType.INT, ir.AttributeType.FLOAT, ir.AttributeType.STRING})
_LISTS = frozenset({ir.AttributeType.INTS, ir.AttributeType.FLOATS, ir.AttributeType.STRINGS})


def edit(rewriter: Rewriter, _: NoOptions) -> None:
    """Share constants first, because nodes with equal constants are then equal themselves."""
    for graph in (rewriter.model.graph, *nested_graphs(rewriter.model.graph)):
        _share_constants(rewriter, graph)
        _share_nodes(rewriter, graph)


def _share_constants(rewriter: Rewriter, graph: ir.Graph) -> None:
    first: dict[Hashable, ir.Value] = {}
    by_size: dict[Hashable, list[ir.Value]] = {}
    for value in graph.initializers.values():
        tensor = value.const_value
        if tensor is None or value.is_graph_input() or tensor.dtype == ir.DataType.STRING:
            continue
        shape = tensor_extents(tensor)
        by_size.setdefault((tensor.dtype, shape), []).append(value)
    for size, values in by_size.items():
        if len(values) < 2:
            continue
        for value in values:
            keeper = first.setdefault((size, _digest(value)), value)
            if keeper is not value:
                rewriter.redirect(value, keeper, pass_name="share_duplicates", rule="constants")


def _digest(value: ir.Value) -> bytes:
    tensor = value.const_value
    assert tensor is not None
    digest = hashlib.blake2b(tensor.tobytes(), digest_size=20).digest()
    release(tensor)
    return digest


def _share_nodes(rewriter: Rewriter, graph: ir.Graph) -> None:
    first: dict[Hashable, ir.Node] = {}
    for node in list(graph):
        if node.graph is None or not _is_repeatable(node):
            continue
        key = _key(node)
        keeper = None if key is None else first.setdefault(key, node)
        if keeper is None or keeper is node or _both_are_outputs(node, keeper):
            continue
        rewriter.replace(
            node,
            keeper.outputs,
            rewriter.builder(node),
            pass_name="share_duplicates",
            rule="nodes",
        )


def _is_repeatable(node: ir.Node) -> bool:
    """Whether the node is known to compute the same from the same inputs."""
    # What operators of other domains do is not known; they may well be random.
    if node.domain != "" or is_op(node, *_RANDOM):
        return False
    return not any(True for _ in subgraphs(node))


def _both_are_outputs(node: ir.Node, keeper: ir.Node) -> bool:
    """Two outputs of the graph need two nodes: an Identity would take the place of one."""
    return any(
        a.is_graph_output() and b.is_graph_output()
        for a, b in zip(node.outputs, keeper.outputs, strict=True)
    )


def _key(node: ir.Node) -> Hashable:
    """What two nodes must have in common to compute the same; None when that cannot be told."""
    attributes: list[tuple[str, Hashable]] = []
    for name, attribute in sorted(node.attributes.items()):
        found = None if attribute.is_ref() else _attribute_key(attribute)
        if found is None:
            return None
        attributes.append((name, found))
    inputs = tuple(None if value is None else id(value) for value in node.inputs)
    given = tuple(bool(output.name) for output in node.outputs)
    return (node.op_type, node.overload, inputs, given, tuple(attributes))


def _attribute_key(attribute: ir.Attr) -> Hashable:
    if attribute.type is ir.AttributeType.TENSOR:
        tensor = attribute.as_tensor()
        shape = tensor.shape.numpy()
        if tensor.dtype == ir.DataType.STRING:
            return (tensor.dtype, shape, tuple(tensor.numpy().reshape(-1)))
        return (tensor.dtype, shape, tensor.tobytes())
    if attribute.type is ir.AttributeType.GRAPH or attribute.value is None:
        return None
    if attribute.type in _LISTS:
        return (attribute.type, repr(tuple(attribute.value)))
    # By their text, because 1 == 1.0 == True and 0.0 == -0.0.
    return (attribute.type, repr(attribute.value)) if attribute.type in _SCALARS else None


PASS = EditPass("share_duplicates", edit, __doc__ or "", exactness=Exactness.EXACT)
