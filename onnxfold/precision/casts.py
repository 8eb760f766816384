"""Carries out a plan: types change, constants are rounded, Casts stand at the borders."""

import numpy as np
import onnx_ir as ir

from onnxfold.ir.constants import release
from onnxfold.ir.graph import captured_values, is_op, is_read, reader_count, subgraphs
from onnxfold.precision.existing_casts import is_lengthening, is_shortening, is_transparent
from onnxfold.precision.islands import Plan
from onnxfold.precision.schemas import is_float, is_sequence
from onnxfold.precision.weights import as_half
from onnxfold.rewrite.tensor_store import TensorStore

_TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype")


def carry_out(plan: Plan, graph: ir.Graph, store: TensorStore, *, keep_io: bool) -> None:
    """Change the types of a graph as planned, and add the Casts that this needs.

    Args:
        plan: What becomes float16.
        graph: Changed in place.
        store: Where the rounded constants are kept.
        keep_io: Whether inputs and outputs stay float32.
    """
    _Conversion(plan, graph, store, keep_io).run()


class _Conversion:
    """The state of one conversion: what has changed its type, and what was cast already."""

    def __init__(self, plan: Plan, graph: ir.Graph, store: TensorStore, keep_io: bool) -> None:
        self._plan = plan
        self._graph = graph
        self._store = store
        self._keep_io = keep_io
        self._names = _taken_names(graph)
        self._shortening = dict.fromkeys(filter(is_shortening, graph))
        self._lengthening = dict.fromkeys(filter(is_lengthening, graph))
        self._transparent = {node for node in graph if is_transparent(node)}
        self._retyped: set[ir.Value] = set()
        self._halves: dict[ir.Value, ir.Value] = {}
        self._floats: dict[ir.Value, ir.Value] = {}

    def run(self) -> None:
        outputs = dict.fromkeys(filter(_is_float_tensor, self._graph.outputs))
        if not self._keep_io:
            for value in filter(_is_float_tensor, self._graph.inputs):
                self._retype_input(value)
        for node, slots in self._plan.half.items():
            for index in slots.outputs:
                self._retype(node.outputs[index])
            _change_type_attributes(node)
        for node in list(self._graph):
            self._connect(node)
        for value in outputs:
            self._connect_output(value)
        self._merge_casts()
        self._drop_leftovers()

    def _retype(self, value: ir.Value) -> None:
        value.type = _half_type(value.type)
        self._retyped.add(value)

    def _retype_input(self, value: ir.Value) -> None:
        if value.const_value is not None:
            value.const_value = self._rounded(value.const_value, value.name)
        self._retype(value)

    def _connect(self, node: ir.Node) -> None:
        """Let a node read every operand in the type that it now has."""
        if node in self._shortening and node.inputs[0] is not None:
            self._halves.setdefault(node.inputs[0], node.outputs[0])
        if node in self._transparent:
            return
        slots = self._plan.half.get(node)
        for index, value in enumerate(node.inputs):
            if value is None:
                continue
            if slots is not None and index in slots.inputs:
                node.replace_input_with(index, self._half(value, node))
            elif value in self._retyped:
                node.replace_input_with(index, self._float(value, node))
        for value in captured_values(node):
            if value in self._retyped:
                _replace_captured(node, value, self._float(value, node))

    def _merge_casts(self) -> None:
        """Drop the model's own Casts to float16 of what is float16, or was cast before."""
        for cast in self._shortening:
            value, output = cast.inputs[0], cast.outputs[0]
            if value is None or output.is_graph_output():
                continue
            half = value if value in self._retyped else self._halves.get(value, output)
            if half is not output:
                output.replace_all_uses_with(half)

    def _half(self, value: ir.Value, reader: ir.Node) -> ir.Value:
        """`value` as float16, with a Cast in front of its first reader if need be."""
        if not is_float(value):
            return value
        if value not in self._halves:
            self._halves[value] = self._new_half(value, reader)
        return self._halves[value]

    def _new_half(self, value: ir.Value, reader: ir.Node) -> ir.Value:
        node = value.producer()
        if node in self._lengthening and node is not None and node.inputs[0] is not None:
            return node.inputs[0]
        if node is None and value.is_initializer() and not value.is_graph_input():
            return self._half_initializer(value)
        if node is not None and is_op(node, "Constant"):
            return self._half_constant(value, node)
        return self._cast(value, ir.DataType.FLOAT16, reader)

    def _float(self, value: ir.Value, reader: ir.Node) -> ir.Value:
        """What became float16 as float32 again."""
        if value not in self._floats:
            self._floats[value] = self._cast(value, ir.DataType.FLOAT, reader)
        return self._floats[value]

    def _cast(self, value: ir.Value, dtype: ir.DataType, reader: ir.Node | None) -> ir.Value:
        name = self._fresh(f"{value.name}.{_SUFFIX[dtype]}")
        to = ir.AttrInt64("to", int(dtype))
        node = ir.Node("", "Cast", [value], [to], name=name)
        result = node.outputs[0]
        result.name, result.type = name, ir.TensorType(dtype)
        result.shape = None if value.shape is None else ir.Shape(value.shape)
        if reader is None:
            self._graph.append(node)
        else:
            self._graph.insert_before(reader, node)
        return result

    def _half_initializer(self, value: ir.Value) -> ir.Value:
        tensor = value.const_value
        assert tensor is not None
        if self._is_read_as_half_only(value):
            value.const_value = self._rounded(tensor, value.name)
            self._retype(value)
            return value
        name = self._fresh(f"{value.name}.{_SUFFIX[ir.DataType.FLOAT16]}")
        copy = ir.Value(name=name, type=_half_type(value.type), shape=value.shape)
        copy.const_value = self._rounded(tensor, name)
        self._graph.register_initializer(copy)
        if self._is_scale(value):
            value.const_value = _lengthened(copy.const_value, value.name)
        return copy

    def _half_constant(self, value: ir.Value, node: ir.Node) -> ir.Value:
        tensor = ir.convenience.get_const_tensor(value)
        assert tensor is not None
        if self._is_read_as_half_only(value):
            _hold(node, self._rounded(tensor, value.name))
            self._retype(value)
            return value
        name = self._fresh(f"{value.name}.{_SUFFIX[ir.DataType.FLOAT16]}")
        copy = ir.Node("", "Constant", [], name=name)
        half = self._rounded(tensor, name)
        _hold(copy, half)
        copy.outputs[0].name, copy.outputs[0].type = name, _half_type(value.type)
        copy.outputs[0].shape = value.shape
        self._graph.insert_after(node, copy)
        if self._is_scale(value):
            _hold(node, _lengthened(half, value.name))
        return copy.outputs[0]

    def _is_scale(self, value: ir.Value) -> bool:
        """Whether what reads a constant as float32 quantizes: with the same scale on both sides."""
        readers = [use for use in value.uses() if use.node not in self._plan.half]
        return all(
            use.idx == 1 and is_op(use.node, "QuantizeLinear", "DequantizeLinear")
            for use in readers
        )

    def _is_read_as_half_only(self, value: ir.Value) -> bool:
        if value.is_graph_output():
            return False
        half = self._plan.half
        return all(use.node in half and use.idx in half[use.node].inputs for use in value.uses())

    def _rounded(self, tensor: ir.TensorProtocol, name: str | None) -> ir.TensorProtocol:
        rounded = self._store.keep(as_half(tensor.numpy()), ir.DataType.FLOAT16)
        rounded.name = name
        release(tensor)
        return rounded

    def _connect_output(self, value: ir.Value) -> None:
        """Give an output of the model the type that its users expect, under its old name."""
        if self._keep_io != (value in self._retyped):
            return
        dtype = ir.DataType.FLOAT if self._keep_io else ir.DataType.FLOAT16
        if self._keep_io:
            result = self._floats.get(value)
        else:
            maker = value.producer()
            lengthened = maker.inputs[0] if maker in self._lengthening and maker else None
            result = lengthened or self._halves.get(value)
        if result is None or not _can_become_output(result):
            result = self._cast(value, dtype, None)
        old_name = value.name
        value.name = self._fresh(f"{old_name}.{_SUFFIX[value.dtype or ir.DataType.UNDEFINED]}")
        result.name = old_name
        result.doc_string = value.doc_string
        result.metadata_props.update(value.metadata_props)
        for index, output in enumerate(self._graph.outputs):
            if output is value:
                self._graph.outputs[index] = result

    def _drop_leftovers(self) -> None:
        """Remove conversions and constants that nobody reads any more."""
        for node in (*self._shortening, *self._lengthening):
            if not is_read(node):
                self._graph.remove(node, safe=True)
        for value in self._halves:
            if reader_count(value) or value.is_graph_output() or value.is_graph_input():
                continue
            maker = value.producer()
            if maker is not None and is_op(maker, "Constant"):
                self._graph.remove(maker, safe=True)
            elif value.is_initializer():
                self._graph.initializers.pop(value.name or "")

    def _fresh(self, wish: str) -> str:
        name, number = wish, 0
        while name in self._names:
            number += 1
            name = f"{wish}.{number}"
        self._names.add(name)
        return name


_SUFFIX = {ir.DataType.FLOAT: "float32", ir.DataType.FLOAT16: "float16"}


def _is_float_tensor(value: ir.Value) -> bool:
    return is_float(value) and not is_sequence(value)


def _lengthened(tensor: ir.TensorProtocol, name: str | None) -> ir.TensorProtocol:
    return ir.Tensor(tensor.numpy().astype(np.float32), name=name)


def _hold(node: ir.Node, tensor: ir.TensorProtocol) -> None:
    """Let a Constant node hold a tensor."""
    node.attributes.clear()
    node.attributes.add(ir.AttrTensor("value", tensor))


def _half_type(old: ir.TypeProtocol | None) -> ir.TensorType | ir.SequenceType:
    """A new object, because values may share the one that they have."""
    if isinstance(old, ir.SequenceType):
        return ir.SequenceType(_half_type(old.elem_type))
    return ir.TensorType(ir.DataType.FLOAT16)


def _change_type_attributes(node: ir.Node) -> None:
    """Let attributes that say float32 say float16."""
    for name in _TYPE_ATTRIBUTES:
        attribute = node.attributes.get(name)
        if attribute is not None and attribute.as_int() == int(ir.DataType.FLOAT):
            node.attributes.add(ir.AttrInt64(name, int(ir.DataType.FLOAT16)))
    if is_op(node, "ConstantOfShape"):
        value = node.attributes.get("value")
        number = 0.0 if value is None else value.as_tensor().numpy()
        node.attributes.add(ir.AttrTensor("value", ir.tensor(as_half(np.reshape(number, 1)))))


def _can_become_output(value: ir.Value) -> bool:
    return value.producer() is not None and not value.is_graph_output()


def _replace_captured(node: ir.Node, old: ir.Value, new: ir.Value) -> None:
    """Let the graphs inside `node` read `new` wherever they read `old`."""
    for graph in subgraphs(node):
        for inner in graph:
            for index, value in enumerate(inner.inputs):
                if value is old:
                    inner.replace_input_with(index, new)
            _replace_captured(inner, old, new)
        for index, value in enumerate(graph.outputs):
            if value is old:
                graph.outputs[index] = new


def _taken_names(graph: ir.Graph) -> set[str]:
    names: set[str] = set()
    for each in (graph, *graph.subgraphs()):
        names.update(value.name or "" for value in each.inputs)
        names.update(each.initializers)
        for node in each:
            names.add(node.name or "")
            names.update(output.name or "" for output in node.outputs)
    return names
