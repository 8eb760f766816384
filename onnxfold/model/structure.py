"""Is the parsed message a model at all: names defined once, read where they are defined.

Only what the rest of the compiler relies on is checked. Operators and domains that nobody knows
pass; the ONNX checker is stricter and belongs to verification.
"""

from collections.abc import Iterable, Sequence

import onnx

from onnxfold.errors import BadModelError

_HINT = "onnx.checker.check_model tells more; export the model again"

FIRST_IR_WITH_OPSET_IMPORTS = 3
"""Before IR version 3 a model did not say which operator set it uses."""


def check_structure(proto: onnx.ModelProto, label: str) -> bool:
    """Check the names of a model, its subgraphs and its functions.

    Args:
        proto: The model; `ai.onnx`, the other spelling of the default domain, becomes the empty
            string in its opset imports, so that nothing later has to know both.
        label: What messages call the model.

    Returns:
        Whether every node comes after those that it reads from.

    Raises:
        BadModelError: The model breaks a rule that ONNX sets.
    """
    _check_header(proto, label)
    walk = _Walk(label)
    graph = proto.graph
    walk.scope(
        [value.name for value in graph.input], _initializers(graph), graph.node, _outputs(graph)
    )
    seen: set[tuple[str, str, str]] = set()
    for function in proto.functions:
        key = (function.domain, function.name, function.overload)
        if key in seen:
            raise _invalid(label, f"function {function.name!r} is defined twice")
        seen.add(key)
        _unify_default_domain(function.opset_import, label)
        walk.scope(list(function.input), [], function.node, list(function.output))
    return walk.in_order


def _check_header(proto: onnx.ModelProto, label: str) -> None:
    if proto.ir_version > onnx.IR_VERSION:
        raise BadModelError(
            f"{label} has IR version {proto.ir_version}, newer than the {onnx.IR_VERSION} that "
            "the installed onnx knows",
            "upgrade onnx with pip install -U onnx",
        )
    if proto.ir_version < 1:
        raise _invalid(label, "it states no IR version")
    if proto.ir_version < FIRST_IR_WITH_OPSET_IMPORTS:
        raise BadModelError(
            f"{label} has IR version {proto.ir_version}, from before operator sets had versions",
            "export it again with a tool from after 2017",
        )
    if proto.training_info:
        raise BadModelError(
            f"{label} holds training information, which would no longer fit after a rewrite",
            "remove it: del model.training_info[:]",
        )
    if not proto.opset_import:
        raise BadModelError(
            f"{label} is not a valid ONNX model: it imports no operator set",
            "the file may be cut off; export, copy or download it again",
        )
    imports = _unify_default_domain(proto.opset_import, label)
    if "" not in imports and any(node.domain in ("", "ai.onnx") for node in proto.graph.node):
        raise _invalid(label, "it uses ONNX operators but does not import their operator set")


def _unify_default_domain(imports: Iterable[onnx.OperatorSetIdProto], label: str) -> dict[str, int]:
    versions: dict[str, int] = {}
    for entry in imports:
        if entry.domain == "ai.onnx":
            entry.domain = ""
        if versions.setdefault(entry.domain, entry.version) != entry.version:
            name = entry.domain or "ai.onnx"
            raise _invalid(label, f"it imports two versions of the operator set {name}")
    return versions


def _initializers(graph: onnx.GraphProto) -> list[str]:
    return [tensor.name for tensor in graph.initializer] + [
        tensor.values.name for tensor in graph.sparse_initializer
    ]


def _outputs(graph: onnx.GraphProto) -> list[str]:
    return [value.name for value in graph.output]


def _invalid(label: str, reason: str) -> BadModelError:
    return BadModelError(f"{label} is not a valid ONNX model: {reason}", _HINT)


def _title(node: onnx.NodeProto) -> str:
    return f"node {node.name!r} ({node.op_type})" if node.name else f"a node of type {node.op_type}"


class _Walk:
    """Visits graphs from the outside in, with the names that each can see.

    Attributes:
        label: What messages call the model.
        in_order: Whether every read so far was of a name that had been defined before it.
    """

    def __init__(self, label: str) -> None:
        self.label = label
        self.in_order = True
        self._scopes: list[set[str]] = []
        """Every name that each enclosing graph defines anywhere."""
        self._before: list[set[str]] = []
        """The names that each enclosing graph has defined up to the node being visited."""

    def scope(
        self,
        inputs: Sequence[str],
        initializers: Sequence[str],
        nodes: Sequence[onnx.NodeProto],
        outputs: Sequence[str],
    ) -> None:
        """Visit one graph or function body, and what is nested in its nodes."""
        before = self._given(inputs, initializers)
        every = self._with_outputs(before, nodes)
        self._scopes.append(every)
        self._before.append(before)
        for node in nodes:
            for name in node.input:
                if name and name not in before:
                    self._read(name, node)
            self._attributes(node)
            before.update(node.output)
        self._scopes.pop()
        self._before.pop()
        for name in outputs:
            if name not in every:
                raise _invalid(self.label, f"nothing computes the output {name!r}")

    def _given(self, inputs: Sequence[str], initializers: Sequence[str]) -> set[str]:
        names = set(inputs)
        if len(names) < len(inputs):
            raise _invalid(self.label, f"two inputs are called {_repeated(inputs)!r}")
        if len(set(initializers)) < len(initializers):
            raise _invalid(self.label, f"two initializers are called {_repeated(initializers)!r}")
        names.update(initializers)
        if "" in names:
            raise _invalid(self.label, "an input or an initializer has no name")
        for name in names:
            self._refuse_shadow(name)
        return names

    def _with_outputs(self, given: set[str], nodes: Sequence[onnx.NodeProto]) -> set[str]:
        every = set(given)
        for node in nodes:
            for name in node.output:
                if not name:
                    continue
                if name in every:
                    raise _invalid(self.label, f"{name!r} is defined twice")
                self._refuse_shadow(name)
                every.add(name)
        return every

    def _refuse_shadow(self, name: str) -> None:
        if any(name in scope for scope in self._before):
            raise _invalid(self.label, f"{name!r} is defined both in a subgraph and around it")

    def _read(self, name: str, node: onnx.NodeProto) -> None:
        for scope, before in zip(reversed(self._scopes), reversed(self._before), strict=True):
            if name in scope:
                self.in_order = self.in_order and name in before
                return
        raise _invalid(self.label, f"{_title(node)} reads {name!r}, which nothing defines")

    def _attributes(self, node: onnx.NodeProto) -> None:
        names = set()
        for attribute in node.attribute:
            if attribute.name in names:
                raise _invalid(self.label, f"{_title(node)} has {attribute.name!r} twice")
            names.add(attribute.name)
            if attribute.type == onnx.AttributeProto.UNDEFINED and not attribute.ref_attr_name:
                raise _invalid(
                    self.label, f"attribute {attribute.name!r} of {_title(node)} has no type"
                )
            if attribute.type == onnx.AttributeProto.GRAPH:
                self._nested(attribute.g)
            elif attribute.type == onnx.AttributeProto.GRAPHS:
                for graph in attribute.graphs:
                    self._nested(graph)

    def _nested(self, graph: onnx.GraphProto) -> None:
        inputs = [value.name for value in graph.input]
        self.scope(inputs, _initializers(graph), graph.node, _outputs(graph))


def _repeated(names: Sequence[str]) -> str:
    return next(name for index, name in enumerate(names) if name in names[:index])
