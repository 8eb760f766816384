"""The hash of a graph: the same however it is written, another when it computes anything else."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxfold.calibrate.identity import graph_hash
from onnxfold.errors import BadModelError
from onnxfold.model import load, to_proto
from tests.calibrate.networks import conv_net, drawn
from tests.toolkit import parse

NET = conv_net()
EXPECTED = graph_hash(NET)


def copied(model: onnx.ModelProto = NET) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def documented(model: onnx.ModelProto) -> None:
    model.doc_string = model.graph.doc_string = "told"
    model.producer_name, model.model_version = "somebody", 7
    model.metadata_props.add(key="a", value="b")
    model.graph.name = "other"
    for index, node in enumerate(model.graph.node):
        node.name, node.doc_string = f"n{index}", "text"
        node.metadata_props.add(key="a", value="b")


def described(model: onnx.ModelProto) -> None:
    model.CopyFrom(onnx.shape_inference.infer_shapes(model))


def reordered(model: onnx.ModelProto) -> None:
    nodes = list(model.graph.node)
    nodes.insert(3, nodes.pop(7))  # not in order any more
    weights = list(reversed(model.graph.initializer))
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(weights)


def unpacked(model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        tensor.ClearField("raw_data")
        tensor.float_data.extend(array.ravel().tolist())


def turned(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        attributes = list(reversed(node.attribute))
        del node.attribute[:]
        node.attribute.extend(attributes)


@pytest.mark.parametrize("change", [documented, described, reordered, unpacked, turned])
def test_how_it_is_written_does_not_matter(change: Callable[[onnx.ModelProto], None]) -> None:
    model = copied()
    change(model)
    assert model.SerializeToString() != NET.SerializeToString()
    assert graph_hash(model) == EXPECTED


def test_how_it_is_given_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(NET, path)
    loaded = load(path).model
    assert graph_hash(path) == EXPECTED
    assert graph_hash(str(path)) == EXPECTED
    assert graph_hash(NET.SerializeToString()) == EXPECTED
    assert graph_hash(loaded) == EXPECTED
    assert graph_hash(to_proto(loaded)) == EXPECTED
    outside = tmp_path / "outside.onnx"
    onnx.save(copied(), outside, save_as_external_data=True, size_threshold=0)
    assert len(list(tmp_path.iterdir())) > 2
    assert graph_hash(outside) == EXPECTED


def weight_moved(model: onnx.ModelProto) -> None:
    array = numpy_helper.to_array(model.graph.initializer[0]).copy()
    array.flat[-1] = np.nextafter(array.flat[-1], np.float32(9))
    model.graph.initializer[0].raw_data = array.tobytes()


def attribute_changed(model: onnx.ModelProto) -> None:
    model.graph.node[0].attribute[0].ints[0] = 2


def weights_reshaped(model: onnx.ModelProto) -> None:
    model.graph.initializer[-1].dims[:] = [6, 8]


def rewired(model: onnx.ModelProto) -> None:
    model.graph.node[3].input[0] = "c1"


def value_renamed(model: onnx.ModelProto) -> None:
    model.graph.node[0].output[0] = model.graph.node[1].input[0] = "other"


def input_resized(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 28


def input_opened(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "H"


def opset_changed(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 16


def operator_changed(model: onnx.ModelProto) -> None:
    model.graph.node[1].op_type = "Sigmoid"


def output_dropped(model: onnx.ModelProto) -> None:
    del model.graph.output[1]


@pytest.mark.parametrize(
    "change",
    [
        weight_moved,
        attribute_changed,
        weights_reshaped,
        rewired,
        value_renamed,
        input_resized,
        input_opened,
        opset_changed,
        operator_changed,
        output_dropped,
    ],
)
def test_what_it_computes_matters(change: Callable[[onnx.ModelProto], None]) -> None:
    model = copied()
    change(model)
    assert graph_hash(model) != EXPECTED


def test_how_an_open_extent_is_called_does_not_matter() -> None:
    first, second = copied(), copied()
    for model, name in ((first, "H"), (second, "height")):
        model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = name
    assert graph_hash(first) == graph_hash(second)


BRANCHES = """g (bool[] flag, float[2] x) => (float[2] y) {
    y = If (flag) <
        then_branch = yes () => (float[2] a) { a = Add (x, w) },
        else_branch = no () => (float[2] b) { b = Constant <value = float[2] {1.0, 2.0}> () }
    >
}"""


def test_bodies_count() -> None:
    weights = {"w": drawn(1, 2)}
    plain = graph_hash(parse(BRANCHES, weights))
    assert graph_hash(parse(BRANCHES, weights)) == plain
    assert graph_hash(parse(BRANCHES.replace("2.0}", "2.5}"), weights)) != plain
    assert graph_hash(parse(BRANCHES.replace("Add (x", "Mul (x"), weights)) != plain


def test_attributes_of_every_kind() -> None:
    def hashed(**attributes: Any) -> str:
        node = onnx.helper.make_node("Op", ["x"], ["y"], domain="test.custom", **attributes)
        value = onnx.helper.make_tensor_value_info
        graph = onnx.helper.make_graph([node], "g", [value("x", 1, [2])], [value("y", 1, None)])
        opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("test.custom", 1)]
        return graph_hash(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9))

    text = numpy_helper.from_array(np.array(["a", "b"], object))
    other = numpy_helper.from_array(np.array(["ab", ""], object))
    half = numpy_helper.from_array(np.ones(2, np.float16))
    single = numpy_helper.from_array(np.ones(2, np.float32))
    hashes = [
        hashed(),
        hashed(a=1),
        hashed(b=1),
        hashed(a=1.0),
        hashed(a=[1]),
        hashed(a="1"),
        hashed(a=["1"]),
        hashed(a=["1", ""]),
        hashed(a=text),
        hashed(a=other),
        hashed(a=half),
        hashed(a=single),
        hashed(a=[half]),
    ]
    assert len(set(hashes)) == len(hashes)
    assert hashed(a=text) == hashed(a=text)


def test_what_is_no_model() -> None:
    with pytest.raises(BadModelError):
        graph_hash(b"no model")
