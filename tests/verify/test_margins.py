"""Both sides of the measured tolerance: right rewrites pass, small errors do not."""

import numpy as np
import onnx
import pytest
from onnx import helper

from onnxfold.verify import Verdict, Verifier, VerifyOptions
from tests.verify.networks import (
    DYNAMIC,
    conv_net,
    copied,
    folded,
    tensor,
    values,
    weight,
    with_weight,
)

OPTIONS = VerifyOptions(threads=1, time_limit=None)


def most_used(verdict: Verdict) -> float:
    return max(record.used for record in verdict.outputs)


@pytest.mark.parametrize("depth", [5, 10, 20, 40, 60])
def test_a_right_fold_is_never_blamed(depth: int) -> None:
    used = []
    for seed in range(12):
        reference = conv_net(depth, channels=12, seed=seed)
        verdict = Verifier(reference, VerifyOptions(threads=1, seed=seed)).check(
            folded(reference), stop_early=False
        )
        assert verdict.equal, verdict.reason
        assert verdict.outputs[0].max_abs_error != 0  # it is another computation
        used.append(most_used(verdict))
    assert max(used) < 0.6


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_a_right_fold_passes_in_other_precisions(dtype: type[np.floating]) -> None:
    # ONNX Runtime has no double-precision Conv, so that one goes through MatMul below.
    if dtype is np.float64:
        reference, candidate = matmul_pair()
    else:
        reference = conv_net(8, channels=16, dtype=dtype)
        candidate = folded(reference)
    verdict = Verifier(reference, OPTIONS).check(candidate, stop_early=False)
    assert verdict.equal, verdict.reason
    error, limit = verdict.outputs[0].relative_error, 1e-2 if dtype is np.float16 else 1e-13
    assert error is not None
    assert 0 < error < limit


def matmul_pair() -> tuple[onnx.ModelProto, onnx.ModelProto]:
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((2, 64, 64))
    source = helper.make_tensor_value_info("x", onnx.TensorProto.DOUBLE, ["N", 64])
    target = helper.make_tensor_value_info("y", onnx.TensorProto.DOUBLE, ["N", 64])

    def made(nodes: list[onnx.NodeProto], weights: list[onnx.TensorProto]) -> onnx.ModelProto:
        graph = helper.make_graph(nodes, "g", [source], [target], weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    two = [
        helper.make_node("MatMul", ["x", "a"], ["t"]),
        helper.make_node("MatMul", ["t", "b"], ["y"]),
    ]
    one = [helper.make_node("MatMul", ["x", "c"], ["y"])]
    return (
        made(two, [tensor("a", first), tensor("b", second)]),
        made(one, [tensor("c", first @ second)]),
    )


def test_half_precision_errors_of_one_percent_are_caught() -> None:
    reference = conv_net(8, channels=16, dtype=np.float16)
    candidate = folded(reference)
    wrong = with_weight(candidate, "w4", values(candidate, "w4") * 1.02)
    assert not Verifier(reference, OPTIONS).check(wrong).equal


@pytest.fixture(scope="module")
def reference() -> onnx.ModelProto:
    return conv_net(10, channels=32, seed=8)


@pytest.fixture(scope="module")
def verifier(reference: onnx.ModelProto) -> Verifier:
    return Verifier(reference, OPTIONS)


class TestOneScalar:
    """One of 9216 weights of a layer, in a network of ten layers of 32 channels."""

    @pytest.mark.parametrize("layer", range(10))
    @pytest.mark.parametrize("quantile", [0.5, 1.0])
    def test_scaled_by_1_01_is_caught(
        self, reference: onnx.ModelProto, verifier: Verifier, layer: int, quantile: float
    ) -> None:
        candidate = folded(reference)
        assert verifier.check(candidate).equal
        kernel = values(candidate, f"w{layer}")
        flat = kernel.reshape(-1)
        flat[np.argsort(np.abs(flat))[int(quantile * (flat.size - 1))]] *= 1.01
        verdict = verifier.check(with_weight(candidate, f"w{layer}", kernel))
        assert not verdict.equal
        assert "times the tolerance" in verdict.reason

    @pytest.mark.parametrize("layer", range(10))
    def test_a_whole_tensor_is_far_out(
        self, reference: onnx.ModelProto, verifier: Verifier, layer: int
    ) -> None:
        candidate = folded(reference)
        kernel = values(candidate, f"w{layer}") * 1.01
        verdict = verifier.check(with_weight(candidate, f"w{layer}", kernel))
        assert most_used(verdict) > 50


def test_a_bias_folded_in_front_of_a_padded_convolution_is_caught() -> None:
    rng = np.random.default_rng(1)
    kernel = rng.standard_normal((8, 3, 3, 3)).astype(np.float32) / 5
    shift = (0.01 * rng.standard_normal((1, 3, 1, 1))).astype(np.float32)
    source = helper.make_tensor_value_info("x", 1, list(DYNAMIC))
    target = helper.make_tensor_value_info("y", 1, ["N", 8, "H", "W"])

    def made(nodes: list[onnx.NodeProto], weights: list[onnx.TensorProto]) -> onnx.ModelProto:
        graph = helper.make_graph(nodes, "g", [source], [target], weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    reference = made(
        [
            helper.make_node("Add", ["x", "shift"], ["t"]),
            helper.make_node("Conv", ["t", "w"], ["y"], pads=[1, 1, 1, 1]),
        ],
        [tensor("shift", shift), tensor("w", kernel)],
    )
    bias = np.einsum("oihw,i->o", kernel, shift.reshape(-1))
    wrong = made(
        [helper.make_node("Conv", ["x", "w", "b"], ["y"], pads=[1, 1, 1, 1])],
        [tensor("w", kernel), tensor("b", bias)],
    )
    assert not Verifier(reference, OPTIONS).check(wrong).equal


def test_an_edge_value_in_place_of_zero_padding_is_caught() -> None:
    reference = conv_net(10, channels=8, dims=DYNAMIC)
    wrong = copied(reference)
    conv = next(node for node in wrong.graph.node if node.output[0] == "c5")
    pads = helper.make_node("Pad", [conv.input[0], "pads"], ["padded"], mode="edge")
    conv.input[0] = "padded"
    next(a for a in conv.attribute if a.name == "pads").ints[:] = [0, 0, 0, 0]
    wrong.graph.initializer.append(tensor("pads", np.array([0, 0, 1, 1, 0, 0, 1, 1])))
    wrong.graph.node.insert(list(wrong.graph.node).index(conv), pads)
    onnx.checker.check_model(wrong)
    assert not Verifier(reference, OPTIONS).check(wrong).equal


def test_two_classes_swapped_are_caught_in_scores_and_in_labels() -> None:
    for labels in (False, True):
        reference = conv_net(6, channels=16, labels=labels, dims=DYNAMIC)
        order = [0, 2, 1, 3, 4]
        head, bias = values(reference, "head")[order], values(reference, "head_bias")[order]
        wrong = with_weight(with_weight(reference, "head", head), "head_bias", bias)
        verdict = Verifier(reference, OPTIONS).check(wrong)
        assert not verdict.equal
        agreement = verdict.outputs[0].label_agreement
        assert agreement is not None
        assert agreement < 1


def test_labels_of_a_right_fold_are_equal() -> None:
    for seed in range(6):
        reference = conv_net(12, channels=16, labels=True, dims=DYNAMIC, seed=seed)
        verdict = Verifier(reference, OPTIONS).check(folded(reference), stop_early=False)
        assert verdict.equal, verdict.reason
        agreement = verdict.outputs[0].label_agreement
        assert agreement is not None
        assert agreement > 0.999


def test_labels_show_a_wrong_weight_tensor() -> None:
    reference = conv_net(6, channels=16, labels=True, dims=DYNAMIC)
    candidate = folded(reference)
    wrong = with_weight(candidate, "w3", values(candidate, "w3") * 1.01)
    assert not Verifier(reference, OPTIONS).check(wrong).equal


def test_a_pixel_head_beside_probabilities_does_not_blind_them() -> None:
    """A detector concatenates coordinates in the hundreds and scores in 0 to 1."""
    rng = np.random.default_rng(3)
    boxes = (20 * rng.standard_normal((4, 3, 3, 3))).astype(np.float32)
    scores = rng.standard_normal((6, 3, 3, 3)).astype(np.float32) / 5
    nodes = [
        helper.make_node("Conv", ["x", "boxes"], ["b"], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["x", "scores"], ["s"], pads=[1, 1, 1, 1]),
        helper.make_node("Sigmoid", ["s"], ["p"]),
        helper.make_node("Concat", ["b", "p"], ["y"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("y", 1, [1, 10, 32, 32])],
        [tensor("boxes", boxes), tensor("scores", scores)],
    )
    reference = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    wrong = values(reference, "scores")
    wrong[2, 1, 1, 1] *= 1.01
    verdict = Verifier(reference, OPTIONS).check(with_weight(reference, "scores", wrong))
    assert not verdict.equal
    assert weight(reference, "boxes").dims[0] == 4


def test_nan_and_infinity_must_stay_where_they_are() -> None:
    def made(bias: float) -> onnx.ModelProto:
        text = f"""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[1, 4, 8, 8] x) => (float[1, 4, 8, 8] y) <float b = {{{bias}}}>
        {{ t = Add(x, b)  y = Log(t) }}"""
        return onnx.parser.parse_model(text)

    reference = made(0.0)  # NaN for half of the values, -inf for the zeros
    assert Verifier(reference, OPTIONS).check(made(0.0)).equal
    verdict = Verifier(reference, OPTIONS).check(made(0.5))
    assert not verdict.equal
    assert "NaN or infinity" in verdict.reason


def test_a_model_that_is_infinite_by_nature_is_equal_to_itself() -> None:
    text = """
    <ir_version: 8, opset_import: ["": 17]>
    g (float[1, 4] x) => (float[1, 4] y) { a = Relu(x)  y = Reciprocal(a) }"""
    reference = onnx.parser.parse_model(text)
    assert Verifier(reference, OPTIONS).check(copied(reference)).equal
