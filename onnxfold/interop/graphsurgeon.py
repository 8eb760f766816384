"""Passes that are functions on a graphsurgeon `gs.Graph`, as TensorRT users write them.

    @graphsurgeon_pass("drop_dropout")
    def drop_dropout(graph):
        \"\"\"Remove Dropout nodes.\"\"\"
        for node in graph.nodes:
            ...

The function sees an ordinary `gs.Graph`. Weights stay where they are until it reads them, so that a
model larger than a message of protobuf goes through as well, and the weights it leaves alone come
back as the very tensors that went in, whatever their type. It need not clean up or sort: what
nothing reads any more is removed, and nodes are put in order. What graphsurgeon has no place for
(metadata, doc strings, annotations, inputs with a default) is restored.
"""

import contextlib
import inspect
import sys
from collections import ChainMap
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnx_ir as ir
from onnx_graphsurgeon.ir.tensor import LazyValues, SparseValues
from onnx_graphsurgeon.logger import G_LOGGER

from onnxfold.errors import OnnxfoldError
from onnxfold.interop.exchange import lent_copy, take_back
from onnxfold.interop.messages import (
    DetachedAttributes,
    attach_attributes,
    detach_attributes,
    keep_unread_initializers,
    lift_initializers,
    prune,
    refuse_untellable,
    unread_names,
)
from onnxfold.model.proto import serialized_form, tensors_replaced
from onnxfold.model.slots import TensorSlot
from onnxfold.pipeline.passes import ModelPass, NoOptions
from onnxfold.rewrite.rule import Exactness

_SHELF = "onnxfold.shelf"
"""Stands as the location of external data in messages whose weights lie on a shelf."""

GraphFunction = Callable[..., Any]
"""Takes a `gs.Graph`, and the options where the pass has any; returns a graph, or None when it
changed the one it was given."""


class GraphsurgeonError(OnnxfoldError):
    """A graphsurgeon function made something that is no graph."""


def graphsurgeon_pass(
    name: str,
    *,
    exactness: Exactness = Exactness.REASSOCIATED,
    options_type: type[Any] = NoOptions,
) -> Callable[[GraphFunction], ModelPass]:
    """Make a pass of a function on `gs.Graph`.

    The docstring of the function becomes the documentation of the pass.

    Args:
        name: The name of the pass: snake_case and short, because people type it.
        exactness: What the function promises about the numbers; it is verified like any pass.
        options_type: A frozen dataclass with a default for every field. When it is given, the
            function is called with an instance as its second argument.

    Returns:
        The decorator. What it yields counts as a single rewrite, made whole or not at all.
    """

    def decorate(function: GraphFunction) -> ModelPass:
        def transform(model: ir.Model, options: Any) -> ir.Model:
            arguments = () if options_type is NoOptions else (options,)
            return apply_function(model, lambda graph: function(graph, *arguments), name)

        return ModelPass(
            name,
            transform,
            inspect.getdoc(function) or f"The graphsurgeon function {function.__name__}.",
            exactness=exactness,
            options_type=options_type,
        )

    return decorate


def apply_function(
    model: ir.Model, function: Callable[[gs.Graph], gs.Graph | None], name: str
) -> ir.Model:
    """Run a function on `gs.Graph` over a model.

    Standard output is turned to standard error meanwhile: graphsurgeon logs there.

    Args:
        model: Not changed.
        function: Changes the graph that it is given, or returns another.
        name: What messages call the function.

    Returns:
        The changed model, its nodes in order.

    Raises:
        GraphsurgeonError: The function returned something else, or gave two tensors one name.
        BadModelError: The graph is not valid any more, or holds what graphsurgeon cannot carry.
    """
    shelf = _Shelf()
    with contextlib.redirect_stdout(sys.stderr):
        source, graph, detached = _import(lent_copy(model), shelf)
        returned = function(graph)
        graph = graph if returned is None else returned
        if not isinstance(graph, gs.Graph):
            raise GraphsurgeonError(
                f"the function of pass '{name}' returned a {type(graph).__name__}",
                "return a gs.Graph, or nothing after changing the one that was given",
            )
        proto = _export(graph, shelf)
    proto.graph.name = proto.graph.name or "graph"
    lift_initializers(proto.graph, {tensor.name for tensor in source.graph.initializer})
    keep_unread_initializers(proto.graph, source.graph)
    prune(proto.graph, unread_names(source.graph))
    attach_attributes(proto, detached)
    return take_back(proto, model, f"the graph that pass '{name}' made", shelf.resolve)


def _import(
    model: ir.Model, shelf: "_Shelf"
) -> tuple[onnx.ModelProto, gs.Graph, DetachedAttributes]:
    with tensors_replaced(model, lambda slot: shelf.stand_in(slot.tensor)):
        source = serialized_form(model)
    refuse_untellable(source)
    told = onnx.ModelProto()
    told.CopyFrom(source)
    detached = detach_attributes(told)
    with _quiet():
        graph = gs.import_onnx(told)
    for constant in _constants(graph):
        values = constant._values
        if isinstance(values, LazyValues) and not isinstance(values, _Weight | SparseValues):
            constant._values = _Weight(shelf.tensor(values.tensor), values.tensor)
            constant.data_location = None
    return source, graph, detached


def _export(graph: gs.Graph, shelf: "_Shelf") -> onnx.ModelProto:
    for constant in list(_constants(graph)):
        if not isinstance(constant._values, SparseValues):
            constant._values = shelf.weight(constant)
            constant._export_dtype = constant.data_location = None
    with _quiet():
        proto: onnx.ModelProto = gs.export_onnx(graph, do_type_check=False)
    return proto


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without graphsurgeon's warnings about types, which do not hold here."""
    severity = G_LOGGER.severity
    G_LOGGER.severity = max(severity, G_LOGGER.ERROR)
    try:
        yield
    finally:
        G_LOGGER.severity = severity


def _constants(graph: Any, around: ChainMap[str, Any] | None = None) -> Iterator[Any]:
    """The constants of a graph and of those nested in it, each of them once per graph.

    graphsurgeon tells tensors apart by name and keeps one of several with the same.

    Raises:
        GraphsurgeonError: Two tensors have the same name.
    """
    named: ChainMap[str, Any] = ChainMap() if around is None else around.new_child()
    tensors = [*graph.inputs, *graph.outputs]
    for node in graph.nodes:
        tensors += [*node.inputs, *node.outputs]
    for tensor in tensors:
        if tensor.is_empty():
            continue
        if named.setdefault(tensor.name, tensor) is not tensor:
            raise GraphsurgeonError(
                f"two tensors are called '{tensor.name}'",
                "give every tensor of a gs.Graph a name of its own",
            )
    yield from (tensor for tensor in named.maps[0].values() if isinstance(tensor, gs.Constant))
    for node in graph.nodes:
        for attribute in node.attrs.values():
            if isinstance(attribute, gs.Constant):
                yield attribute
            elif isinstance(attribute, gs.Graph):
                yield from _constants(attribute, named)


class _Weight(LazyValues):  # type: ignore[misc]  # graphsurgeon has no types
    """A weight that stays where it is until a function asks for its numbers.

    Attributes:
        weight: The tensor.
        reference: Stands for it in the message of the whole graph.
    """

    def __init__(self, weight: ir.TensorProtocol, reference: onnx.TensorProto) -> None:
        # Not the parent's: it would read dtypes that numpy lacks as numbers of another type.
        self.weight = weight
        self.reference = reference
        self.shape = list(weight.shape.numpy())
        self.dtype = weight.dtype.numpy()
        self.nbytes = 0 if weight.dtype == ir.DataType.STRING else weight.nbytes

    @property
    def tensor(self) -> onnx.TensorProto:
        """The weight as a message with its numbers, for exports that a function makes itself."""
        whole = ir.tensor(self.weight.numpy(), dtype=self.weight.dtype)
        return ir.serde.serialize_tensor(whole)

    def load(self) -> np.ndarray[Any, Any]:
        """The numbers, to be changed at will."""
        return np.array(self.weight.numpy())


class _Reference(_Weight):
    """A weight whose message has no numbers."""

    @property
    def tensor(self) -> onnx.TensorProto:
        """A message of its own that stands for the weight."""
        copy = onnx.TensorProto()
        copy.CopyFrom(self.reference)
        return copy


class _Shelf:
    """Keeps tensors while messages refer to them by number."""

    def __init__(self) -> None:
        self._tensors: list[ir.TensorProtocol] = []

    def stand_in(self, tensor: ir.TensorProtocol) -> ir.ExternalTensor:
        """Put `tensor` on the shelf, and return what stands for it in a message."""
        self._tensors.append(tensor)
        return ir.ExternalTensor(
            _SHELF,
            len(self._tensors) - 1,
            None,
            tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=tensor.name or "",
        )

    def weight(self, constant: gs.Constant) -> _Reference:
        """What stands for the values of `constant`, whoever made them."""
        values = constant._values
        if isinstance(values, _Reference):
            return values
        if isinstance(values, _Weight):
            tensor = values.weight
        elif isinstance(values, LazyValues):
            tensor = ir.serde.deserialize_tensor(values.tensor)
        else:
            tensor = _as_tensor(np.asarray(values), constant._export_dtype)
        return _Reference(tensor, ir.serde.serialize_tensor(self.stand_in(tensor)))

    def tensor(self, reference: onnx.TensorProto) -> ir.TensorProtocol:
        """The tensor for which `reference` stands."""
        entries = {entry.key: entry.value for entry in reference.external_data}
        return self._tensors[int(entries["offset"])]

    def resolve(self, slot: TensorSlot) -> ir.TensorProtocol | None:
        """The tensor that belongs into `slot`; None when the one there is whole."""
        tensor = slot.tensor
        if not isinstance(tensor, ir.ExternalTensor) or str(tensor.location) != _SHELF:
            return None
        return self._tensors[tensor.offset or 0]


def _as_tensor(array: np.ndarray[Any, Any], export_dtype: Any) -> ir.TensorProtocol:
    """The values of a `gs.Constant`, cast where the function asked for that."""
    if array.dtype == object:
        texts = [item if isinstance(item, bytes) else str(item).encode() for item in array.flat]
        return ir.StringTensor(texts, shape=ir.Shape(array.shape))
    if export_dtype is not None:
        is_number = isinstance(export_dtype, int)
        wanted = (
            ir.DataType(export_dtype)
            if is_number
            else ir.DataType.from_numpy(np.dtype(export_dtype))
        )
        array = array.astype(wanted.numpy())
    return ir.Tensor(np.array(array, order="C"), dtype=ir.DataType.from_numpy(array.dtype))
