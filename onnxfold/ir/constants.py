"""Which values are constants, and what they hold.

A constant is an initializer, the output of a Constant node, or an Identity of a constant. An
initializer that is also a graph input is *not* one: the caller may override it at run time.
"""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

FLOAT_TYPES = frozenset(
    {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE, ir.DataType.BFLOAT16}
)
"""The types that the algebra may fold. Everything else (integers, 8-bit floats) is left alone."""


def constant_tensor(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor that `value` always holds, or None when it is not a constant."""
    while value is not None:
        if value.is_graph_input():
            return None
        node = value.producer()
        if node is None:
            return value.const_value if value.is_initializer() else None
        if node.domain != "" or node.op_type != "Identity":
            return _tensor_of_constant_node(node)
        value = node.inputs[0]
    return None


def _tensor_of_constant_node(node: ir.Node) -> ir.TensorProtocol | None:
    if node.domain != "" or node.op_type != "Constant" or len(node.attributes) != 1:
        return None
    ((name, attribute),) = node.attributes.data.items()
    if attribute.is_ref() or name == "sparse_value":
        return None
    if name == "value" and attribute.type is ir.AttributeType.TENSOR:
        tensor: ir.TensorProtocol = attribute.value  # the library checks a protocol, slowly
        return tensor
    return ir.convenience.get_const_tensor(node.outputs[0])


def is_constant(value: ir.Value | None) -> bool:
    """Whether `value` always holds the same tensor."""
    return constant_tensor(value) is not None


def constant_array(value: ir.Value | None) -> NDArray[np.generic] | None:
    """The constant held by `value` as a numpy array of its own dtype, or None."""
    tensor = constant_tensor(value)
    return None if tensor is None else tensor.numpy()


def float_constant(value: ir.Value | None) -> NDArray[np.float64] | None:
    """The floating-point constant held by `value`, widened to float64, or None.

    None too when the constant is not of a type in `FLOAT_TYPES`.
    """
    tensor = constant_tensor(value)
    if tensor is None or tensor.dtype not in FLOAT_TYPES:
        return None
    wide = np.asarray(tensor.numpy()).astype(np.float64)
    release(tensor)
    return wide


def int_constant(value: ir.Value | None) -> tuple[int, ...] | None:
    """The one-dimensional (or scalar) integer constant held by `value` as a tuple, or None."""
    tensor = constant_tensor(value)
    if tensor is None or tensor.dtype not in {ir.DataType.INT64, ir.DataType.INT32}:
        return None
    array = tensor.numpy()
    return tuple(int(item) for item in array.reshape(-1)) if array.ndim <= 1 else None


def release(tensor: ir.TensorProtocol) -> None:
    """Unmap an external tensor after it was read.

    A mapped page counts as memory in use for as long as it stays mapped; a fold over a
    multi-gigabyte model must not keep every weight that it has looked at.
    """
    if isinstance(tensor, ir.ExternalTensor):
        tensor.release()
