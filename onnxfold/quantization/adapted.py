"""Brings a model to the form that INT8 needs: float32 weights, operator set 13 or later.

Both steps change no meaning, and what they make is proven equal to the model as it came. Models of
an older operator set go through onnx.version_converter. In a float16 model constants and types
become float32, which holds every float16 number; its inputs and outputs keep their types.
"""

import onnx
import onnx_ir as ir
from onnx import version_converter

from onnxfold.errors import BadModelError, OnnxfoldError
from onnxfold.ir.graph import opset_version
from onnxfold.model import load, to_proto
from onnxfold.targets.layers import LAYER_OPS
from onnxfold.targets.target import FIRST_OPSET
from onnxfold.verify import VerifyOptions, verify

_CONVERTER_ERRORS = (
    RuntimeError,
    ValueError,
    TypeError,
    onnx.checker.ValidationError,
    onnx.shape_inference.InferenceError,
)
_TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype")
_HALF, _SINGLE = ir.DataType.FLOAT16, ir.DataType.FLOAT
_HINT = "export it again in float32, for operator set 13 or later"


def needs_adapting(model: ir.Model) -> bool:
    """Whether the model has an old operator set, or layers in float16."""
    return 0 < opset_version(model) < FIRST_OPSET or _has_half_layers(model)


def with_new_opset(model: ir.Model) -> ir.Model:
    """The model, converted if its operator set has no scale per channel.

    Raises:
        BadModelError: It cannot be converted.
    """
    version = opset_version(model)
    if not 0 < version < FIRST_OPSET:
        return model
    try:
        converted = version_converter.convert_version(to_proto(model), FIRST_OPSET)
        return load(converted).model
    except (*_CONVERTER_ERRORS, OnnxfoldError) as error:
        reason = str(error).strip().splitlines()
        raise BadModelError(
            f"the model follows operator set {version}, INT8 needs {FIRST_OPSET} or later, and "
            f"onnx.version_converter fails: {reason[-1][:160] if reason else 'without a reason'}",
            _HINT,
        ) from error


def with_single_precision(model: ir.Model) -> bool:
    """Let a model whose layers hold float16 weights compute in float32, in place.

    Returns:
        Whether there was anything to do.
    """
    if not _has_half_layers(model):
        return False
    for graph in (model.graph, *model.graph.subgraphs()):
        for value in graph.initializers.values():
            value.const_value = _lengthened(value.const_value)
        for node in graph:
            _lengthen_attributes(node)
    borders = [value for value in model.graph.inputs if _is_half(value)]
    outputs = [
        value for value in model.graph.outputs if _is_half(value) and not value.is_graph_input()
    ]
    for value in _values(model.graph):
        value.type = _single_type(value.type)
    for value in borders:
        _feed(model.graph, value)
    for value in dict.fromkeys(outputs):
        _hand_out(model.graph, value)
    return True


def refuse_changed(before: onnx.ModelProto, after: onnx.ModelProto, threads: int | None) -> None:
    """Prove that what was brought to the form that INT8 needs computes the same.

    Raises:
        BadModelError: It does not.
        CannotRunError: The runtime cannot run the model as it came.
    """
    verdict = verify(before, after, VerifyOptions(threads=threads))
    if not verdict.equal:
        raise BadModelError(
            f"the model is not the same in float32 and operator set {FIRST_OPSET}: "
            f"{verdict.reason}",
            _HINT,
        )


def _has_half_layers(model: ir.Model) -> bool:
    return any(_is_half_layer(node) for node in model.graph)


def _is_half_layer(node: ir.Node) -> bool:
    if node.op_type not in LAYER_OPS or len(node.inputs) < 2:
        return False
    return node.inputs[1] is not None and _is_half(node.inputs[1])


def _is_half(value: ir.Value) -> bool:
    if value.const_value is not None:
        return value.const_value.dtype is _HALF
    return value.dtype is _HALF


def _values(graph: ir.Graph) -> list[ir.Value]:
    """Every value of the graph and of the bodies inside it."""
    found: list[ir.Value] = []
    for each in (graph, *graph.subgraphs()):
        found += [*each.inputs, *each.initializers.values()]
        found += [output for node in each for output in node.outputs]
    return found


def _lengthened(tensor: ir.TensorProtocol | None) -> ir.TensorProtocol | None:
    if tensor is None or tensor.dtype is not _HALF:
        return tensor
    return ir.Tensor(tensor.numpy().astype("float32"), name=tensor.name)


def _lengthen_attributes(node: ir.Node) -> None:
    for attribute in list(node.attributes.values()):
        if attribute.type is ir.AttributeType.TENSOR:
            tensor = _lengthened(attribute.as_tensor())
            assert tensor is not None
            node.attributes.add(ir.AttrTensor(attribute.name, tensor))
        elif (
            attribute.name in _TYPE_ATTRIBUTES
            and attribute.type is ir.AttributeType.INT
            and attribute.as_int() == int(_HALF)
        ):
            node.attributes.add(ir.AttrInt64(attribute.name, int(_SINGLE)))


def _single_type(old: ir.TypeProtocol | None) -> ir.TypeProtocol | None:
    if isinstance(old, ir.SequenceType):
        inner = _single_type(old.elem_type)
        return old if inner is None else ir.SequenceType(inner)
    if isinstance(old, ir.TensorType) and old.dtype is _HALF:
        return ir.TensorType(_SINGLE)
    return old


def _feed(graph: ir.Graph, value: ir.Value) -> None:
    """Let the readers of an input read it as float32."""
    readers = list(value.uses())
    value.type = ir.TensorType(_HALF)
    cast = _cast(value, _SINGLE, f"{value.name}.float32")
    for use in readers:
        use.node.replace_input_with(use.idx, cast.outputs[0])
    graph.insert_before(graph[0], cast)


def _hand_out(graph: ir.Graph, value: ir.Value) -> None:
    """Give an output of the model the type that its users expect, under its old name."""
    name = value.name
    value.name = f"{name}.float32"
    cast = _cast(value, _HALF, name)
    graph.append(cast)
    for index, output in enumerate(graph.outputs):
        if output is value:
            graph.outputs[index] = cast.outputs[0]


def _cast(value: ir.Value, dtype: ir.DataType, name: str | None) -> ir.Node:
    node = ir.Node("", "Cast", [value], [ir.AttrInt64("to", int(dtype))], name=name)
    result = node.outputs[0]
    result.name, result.type = name, ir.TensorType(dtype)
    result.shape = None if value.shape is None else ir.Shape(value.shape)
    return node
