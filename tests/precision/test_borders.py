"""The cut is the cheapest one: compared with trying all of them."""

from __future__ import annotations

from itertools import combinations

import onnx
import onnx_ir as ir
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxfold.ir.graph import stamp_opset_versions
from onnxfold.ir.shapes import infer_shapes
from onnxfold.model import load
from onnxfold.precision.borders import joined

FLOAT_ONLY = "Sin"
COSTS = {"Relu": 2, "Add": 2, "MaxPool": 8}
CAST = 8

Step = tuple[str, int, int]
steps = st.lists(
    st.tuples(
        st.sampled_from(["Relu", "Relu", "Add", "Add", "MaxPool", "Sin", "MatMul"]),
        st.integers(1, 4),
        st.integers(1, 4),
    ),
    min_size=1,
    max_size=9,
)


def network(chosen: list[Step]) -> ir.Model:
    """Every node reads earlier values, counted backwards; what nobody reads is an output."""
    values = ["x"]
    nodes = []
    for number, (op_type, first, second) in enumerate(chosen):
        read = [values[-min(back, len(values))] for back in (first, second)]
        inputs = read if op_type in ("Add", "MatMul") else read[:1]
        node = onnx.helper.make_node(op_type, inputs, [f"v{number}"])
        if op_type == "MaxPool":
            node.attribute.append(onnx.helper.make_attribute("kernel_shape", [1, 1]))
        nodes.append(node)
        values.append(f"v{number}")
    unread = [name for name in values[1:] if all(name not in node.input for node in nodes)]
    kinds = {
        name: onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 1, 4, 4])
        for name in values
    }
    graph = onnx.helper.make_graph(nodes, "g", [kinds["x"]], [kinds[name] for name in unread])
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])
    model = load(proto).model
    infer_shapes(model)
    stamp_opset_versions(model)
    return model


def cost(graph: ir.Graph, floats: frozenset[ir.Node], keep_io: bool) -> int:
    """Casts and nodes that stay in float32, counted the plain way."""
    total = sum(COSTS[node.op_type] for node in floats if node.op_type in COSTS)
    outside = keep_io
    values = [(value, outside) for value in graph.inputs]
    values += [(value, node in floats) for node in graph for value in node.outputs]
    for value, is_float in values:
        readers = [use.node in floats for use in value.uses()]
        readers += [outside] * value.is_graph_output()
        total += CAST * any(reader != is_float for reader in readers)
    return total


@given(steps, st.booleans())
@settings(max_examples=150, deadline=None, derandomize=True)
def test_no_other_islands_are_cheaper(chosen: list[Step], keep_io: bool) -> None:
    graph = network(chosen).graph
    fixed = frozenset(node for node in graph if node.op_type == FLOAT_ONLY)
    free = [node for node in graph if node not in fixed]
    cheap = [node for node in free if node.op_type != "MatMul"]
    found = joined(graph, free, keep_io=keep_io)
    choices = [
        frozenset(choice) for size in range(len(cheap) + 1) for choice in combinations(cheap, size)
    ]
    costs = {choice: cost(graph, fixed | choice, keep_io) for choice in choices}
    cheapest = min(costs.values())
    assert costs[found] == cheapest
    best = [choice for choice, price in costs.items() if price == cheapest]
    assert all(found <= choice for choice in best)
