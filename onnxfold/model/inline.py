"""Model-local functions are written out where they are called.

No backend optimises across a function call, OpenVINO cannot load one, and no rewrite could see
through it. `onnx_ir`'s inliner does the copying; what it leaves open is settled around it: outputs
that a call omits, functions that hand an input straight through, operator sets of another version,
and names in subgraphs that would hide a name outside.
"""

from collections.abc import Iterable, Iterator

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from onnxfold.errors import BadModelError
from onnxfold.model.causes import first_cause, first_line
from onnxfold.model.slots import nested_graphs

_HINT = "inline the functions when exporting, or with onnx.inliner.inline_local_functions"

_FunctionId = tuple[str, str, str]


def inline_functions(model: ir.Model, label: str) -> tuple[str, ...]:
    """Replace every call of a model-local function by the function's body.

    Args:
        model: Changed in place; afterwards it has no functions and does not import their domains.
            Inputs, outputs and the names of values at the calls stay as they are. The nodes of
            functions must be in order.
        label: What messages call the model.

    Returns:
        Names of the functions that were called, sorted.

    Raises:
        BadModelError: A function cannot be inlined.
    """
    if not model.functions:
        return ()
    called = _called(model)
    for identifier in list(model.functions):
        if identifier not in called:
            del model.functions[identifier]
    domains = {domain for domain, _, _ in called}
    for function in model.functions.values():
        _agree_on_opsets(function, model, label)
        _give_outputs_nodes_of_their_own(function)
    described = _complete_calls(model, label)
    try:
        InlinePass()(model)
    except ir.passes.PreconditionError as error:
        raise BadModelError(
            f"{label} has a function that calls itself, by itself or through others",
            "ONNX forbids that; export the model again",
        ) from error
    except (ir.passes.PassError, ValueError, RuntimeError, KeyError) as error:
        raise BadModelError(
            f"{label} has a function that cannot be inlined: {first_line(first_cause(error))}",
            _HINT,
        ) from error
    _restore_descriptions(model.graph, described)
    _rename_hidden(model.graph)
    _drop_unused_imports(model, domains)
    return tuple(sorted({name for _, name, _ in called}))


def _called(model: ir.Model) -> set[_FunctionId]:
    """Functions that the graph reaches by calls."""
    found: set[_FunctionId] = set()
    bodies: list[Iterable[ir.Node]] = [model.graph]
    while bodies:
        for node in _all_nodes(bodies.pop()):
            identifier = node.op_identifier()
            if identifier in model.functions and identifier not in found:
                found.add(identifier)
                bodies.append(model.functions[identifier])
    return found


def _all_nodes(nodes: Iterable[ir.Node]) -> Iterator[ir.Node]:
    nodes = list(nodes)
    yield from nodes
    for graph in nested_graphs(nodes):
        yield from graph


def _agree_on_opsets(function: ir.Function, model: ir.Model, label: str) -> None:
    """Let a function import what the model imports where its operators mean the same in both."""
    for domain, version in function.opset_imports.items():
        ours = model.opset_imports.get(domain, version)
        if ours == version:
            continue
        for node in _all_nodes(function):
            if node.domain != domain or node.op_identifier() in model.functions:
                continue
            if not _same_meaning(node.op_type, domain, version, ours):
                raise BadModelError(
                    f"{label} has a function {function.name!r} that uses {node.op_type} of "
                    f"{domain or 'ai.onnx'} {version}, which differs in version {ours}, the "
                    "model's own",
                    "export the model with one version of each operator set",
                )
        function.opset_imports[domain] = ours


def _same_meaning(op_type: str, domain: str, version: int, other: int) -> bool:
    try:
        schemas = [onnx.defs.get_schema(op_type, limit, domain) for limit in (version, other)]
    except onnx.defs.SchemaError:
        return False
    return schemas[0].since_version == schemas[1].since_version


def _give_outputs_nodes_of_their_own(function: ir.Function) -> None:
    """Put an Identity before outputs that are inputs too, or that occur twice.

    Each output of a call takes over the name of the value that the function computes for it, so
    that one value cannot stand for two outputs, nor an outer value for an output.
    """
    seen: set[ir.Value] = set(function.inputs)
    names = {value.name for node in _all_nodes(function) for value in node.outputs}
    names.update(value.name for value in function.inputs)
    for index, output in enumerate(function.outputs):
        if output in seen:
            identity = ir.node("Identity", [output])
            identity.outputs[0].name = _fresh(f"{output.name}_output", names)
            identity.outputs[0].type = output.type
            identity.outputs[0].shape = output.shape
            function.append(identity)
            function.outputs[index] = identity.outputs[0]
        seen.add(output)


def _complete_calls(model: ir.Model, label: str) -> dict[str, ir.Value]:
    """Give each call all outputs of its function, named; returns the call's outputs by name."""
    names = _all_names(model)
    described: dict[str, ir.Value] = {}
    for body in (model.graph, *model.functions.values()):
        for node in _all_nodes(body):
            function = model.functions.get(node.op_identifier())
            if function is None:
                continue
            if len(node.outputs) > len(function.outputs):
                raise BadModelError(
                    f"{label} calls function {function.name!r} for more outputs than it has",
                    "export the model again",
                )
            node.resize_outputs(len(function.outputs))
            for output, inner in zip(node.outputs, function.outputs, strict=True):
                if not output.name:
                    output.name = _fresh(f"{inner.name}_unused", names)
                elif body is model.graph:
                    described[output.name] = output
    return described


def _restore_descriptions(graph: ir.Graph, described: dict[str, ir.Value]) -> None:
    """Carry doc strings, metadata and annotations from a call's outputs to their successors."""
    for node in _all_nodes(graph):
        for output in node.outputs:
            old = described.get(output.name or "")
            if old is None or old is output:
                continue
            output.doc_string = old.doc_string or output.doc_string
            output.metadata_props.update(old.metadata_props)
            output.meta.update(old.meta)


def _rename_hidden(graph: ir.Graph) -> None:
    """Rename what a subgraph defines under the name of something that it can see outside."""
    names = {value.name for value in _defined(graph)}
    for nested in nested_graphs(graph):
        names.update(value.name for value in _defined(nested))
    _rename_in(graph, [], names)


def _rename_in(graph: ir.Graph, outer: list[set[str | None]], names: set[str | None]) -> None:
    if outer:
        for value in _defined(graph):
            if value.name and any(value.name in scope for scope in outer):
                value.name = _fresh(value.name, names)
    scope: set[str | None] = {value.name for value in _defined(graph)}
    for node in graph:
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                _rename_in(attribute.as_graph(), [*outer, scope], names)
            elif attribute.type == ir.AttributeType.GRAPHS:
                for nested in attribute.as_graphs():
                    _rename_in(nested, [*outer, scope], names)


def _defined(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    for value in list(graph.initializers.values()):
        if not value.is_graph_input():
            yield value
    for node in graph:
        yield from node.outputs


def _all_names(model: ir.Model) -> set[str | None]:
    names: set[str | None] = set()
    for body in (model.graph, *(function.graph for function in model.functions.values())):
        names.update(value.name for value in _defined(body))
        for nested in nested_graphs(body):
            names.update(value.name for value in _defined(nested))
    return names


def _fresh(wish: str, taken: set[str | None]) -> str:
    name, number = wish, 1
    while name in taken:
        name, number = f"{wish}_{number}", number + 1
    taken.add(name)
    return name


def _drop_unused_imports(model: ir.Model, domains: set[str]) -> None:
    used = {node.domain for node in _all_nodes(model.graph)}
    for domain in domains - used - {""}:
        model.opset_imports.pop(domain, None)
