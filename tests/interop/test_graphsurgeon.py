"""Functions on `gs.Graph` as passes: what they change is taken over, and nothing else changes."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper, parser

from onnxfold.errors import OnnxfoldError
from onnxfold.interop.graphsurgeon import apply_function, graphsurgeon_pass
from onnxfold.model.load import load
from onnxfold.model.proto import to_proto
from onnxfold.pipeline.manager import PassManager, PipelineRun
from onnxfold.pipeline.passes import ConfiguredPass, Pass
from onnxfold.rewrite.rule import Exactness
from tests import zoo

HEADER = '<ir_version: 8, opset_import: ["": 17]>\n'


def model_of(text: str) -> ir.Model:
    return load(parser.parse_model(HEADER + text)).model


def bytes_of(model: ir.Model) -> bytes:
    data: bytes = to_proto(model).SerializeToString(deterministic=True)
    return data


def weight_of(model: ir.Model, name: str = "w") -> ir.TensorProtocol:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor


def outputs(model: ir.Model, feeds: dict[str, Any]) -> list[Any]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    proto = to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    session = ort.InferenceSession(proto.SerializeToString(), options)
    return list(session.run(None, feeds))


def run_alone(step: Pass | ConfiguredPass, model: ir.Model) -> PipelineRun:
    return PassManager([step]).run(model)


@graphsurgeon_pass("double_relu", exactness=Exactness.EXACT)
def double_relu(graph: Any) -> None:
    """Put a second Relu behind every Relu.

    The new nodes stand at the end of the list, in front of nobody that reads them.
    """
    for node in [node for node in graph.nodes if node.op == "Relu"]:
        old = node.outputs[0]
        new = gs.Variable(old.name + "_once", dtype=old.dtype, shape=old.shape)
        node.outputs = [new]
        graph.nodes.append(gs.Node("Relu", node.name + "_again", inputs=[new], outputs=[old]))


@graphsurgeon_pass("nothing")
def nothing(graph: Any) -> None:
    """Change nothing."""


@pytest.mark.parametrize(
    "name",
    [
        "repvgg_a0.script",
        "densenet121.dynamo",
        "segformer_b0.script_frozen",
        "mobilenetv4_conv_small_050.dynamo",
        "pspnet_resnet18.dynamo_opt",
    ],
)
def test_a_function_that_does_nothing_leaves_every_byte(name: str) -> None:
    if name not in zoo.names():
        name = zoo.names(name.rsplit(".", 1)[1])[0]
    model = load(zoo.load(name)).model
    result = apply_function(model, lambda graph: None, "nothing")
    assert bytes_of(result) == bytes_of(model)
    for key, value in model.graph.initializers.items():
        assert result.graph.initializers[key].const_value is value.const_value
    run = run_alone(nothing, model)
    assert not run.ledger.applied
    assert not run.ledger.failures


def test_a_real_network_is_rewritten_and_computes_the_same() -> None:
    name = "pspnet_resnet18.script"
    model = load(zoo.load(name)).model
    before = outputs(model, zoo.feeds(name))
    relus = sum(node.op_type == "Relu" for node in model.graph)
    run = run_alone(double_relu, model)
    assert relus > 10
    assert sum(node.op_type == "Relu" for node in run.model.graph) == 2 * relus
    for left, right in zip(before, outputs(run.model, zoo.feeds(name)), strict=True):
        np.testing.assert_array_equal(left, right)
    (applied,) = run.ledger.applied
    assert applied.created == 2 * relus
    stamped = [n for n in run.model.graph if n.metadata_props.get("onnxfold.rule")]
    assert {n.metadata_props["onnxfold.rule"] for n in stamped} == {"double_relu/model"}
    assert len(stamped) == 2 * relus


def test_the_docstring_documents_the_pass() -> None:
    assert double_relu.name == "double_relu"
    assert double_relu.exactness is Exactness.EXACT
    assert double_relu.documentation.splitlines()[0] == "Put a second Relu behind every Relu."


@dataclass(frozen=True, slots=True)
class ScaleOptions:
    """Options of the pass below."""

    factor: float = 2.0


@graphsurgeon_pass("scale_weights", options_type=ScaleOptions)
def scale_weights(graph: Any, options: ScaleOptions) -> None:
    """Scale every constant."""
    for tensor in graph.tensors().values():
        if isinstance(tensor, gs.Constant):
            tensor.values = tensor.values * np.float32(options.factor)


def test_options_reach_the_function_and_changed_weights_count_as_a_rewrite() -> None:
    text = "g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { y = Mul(x, w) }"
    run = run_alone(ConfiguredPass(scale_weights, ScaleOptions(3.0)), model_of(text))
    (y,) = outputs(run.model, {"x": np.ones(2, np.float32)})
    np.testing.assert_array_equal(y, [3, 6])
    (applied,) = run.ledger.applied
    assert applied.sources == ("w",)
    assert applied.created == 0


def documented_model() -> onnx.ModelProto:
    """A model with all that graphsurgeon has no field for."""
    proto = parser.parse_model(
        HEADER
        + """g (float[N, 4] x, float[4] given) => (float[N, 4] y, float[N, 4] z)
        <float[4] w = {1, 2, 3, 4}, float scale = {0.5}, float[4] given = {9, 9, 9, 9}>
        { a = Mul(x, w)  b = Relu(a)  y = Add(b, given)  z = Neg(b) }"""
    )
    proto.opset_import.add(domain="com.example", version=3)
    proto.domain, proto.model_version = "org.example.seg", 7
    proto.producer_name, proto.producer_version = "maker", "1.2"
    proto.doc_string, proto.graph.doc_string = "the model", "the graph"
    for owner in (proto, proto.graph, proto.graph.node[0], proto.graph.input[0]):
        owner.metadata_props.add(key="who", value=type(owner).__name__)
    proto.graph.node[0].doc_string = "scales"
    proto.graph.initializer[0].doc_string = "the weights"
    proto.graph.input[0].doc_string = "an image"
    proto.graph.input[0].type.denotation = "IMAGE"
    proto.graph.input[0].type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"
    note = proto.graph.quantization_annotation.add(tensor_name="a")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="scale")
    return proto


def test_what_graphsurgeon_drops_is_restored() -> None:
    proto = documented_model()
    run = run_alone(double_relu, load(proto).model)
    assert len(run.ledger.applied) == 1
    result = to_proto(run.model)
    for field in ("ir_version", "opset_import", "producer_name", "producer_version", "domain"):
        assert getattr(result, field) == getattr(proto, field), field
    for field in ("model_version", "doc_string", "metadata_props"):
        assert getattr(result, field) == getattr(proto, field), field
    for field in ("input", "output", "initializer", "quantization_annotation", "metadata_props"):
        assert getattr(result.graph, field) == getattr(proto.graph, field), field
    assert result.graph.doc_string == "the graph"
    assert result.graph.node[0].doc_string == "scales"
    assert result.graph.node[0].metadata_props == proto.graph.node[0].metadata_props
    assert [node.op_type for node in result.graph.node].count("Relu") == 2


def test_an_input_with_a_default_is_no_constant_for_the_function() -> None:
    seen: dict[str, bool] = {}

    def look(graph: Any) -> None:
        seen.update((t.name, isinstance(t, gs.Constant)) for t in graph.tensors().values())
        assert [t.name for t in graph.inputs] == ["x", "given"]

    result = apply_function(load(documented_model()).model, look, "look")
    assert seen["w"]
    assert not seen["given"]
    given = result.graph.initializers["given"]
    assert given.is_graph_input()
    np.testing.assert_array_equal(weight_of(result, "given").numpy(), [9, 9, 9, 9])


STORABLE = [
    dtype for dtype in ir.DataType if dtype not in (ir.DataType.UNDEFINED, ir.DataType.STRING)
]


def tensor_of(dtype: ir.DataType) -> ir.TensorProtocol:
    array = np.array([0, 1, 1, 0, 1], np.float32).astype(np.dtype(dtype.numpy()))
    return ir.Tensor(array, dtype=dtype, name="w")


def holding(tensor: ir.TensorProtocol) -> ir.Model:
    shape = ir.Shape(tensor.shape.numpy())
    value = ir.Value(name="w", type=ir.TensorType(tensor.dtype), shape=shape)
    value.const_value = tensor
    node = ir.node("Identity", [value])
    node.outputs[0].name = "y"
    node.outputs[0].type, node.outputs[0].shape = value.type, shape
    graph = ir.Graph(
        [], node.outputs, nodes=[node], initializers=[value], name="g", opset_imports={"": 21}
    )
    return ir.Model(graph, ir_version=10)


@pytest.mark.parametrize("dtype", STORABLE, ids=lambda dtype: dtype.name)
def test_weights_of_every_type_survive_being_read(dtype: ir.DataType) -> None:
    model = holding(tensor_of(dtype))

    def read(graph: Any) -> None:
        for tensor in graph.tensors().values():
            if isinstance(tensor, gs.Constant):
                assert len(tensor.values) == 5

    result = apply_function(model, read, "read")
    kept = weight_of(result)
    assert kept is weight_of(model)
    assert result.graph.outputs[0].dtype == dtype


@pytest.mark.parametrize("dtype", STORABLE, ids=lambda dtype: dtype.name)
def test_weights_of_every_type_can_be_changed(dtype: ir.DataType) -> None:
    def change(graph: Any) -> None:
        constant = graph.tensors()["w"]
        constant.values = constant.values[::-1][:3]

    result = apply_function(holding(tensor_of(dtype)), change, "change")
    tensor = weight_of(result)
    expected = tensor_of(dtype).numpy()[::-1][:3]
    assert tensor.dtype == dtype
    assert tensor.numpy().tobytes() == np.ascontiguousarray(expected).tobytes()


def test_strings_survive() -> None:
    model = holding(ir.StringTensor([b"road", b"\xffsky"], shape=ir.Shape([2]), name="w"))

    def read(graph: Any) -> None:
        assert len(graph.tensors()["w"].values) == 2

    result = apply_function(model, read, "read")
    assert list(weight_of(result).numpy()) == [b"road", b"\xffsky"]


def test_graphsurgeon_can_fold_constants_itself() -> None:
    text = """g (float[2] x) => (float[2] y) <float[2] a = {1, 2}, float[2] b = {3, 4}>
    { c = Add(a, b)  d = Neg(c)  y = Mul(x, d) }"""
    result = apply_function(model_of(text), lambda graph: graph.fold_constants().cleanup(), "fold")
    assert [node.op_type for node in result.graph] == ["Mul"]
    (y,) = outputs(result, {"x": np.ones(2, np.float32)})
    np.testing.assert_array_equal(y, [-4, -6])


def test_nodes_are_sorted_however_long_the_chain() -> None:
    def build(graph: Any) -> None:
        x, y = graph.inputs[0], graph.outputs[0]
        graph.nodes.clear()
        y.inputs.clear()
        tensors = [x, *(gs.Variable(f"t{i}", np.float32, [2]) for i in range(4999)), y]
        pairs = list(itertools.pairwise(tensors))
        for index, (left, right) in reversed(list(enumerate(pairs))):
            graph.nodes.append(gs.Node("Neg", f"n{index}", inputs=[left], outputs=[right]))

    result = apply_function(
        model_of("g (float[2] x) => (float[2] y) { y = Relu(x) }"), build, "build"
    )
    assert result.graph.num_nodes() == 5000
    (y,) = outputs(result, {"x": np.array([1, -2], np.float32)})
    np.testing.assert_array_equal(y, [1, -2])


def test_dead_nodes_go_without_a_cleanup_and_older_ones_stay() -> None:
    def bypass(graph: Any) -> None:
        add = next(node for node in graph.nodes if node.op == "Add")
        add.inputs = [graph.inputs[0], graph.inputs[0]]

    text = """g (float[2] x) => (float[2] y) <float[2] w = {1, 2}, float[2] v = {3, 4}>
    { old = Neg(v)  a = Mul(x, w)  b = Relu(a)  y = Add(b, x) }"""
    result = apply_function(model_of(text), bypass, "bypass")
    assert [node.op_type for node in result.graph] == ["Neg", "Add"]
    assert list(result.graph.initializers) == ["v"]


NESTED = """g (bool c, float[1, 4] x) => (float[1, 4] y) <float[4] w = {1, 2, 3, 4}>
{ k = Relu(x)
  y = If (c) <
    then_branch = t () => (float[1, 4] a) <float[4] own = {5, 6, 7, 8}> {
      p = Mul(k, w)  a = Mul(p, own) },
    else_branch = e () => (float[1, 4] b) { b = Add(k, w) }> }"""


def test_branches_share_the_constants_of_the_graph_around_them() -> None:
    model = model_of(NESTED)
    assert bytes_of(apply_function(model, lambda graph: None, "nothing")) == bytes_of(model)
    feeds = {"c": np.array(True), "x": np.array([[1, -1, 2, -2]], np.float32)}
    before = outputs(model, feeds)
    run = run_alone(double_relu, model)
    assert len(run.ledger.applied) == 1
    assert list(run.model.graph.initializers) == ["w"]
    np.testing.assert_array_equal(before[0], outputs(run.model, feeds)[0])


def test_nodes_in_branches_can_be_changed() -> None:
    def negate(graph: Any) -> None:
        for branch in graph.subgraphs():
            for node in branch.nodes:
                node.op = "Sub" if node.op == "Add" else node.op

    result = apply_function(model_of(NESTED), negate, "negate")
    feeds = {"c": np.array(False), "x": np.ones((1, 4), np.float32)}
    np.testing.assert_array_equal(outputs(result, feeds)[0], [[0, -1, -2, -3]])


def with_attribute(op: str, attribute: onnx.AttributeProto) -> ir.Model:
    node = helper.make_node(op, ["x"], ["y"], domain="com.example")
    node.attribute.append(attribute)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [2])],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.example", 1)]
    return load(helper.make_model(graph, opset_imports=imports, ir_version=8)).model


@pytest.mark.parametrize(
    "attribute",
    [
        onnx.AttributeProto(name="a", type=onnx.AttributeProto.INTS),
        onnx.AttributeProto(name="a", type=onnx.AttributeProto.FLOATS),
        onnx.AttributeProto(name="a", type=onnx.AttributeProto.STRINGS),
        onnx.AttributeProto(name="a", type=onnx.AttributeProto.STRING, s=b""),
        onnx.AttributeProto(name="a", type=onnx.AttributeProto.FLOATS, floats=[1.0, 2.0]),
        onnx.AttributeProto(name="a", type=onnx.AttributeProto.FLOAT, f=1.0),
        onnx.AttributeProto(
            name="a",
            type=onnx.AttributeProto.TYPE_PROTO,
            tp=helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, [2]),
        ),
        onnx.AttributeProto(
            name="a",
            type=onnx.AttributeProto.TENSORS,
            tensors=[numpy_helper.from_array(np.arange(3), "t")],
        ),
    ],
    ids=lambda a: onnx.AttributeProto.AttributeType.Name(a.type),
)
def test_attributes_of_every_kind_survive(attribute: onnx.AttributeProto) -> None:
    model = with_attribute("Custom", attribute)
    result = apply_function(model, lambda graph: None, "nothing")
    assert bytes_of(result) == bytes_of(model)


def test_sequences_survive() -> None:
    text = """g (seq(float[2]) s, int64 i) => (seq(float[2]) t)
    { a = SequenceAt(s, i)  b = Relu(a)  t = SequenceInsert(s, b) }"""
    model = model_of(text)
    assert bytes_of(apply_function(model, lambda graph: None, "nothing")) == bytes_of(model)


def test_optional_types_are_refused_clearly() -> None:
    text = "g (optional(float[2]) s) => (float[2] t) { t = OptionalGetElement(s) }"
    run = run_alone(nothing, model_of(text.replace("17", "18")))
    (failure,) = run.ledger.failures
    assert "'s' is of an optional type, which graphsurgeon cannot keep" in failure.error


@pytest.mark.parametrize("version", [3, 4])
def test_old_ir_versions_are_kept(version: int) -> None:
    proto = parser.parse_model(
        f'<ir_version: {version}, opset_import: ["": 8]>\n'
        "g (float[2] w, float[2] x) => (float[2] y) <float[2] w = {1, 2}>"
        "{ a = Mul(x, w)  y = Relu(a) }"
    )
    run = run_alone(double_relu, load(proto).model)
    assert len(run.ledger.applied) == 1
    result = to_proto(run.model)
    assert result.ir_version == version
    assert [value.name for value in result.graph.input] == ["w", "x"]
    onnx.checker.check_model(result, full_check=True)


def test_a_model_beyond_the_limit_of_protobuf_goes_through(tmp_path: Path) -> None:
    size = 5 << 29  # bytes; the file has a hole where the weight lies, and takes no room
    with (tmp_path / "weights").open("wb") as file:
        file.truncate(size)
    proto = parser.parse_model(
        HEADER + "g (float[2] x, int64[1] i) => (float[1] y) { r = Relu(x)  y = Gather(w, i) }"
    )
    weight = proto.graph.initializer.add(name="w", data_type=1, dims=[size // 4])
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="weights")
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    model = load(tmp_path / "m.onnx").model

    def rename(graph: Any) -> None:
        assert graph.tensors()["w"].shape == [size // 4]
        graph.tensors()["w"].name = "weight"

    result = apply_function(model, rename, "rename")
    tensor = weight_of(result, "weight")
    assert tensor is weight_of(model)


def raises(graph: Any) -> None:
    raise KeyError("no such node")


def returns_a_list(graph: Any) -> Any:
    return list(graph.nodes)


def dangles(graph: Any) -> None:
    graph.nodes[-1].inputs[0] = gs.Variable("nowhere", np.float32, [2])


def repeats_a_name(graph: Any) -> None:
    graph.nodes[-1].inputs.append(gs.Constant("w", np.zeros(2, np.float32)))


def forms_a_cycle(graph: Any) -> None:
    graph.nodes[0].inputs[0] = graph.nodes[1].outputs[0]


def renames_an_output(graph: Any) -> None:
    graph.outputs[0].name = "other"


def drops_an_output(graph: Any) -> None:
    graph.outputs.pop()


def removes_an_input(graph: Any) -> None:
    graph.inputs.clear()


def writes_a_value_twice(graph: Any) -> None:
    graph.nodes.append(gs.Node("Neg", "twice", inputs=graph.inputs[:], outputs=graph.outputs[:]))


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (raises, "KeyError: 'no such node'"),
        (returns_a_list, "the function of pass 'bad' returned a list"),
        (dangles, "reads 'nowhere', which nothing defines"),
        (repeats_a_name, "two tensors are called 'w'"),
        (forms_a_cycle, "its nodes form a cycle"),
        (renames_an_output, "outputs ['y'] became ['other']"),
        (drops_an_output, "outputs ['y'] became []"),
        (removes_an_input, "reads 'x', which nothing defines"),
        (writes_a_value_twice, "'y' is defined twice"),
    ],
)
def test_a_function_that_corrupts_the_graph_is_reported_and_the_run_goes_on(
    function: Callable[..., Any], reason: str
) -> None:
    bad = graphsurgeon_pass("bad")(function)
    model = model_of(
        "g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { a = Mul(x, w)  y = Relu(a) }"
    )
    run = PassManager([bad, double_relu]).run(model)
    (failure,) = run.ledger.failures
    assert failure.pass_name == "bad"
    assert reason in failure.error
    assert "\n" not in failure.error
    assert [node.op_type for node in run.model.graph] == ["Mul", "Relu", "Relu"]
    (y,) = outputs(run.model, {"x": np.array([1, -1], np.float32)})
    np.testing.assert_array_equal(y, [1, 0])


def test_errors_are_errors_of_onnxfold() -> None:
    with pytest.raises(OnnxfoldError, match="returned a list") as caught:
        apply_function(
            model_of("g (float[2] x) => (float[2] y) { y = Relu(x) }"), returns_a_list, "bad"
        )
    assert caught.value.hint


def test_standard_output_stays_clean(capsys: pytest.CaptureFixture[str]) -> None:
    def talk(graph: Any) -> None:
        sys.stdout.write("talk\n")

    apply_function(holding(tensor_of(ir.DataType.BFLOAT16)), talk, "talk")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "talk" in captured.err
