"""Wiring that is no model, and wiring that only looks odd."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxfold.errors import BadModelError
from onnxfold.model import load, to_proto
from tests.model.errors import refused
from tests.model.models import canonical, conv_model, parsed, run

_HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'
_X = np.array([1.5, -2.0], np.float32)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "g (float[2] x) => (float[2] y) { y = Add(x, missing) }",
            "a node of type Add reads 'missing', which nothing defines",
        ),
        (
            "g (float[2] x) => (float[2] y) { z = Neg(x) }",
            "nothing computes the output 'y'",
        ),
        (
            "g (float[2] x) => (float[2] y) { y = Neg(x) y = Abs(x) }",
            "'y' is defined twice",
        ),
        (
            "g (float[2] x) => (float[2] y) { x = Neg(x) y = Abs(x) }",
            "'x' is defined twice",
        ),
        (
            "g (float[2] x, float[2] x) => (float[2] y) { y = Neg(x) }",
            "two inputs are called 'x'",
        ),
        (
            "g (float[2] x) => (float[2] y) <float[2] w = {1, 2}, float[2] w = {3, 4}>"
            " { y = Add(x, w) }",
            "two initializers are called 'w'",
        ),
        (
            "g (float[2] x, bool c) => (float[2] y) { t = Neg(x) y = If (c) <"
            "then_branch = a () => (float[2] p) { t = Abs(x) p = Neg(t) },"
            "else_branch = b () => (float[2] q) { q = Neg(t) }> }",
            "'t' is defined both in a subgraph and around it",
        ),
        (
            "g (float[2] x, bool c) => (float[2] y) { y = If (c) <"
            "then_branch = a () => (float[2] p) { p = Abs(only_in_else) },"
            "else_branch = b () => (float[2] q) { only_in_else = Neg(x) q = Neg(only_in_else) }> }",
            "a node of type Abs reads 'only_in_else', which nothing defines",
        ),
        (
            "g (float[2] x, bool c) => (float[2] y) { y = If (c) <"
            "then_branch = a () => (float[2] p) { o = Abs(x) },"
            "else_branch = b () => (float[2] q) { q = Neg(x) }> }",
            "nothing computes the output 'p'",
        ),
        (
            "g (float[2] x) => (float[2] y) { a = Add(x, b) b = Neg(a) y = Abs(b) }",
            "its nodes form a cycle through 'Add', 'Neg'",
        ),
        (
            "g (float[2] x, bool c) => (float[2] y) { y = If (c) <"
            "then_branch = a () => (float[2] p) { p = Abs(y) },"
            "else_branch = b () => (float[2] q) { q = Neg(x) }> }",
            "its nodes form a cycle",
        ),
    ],
)  # fmt: skip
def test_invalid_wiring(text: str, reason: str) -> None:
    with refused(BadModelError, f"the model is not a valid ONNX model: {reason}"):
        load(parsed(_HEAD + text))


def test_a_named_node_is_named() -> None:
    model = conv_model()
    model.graph.node[0].input[1] = "lost"
    with refused(
        BadModelError,
        "the model is not a valid ONNX model: node 'conv1' (Conv) reads 'lost', which nothing "
        "defines",
    ):
        load(model)


def test_repeated_attribute() -> None:
    model = conv_model()
    model.graph.node[0].attribute.append(model.graph.node[0].attribute[0])
    with refused(
        BadModelError,
        "the model is not a valid ONNX model: node 'conv1' (Conv) has 'pads' twice",
    ):
        load(model)


def test_attribute_without_type() -> None:
    model = conv_model()
    model.graph.node[0].attribute[0].ClearField("type")
    with refused(
        BadModelError,
        "the model is not a valid ONNX model: attribute 'pads' of node 'conv1' (Conv) has no type",
    ):
        load(model)


def test_initializer_without_name() -> None:
    model = conv_model()
    model.graph.initializer.add(data_type=1, dims=[0])
    with refused(
        BadModelError,
        "the model is not a valid ONNX model: an input or an initializer has no name",
    ):
        load(model)


def test_opset_imports_that_disagree() -> None:
    model = conv_model()
    model.opset_import.append(onnx.helper.make_opsetid("ai.onnx", 18))
    with refused(
        BadModelError,
        "the model is not a valid ONNX model: it imports two versions of the operator set ai.onnx",
    ):
        load(model)


def test_onnx_operators_without_their_opset() -> None:
    model = conv_model()
    del model.opset_import[0]
    with refused(
        BadModelError,
        "the model is not a valid ONNX model: it uses ONNX operators but does not import their "
        "operator set",
    ):
        load(model)


def test_training_information() -> None:
    model = conv_model()
    model.training_info.add()
    with refused(
        BadModelError,
        "the model holds training information, which would no longer fit after a rewrite",
    ):
        load(model)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"raw_data": bytes(7)}, "of shape [2, 3] with 7 bytes, not 24"),
        ({"raw_data": bytes(24), "dims": [2, -3]}, "of the impossible shape [2, -3]"),
        ({"raw_data": bytes(24), "data_type": 99}, "of the unknown type 99"),
        ({"float_data": [1.0] * 5}, "of shape [2, 3] with 5 items, not 6"),
        ({}, "of shape [2, 3] with 0 items, not 6"),
        ({"data_type": 8, "string_data": [b"a"]}, "of shape [2, 3] with 1 strings"),
        ({"data_type": 22, "int32_data": [1, 2]}, "of shape [2, 3] with 2 items, not 3"),
        ({"data_type": 14, "float_data": [1.0] * 6}, "of shape [2, 3] with 6 items, not 12"),
    ],
)
@pytest.mark.parametrize("where", ["initializer", "attribute", "subgraph", "function"])
def test_damaged_tensor(change: dict[str, object], problem: str, where: str) -> None:
    tensor = onnx.TensorProto(**({"name": "w", "data_type": 1, "dims": [2, 3]} | change))  # type: ignore[arg-type]
    constant = onnx.helper.make_node("Constant", [], ["w"], value=tensor)
    model = conv_model()
    if where == "initializer":
        model.graph.initializer.append(tensor)
    elif where == "attribute":
        model.graph.node.insert(0, constant)
    elif where == "subgraph":
        body = onnx.helper.make_graph(
            [constant], "body", [], [onnx.helper.make_tensor_value_info("w", 1, [2, 3])]
        )
        model.graph.node.append(onnx.helper.make_node("If", ["x"], ["z"], then_branch=body))
    else:
        opsets = [onnx.helper.make_opsetid("", 17)]
        model.functions.append(
            onnx.helper.make_function("my.ops", "F", [], ["w"], [constant], opsets)
        )
    with refused(BadModelError, f"the model has a tensor 'w' {problem}"):
        load(model)


def test_map_types() -> None:
    model = conv_model()
    kind = model.graph.output.add(name="conv").type.sequence_type.elem_type.map_type
    kind.key_type = 7
    with refused(
        BadModelError,
        "the model has a value 'conv' of a map type, which onnxfold cannot represent",
    ):
        load(model)


def test_sparse_attribute() -> None:
    model = conv_model()
    sparse = onnx.helper.make_sparse_tensor(
        onnx.helper.make_tensor("v", 1, [1], [2.0]), onnx.helper.make_tensor("i", 7, [1], [1]), [4]
    )
    node = onnx.helper.make_node("Constant", [], ["s"], "sparse", sparse_value=sparse)
    model.graph.node.insert(0, node)
    with refused(
        BadModelError,
        "the model has a sparse tensor in attribute 'sparse_value' of node 'sparse' (Constant), "
        "which onnxfold cannot keep",
    ):
        load(model)


def test_text_attribute_that_is_not_utf8() -> None:
    model = conv_model()
    attribute = model.graph.node[0].attribute.add(name="names", type=onnx.AttributeProto.STRINGS)
    attribute.strings.append(b"\xff")
    with refused(
        BadModelError,
        "the model has text that is not UTF-8 in attribute 'names' of node 'conv1' (Conv)",
    ):
        load(model)


def test_unsorted_nodes_are_sorted() -> None:
    text = "g (float[2] x) => (float[2] y) { y = Neg(b) b = Abs(a) a = Ceil(x) }"
    loaded = load(parsed(_HEAD + text))
    assert loaded.reordered
    assert [node.op_type for node in loaded.model.graph] == ["Ceil", "Abs", "Neg"]
    proto = to_proto(loaded.model)
    onnx.checker.check_model(proto)
    np.testing.assert_array_equal(run(proto, {"x": _X})[0], [-2.0, -2.0])


def test_a_subgraph_reads_what_comes_later() -> None:
    text = """g (float[2] x, bool c) => (float[2] y) {
        y = If (c) <then_branch = a () => (float[2] p) { p = Abs(t) },
                    else_branch = b () => (float[2] q) { q = Ceil(t) }>
        t = Neg(x) }"""
    loaded = load(parsed(_HEAD + text))
    assert loaded.reordered
    assert [node.op_type for node in loaded.model.graph] == ["Neg", "If"]
    onnx.checker.check_model(to_proto(loaded.model))


def test_sorted_nodes_keep_their_order() -> None:
    text = "g (float[2] x) => (float[2] y) { b = Abs(x) a = Ceil(x) c = Neg(a) y = Add(c, b) }"
    loaded = load(parsed(_HEAD + text))
    assert not loaded.reordered
    assert [node.op_type for node in loaded.model.graph] == ["Abs", "Ceil", "Neg", "Add"]


@pytest.mark.parametrize(
    "text",
    [
        # Branches may use each other's names, and the name that the If itself defines.
        """g (float[2] x, bool c) => (float[2] y) { y = If (c) <
            then_branch = a () => (float[2] y) { t = Abs(x) y = Neg(t) },
            else_branch = b () => (float[2] y) { t = Neg(x) y = Abs(t) }> }""",
        "g (float[2] x) => (float[2] y, float[2] y) { y = Neg(x) }",
        "g (float[2] x) => (float[2] x) { y = Neg(x) }",
        "g (float[2] x) => (float[2] w) <float[2] w = {1, 2}> { y = Neg(x) }",
        "g (float[2] x) => (float[2] y) { y = Dropout(x) }",
        "g (float[2] x) => (float[2] y) { y = Clip(x) }",
    ],
)
def test_odd_but_valid_models(text: str) -> None:
    model = parsed(_HEAD + text)
    assert canonical(to_proto(load(model).model)) == canonical(model)


def test_unknown_operators_and_domains_pass() -> None:
    model = conv_model()
    model.graph.node.append(onnx.helper.make_node("Foo", ["x"], ["f"], domain="no.import", k=1))
    model.graph.node.append(onnx.helper.make_node("NotAnOperator", ["f"], ["g"]))
    saved = to_proto(load(model).model)
    assert saved.graph.node == model.graph.node
    assert saved.opset_import == model.opset_import


def test_opset_of_the_future_passes() -> None:
    model = conv_model()
    model.opset_import[0].version = 999
    assert to_proto(load(model).model).opset_import[0].version == 999


def test_the_other_name_of_the_default_domain() -> None:
    model = conv_model()
    model.opset_import[0].domain = "ai.onnx"
    model.graph.node[0].domain = "ai.onnx"
    loaded = load(model).model
    assert loaded.opset_imports == {"": 17, "my.ops": 3}
    assert [node.domain for node in loaded.graph] == ["", ""]
    assert model.opset_import[0].domain == "ai.onnx"  # the caller's message is not touched
    assert isinstance(loaded, ir.Model)
