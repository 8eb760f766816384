import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, parser

from onnxfold.bench.runners import Settings, content_of, open_runtime
from onnxfold.errors import BadModelError, CannotRunError
from onnxfold.verify import Verifier, VerifyOptions, verify
from tests.verify.networks import (
    DYNAMIC,
    conv_net,
    copied,
    folded,
    tensor,
    values,
    with_weight,
)


def model(text: str, opset: int = 17, ir: int = 8, domains: str = "") -> onnx.ModelProto:
    return parser.parse_model(f'<ir_version: {ir}, opset_import: ["": {opset}{domains}]> g {text}')


RELU = "(float[1, 4] x) => (float[1, 4] y) {y = Relu(x)}"


@pytest.mark.parametrize(
    ("proto", "said"),
    [
        (
            model("(float[1,4] x) => (float[1,4] y) {y = foo.Bar(x)}", domains=', "foo": 1'),
            "foo:Bar",
        ),
        (model("(float[1,4] x) => (float[1,4] y) {y = Baz(x)}"), "operator Baz in opset 17"),
        (model(RELU, opset=99), "opset 99"),
        (model(RELU, ir=99), "IR version 99"),
        (
            model("(double[1,1,4,4] x, double[1,1,3,3] w) => (double[1,1,2,2] y) {y = Conv(x, w)}"),
            "no CPU kernel for Conv",
        ),
        (model("(float[1,4] x) => (float[1,4] y) {y = RandomNormalLike(x)}"), "RandomNormalLike"),
    ],
)
def test_a_reference_that_the_runtime_cannot_run(proto: onnx.ModelProto, said: str) -> None:
    with pytest.raises(CannotRunError, match=said) as caught:
        verify(proto, proto)
    assert caught.value.exit_code == 3
    assert caught.value.hint
    assert "\n" not in caught.value.message
    assert "onnxruntime_src" not in caught.value.message


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("{y = Baz(x)}", "Baz"),
        ("{s = Constant<value_ints = [3, 7]>() y = Reshape(x, s)}", "does not run on"),
        ("{s = Constant<value_ints = [4, 1]>() y = Reshape(x, s)}", "shape was"),
    ],
)
def test_a_candidate_that_does_not_run_is_a_verdict(body: str, said: str) -> None:
    head = "(float[N, M] x) => (float[P, Q] y)"
    options = VerifyOptions(input_shapes={"x": (1, 4)})
    verdict = verify(model(f"{head} {{y = Identity(x)}}"), model(f"{head} {body}"), options)
    assert not verdict.equal
    assert said in verdict.reason


def test_a_size_baked_into_the_candidate_is_found() -> None:
    head = "(float[N, 3, H, W] x) => (float[N, 3, L] y)"
    before = model(f"{head} {{s = Constant<value_ints = [0, 3, -1]>() y = Reshape(x, s)}}")
    after = model(f"{head} {{s = Constant<value_ints = [1, 3, 4096]>() y = Reshape(x, s)}}")
    verdict = verify(before, after)
    assert not verdict.equal
    assert "does not run" in verdict.reason


def test_files_that_are_no_models(tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.onnx"
    garbage.write_bytes(b"\xff\x00garbage" * 9)
    for path in (garbage, tmp_path / "missing.onnx", tmp_path):
        with pytest.raises(BadModelError):
            verify(path, path)


def test_one_percent_of_a_tensor_ends_at_the_first_feed_and_again_at_that_feed() -> None:
    reference = conv_net(4, 8, dims=DYNAMIC)
    steps: list[tuple[str, int, int]] = []
    verifier = Verifier(reference, progress=lambda *step: steps.append(step))
    assert verifier.check(copied(reference)).equal
    wrong = with_weight(reference, "w1", values(reference, "w1") * 1.01)
    verdict = verifier.check(wrong)
    assert len(verdict.feeds) == 1
    assert len(verifier.check(wrong, stop_early=False).feeds) == len(verifier.feeds())
    assert {what for what, _, _ in steps} == {
        "running the reference",
        "measuring rounding noise",
        "checking",
    }
    runs = [step for step in steps if step[0] == "running the reference"]
    assert len(runs) == len(verifier.feeds())  # once, for three checks


def test_the_feed_that_failed_is_tried_first() -> None:
    """Wrong only for batches above one, so that the first feeds pass."""
    head = "(float[N, 3, H, W] x) => (float[N, 3, H, W] y)"
    before = model(f"{head} {{y = Identity(x)}}")
    after = model(
        f"{head} {{s = Shape<end = 1>(x) one = Constant<value_ints = [1]>() d = Div(one, s)"
        "f = Cast<to = 1>(d) y = Mul(x, f)}"
    )
    verifier = Verifier(before)
    first = verifier.check(after)
    assert not first.equal
    assert len(first.feeds) > 1
    assert "2x3x" in first.reason
    assert len(verifier.check(after).feeds) == 1


def test_the_verdict_is_json() -> None:
    reference = conv_net(2, 8)
    plain = json.loads(json.dumps(verify(reference, folded(reference)).to_dict(), allow_nan=False))
    assert plain["equal"] is True
    assert plain["worst"] == "scores"
    record = plain["outputs"][0]
    assert record["feeds"] == 4
    assert record["label_agreement"] == 1.0
    assert "rounding noise" in record["tolerance_origin"]
    assert record["max_abs_error"] <= record["scale"]
    broken = verify(reference, conv_net(2, 8, classes=7))
    json.dumps(broken.to_dict(), allow_nan=False)
    assert not broken.equal


def test_given_tolerances_replace_the_measured_one() -> None:
    reference = conv_net(4, 8)
    wrong = with_weight(reference, "w1", values(reference, "w1") * 1.001)
    loose = verify(reference, wrong, VerifyOptions(rtol=0.05))
    assert loose.equal, loose.reason
    assert loose.outputs[0].tolerance_origin == "given by --rtol"
    assert not verify(reference, wrong, VerifyOptions(rtol=1e-6)).equal
    assert not verify(reference, folded(reference), VerifyOptions(rtol=0, atol=0)).equal
    assert verify(reference, copied(reference), VerifyOptions(rtol=0, atol=0)).equal
    both = verify(reference, wrong, VerifyOptions(rtol=0.0, atol=1e3))
    assert both.outputs[0].tolerance_origin == "given by --rtol and --atol"


def test_a_loose_tolerance_does_not_excuse_a_changed_class() -> None:
    text = "(float[1, 1] x) => (float[1, 2] y) {t = Constant<value_floats = [%s]>() y = Add(x, t)}"
    reference = model(text % "5.0, 0.0")
    wrong = model(text % "2.0, 2.5")
    options = VerifyOptions(atol=3.0, max_feeds=1)
    verdict = verify(reference, wrong, options)
    assert not verdict.equal
    assert "changed class" in verdict.reason
    assert verdict.outputs[0].label_agreement == 0.0


def test_sequences_are_compared_element_by_element() -> None:
    head = "(float[2, 3] x) => (seq(float[2, 1]) y)"
    before = model(f"{head} {{y = SplitToSequence<axis = 1>(x)}}")
    wrong = model(f"{head} {{t = Neg(x) y = SplitToSequence<axis = 1>(t)}}")
    fewer = model(f"{head} {{y = SplitToSequence<axis = 0>(x)}}")
    verdict = verify(before, copied(before))
    assert verdict.equal
    assert [record.name for record in verdict.outputs] == ["y[0]", "y[1]", "y[2]"]
    assert not verify(before, wrong).equal
    assert not verify(before, fewer).equal
    assert not verify(fewer, before).equal


def test_integers_must_be_equal_where_nothing_is_rounded() -> None:
    head = "(int64[N, 3] x) => (int64[N, 3] y)"
    before = model(f"{head} {{y = Identity(x)}}")
    after = model(f"{head} {{t = Constant<value_int = 1>() y = Add(x, t)}}")
    verdict = verify(before, after)
    assert not verdict.equal
    assert "elements differ where 0 may" in verdict.reason
    assert verify(before, before).equal


def test_an_output_that_is_an_input_or_a_constant() -> None:
    proto = model(
        "(float[2, 3] x) => (float[2, 3] x, float[2] k){k = Constant<value_floats = [1.0, 2.0]>()}"
    )
    assert verify(proto, copied(proto)).equal
    wrong = copied(proto)
    wrong.graph.node[0].attribute[0].floats[1] = 2.0001
    assert not verify(proto, wrong).equal


def quantized(step: float = 0.05) -> onnx.ModelProto:
    """A conv net whose activations are rounded to 8 bits after every layer."""
    made = conv_net(4, 16, seed=2)
    made.graph.initializer.extend([tensor("step", np.float32(step)), tensor("zero", np.int8(0))])
    nodes = []
    for node in made.graph.node:
        nodes.append(node)
        if node.op_type == "Relu":
            name = node.output[0]
            node.output[0] = f"{name}_f"
            nodes += [
                helper.make_node("QuantizeLinear", [f"{name}_f", "step", "zero"], [f"{name}_q"]),
                helper.make_node("DequantizeLinear", [f"{name}_q", "step", "zero"], [name]),
            ]
    rounded = copied(made)
    del rounded.graph.node[:]
    rounded.graph.node.extend(nodes)
    return rounded


def test_quantized_activations_may_flip_and_errors_still_show() -> None:
    reference = quantized()
    verifier = Verifier(reference, VerifyOptions(threads=1))
    # Another rounding of the same weights: half an ulp here and there, as a fold would leave.
    rng = np.random.default_rng(0)
    near = copied(reference)
    for layer in range(4):
        kernel = values(near, f"w{layer}")
        near = with_weight(
            near, f"w{layer}", kernel * (1 + 6e-8 * rng.standard_normal(kernel.shape))
        )
    verdict = verifier.check(near, stop_early=False)
    assert verdict.equal, verdict.reason
    wrong = with_weight(reference, "w2", values(reference, "w2") * 1.05)
    assert not verifier.check(wrong).equal


def test_scales_of_a_resize_are_no_weights() -> None:
    proto = model(
        "(float[1, 3, H, W] x) => (float[1, 3, P, Q] y)"
        "<float[3, 3, 1, 1] w = {1, 2, 3, 4, 5, 6, 7, 8, 9}>"
        "{a = Constant<value = float[2] {1.0, 1.0}>() b = Constant<value = float[2] {2.0, 2.0}>()"
        's = Concat<axis = 0>(a, b) t = Conv(x, w) y = Resize<mode = "linear">(t, , s)}'
    )
    verdict = verify(proto, copied(proto))
    assert verdict.equal
    assert not verdict.notes
    tolerance, scale = verdict.outputs[0].tolerance, verdict.outputs[0].scale
    assert tolerance is not None
    assert scale is not None
    assert tolerance < 1e-4 * scale


def external(folder: Path, proto: onnx.ModelProto) -> Path:
    path = folder / "model.onnx"
    onnx.save(copied(proto), path, save_as_external_data=True, location="weights", size_threshold=0)
    return path


def test_external_weights_are_verified_by_path(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "c").mkdir()
    reference = conv_net(6, 16, dims=DYNAMIC)
    candidate = folded(reference)
    wrong = with_weight(candidate, "w3", values(candidate, "w3") * 1.01)
    verifier = Verifier(external(tmp_path / "a", reference))
    verdict = verifier.check(external(tmp_path / "b", candidate))
    assert verdict.equal, verdict.reason
    in_memory = Verifier(reference).check(candidate)
    assert verdict.outputs[0].tolerance == in_memory.outputs[0].tolerance
    assert not verifier.check(external(tmp_path / "c", wrong)).equal
    # A model in memory does not say where its weights are.
    skeleton = onnx.load(tmp_path / "a" / "model.onnx", load_external_data=False)
    with pytest.raises(CannotRunError, match="external file"):
        verify(skeleton, skeleton)


def test_large_external_weights_stay_on_disk(tmp_path: Path) -> None:
    """600 MB of weights, in a process of its own so that its peak is its own."""
    script = """
import sys
import numpy as np, onnx
from onnx import helper
from onnxfold.verify import verify, VerifyOptions
path, width, count = sys.argv[1], 4096, 9
kind = onnx.TensorProto.FLOAT
tensors, nodes = [], []
for i in range(count):
    t = onnx.TensorProto(name=f"w{i}", data_type=kind, dims=[width, width])
    t.data_location = onnx.TensorProto.EXTERNAL
    size = 4 * width * width
    for key, value in (("location", "w"), ("offset", str(i * size)), ("length", str(size))):
        t.external_data.add(key=key, value=value)
    tensors.append(t)
    nodes.append(helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]))
ports = [helper.make_tensor_value_info(n, kind, [1, width]) for n in ("x0", f"x{count}")]
graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], tensors)
made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
with open(path + "/w", "wb") as out:
    rng = np.random.default_rng(0)
    for _ in range(count):
        out.write((rng.standard_normal((width, width), np.float32) / 64).data)
onnx.save(made, path + "/m.onnx")
verdict = verify(path + "/m.onnx", path + "/m.onnx", VerifyOptions(threads=1))
# Not getrusage: what that reports begins with the peak of the process that started this one.
(line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
peak = int(line.split()[1]) * 1024
print(int(verdict.equal), peak / (4 * count * width * width))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    equal, share = done.stdout.split()
    assert equal == "1"
    assert done.stderr == ""
    assert float(share) < 1.3  # the weights mapped or, as far as moved, copied; the interpreter


def test_nothing_is_written_to_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CannotRunError):
        verify(model(RELU, opset=99), model(RELU))
    verify(model(RELU), conv_net(1, 4))
    head = "(float[N, M] x) => (float[P, Q] y)"
    bad = model(f"{head} {{s = Constant<value_ints = [3, 7]>() y = Reshape(x, s)}}")
    verify(model(f"{head} {{y = Identity(x)}}"), bad)
    out, err = capfd.readouterr()
    assert out == ""
    assert err == ""


class TestOpenVino:
    def test_it_agrees_on_the_same_feeds(self) -> None:
        pytest.importorskip("openvino")
        reference = conv_net(4, 16, dims=DYNAMIC)
        verifier = Verifier(reference, VerifyOptions(rtol=1e-4))
        settings = Settings(threads=1)
        other = open_runtime("openvino").load(content_of(folded(reference)), settings)
        outputs = []
        for feed in verifier.feeds():
            other.bind(feed.arrays)
            outputs.append({"scores": other.outputs()[0]})
        verdict = verifier.check_outputs(outputs)
        assert verdict.equal, verdict.reason

    def test_what_it_refuses(self) -> None:
        pytest.importorskip("openvino")
        unknown = model("(float[1,4] x) => (float[1,4] y) {y = Baz(x)}")
        with pytest.raises(CannotRunError, match="OpenVINO"):
            open_runtime("openvino").load(content_of(unknown), Settings())
