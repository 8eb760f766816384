"""The main job: every kind of source, every way to return the result, nothing lost."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import onnxfold
import onnxfold.errors
from onnxfold.errors import (
    BadOptionError,
    CannotRunError,
    CannotVerifyError,
    CannotWriteError,
    NotEqualError,
)
from onnxfold.optimization import OptimizeOptions, optimize
from onnxfold.passes.presets import BUILTIN
from onnxfold.verify import VerifyOptions, verify
from tests.model.models import external_entry, files_in, save_external
from tests.toolkit import parse
from tests.verify.networks import DYNAMIC, conv_net, copied, model, tensor

QUICK = OptimizeOptions(threads=1)
NET = conv_net(2, 4, dims=DYNAMIC)


def ops(proto: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in proto.graph.node]


def same(first: Any, second: Any, **options: Any) -> bool:
    return verify(first, second, VerifyOptions(threads=1, **options)).equal


FOLDED = ["Conv", "Relu", "Conv", "Relu", "Conv"]


@pytest.mark.parametrize("kind", ["path", "text", "bytes", "message"])
@pytest.mark.parametrize("to_disk", [True, False])
def test_every_source_and_target(tmp_path: Path, kind: str, to_disk: bool) -> None:
    path, output = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(NET, path)
    sources: dict[str, Any] = {
        "path": path,
        "text": str(path),
        "bytes": NET.SerializeToString(),
        "message": NET,
    }
    before = NET.SerializeToString()
    result = optimize(sources[kind], output if to_disk else None, options=QUICK)
    assert NET.SerializeToString() == before
    assert ops(result.to_proto()) == FOLDED
    assert same(NET, result.to_proto())
    assert sorted(files_in(tmp_path)) == (["in.onnx", "out.onnx"] if to_disk else ["in.onnx"])
    if to_disk:
        assert onnx.load(output) == result.to_proto()


def test_three_lines_of_python(tmp_path: Path) -> None:
    onnx.save(NET, tmp_path / "in.onnx")
    result = onnxfold.optimize(tmp_path / "in.onnx", tmp_path / "out.onnx")
    assert result.report.after.nodes["BatchNormalization"] == 0


def test_output_may_be_the_source(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(NET, path)
    optimize(path, path, options=QUICK)
    assert ops(onnx.load(path)) == FOLDED
    assert same(NET, path)
    assert list(files_in(tmp_path)) == ["m.onnx"]


def test_output_may_be_the_source_with_its_weights(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    save_external(NET, path, "weights.bin")
    first = optimize(path, path, options=QUICK)
    assert same(NET, path)
    assert same(NET, first.to_proto())
    second = optimize(path, path, options=QUICK)
    assert same(NET, path)
    assert same(NET, first.to_proto())
    assert ops(onnx.load(path)) == FOLDED
    assert second.report.applied == ()
    assert len(files_in(tmp_path)) <= 3  # the model, its data, and perhaps what others wrote


def test_a_second_run_changes_nothing(tmp_path: Path) -> None:
    optimize(NET, tmp_path / "a.onnx", options=QUICK)
    result = optimize(tmp_path / "a.onnx", tmp_path / "b.onnx", options=QUICK)
    assert result.report.applied == ()
    files = files_in(tmp_path)
    assert files["a.onnx"] == files["b.onnx"]


def test_external_data_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    save_external(NET, path)
    kept = files_in(tmp_path)
    result = optimize(path, options=QUICK)
    assert same(NET, result.to_proto())
    assert files_in(tmp_path) == kept


def test_external_data_of_a_large_layer_outlives_the_call(tmp_path: Path) -> None:
    """A folded weight beyond the size that is spilled to disk can still be read afterwards."""
    wide = conv_net(2, 64, dims=(1, 3, 8, 8))
    path = tmp_path / "m.onnx"
    save_external(wide, path)
    result = optimize(path, tmp_path / "out.onnx", options=QUICK)
    assert result.report.notes == ()
    assert ops(result.to_proto()) == FOLDED
    assert same(wide, result.to_proto())
    assert same(wide, tmp_path / "out.onnx")


@pytest.mark.parametrize("keep", [False, True])
def test_below_ir_4_every_initializer_is_an_input(keep: bool) -> None:
    old = copied(NET)
    old.ir_version = 3
    for initializer in old.graph.initializer:
        old.graph.input.append(
            helper.make_tensor_value_info(initializer.name, 1, list(initializer.dims))
        )
    result = optimize(old, options=OptimizeOptions(threads=1, keep_overridable=keep))
    made = result.to_proto()
    assert made.ir_version == 3
    onnx.checker.check_model(made, full_check=True)
    assert same(old, made)
    inputs = {value.name for value in made.graph.input}
    assert {initializer.name for initializer in made.graph.initializer} <= inputs
    assert (ops(made) == FOLDED) is not keep
    noted = [note for note in result.report.notes if "taken for constants" in note]
    assert len(noted) == (0 if keep else 1)


def test_an_overridable_weight_is_left_alone() -> None:
    open_weight = copied(NET)
    gamma = next(t for t in open_weight.graph.initializer if t.name == "gamma1")
    open_weight.graph.input.append(helper.make_tensor_value_info("gamma1", 1, list(gamma.dims)))
    result = optimize(open_weight, options=QUICK).to_proto()
    assert ops(result).count("BatchNormalization") == 1
    assert [value.name for value in result.graph.input] == ["x", "gamma1"]
    other = {"gamma1": np.full(4, 3.0, np.float32), "x": np.ones((1, 3, 9, 9), np.float32)}
    for old, new in zip(outputs(open_weight, other), outputs(result, other), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-4, atol=1e-5)


def outputs(proto: onnx.ModelProto, feed: dict[str, Any]) -> Sequence[NDArray[Any]]:
    import onnxruntime as ort

    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return [np.asarray(each) for each in session.run(None, feed)]


FUNCTION = """
<ir_version: 9, opset_import: ["" : 17, "local" : 1]>
g (float[N, 2, H, W] x) => (float[N, 2, H, W] y) <float[2] s = {1, 2}, float[2] z = {0, 0},
   float[2] one = {1, 1}, float[2, 2, 1, 1] w = {1, 2, 3, 4}>
{
    y = local.block(x, w, s, z, one)
}
<domain: "local", opset_import: ["" : 17]>
block (x, w, s, z, v) => (y) { c = Conv(x, w)  y = BatchNormalization(c, s, z, z, v) }
"""


def test_functions_are_inlined_and_folded() -> None:
    source = onnx.parser.parse_model(FUNCTION)
    result = optimize(source, options=QUICK)
    assert ops(result.to_proto()) == ["Conv"]
    assert result.report.notes == ("1 model-local function was inlined",)
    assert same(source, result.to_proto())


CONTROL = """
<ir_version: 9, opset_import: ["" : 17]>
g (bool c, float[N, 2, H, W] x) => (float[N, 2, H, W] y) <float[2] s = {3, 2}, float[2] z = {0, 1},
   float[2] v = {1, 4}, float[2, 2, 1, 1] w = {1, 2, 3, 4}>
{
    y = If (c) <
        then_branch = a () => (float[N, 2, H, W] t) {
            k = Conv(x, w)
            t = BatchNormalization(k, s, z, z, v) },
        else_branch = b () => (float[N, 2, H, W] e) { e = Neg(x) }>
}
"""


def test_bodies_of_control_flow_are_folded() -> None:
    source = onnx.parser.parse_model(CONTROL)
    made = optimize(source, options=QUICK).to_proto()
    assert [node.op_type for node in made.graph.node[0].attribute[0].g.node] == ["Conv"]
    for flag in (True, False):
        feed = {"c": np.asarray(flag), "x": np.ones((1, 2, 3, 3), np.float32)}
        np.testing.assert_allclose(outputs(made, feed)[0], outputs(source, feed)[0], rtol=1e-5)


def test_unsorted_nodes_are_sorted_and_said() -> None:
    shuffled = copied(NET)
    nodes = list(shuffled.graph.node)
    del shuffled.graph.node[:]
    shuffled.graph.node.extend(reversed(nodes))
    result = optimize(shuffled, options=QUICK)
    assert ops(result.to_proto()) == FOLDED
    assert "the nodes were not in topological order and have been sorted" in result.report.notes
    assert same(NET, result.to_proto())


def custom() -> onnx.ModelProto:
    made = copied(NET)
    made.opset_import.append(helper.make_opsetid("acme", 1))
    made.graph.node[-1].output[0] = "mine"
    made.graph.node.append(
        helper.make_node("Sharpen", ["mine"], ["scores"], "sharpen", domain="acme", strength=2.0)
    )
    return made


def test_custom_operators_pass_through_unverified(tmp_path: Path) -> None:
    source = custom()
    with pytest.raises(CannotVerifyError, match="acme"):
        optimize(source, tmp_path / "out.onnx", options=QUICK)
    assert files_in(tmp_path) == {}
    result = optimize(source, tmp_path / "out.onnx", options=OptimizeOptions(verify=False))
    made = onnx.load(tmp_path / "out.onnx")
    assert ops(made) == [*FOLDED, "Sharpen"]
    assert made.graph.node[-1] == source.graph.node[-1]
    assert result.report.notes[-1].startswith("the result is not verified")


def test_an_opset_of_the_future() -> None:
    source = copied(NET)
    source.opset_import[0].version = onnx.defs.onnx_opset_version() + 40
    with pytest.raises(CannotRunError) as caught:
        optimize(source, options=QUICK)
    assert str(source.opset_import[0].version) in caught.value.message
    result = optimize(source, options=OptimizeOptions(verify=False))
    assert result.to_proto().opset_import[0].version == source.opset_import[0].version


TWO = model(
    [
        helper.make_node("Conv", ["a", "w"], ["c"]),
        helper.make_node("BatchNormalization", ["c", "g", "g", "g", "v"], ["n"]),
        helper.make_node("Add", ["n", "b"], ["y"]),
    ],
    [
        helper.make_tensor_value_info("a", TensorProto.FLOAT, ["N", 3, "H", "W"]),
        helper.make_tensor_value_info("b", TensorProto.FLOAT, ["N", 2, "H", "W"]),
    ],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2, "H", "W"])],
    [
        tensor("w", np.ones((2, 3, 1, 1), np.float32)),
        tensor("g", np.asarray([1, 2], np.float32)),
        tensor("v", np.asarray([1, 3], np.float32)),
    ],
)


def extents(values: Sequence[onnx.ValueInfoProto]) -> list[list[int | str]]:
    return [[d.dim_value or d.dim_param for d in v.type.tensor_type.shape.dim] for v in values]


def test_symbols_are_bound_everywhere() -> None:
    options = OptimizeOptions(threads=1, input_shapes={"a": (1, 3, 8, 6)})
    result = optimize(TWO, options=options)
    made = result.to_proto()
    assert extents(made.graph.input) == [[1, 3, 8, 6], [1, 2, 8, 6]]
    assert extents(made.graph.output) == [[1, 2, 8, 6]]
    assert result.report.after.multiply_adds == 2 * 8 * 6 * 3
    assert ops(made) == ["Conv", "Add"]
    onnx.checker.check_model(made, full_check=True)


@pytest.mark.parametrize("pinned", [{}, {"x": (1, 3, 8, 6)}])
def test_a_name_that_stands_for_every_open_extent(pinned: dict[str, tuple[int, ...]]) -> None:
    """This graph swaps height and width, so that these are no equal extents."""
    model = parse(
        "g (float[d,3,d,d] x) => (float[d,3,d,d] y)"
        " { s = Shape(x) t = Gather(s, i) r = Relu(x) q = Reshape(r, t) y = Sigmoid(q) }",
        {"i": np.array([0, 1, 3, 2])},
    )
    result = optimize(model, options=OptimizeOptions(threads=1, input_shapes=pinned))
    assert result.report.verdict is not None
    assert result.report.verdict.equal
    assert "Reshape" in ops(result.to_proto())
    assert not result.report.rolled_back
    assert extents(result.to_proto().graph.input) == (
        [[1, 3, 8, 6]] if pinned else [["d", 3, "d", "d"]]
    )


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"a": (1, 3, 8)}, "input 'a' has 4 axes"),
        ({"a": (1, 4, 8, 6)}, "input 'a' cannot have shape 1x4x8x6"),
        ({"q": (1, 3, 8, 6)}, "the model has no input 'q'"),
        ({"a": (1, 3, 8, 6), "b": (2, 2, 8, 6)}, "input 'b' cannot have shape 2x2x8x6"),
    ],
)
@pytest.mark.parametrize("proven", [True, False])
def test_a_shape_that_does_not_fit(
    shapes: dict[str, tuple[int, ...]], message: str, proven: bool
) -> None:
    with pytest.raises(BadOptionError, match=message) as caught:
        optimize(TWO, options=OptimizeOptions(input_shapes=shapes, verify=proven))
    assert caught.value.hint


def test_the_given_tolerance_replaces_the_measured_one() -> None:
    result = optimize(NET, options=OptimizeOptions(threads=1, rtol=0.25))
    assert result.report.verdict is not None
    assert result.report.verdict.outputs[0].tolerance_origin == "given by --rtol"


def test_a_tolerance_that_nothing_meets_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    """Every fold rounds differently, so with no error allowed all of them are taken back."""
    result = optimize(
        conv_net(2, 16, dims=(1, 3, 9, 9)),
        tmp_path / "out.onnx",
        options=OptimizeOptions(threads=1, rtol=0.0, atol=0.0),
    )
    # fold_linear may try a normalization again that fuse_bn had to leave.
    assert {each.rewrite.key.pass_name for each in result.report.rolled_back} >= {"fuse_bn"}
    assert ops(onnx.load(tmp_path / "out.onnx")).count("BatchNormalization") == 2


def test_own_data_is_used() -> None:
    data = [{"x": np.full((1, 3, 20, 31), 0.5, np.float32)}]
    verdict = optimize(NET, options=QUICK, data=data).report.verdict
    assert verdict is not None
    assert any("data" in label for label in verdict.feeds), verdict.feeds


def test_progress_is_told() -> None:
    said: list[str] = []
    optimize(NET, options=QUICK, progress=said.append)
    assert said[0] == "reading the model"
    assert "fuse_bn" in said
    assert any(text.startswith("measuring rounding noise 1/") for text in said)
    assert any(text.startswith("checking ") for text in said)


def test_one_session_at_a_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The real sessions are counted as they come and go, a search for a culprit included."""
    import weakref

    import onnxruntime as ort

    alive: set[int] = set()
    most = 0
    real = ort.InferenceSession

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal most
        session = real(*args, **kwargs)
        alive.add(id(session))
        weakref.finalize(session, alive.discard, id(session))
        most = max(most, len(alive))
        return session

    monkeypatch.setattr(ort, "InferenceSession", counted)
    from tests.pipeline import saboteurs as s

    work = s.mostly(s.same, s.rescaled(1.01), "conv1")
    path = tmp_path / "in.onnx"
    save_external(s.chain(3), path)
    for source, output in ((s.chain(3), None), (path, tmp_path / "out.onnx")):
        result = optimize(source, output, passes=[s.at_every("Conv", work)], options=QUICK)
        assert len(result.report.rolled_back) == 1
    assert most == 1
    assert not alive


def test_nothing_is_written_when_the_folder_vanishes(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()

    def vanish(text: str) -> None:
        if text == "writing the result":
            os.rmdir(folder)

    with pytest.raises(CannotWriteError):
        optimize(NET, folder / "out.onnx", options=QUICK, progress=vanish)
    assert files_in(tmp_path) == {}


def test_every_pass_alone_keeps_the_model_equal() -> None:
    for step in BUILTIN:
        if step.name in ("simplify", "insert_qdq"):
            continue  # a process of its own, and one that wants a calibration: they have tests
        result = optimize(NET, passes=[step], options=QUICK)
        assert result.report.verdict is not None
        assert result.report.verdict.equal


def test_missing_external_data(tmp_path: Path) -> None:
    broken = copied(NET)
    external_entry(broken.graph.initializer[0], location="gone.bin")
    path = tmp_path / "m.onnx"
    path.write_bytes(broken.SerializeToString())
    with pytest.raises(onnxfold.errors.BadModelError, match=r"gone\.bin"):
        optimize(path, tmp_path / "out.onnx")
    assert list(files_in(tmp_path)) == ["m.onnx"]


def test_an_error_of_two_models_is_one_sentence() -> None:
    other = copied(NET)
    bias = next(t for t in other.graph.initializer if t.name == "head_bias")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + 1, "head_bias"))
    verdict = verify(NET, other, VerifyOptions(threads=1))
    assert not verdict.equal
    assert "\n" not in str(NotEqualError(verdict.reason))
