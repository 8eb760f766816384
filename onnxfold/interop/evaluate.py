"""Computes the constant part of a graph on the runtime that defines what the model means."""

from collections.abc import Iterable, Sequence

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from onnxfold.errors import OnnxfoldError
from onnxfold.ir.constants import constant_tensor
from onnxfold.ir.shapes import tensor_extents
from onnxfold.verify.session import FeedRefusedError, Session


def evaluate(
    nodes: Sequence[ir.Node], wanted: Sequence[ir.Value], model: ir.Model
) -> list[NDArray[np.generic]] | str:
    """Run `nodes`, which need nothing but constants, and return the values in `wanted`.

    The runtime computes in the types of the model, without optimizations, so the numbers are those
    that the model itself would compute each time.

    Args:
        nodes: In topological order; every input is a constant or an output of an earlier one.
        wanted: Outputs of `nodes`.
        model: Says which operator sets the nodes follow.

    Returns:
        One array per wanted value, or the reason why the runtime cannot compute them.
    """
    try:
        outputs = Session(_as_model(nodes, wanted, model), threads=1).run({})
    except (OnnxfoldError, FeedRefusedError) as error:
        return str(error)
    return [np.asarray(outputs[value.name or ""]) for value in wanted]


def _as_model(
    nodes: Sequence[ir.Node], wanted: Sequence[ir.Value], model: ir.Model
) -> onnx.ModelProto:
    proto = onnx.ModelProto(ir_version=min(max(model.ir_version, 4), 10))
    for domain, version in model.opset_imports.items():
        proto.opset_import.add(domain=domain, version=version)
    proto.graph.name = "constants"
    for node in nodes:
        ir.serde.serialize_node_into(proto.graph.node.add(), node)
    for value in _fed(nodes):
        tensor = constant_tensor(value)
        assert tensor is not None
        fed = proto.graph.initializer.add(data_type=int(tensor.dtype), dims=tensor_extents(tensor))
        if tensor.dtype == ir.DataType.STRING:
            fed.string_data.extend(tensor.numpy().reshape(-1).tolist())
        else:
            fed.raw_data = tensor.tobytes()
        fed.name = value.name or ""
    for value in wanted:
        assert value.dtype is not None
        proto.graph.output.append(
            onnx.helper.make_tensor_value_info(value.name or "", int(value.dtype), None)
        )
    return proto


def _fed(nodes: Iterable[ir.Node]) -> list[ir.Value]:
    """The constants that `nodes` read and do not compute."""
    computed = {output for node in nodes for output in node.outputs}
    read = [value for node in nodes for value in node.inputs if value is not None]
    return [value for value in dict.fromkeys(read) if value not in computed]
