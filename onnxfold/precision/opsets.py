"""Raises the operator set of a model, where every node keeps its meaning."""

import numpy as np
import onnx
import onnx_ir as ir

from onnxfold.ir.graph import (
    describe,
    input_at,
    int_attribute,
    ints_attribute,
    opset_version,
    stamp_opset_versions,
)

_OLDEST = 13
"""Before it axes were attributes and Softmax flattened its operand."""

_IR_VERSION = 9
"""The first format version that knows operator set 19."""


def raise_opset(model: ir.Model, version: int) -> str | None:
    """Raise the default operator set of a model that follows an older one.

    Args:
        model: Changed in place, or not at all.
        version: The operator set wanted, at most 19.

    Returns:
        Why it cannot be raised, as a clause; None when it was, or was as high already.
    """
    present = opset_version(model)
    if present >= version:
        return None
    if present < _OLDEST:
        return f"operator set {present} is too old to be raised"
    nodes = [node for node in model.graph.all_nodes() if node.domain == ""]
    for node in nodes:
        if (reason := _obstacle(node, present, version)) is not None:
            return f"{describe(node)} {reason} in operator set {version}"
    for number, node in enumerate(nodes):
        if "axes" in node.attributes and node.op_type.startswith("Reduce"):
            _give_axes_as_input(node, f"{node.outputs[0].name}.axes{number}")
        if _splits_evenly(node):
            node.attributes.add(ir.AttrInt64("num_outputs", len(node.outputs)))
    model.opset_imports["" if "" in model.opset_imports else "ai.onnx"] = version
    model.ir_version = max(model.ir_version, _IR_VERSION)
    stamp_opset_versions(model)
    return None


def _obstacle(node: ir.Node, present: int, version: int) -> str | None:
    old = onnx.defs.get_schema(node.op_type, max_inclusive_version=present, domain="")
    new = onnx.defs.get_schema(node.op_type, max_inclusive_version=version, domain="")
    if old.since_version == new.since_version:
        return None
    if node.op_type == "RoiAlign":
        return "samples elsewhere"
    if node.op_type == "AveragePool" and int_attribute(node, "ceil_mode", 0):
        return "rounds its extents otherwise"
    if node.op_type.startswith("Reduce") and "axes" in node.attributes:
        return None
    return None if _understood(node, old, new) else "has another form"


def _understood(node: ir.Node, old: onnx.defs.OpSchema, new: onnx.defs.OpSchema) -> bool:
    """Whether the newer schema reads the node as the older one did."""
    formal = zip(old.inputs, new.inputs, strict=False)
    if len(new.inputs) < len(old.inputs) or any(a.name != b.name for a, b in formal):
        return False
    if any(name not in new.attributes for name in node.attributes):
        return False
    return all(
        not attribute.required and (name not in old.attributes or _same_default(old, new, name))
        for name, attribute in new.attributes.items()
        if name not in node.attributes
    )


def _same_default(old: onnx.defs.OpSchema, new: onnx.defs.OpSchema, name: str) -> bool:
    return old.attributes[name].default_value == new.attributes[name].default_value


def _splits_evenly(node: ir.Node) -> bool:
    return node.op_type == "Split" and input_at(node, 1) is None


def _give_axes_as_input(node: ir.Node, name: str) -> None:
    axes = np.asarray(ints_attribute(node, "axes", ()), np.int64)
    del node.attributes["axes"]
    constant = ir.Node("", "Constant", [], [ir.AttrTensor("value", ir.tensor(axes))], name=name)
    output = constant.outputs[0]
    output.name, output.type = name, ir.TensorType(ir.DataType.INT64)
    output.shape = ir.Shape(axes.shape)
    assert node.graph is not None
    node.graph.insert_before(node, constant)
    node.resize_inputs(2)
    node.replace_input_with(1, output)
