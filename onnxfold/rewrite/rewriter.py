"""The only code that edits a graph."""

from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest

import onnx_ir as ir

from onnxfold.errors import OnnxfoldError
from onnxfold.ir.graph import (
    captured_values,
    is_op,
    is_read,
    reader_count,
    stamp_opset_versions,
    subgraphs,
)
from onnxfold.ir.interface import interface_difference
from onnxfold.ir.shapes import infer_shapes
from onnxfold.rewrite.adoption import change, flaw, independent_copy
from onnxfold.rewrite.builder import Builder
from onnxfold.rewrite.ledger import Ledger
from onnxfold.rewrite.names import Names
from onnxfold.rewrite.tensor_store import TensorStore

RULE_KEY = "onnxfold.rule"
SOURCES_KEY = "onnxfold.sources"


class RewriteError(OnnxfoldError):
    """A rewrite asked for something that would break the graph; it was not made."""

    exit_code = 70


class Rewriter:
    """Applies recorded rewrites to one model: names, provenance, interface and dead nodes.

    Attributes:
        model: The model being rewritten, in place.
        ledger: Numbers and records what is done.
        store: Where the numbers of new constants are kept.
    """

    def __init__(self, model: ir.Model, ledger: Ledger, store: TensorStore) -> None:
        self.model = model
        self.ledger = ledger
        self.store = store
        self._names = Names(model)

    def builder(self, root: ir.Node) -> Builder:
        """A recording whose nodes follow the operator set of `root`."""
        return Builder(root.version, self.store)

    def replace(
        self,
        root: ir.Node,
        outputs: Sequence[ir.Value | None],
        build: Builder,
        *,
        pass_name: str,
        rule: str,
    ) -> list[ir.Node] | None:
        """Put the recording in the place of `root`, and drop what nobody reads any more.

        Args:
            root: The node whose outputs are replaced.
            outputs: The replacement of each output of `root`; None only for unused outputs.
            build: The recording that computes them.
            pass_name: The pass that asks.
            rule: The rule of that pass.

        Returns:
            The nodes worth a second look (new ones, and neighbours of removed ones), or None when
            the ledger does not admit the rewrite; then nothing was changed.

        Raises:
            RewriteError: The replacement does not fit; nothing was changed.
        """
        key = self.ledger.admit(pass_name, rule, root.outputs[0].name or "")
        if key is None:
            build.discard()
            return None
        graph = root.graph
        if graph is None:
            raise RewriteError(f"rule {rule} replaces a node that is no longer in the graph")
        _check_fits(root, outputs)
        created = list(build.nodes)
        wishes = [node.name for node in created]
        self._adopt(graph, build, root)
        if created:
            graph.insert_before(root, created)
        readers = [use.node for old in root.outputs for use in old.uses()]
        for old, new in zip(root.outputs, outputs, strict=True):
            if new is not None:
                created += self._substitute(old, new, frozenset(created))
        neighbours, sources = self._remove_dead(root)
        for node, wish in zip_longest(created, wishes):
            node.name = self._names.node(wish or root.name or node.op_type)
        _stamp(created, f"{pass_name}/{rule}", sources)
        self.ledger.record(key, tuple(dict.fromkeys(sources)), len(created))
        return [*created, *readers, *neighbours]

    def _adopt(self, graph: ir.Graph, build: Builder, root: ir.Node) -> None:
        """Give everything recorded a name of its own, and the constants to the graph."""
        for value in build.constants:
            value.name = self._names.value(value.name or root.outputs[0].name)
            graph.register_initializer(value)
        for node in build.nodes:
            node.name = node.name or root.name or node.op_type
            for output in node.outputs:
                output.name = self._names.value(output.name or root.outputs[0].name)

    def _substitute(
        self, old: ir.Value, new: ir.Value, created: frozenset[ir.Node]
    ) -> list[ir.Node]:
        """Let every reader of `old` read `new`, which takes over its name where users see it.

        Returns:
            The Identity that was needed, if any: a graph output must have its own name, and a
            graph input, an initializer, another output or an outer graph's value cannot give it.
        """
        own = new.producer() in created
        extra: list[ir.Node] = []
        if old.is_graph_output() and not _can_become_output(new, old):
            root = old.producer()
            assert root is not None
            assert root.graph is not None
            identity = ir.Node("", "Identity", [new], version=root.version, name=root.name)
            root.graph.insert_before(root, identity)
            extra, new, own = [identity], identity.outputs[0], True
        new.type = new.type or old.type
        if old.shape is not None and (new.shape is None or old.is_graph_output()):
            new.shape = ir.Shape(old.shape)
        if old.is_graph_output():
            new.doc_string = old.doc_string
            new.metadata_props.update(old.metadata_props)
        takes_name = own or old.is_graph_output()
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        if takes_name and old.name is not None:
            self._names.free_value(new.name)
            self._names.claim_value(old.name)  # until the old value is gone, both have it
            new.name = old.name
        return extra

    def _remove_dead(self, root: ir.Node) -> tuple[list[ir.Node], list[str]]:
        """Remove `root` and whatever fed only it; say who is left standing next to the gap."""
        neighbours: list[ir.Node] = []
        sources: list[str] = []
        pending = [root]
        while pending:
            node = pending.pop()
            if node.graph is None or is_read(node):
                continue
            fed_by = [value for value in (*node.inputs, *captured_values(node)) if value]
            sources += _names_of(node)
            self._free(node)
            node.graph.remove([node], safe=True)
            for value in dict.fromkeys(fed_by):
                if (producing := value.producer()) is not None:
                    pending.append(producing)
                    neighbours.append(producing)
                elif not reader_count(value):
                    self.drop_initializer(value)
                if reader_count(value) == 1:  # a rule that wants a sole reader may now apply
                    neighbours += [use.node for use in value.uses()]
        return [node for node in neighbours if node.graph is not None], sources

    def _free(self, node: ir.Node) -> None:
        self._names.free_node(node.name)
        for output in node.outputs:
            self._names.free_value(output.name)
        for graph in subgraphs(node):
            _detach(graph)

    def remove_if_dead(self, node: ir.Node, *, pass_name: str, rule: str) -> bool:
        """Remove `node` (and what fed only it) when nobody reads it and the ledger admits it."""
        if node.graph is None or is_read(node):
            return False
        key = self.ledger.admit(pass_name, rule, _output_name(node))
        if key is None:
            return False
        _, sources = self._remove_dead(node)
        self.ledger.record(key, tuple(dict.fromkeys(sources)), 0)
        return True

    def redirect(self, value: ir.Value, keeper: ir.Value, *, pass_name: str, rule: str) -> bool:
        """Let every reader of initializer `value` read `keeper` instead, and drop `value`."""
        if value.is_graph_output():
            return False
        key = self.ledger.admit(pass_name, rule, value.name or "")
        if key is None:
            return False
        value.replace_all_uses_with(keeper)
        self.ledger.record(key, (value.name or "",), 0)
        self.drop_initializer(value)
        return True

    def adopt(
        self,
        transform: Callable[[ir.Model], ir.Model],
        *,
        pass_name: str,
        may_shorten: bool = False,
    ) -> None:
        """Replace the whole model by `transform(copy of it)`, as one rewrite.

        Args:
            transform: Gets a copy, and returns it or another model.
            pass_name: The pass that asks.
            may_shorten: Inputs and outputs of float32 may become float16, as the user asked.

        Raises:
            RewriteError: The new model is unsound or has another interface; the old one stays.
        """
        key = self.ledger.admit(pass_name, "model", self.model.graph.name or "graph")
        if key is None:
            return
        transformed = transform(independent_copy(self.model))
        if (reason := flaw(transformed)) is not None:
            raise RewriteError(f"the pass broke the graph: {reason}")
        difference = interface_difference(self.model, transformed, may_shorten=may_shorten)
        if difference is not None:
            raise RewriteError(f"the pass changed the interface of the model: {difference}")
        difference_made = change(self.model, transformed)
        if difference_made.is_empty:
            return
        for node in difference_made.created:
            node.metadata_props[RULE_KEY] = f"{pass_name}/model"
        self.model = transformed
        self._names = Names(transformed)
        infer_shapes(transformed)
        stamp_opset_versions(transformed)
        self.ledger.record(key, difference_made.sources, len(difference_made.created))

    def drop_initializer(self, value: ir.Value) -> bool:
        """Remove an initializer that nobody reads; inputs and outputs of a graph are kept."""
        graph = value.graph
        if graph is None or not value.is_initializer() or reader_count(value):
            return False
        if value.is_graph_input() or value.is_graph_output():
            return False
        graph.initializers.pop(value.name or "")
        self._names.free_value(value.name)
        return True


def _check_fits(root: ir.Node, outputs: Sequence[ir.Value | None]) -> None:
    if len(outputs) != len(root.outputs):
        raise RewriteError(
            f"{len(outputs)} values were offered for the {len(root.outputs)} outputs of a node"
        )
    for old, new in zip(root.outputs, outputs, strict=True):
        if new is None and (old.uses() or old.is_graph_output()):
            raise RewriteError(f"no replacement was offered for '{old.name}', which is read")
        if new is None or old.dtype is None or new.dtype is None:
            continue
        if old.dtype != new.dtype:
            raise RewriteError(f"'{old.name}' is {old.dtype} and its replacement {new.dtype}")


def _can_become_output(new: ir.Value, old: ir.Value) -> bool:
    """Whether `new` may carry the name of the graph output `old`."""
    producing, replaced = new.producer(), old.producer()
    if producing is None or replaced is None or new.is_graph_output():
        return False
    return producing.graph is replaced.graph


def _output_name(node: ir.Node) -> str:
    return (node.outputs[0].name if node.outputs else node.name) or ""


def _names_of(node: ir.Node) -> list[str]:
    """The source names of `node`: its own, or those it was folded from."""
    folded = node.metadata_props.get(SOURCES_KEY)
    if folded is not None:
        return [name for name in folded.split(", ") if name]
    if is_op(node, "Constant", "Identity"):
        return []
    return [node.name or _output_name(node)]


def _stamp(created: Iterable[ir.Node], rule: str, sources: Sequence[str]) -> None:
    for node in created:
        node.metadata_props[RULE_KEY] = rule
        node.metadata_props[SOURCES_KEY] = ", ".join(dict.fromkeys(sources))


def _detach(graph: ir.Graph) -> None:
    """Let the nodes of a nested graph that is going away stop reading captured values."""
    for node in graph:
        for inner in subgraphs(node):
            _detach(inner)
        for index in range(len(node.inputs)):
            node.replace_input_with(index, None)
