"""Recognises the conversions between float32 and float16 that a model already has."""

import onnx_ir as ir

from onnxfold.ir.graph import is_op


def is_transparent(node: ir.Node) -> bool:
    """Whether a node takes its operand in either type: it looks at the shape, or converts."""
    if is_op(node, "Shape", "Size"):
        return True
    return is_shortening(node) or is_lengthening(node)


def is_shortening(node: ir.Node | None) -> bool:
    """Whether a node converts float32 to float16."""
    return _converts(node, ir.DataType.FLOAT, ir.DataType.FLOAT16)


def is_lengthening(node: ir.Node | None) -> bool:
    """Whether a node converts float16 to float32."""
    return _converts(node, ir.DataType.FLOAT16, ir.DataType.FLOAT)


def _converts(node: ir.Node | None, source: ir.DataType, target: ir.DataType) -> bool:
    if node is None or not is_op(node, "Cast") or node.inputs[0] is None:
        return False
    return node.inputs[0].dtype == source and node.outputs[0].dtype == target
