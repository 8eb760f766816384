"""What a model holds is the same after loading and saving."""

import importlib.resources
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxfold.model import load, save, to_proto
from tests.model.models import canonical, conv_model, parsed, run

_PUBLISHED = sorted(
    Path(str(importlib.resources.files("onnx"))).glob("backend/test/data/*/*/model.onnx")
)
_LIGHT = sorted(Path(str(importlib.resources.files("onnx"))).glob("backend/test/data/light/*.onnx"))


def test_every_kind_of_description() -> None:
    model = conv_model()
    assert to_proto(load(model).model).SerializeToString() == model.SerializeToString()


def test_by_file(tmp_path: Path) -> None:
    path, out = tmp_path / "m.onnx", tmp_path / "out.onnx"
    path.write_bytes(conv_model().SerializeToString())
    save(load(path).model, out)
    assert out.read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    "path", _PUBLISHED + _LIGHT, ids=lambda path: f"{path.parent.name}/{path.name}"
)
def test_published_models(path: Path) -> None:
    model = onnx.load(path)
    assert canonical(to_proto(load(path).model)) == canonical(model)


def test_there_are_published_models() -> None:
    assert len(_PUBLISHED) + len(_LIGHT) > 100


def test_the_callers_message_is_not_changed() -> None:
    model = conv_model()
    before = model.SerializeToString()
    loaded = load(model)
    for value in list(loaded.model.graph.initializers.values()):
        value.name = f"{value.name}_renamed"
    saved = to_proto(loaded.model)
    assert model.SerializeToString() == before
    assert loaded.source == before
    assert [tensor.name for tensor in saved.graph.initializer] == ["weight_renamed", "bias_renamed"]


def test_saving_does_not_change_the_model() -> None:
    loaded = load(conv_model())
    first, second = to_proto(loaded.model), to_proto(loaded.model)
    assert first == second
    first.graph.initializer[0].name = "changed"
    assert to_proto(loaded.model) == second


@pytest.mark.parametrize("dim", ["batch", "floor(height/2) + 1", "s 0", None, 0, 3])
def test_dimensions(dim: str | int | None) -> None:
    model = conv_model()
    model.graph.input[0].CopyFrom(
        onnx.helper.make_tensor_value_info(
            "x", 1, [dim, 3, "h", 8], shape_denotation=["N"] + [""] * 3
        )
    )
    model.graph.output[0].type.tensor_type.ClearField("shape")
    saved = to_proto(load(model).model)
    assert canonical(saved) == canonical(model)


def test_clones_remember_too() -> None:
    model = conv_model()
    assert to_proto(load(model).model.clone()) == model


def test_value_info_keeps_its_order_and_its_redundancy() -> None:
    model = conv_model()
    described = [
        onnx.helper.make_tensor_value_info("weight", 1, [8, 3, 3, 3]),
        model.graph.output[0],
        model.graph.value_info[0],
    ]
    del model.graph.value_info[:]
    model.graph.value_info.extend(described)
    assert canonical(to_proto(load(model).model)) == canonical(model)


def test_initializers_that_a_pass_adds_are_not_described_twice() -> None:
    loaded = load(conv_model()).model
    tensor = ir.tensor(np.zeros(3, np.float32), name="new")
    loaded.graph.register_initializer(
        ir.Value(
            name="new", const_value=tensor, type=ir.TensorType(tensor.dtype), shape=ir.Shape([3])
        )
    )
    saved = to_proto(loaded)
    assert [info.name for info in saved.graph.value_info] == ["conv"]
    assert [tensor.name for tensor in saved.graph.initializer] == ["weight", "bias", "new"]


def test_annotations_of_inputs_initializers_and_outputs() -> None:
    model = conv_model()
    for name in ("y", "x", "bias", "weight"):
        annotation = model.graph.quantization_annotation.add(tensor_name=name)
        annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="bias")
    assert to_proto(load(model).model) == model


def test_sparse_initializers() -> None:
    model = parsed(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[4] x, bool c) => (float[4] y) {'
        "a = Add(x, s) b = If (c) <then_branch = t () => (float[4] p) { p = Mul(a, s) },"
        "else_branch = e () => (float[4] q) { q = Neg(a) }> y = Neg(b) }"
    )
    model.graph.sparse_initializer.append(
        onnx.helper.make_sparse_tensor(
            onnx.helper.make_tensor("s", 1, [2], [2.0, 5.0]),
            onnx.helper.make_tensor("i", 7, [2], [1, 3]),
            [4],
        )
    )
    loaded = load(model)
    value = loaded.model.graph.initializers["s"]
    assert value.const_value is None  # nobody can take it for a dense constant
    assert value.shape == ir.Shape([4])
    saved = to_proto(loaded.model)
    assert canonical(saved) == canonical(model)
    value.name = "renamed"
    saved = to_proto(loaded.model.clone())
    assert saved.graph.sparse_initializer[0].values.name == "renamed"
    feeds = {"x": np.array([1, 2, 3, 4], np.float32), "c": np.array(True)}
    np.testing.assert_array_equal(run(model, feeds)[0], run(saved, feeds)[0])


def test_custom_nodes_are_not_touched() -> None:
    model = conv_model()
    node = onnx.helper.make_node(
        "Plugin", ["conv", "", "weight"], ["p", "q"], "plug", "doc", "my.ops", "v2",
        blob=b"\xff\x00\xfe", text="t", number=1.5, numbers=[1, 2], empty=onnx.TensorProto(
            data_type=1, dims=[2], float_data=[1, 2], name="inner", doc_string="d"),
    )  # fmt: skip
    model.graph.node.append(node)
    model.graph.output.append(onnx.helper.make_tensor_value_info("q", 1, None))
    saved = to_proto(load(model).model)
    assert canonical(saved.graph.node[-1]) == canonical(node)
    assert canonical(saved) == canonical(model)


def test_bodies_of_control_flow() -> None:
    model = parsed("""<ir_version: 10, opset_import: ["" : 17]>
        g (float[2] x, int64 n, bool c) => (float[2] y, float[k,2] z) {
            start = Neg(x)
            y, z = Loop (n, c, start) <body = b (int64 i, bool go, float[2] s)
                => (bool go_out, float[2] s_out, float[2] scan) <float[2] w = {1, 2}> {
                    go_out = Identity(go)
                    t = If (go) <then_branch = a () => (float[2] p) { p = Add(s, w) },
                                 else_branch = e () => (float[2] q) { q = Mul(s, x) }>
                    s_out = Neg(t)
                    scan = Identity(t) }> }""")
    saved = to_proto(load(model).model)
    assert canonical(saved) == canonical(model)
    feeds = {"x": np.array([1, -2], np.float32), "n": np.array(3), "c": np.array(True)}
    for a, b in zip(run(model, feeds), run(saved, feeds), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "type_proto",
    [
        onnx.helper.make_sequence_type_proto(onnx.helper.make_tensor_type_proto(1, ["n", 2])),
        onnx.helper.make_optional_type_proto(onnx.helper.make_tensor_type_proto(1, [2])),
        onnx.helper.make_sparse_tensor_type_proto(1, [2, 3]),
    ],
)
def test_types_that_are_no_tensors(type_proto: onnx.TypeProto) -> None:
    model = conv_model()
    model.graph.input.append(onnx.helper.make_value_info("more", type_proto))
    assert canonical(to_proto(load(model).model)) == canonical(model)


class TestInitializersAsInputs:
    """Below IR version 4 every initializer is an input; from 4 on, those that a caller may set."""

    @staticmethod
    def _model(ir_version: int) -> onnx.ModelProto:
        model = conv_model()
        model.ir_version = ir_version
        del model.opset_import[1:]
        del model.metadata_props[:]
        weight = onnx.helper.make_tensor_value_info("weight", 1, [8, 3, 3, 3])
        bias = onnx.helper.make_tensor_value_info("bias", 1, [8])
        model.graph.input.insert(0, weight)
        model.graph.input.append(bias)
        return model

    def test_old_models_have_constants(self) -> None:
        model = self._model(3)
        loaded = load(model)
        assert [value.name for value in loaded.model.graph.inputs] == ["x"]
        assert loaded.demoted == ("weight", "bias")
        assert loaded.overridable == frozenset()
        assert not loaded.is_overridable("weight")
        assert not loaded.model.graph.initializers["weight"].is_graph_input()
        assert to_proto(loaded.model) == model

    def test_old_models_stay_valid_when_initializers_come_and_go(self, tmp_path: Path) -> None:
        model = self._model(3)
        onnx.checker.check_model(model)
        loaded = load(model).model
        conv = loaded.graph.node(0)
        tensor = ir.tensor(np.ones(8, np.float32), name="new_bias")
        new = ir.Value(name="new_bias", const_value=tensor)
        loaded.graph.register_initializer(new)
        conv.replace_input_with(2, new)
        del loaded.graph.initializers["bias"]
        save(loaded, tmp_path / "out.onnx")
        saved = onnx.load(tmp_path / "out.onnx")
        onnx.checker.check_model(saved)
        assert [value.name for value in saved.graph.input] == ["weight", "x", "new_bias"]
        assert saved.graph.input[2].type == onnx.helper.make_tensor_type_proto(1, [8])

    def test_old_models_on_request_stay_open(self) -> None:
        model = self._model(3)
        loaded = load(model, keep_overridable=True)
        assert [value.name for value in loaded.model.graph.inputs] == ["weight", "x", "bias"]
        assert loaded.demoted == ()
        assert loaded.overridable == {"weight", "bias"}
        assert loaded.is_overridable("weight")
        assert loaded.model.graph.initializers["weight"].is_graph_input()
        assert to_proto(loaded.model) == model
        tensor = ir.tensor(np.ones(8, np.float32), name="new")
        loaded.model.graph.register_initializer(ir.Value(name="new", const_value=tensor))
        saved = to_proto(loaded.model)
        onnx.checker.check_model(saved)
        assert [value.name for value in saved.graph.input] == ["weight", "x", "bias", "new"]

    @pytest.mark.parametrize("keep", [True, False])
    def test_new_models_are_left_alone(self, keep: bool) -> None:
        model = self._model(4)
        loaded = load(model, keep_overridable=keep)
        assert [value.name for value in loaded.model.graph.inputs] == ["weight", "x", "bias"]
        assert loaded.overridable == {"weight", "bias"}
        assert loaded.demoted == ()
        tensor = ir.tensor(np.ones(8, np.float32), name="new")
        loaded.model.graph.register_initializer(ir.Value(name="new", const_value=tensor))
        saved = to_proto(loaded.model)
        assert [value.name for value in saved.graph.input] == ["weight", "x", "bias"]

    def test_constants_in_branches_of_old_models(self) -> None:
        # A branch has no inputs, so that below IR version 4 it cannot have initializers either.
        model = parsed("""<ir_version: 3, opset_import: ["" : 9]>
            g (float[2] x, bool c) => (float[2] y) {
                y = If (c) <then_branch = a () => (float[2] p) { p = Abs(x) },
                            else_branch = b () => (float[2] q) { q = Neg(x) }> }""")
        loaded = load(model).model
        branch = loaded.graph.node(0).attributes["then_branch"].as_graph()
        tensor = ir.tensor(np.array([10, 20], np.float32), name="w")
        weight = ir.Value(name="w", const_value=tensor)
        branch.register_initializer(weight)
        add = ir.node("Add", [branch.outputs[0], weight])
        add.outputs[0].name = "sum"
        branch.append(add)
        branch.outputs[0] = add.outputs[0]
        saved = to_proto(loaded)
        assert not saved.graph.node[0].attribute[0].g.initializer
        onnx.checker.check_model(saved)
        feeds = {"x": np.array([1, -2], np.float32), "c": np.array(True)}
        np.testing.assert_array_equal(run(saved, feeds)[0], [11, 22])


def test_loaded_from_path_bytes_or_message(tmp_path: Path) -> None:
    model = conv_model()
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    for source in (path, str(path)):
        loaded = load(source)
        assert loaded.path == path
        assert loaded.source == path
        assert to_proto(loaded.model) == model
    for contents in (model.SerializeToString(), model):
        loaded = load(contents)
        assert loaded.path is None
        assert loaded.source == model.SerializeToString()
        assert not loaded.has_external_data
        assert to_proto(loaded.model) == model
