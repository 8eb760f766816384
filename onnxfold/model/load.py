"""Reading a model: from a path, from bytes or from a `ModelProto`."""

import os
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import EncodeError

from onnxfold.errors import BadModelError
from onnxfold.model.collector import garbage_collection_paused
from onnxfold.model.contents import check_contents
from onnxfold.model.external import check_external, map_external
from onnxfold.model.inline import inline_functions
from onnxfold.model.proto import FIRST_IR_WITH_CONSTANT_INITIALIZERS, from_proto, mark_external
from onnxfold.model.read import PROTOBUF_LIMIT, parse, read_proto
from onnxfold.model.structure import check_structure

_UNNAMED = "the model"


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in memory and what was done to it on the way.

    Attributes:
        model: The graph. Its inputs are those that a caller feeds, its functions are inlined and
            its nodes are in order; external weights are mapped.
        source: What it was read from, as a runtime can load it: a path, or a serialised model.
        overridable: Initializers that are inputs too, which a caller may override: no constants.
        demoted: Inputs that are initializers and count as constants all the same, because IR
            versions below 4 leave no choice. They are no inputs of `model`; saving lists them.
        inlined: Names of the model-local functions that were inlined.
        reordered: Whether the nodes had to be sorted.
        has_external_data: Whether weights lie in other files.
    """

    model: ir.Model
    source: Path | bytes
    overridable: frozenset[str]
    demoted: tuple[str, ...]
    inlined: tuple[str, ...]
    reordered: bool
    has_external_data: bool

    @property
    def path(self) -> Path | None:
        """The file that the model was read from, None when it came otherwise."""
        return self.source if isinstance(self.source, Path) else None

    def is_overridable(self, name: str) -> bool:
        """Whether the initializer called `name` may be overridden by a caller."""
        return name in self.overridable


def load(
    source: str | os.PathLike[str] | bytes | onnx.ModelProto, *, keep_overridable: bool = False
) -> LoadedModel:
    """Read a model.

    Args:
        source: A path, a serialised model, or a message, which is copied.
        keep_overridable: Leave initializers of models below IR version 4, which are all inputs,
            open to being overridden instead of taking them for constants.

    Raises:
        BadModelError: It is not a model that can be read; nothing was read from outside the
            folder it lies in.
    """
    with garbage_collection_paused():
        return _load(source, keep_overridable)


def _load(
    source: str | os.PathLike[str] | bytes | onnx.ModelProto, keep_overridable: bool
) -> LoadedModel:
    proto, folder, label, kept = _read(source)
    in_order = check_structure(proto, label)
    external = check_contents(proto, label)
    files = check_external(external, folder, label)
    model = from_proto(proto, label)
    if not in_order:
        _sort(model, label)
    inlined = inline_functions(model, label)
    map_external(model, files)
    if files:
        mark_external(model.graph)
    demoted = () if keep_overridable else _demote_initializers(model)
    return LoadedModel(
        model=model,
        source=kept,
        overridable=frozenset(
            value.name
            for value in model.graph.inputs
            if value.name and value.name in model.graph.initializers
        ),
        demoted=demoted,
        inlined=inlined,
        reordered=not in_order,
        has_external_data=bool(files),
    )


def _read(
    source: str | os.PathLike[str] | bytes | onnx.ModelProto,
) -> tuple[onnx.ModelProto, Path | None, str, Path | bytes]:
    """The message, the folder of its data, what to call it, and the source to keep."""
    if isinstance(source, onnx.ModelProto):
        data = _serialised(source)
        return parse(data, _UNNAMED), None, _UNNAMED, data
    if isinstance(source, bytes):
        return parse(source, _UNNAMED), None, _UNNAMED, source
    path = Path(source)
    return read_proto(path), Path(os.path.abspath(path)).parent, str(path), path


def _serialised(proto: onnx.ModelProto) -> bytes:
    too_large = BadModelError(
        f"{_UNNAMED} is over 2 GB in memory, which protobuf cannot copy",
        "save it with external data and give its path",
    )
    try:
        data: bytes = proto.SerializeToString()
    except (EncodeError, ValueError) as error:
        raise too_large from error
    if len(data) > PROTOBUF_LIMIT:
        raise too_large
    return data


def _sort(model: ir.Model, label: str) -> None:
    bodies: list[ir.Graph | ir.Function] = [*model.functions.values(), model.graph]
    for body in bodies:
        try:
            body.sort()
        except ValueError as error:
            raise BadModelError(
                f"{label} is not a valid ONNX model: its nodes form a cycle{_cycle(body)}",
                "onnx.checker.check_model tells more; export the model again",
            ) from error


def _cycle(nodes: ir.Graph | ir.Function) -> str:
    """Which nodes form a cycle, as the end of a sentence; empty when it runs through subgraphs."""
    import networkx as nx  # slow to import, and only a broken model needs it

    reads = nx.DiGraph()
    reads.add_nodes_from(nodes)  # so that the cycle is told from its first node on
    for node in nodes:
        reads.add_edges_from((before, node) for before in node.predecessors())
    try:
        cycle = [edge[0] for edge in nx.find_cycle(reads)]
    except nx.NetworkXNoCycle:
        return ""
    shown = ", ".join(repr(node.name or node.op_type) for node in cycle[:4])
    return f" through {shown}" + (" and others" if len(cycle) > 4 else "")


def _demote_initializers(model: ir.Model) -> tuple[str, ...]:
    if model.ir_version >= FIRST_IR_WITH_CONSTANT_INITIALIZERS:
        return ()
    initializers = model.graph.initializers
    demoted = [value for value in model.graph.inputs if value.name in initializers]
    for value in demoted:
        model.graph.inputs.remove(value)
    return tuple(value.name for value in demoted if value.name)
