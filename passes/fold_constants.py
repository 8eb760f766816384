"""Replace what a graph computes from constants and static shapes by the result.

What it does:
    Runs every node whose inputs are all constants on the runtime, once, and keeps the result as a
    constant: weights that are computed in the graph, scales, masks, grids. Shape, Size and the
    integer arithmetic on them become constants where the extents they depend on are known, dynamic
    axes elsewhere notwithstanding. A Reshape whose only open extent is one that it copies, or that
    follows from all others, gets a constant shape.
When it applies:
    The node is deterministic and its result is no larger than `max_bytes`, or than its inputs.
When it refuses:
    Results that would make the file grow; integer division by what may be zero; quantization of
    constants, which backends want to see; control flow; operators that the runtime does not have.
Exactness:
    exact: the runtime computes the same numbers as it would in the model.
Example:
    before: s = Shape(x)  h = Gather(s, 2)      # x is float[N,3,64,64]
    after:  h = 64
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxfold.interop.evaluate import evaluate
from onnxfold.ir.constants import FLOAT_TYPES, constant_array, constant_tensor, is_constant
from onnxfold.ir.graph import describe, every_node, int_attribute, is_op, nested_graphs, subgraphs
from onnxfold.ir.shape_values import PartialTensor, shape_values
from onnxfold.ir.shapes import has_static_shapes, infer_shapes, static_shape, tensor_bytes
from onnxfold.pipeline.passes import EditPass
from onnxfold.rewrite.ledger import Rejection
from onnxfold.rewrite.rewriter import Rewriter
from onnxfold.rewrite.rule import Exactness

_KEPT = frozenset(
    {
        "Constant",
        "Identity",
        "QuantizeLinear",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "Dropout",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
        "Multinomial",
        "Bernoulli",
    }
)
"""Constants already, wanted by quantizing backends, or different in every run."""

_MAX_INPUT_BYTES = 1 << 30
"""A runtime takes the constants as part of one model, which protobuf limits to 2 GB."""


@dataclass(frozen=True, slots=True)
class FoldConstantsOptions:
    """Options of fold_constants.

    Attributes:
        max_bytes: A result may be this large, or as large as the constants it is computed from.
    """

    max_bytes: int = 1 << 20


def edit(rewriter: Rewriter, options: FoldConstantsOptions) -> None:
    """Fold shapes and constants in turns until neither finds anything.

    A folded shape may make extents known (a Reshape to a computed shape), and these may make
    another shape known; so shapes are inferred again in between.
    """
    while True:
        folded = _fold_shapes(rewriter) + _fold_computed(rewriter, options)
        if not folded or rewriter.ledger.exhausted:
            return
        if not has_static_shapes(rewriter.model):
            infer_shapes(rewriter.model)


def _fold_shapes(rewriter: Rewriter) -> int:
    folded = 0
    for value, partial in shape_values(list(every_node(rewriter.model.graph))).items():
        node, array = value.producer(), partial.known()
        if array is None:
            readers = list(dict.fromkeys(use.node for use in value.uses()))
            folded += sum(_fold_reshape(rewriter, reader, partial) for reader in readers)
        elif node is not None and node.graph is not None and _is_wanted(value, node):
            folded += _replace(rewriter, node, [array], "shape")
    return folded


def _fold_reshape(rewriter: Rewriter, node: ir.Node, partial: PartialTensor) -> int:
    """Give a Reshape whose shape is partly known a constant one, where that says the same."""
    if not is_op(node, "Reshape") or partial.is_scalar:
        return 0
    x, target = node.inputs
    shape = None if x is None else _constant_target(partial, x)
    if shape is None or target is None or is_constant(target) or target in node.inputs[:1]:
        return 0
    build = rewriter.builder(node)
    constant = build.tensor(np.array(shape, np.int64), ir.DataType.INT64, target.name)
    copies = {"allowzero": 0} if 0 in shape and "allowzero" in node.attributes else {}
    reshaped = build.like(node, [x, constant], copies)
    done = rewriter.replace(node, [reshaped], build, pass_name="fold_constants", rule="reshape")
    return 0 if done is None else 1


def _constant_target(partial: PartialTensor, x: ir.Value) -> list[int] | None:
    """The shape with 0 for extents that are those of `x`, and -1 for one that is not known."""
    own = [None if isinstance(extent, int) else extent.value for extent in x.shape or ()]
    own += [None] * (len(partial.items) - len(own))
    shape = [
        item if isinstance(item, int) else (0 if item is not None and item == name else -1)
        for item, name in zip(partial.items, own, strict=False)
    ]
    # A number that is no extent means something else, and two open extents are one too many.
    odd = any(isinstance(item, int) and (item == 0 or item < -1) for item in partial.items)
    return None if odd or shape.count(-1) > 1 else shape


def _is_wanted(value: ir.Value, node: ir.Node) -> bool:
    """Whether folding gains anything: the node is read, and is no constant already."""
    if is_constant(value) or len(node.outputs) != 1 or value.dtype is None:
        return False
    return bool(value.uses()) or value.is_graph_output()


def _replace(
    rewriter: Rewriter, node: ir.Node, arrays: Sequence[np.ndarray | None], rule: str
) -> int:
    build = rewriter.builder(node)
    outputs: list[ir.Value | None] = []
    for output, array in zip(node.outputs, arrays, strict=True):
        if array is None or output.dtype is None:
            outputs.append(None)
            continue
        typed = (
            array if output.dtype == ir.DataType.BFLOAT16 else array.astype(output.dtype.numpy())
        )
        outputs.append(build.tensor(typed, output.dtype, output.name))
    done = rewriter.replace(node, outputs, build, pass_name="fold_constants", rule=rule)
    return 0 if done is None else 1


def _fold_computed(rewriter: Rewriter, options: FoldConstantsOptions) -> int:
    folded = 0
    for graph in (rewriter.model.graph, *nested_graphs(rewriter.model.graph)):
        computable = _computable(rewriter, graph, options)
        frontier = [node for node in computable.values() if _is_read_outside(node, computable)]
        folded += _fold_frontier(rewriter, list(computable.values()), frontier)
    return folded


def _computable(
    rewriter: Rewriter, graph: ir.Graph, options: FoldConstantsOptions
) -> dict[ir.Value, ir.Node]:
    """First outputs and nodes that depend on constants alone, in topological order."""
    found: dict[ir.Value, ir.Node] = {}
    for node in graph:
        inputs = [value for value in node.inputs if value is not None]
        if not all(value in found or is_constant(value) for value in inputs):
            continue
        if not _may_run(node):
            continue
        if (reason := _hazard(node) or _too_large(node, inputs, options)) is not None:
            rejection = Rejection(
                "fold_constants", "computed", describe(node), node.op_type, reason
            )
            rewriter.ledger.reject(node, rejection)
            continue
        found.update((output, node) for output in node.outputs)
    return found


def _may_run(node: ir.Node) -> bool:
    if node.domain != "" or is_op(node, *_KEPT) or any(True for _ in subgraphs(node)):
        return False
    return bool(node.outputs) and not int_attribute(node, "training_mode", 0)


def _hazard(node: ir.Node) -> str | None:
    """Whether running the node may end this process: integer division traps in the processor."""
    if not is_op(node, "Div", "Mod") or node.outputs[0].dtype in FLOAT_TYPES:
        return None
    divisor = constant_array(node.inputs[1])
    if divisor is not None and np.greater(divisor, 0).all():
        return None
    return "an integer division whose divisor is not known to be positive may stop the runtime"


def _too_large(
    node: ir.Node, inputs: Sequence[ir.Value], options: FoldConstantsOptions
) -> str | None:
    given = sum(size for value in inputs if (size := _bytes(value)) is not None)
    if given > _MAX_INPUT_BYTES:
        return "its constants are too large to be computed in one piece"
    for output in node.outputs:
        if not output.name or not (output.uses() or output.is_graph_output()):
            continue
        size = _bytes(output)
        if size is None:
            return "the size of its constant result is not known"
        if size > max(options.max_bytes, given):
            return f"its constant result of {size} bytes would make the model larger"
    return None


def _bytes(value: ir.Value) -> int | None:
    tensor = constant_tensor(value)
    if tensor is not None:
        return tensor_bytes(tensor)
    shape = static_shape(value)
    if shape is None or value.dtype is None or value.dtype == ir.DataType.STRING:
        return None
    return math.prod(shape) * math.ceil(value.dtype.itemsize)


def _is_read_outside(node: ir.Node, computable: dict[ir.Value, ir.Node]) -> bool:
    for output in node.outputs:
        if output.is_graph_output():
            return True
        if any(use.node.outputs[0] not in computable for use in output.uses() if use.node.outputs):
            return True
    return False


def _fold_frontier(
    rewriter: Rewriter, nodes: Sequence[ir.Node], frontier: Sequence[ir.Node]
) -> int:
    frontier = list(dict.fromkeys(frontier))
    if not frontier:
        return 0
    ordered = list(dict.fromkeys(nodes))
    wanted = [output for node in frontier for output in _read_outputs(node)]
    arrays = evaluate(ordered, wanted, rewriter.model)
    if isinstance(arrays, str):
        return sum(_fold_alone(rewriter, node, ordered) for node in frontier)
    values = dict(zip(wanted, arrays, strict=True))
    return sum(_replace_computed(rewriter, node, values) for node in frontier)


def _fold_alone(rewriter: Rewriter, node: ir.Node, nodes: Sequence[ir.Node]) -> int:
    """Fold one node by itself, because the runtime lacks an operator that another needs."""
    wanted = _read_outputs(node)
    arrays = evaluate(_cone(node, nodes), wanted, rewriter.model)
    if isinstance(arrays, str):
        reason = f"the runtime cannot compute it: {arrays}"
        rewriter.ledger.reject(
            node, Rejection("fold_constants", "computed", describe(node), node.op_type, reason)
        )
        return 0
    return _replace_computed(rewriter, node, dict(zip(wanted, arrays, strict=True)))


def _cone(node: ir.Node, nodes: Sequence[ir.Node]) -> list[ir.Node]:
    needed = {node}
    for earlier in reversed(nodes):
        if any(use.node in needed for output in earlier.outputs for use in output.uses()):
            needed.add(earlier)
    return [earlier for earlier in nodes if earlier in needed]


def _read_outputs(node: ir.Node) -> list[ir.Value]:
    return [output for output in node.outputs if output.uses() or output.is_graph_output()]


def _replace_computed(rewriter: Rewriter, node: ir.Node, values: dict[ir.Value, np.ndarray]) -> int:
    return _replace(rewriter, node, [values.get(output) for output in node.outputs], "computed")


PASS = EditPass(
    "fold_constants",
    edit,
    __doc__ or "",
    exactness=Exactness.EXACT,
    options_type=FoldConstantsOptions,
)
