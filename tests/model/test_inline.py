"""Model-local functions are inlined: the same numbers, the same interface, or a reason."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from onnxfold.errors import BadModelError
from onnxfold.model import load, to_proto
from tests.model.errors import refused
from tests.model.models import parsed, run

_HEAD = '<ir_version: 10, opset_import: ["" : 17, "f" : 1]>\n'
_FUNCTION = '<opset_import: ["" : 17, "f" : 1], domain: "f">\n'
_FEEDS = {
    "x": np.array([[1.5, -2.0], [0.25, 3.0]], np.float32),
    "z": np.array([[-1.0, 0.5], [2.0, -0.75]], np.float32),
}


Runner = Callable[[onnx.ModelProto, dict[str, NDArray[Any]]], list[NDArray[Any]]]


def _slow_run(model: onnx.ModelProto, feeds: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
    """What the reference evaluator computes, for functions that ONNX Runtime cannot load."""
    return [np.asarray(output) for output in ReferenceEvaluator(model).run(None, feeds)]


def _inlined(model: onnx.ModelProto, *names: str, reference: Runner = run) -> onnx.ModelProto:
    """The model as saved after loading, checked against the original as `reference` runs it."""
    loaded = load(model)
    assert loaded.inlined == names
    saved = to_proto(loaded.model)
    onnx.checker.check_model(saved, full_check=True)
    assert not saved.functions
    assert [value.name for value in saved.graph.input] == [v.name for v in model.graph.input]
    assert [value.name for value in saved.graph.output] == [v.name for v in model.graph.output]
    assert saved.graph.input == model.graph.input
    wanted = {value.name for value in model.graph.input}
    feeds = {name: value for name, value in _FEEDS.items() if name in wanted}
    for flag in [True, False] if "c" in wanted else [None]:
        if flag is not None:
            feeds["c"] = np.array(flag)
        for before, after in zip(reference(model, feeds), run(saved, feeds), strict=True):
            np.testing.assert_array_equal(before, after)
    return saved


def _operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def test_called_twice() -> None:
    saved = _inlined(
        parsed(
            _HEAD + "g (float[2,2] x) => (float[2,2] y) { a = f.twice(x) y = f.twice(a) }"
            + _FUNCTION + "twice (p) => (q) { t = Add(p, p) q = Neg(t) }"
        ),
        "twice",
    )  # fmt: skip
    assert _operators(saved) == ["Add", "Neg", "Add", "Neg"]
    assert saved.graph.node[1].output[0] == "a"
    assert [(entry.domain, entry.version) for entry in saved.opset_import] == [("", 17)]


def test_nested_and_unused() -> None:
    saved = _inlined(
        parsed(
            _HEAD + "g (float[2,2] x) => (float[2,2] y) { y = f.outer(x) }"
            + _FUNCTION + "outer (p) => (q) { t = f.inner(p) q = f.inner(t) }"
            + _FUNCTION + "inner (p) => (q) { t = Abs(p) q = Neg(t) }"
            + _FUNCTION + "unused (p) => (q) { q = f.inner(p) }"
        ),
        "inner",
        "outer",
    )  # fmt: skip
    assert _operators(saved) == ["Abs", "Neg", "Abs", "Neg"]


def test_called_in_a_subgraph_and_from_a_subgraph_of_a_function() -> None:
    _inlined(
        parsed(
            _HEAD + """g (float[2,2] x, bool c) => (float[2,2] y) { t = Neg(x)
                a = If (c) <then_branch = a () => (float[2,2] p) { p = f.outer(t) },
                            else_branch = b () => (float[2,2] q) { u = f.inner(x) q = f.inner(u) }>
                y = f.inner(a) }"""
            + _FUNCTION + """outer (p) => (q) {
                zero = Constant <value = int64 {0}> ()
                flag = Cast <to = 9> (zero)
                q = If (flag) <
                    then_branch = a () => (float[2,2] v) { v = f.inner(p) },
                    else_branch = b () => (float[2,2] v) { t = f.inner(p) v = Neg(t) }> }"""
            + _FUNCTION + "inner (p) => (q) { t = Abs(p) q = Ceil(t) }"
        ),
        "inner",
        "outer",
    )  # fmt: skip


def test_names_in_a_body_do_not_hide_what_it_reads() -> None:
    # The loop's body calls its own input `x` and reads the function's `p`, which is `x` outside.
    _inlined(
        parsed(
            _HEAD + "g (float[2,2] x) => (float[2,2] y) { y = f.loop(x) }"
            + _FUNCTION + """loop (p) => (q) {
                n = Constant <value = int64 {3}> ()
                go = Constant <value = bool {1}> ()
                start = Neg(p)
                q = Loop (n, go, start) <body = b (int64 i, bool go_in, float[2,2] x)
                    => (bool go_out, float[2,2] out) {
                        go_out = Identity(go_in)
                        y = Mul(x, p)
                        out = Add(y, p) }> }"""
        ),
        "loop",
    )  # fmt: skip


def test_attributes_references_and_defaults() -> None:
    saved = _inlined(
        parsed(
            _HEAD + """g (float[2,2] x) => (float[2,2] y) {
                a = f.leaky <slope = 0.5> (x) b = f.leaky (a) y = f.wrapped <s = 0.25> (b) }"""
            + '<opset_import: ["" : 17], domain: "f">\n'
            + "leaky <slope : float = 0.125> (p) => (q) "
            + "{ q = LeakyRelu <alpha : float = @slope> (p) }"
            + _FUNCTION
            + "wrapped <s> (p) => (q) { t = f.leaky <slope : float = @s> (p) q = f.plain (t) }"
            + _FUNCTION
            + "plain <alpha> (p) => (q) { q = LeakyRelu <alpha : float = @alpha> (p) }"
        ),
        "leaky",
        "plain",
        "wrapped",
    )  # fmt: skip
    alphas = [[attribute.f for attribute in node.attribute] for node in saved.graph.node]
    assert alphas == [[0.5], [0.125], [0.25], []]


def test_outputs_that_are_inputs_or_repeated() -> None:
    saved = _inlined(
        parsed(
            _HEAD + "g (float[2,2] x) => (float[2,2] a, float[2,2] b, float[2,2] c1) "
            "{ a, b, c1 = f.same(x) }"
            + _FUNCTION + "same (p) => (p, q, q) { q = Neg(p) }"
        ),
        "same",
        reference=_slow_run,
    )  # fmt: skip
    assert sorted(_operators(saved)) == ["Identity", "Identity", "Neg"]


def test_a_function_that_only_hands_through_between_nodes() -> None:
    _inlined(
        parsed(
            _HEAD + "g (float[2,2] x, float[2,2] z) => (float[2,2] y) "
            "{ a, b = f.swap(x, z) y = Sub(a, b) }"
            + _FUNCTION + "swap (p, q) => (q, p) { t = Neg(p) }"
        ),
        "swap",
        reference=_slow_run,
    )  # fmt: skip


def test_outputs_that_a_call_omits() -> None:
    # `first` is used inside the function although no call wants it.
    function = _FUNCTION + "both (p) => (first, second) { first = Abs(p) second = Neg(first) }"
    body = "g (float[2,2] x) => (float[2,2] y) { a, b = f.both(x) y = Ceil(b) }"
    model = parsed(_HEAD + body + function)
    model.graph.node[0].output[0] = ""
    loaded = load(model)
    saved = to_proto(loaded.model)
    onnx.checker.check_model(saved, full_check=True)
    feeds = {"x": _FEEDS["x"]}
    np.testing.assert_array_equal(run(saved, feeds)[0], np.ceil(-np.abs(_FEEDS["x"])))
    model = parsed(
        _HEAD + "g (float[2,2] x) => (float[2,2] y) { a = f.both(x) y = Ceil(a) }" + function
    )
    saved = to_proto(load(model).model)
    np.testing.assert_array_equal(run(saved, feeds)[0], np.ceil(np.abs(_FEEDS["x"])))


def test_inputs_that_a_call_omits() -> None:
    saved = _inlined(
        parsed(
            _HEAD + "g (float[2,2] x) => (float[2,2] y) { y = f.clip(x) }"
            + _FUNCTION + "clip (p, low, high) => (q) { q = Clip(p, low, high) }"
        ),
        "clip",
    )  # fmt: skip
    assert list(saved.graph.node[0].input)[:1] == ["x"]


def test_names_of_the_graph_win() -> None:
    # The function's own names are taken in the graph, before and behind the call.
    saved = _inlined(
        parsed(
            _HEAD + """g (float[2,2] x) => (float[2,2] y) {
                t = Neg(x) a = f.two(t) p = Abs(a) q = Neg(p) y = Add(q, t) }"""
            + _FUNCTION + "two (p) => (q) { t = Ceil(p) q = Add(t, p) }"
        ),
        "two",
    )  # fmt: skip
    names = [name for node in saved.graph.node for name in node.output]
    assert len(set(names)) == len(names)
    assert {"t", "a", "p", "q", "y"} <= set(names)


def test_a_name_of_the_function_that_a_later_subgraph_has() -> None:
    _inlined(
        parsed(
            _HEAD + """g (float[2,2] x, bool c) => (float[2,2] y) { a = f.two(x)
                y = If (c) <then_branch = a () => (float[2,2] p) { t = Abs(a) p = Neg(t) },
                            else_branch = b () => (float[2,2] q) { q = Ceil(a) }> }"""
            + _FUNCTION + "two (p) => (q) { t = Ceil(p) q = Add(t, p) }"
        ),
        "two",
    )  # fmt: skip


def test_descriptions_of_the_interface_stay() -> None:
    model = parsed(
        _HEAD + "g (float[2,2] x) => (float[2,2] y) { y = f.neg(x) }"
        + _FUNCTION + "neg (p) => (q) { q = Neg(p) }"
    )  # fmt: skip
    model.graph.output[0].doc_string = "the result"
    model.graph.output[0].metadata_props.add(key="k", value="v")
    annotation = model.graph.quantization_annotation.add(tensor_name="y")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="x")
    saved = to_proto(load(model).model)
    assert saved.graph.output == model.graph.output
    assert saved.graph.quantization_annotation == model.graph.quantization_annotation


def test_a_function_replaces_the_operator_of_its_name() -> None:
    saved = _inlined(
        parsed(
            '<ir_version: 10, opset_import: ["" : 17, "f" : 1]>\n'
            "g (float[2,2] x) => (float[2,2] y) { y = f.Relu(x) }"
            + _FUNCTION + "Relu (p) => (q) { q = Abs(p) }"
        ),
        "Relu",
    )  # fmt: skip
    assert _operators(saved) == ["Abs"]


def test_unsorted_function() -> None:
    model = parsed(
        _HEAD + "g (float[2,2] x) => (float[2,2] y) { y = f.two(x) }"
        + _FUNCTION + "two (p) => (q) { q = Neg(t) t = Abs(p) }"
    )  # fmt: skip
    loaded = load(model)
    assert loaded.reordered
    saved = to_proto(loaded.model)
    onnx.checker.check_model(saved, full_check=True)
    assert _operators(saved) == ["Abs", "Neg"]


def test_an_opset_that_differs_without_consequence() -> None:
    # Neg is the same in 13 and 17.
    saved = _inlined(
        parsed(
            _HEAD + "g (float[2,2] x) => (float[2,2] y) { y = f.neg(x) }"
            '<opset_import: ["" : 13], domain: "f">\nneg (p) => (q) { q = Neg(p) }'
        ),
        "neg",
    )  # fmt: skip
    assert saved.opset_import[0].version == 17


def test_an_opset_that_differs_with_consequence() -> None:
    model = parsed(
        _HEAD + "g (float[2,2] x) => (float[2,2] y) { y = f.norm(x) }"
        '<opset_import: ["" : 12], domain: "f">\nnorm (p) => (q) { q = Softmax(p) }'
    )  # fmt: skip
    with refused(
        BadModelError,
        "the model has a function 'norm' that uses Softmax of ai.onnx 12, which differs in version "
        "17, the model's own",
    ):
        load(model)


def test_an_operator_set_that_only_the_function_needs() -> None:
    saved = to_proto(
        load(
            parsed(
                '<ir_version: 10, opset_import: ["" : 17, "f" : 1]>\n'
                "g (float[2,2] x) => (float[2,2] y) { y = f.custom(x) }"
                '<opset_import: ["" : 17, "other" : 4], domain: "f">\n'
                "custom (p) => (q) { q = other.Op(p) }"
            )
        ).model
    )
    assert {(entry.domain, entry.version) for entry in saved.opset_import} == {
        ("", 17),
        ("other", 4),
    }


@pytest.mark.parametrize(
    "functions",
    [
        "one (p) => (q) { q = f.two(p) }" + _FUNCTION + "two (p) => (q) { q = f.one(p) }",
        "one (p) => (q) { q = f.one(p) }",
    ],
)
def test_functions_that_call_themselves(functions: str) -> None:
    model = parsed(
        _HEAD + "g (float[2,2] x) => (float[2,2] y) { y = f.one(x) }" + _FUNCTION + functions
    )
    with refused(
        BadModelError, "the model has a function that calls itself, by itself or through others"
    ):
        load(model)


def test_a_graph_as_an_attribute_of_a_call() -> None:
    model = parsed(
        _HEAD + "g (float[2,2] x) => (float[2,2] y) { y = f.neg(x) }"
        + _FUNCTION + "neg <body> (p) => (q) { q = Neg(p) }"
    )  # fmt: skip
    body = onnx.helper.make_graph([], "b", [], [])
    model.graph.node[0].attribute.append(onnx.helper.make_attribute("body", body))
    with pytest.raises(BadModelError, match=r"cannot be inlined: .*graph attribute"):
        load(model)


def test_too_many_inputs_or_outputs() -> None:
    function = _FUNCTION + "neg (p) => (q) { q = Neg(p) }"
    model = parsed(_HEAD + "g (float[2,2] x) => (float[2,2] y) { y = f.neg(x, x) }" + function)
    with pytest.raises(BadModelError, match="cannot be inlined: Input mismatch"):
        load(model)
    model = parsed(_HEAD + "g (float[2,2] x) => (float[2,2] y) { y, z = f.neg(x) }" + function)
    with refused(BadModelError, "the model calls function 'neg' for more outputs than it has"):
        load(model)


def test_a_function_defined_twice() -> None:
    function = _FUNCTION + "neg (p) => (q) { q = Neg(p) }"
    model = parsed(
        _HEAD + "g (float[2,2] x) => (float[2,2] y) { y = f.neg(x) }" + function + function
    )
    with refused(
        BadModelError, "the model is not a valid ONNX model: function 'neg' is defined twice"
    ):
        load(model)


def test_a_function_that_reads_what_it_is_not_given() -> None:
    model = parsed(
        _HEAD + "g (float[2,2] x) => (float[2,2] y) { y = f.neg(x) }"
        + _FUNCTION + "neg (p) => (q) { q = Add(p, x) }"
    )  # fmt: skip
    with refused(
        BadModelError,
        "the model is not a valid ONNX model: a node of type Add reads 'x', which nothing defines",
    ):
        load(model)


def test_metadata_and_types_inside_a_function_stay() -> None:
    model = parsed(
        _HEAD + "g (float[2,2] x) => (float[2,2] y) { y = f.two(x) }"
        + _FUNCTION + "two (p) => (q) { t = Abs(p) q = Neg(t) }"
    )  # fmt: skip
    function = model.functions[0]
    function.value_info.append(onnx.helper.make_tensor_value_info("t", 1, [2, 2]))
    function.node[0].metadata_props.add(key="origin", value="abs")
    function.node[0].doc_string = "doc"
    saved = to_proto(load(model).model)
    assert [info.name for info in saved.graph.value_info] == ["t"]
    assert saved.graph.node[0].metadata_props[0].value == "abs"
    assert saved.graph.node[0].doc_string == "doc"
