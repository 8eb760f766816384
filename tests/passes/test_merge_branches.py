"""merge_branches: which branches become one convolution, which are left alone, and why."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import onnx
import pytest

from onnxfold.model import load, to_proto
from onnxfold.passes import merge_branches
from onnxfold.passes.presets import DEFAULT
from onnxfold.pipeline.manager import PassManager
from onnxfold.pipeline.passes import Pass
from onnxfold.rewrite.ledger import Ledger
from onnxfold.verify import Verifier, VerifyOptions
from tests import zoo
from tests.linear.test_region_random import EAGER, engine
from tests.toolkit import (
    BN,
    Weights,
    assert_equal,
    batch_norm,
    check_invariants,
    integers,
    parse,
    renamed,
)

W3 = integers("w3", 4, 4, 3, 3)
W1 = integers("w1", 4, 4, 1, 1)
D3 = integers("d3", 4, 1, 3, 3)
D1 = integers("d1", 4, 1, 1, 1)
BIAS = integers("bias", 4)
P = "pads=[1,1,1,1]"
X = "float[N,4,H,W] x"
STATIC = "float[1,4,8,8] x"


def merged(model: onnx.ModelProto) -> tuple[onnx.ModelProto, Ledger]:
    """The model after merge_branches alone; a second run must change nothing."""
    outcome = PassManager([merge_branches.PASS]).run(load(model).model)
    assert outcome.ledger.failures == []
    after = to_proto(outcome.model)
    check_invariants(model, after)
    again = PassManager([merge_branches.PASS]).run(load(after).model)
    assert [str(each.key) for each in again.ledger.applied] == []
    return after, outcome.ledger


def ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def merges(body: str, weights: Weights, *expected: str, **kinds: Any) -> onnx.ModelProto:
    """Expect exactly these operators and the same outputs to the bit."""
    model = parse(f"g {body}", weights)
    after, ledger = merged(model)
    assert ops(after) == list(expected), [each.reason for each in ledger.rejections]
    assert_equal(model, after, reference=False, **kinds)
    return after


def keeps(body: str, weights: Weights, reason: str | None = None) -> Ledger:
    """Expect that nothing is done; with a reason, that exactly this one is given."""
    model = parse(f"g {body}", weights)
    after, ledger = merged(model)
    assert [str(each.key) for each in ledger.applied] == []
    assert ops(after) == ops(model)
    assert_equal(model, after, reference=False)
    reasons = [each.reason for each in ledger.rejections]
    if reason is None:
        assert reasons == []
    else:
        assert len(reasons) == 1
        assert reason in reasons[0]
    return ledger


class TestMerges:
    @pytest.mark.parametrize("x", [X, STATIC, "float[2,4,7,5] x"])
    def test_a_repvgg_block(self, x: str) -> None:
        weights = {"w3": W3, "w1": W1, **batch_norm(4), **batch_norm(4, "p"), **batch_norm(4, "q")}
        merges(
            f"({x}) => (float[] y) {{ c3 = Conv<{P}>(x, w3) n3 = {BN}(c3, g, b, m, v) "
            f"c1 = Conv(x, w1) n1 = {BN}(c1, pg, pb, pm, pv) n = {BN}(x, qg, qb, qm, qv) "
            "s = Add(n1, n3) y = Add(n, s) }",
            weights,
            "Conv",
        )

    def test_a_normalization_behind_the_sum(self) -> None:
        merges(
            f"({X}) => (float[] y) {{ c3 = Conv<{P}, group=4>(x, w3) c1 = Conv<group=4>(x, w1) "
            f"s = Add(c1, c3) t = Add(s, x) y = {BN}(t, g, b, m, v) }}",
            {"w3": D3, "w1": D1, **batch_norm(4)},
            "Conv",
        )

    def test_a_normalization_behind_a_sum_with_another_tensor_is_counted_once(self) -> None:
        merges(
            f"({X}, float[N,4,H,W] z) => (float[] y) {{ c3 = Conv<{P}>(x, w3) s = Add(c3, z) "
            f"n = {BN}(s, g, b, m, v) c1 = Conv(x, w1) y = Add(n, c1) }}",
            {"w3": W3, "w1": W1, **batch_norm(4)},
            "Conv",
            "Mul",
            "Add",
        )

    def test_rectangular_kernels(self) -> None:
        merges(
            f"({X}) => (float[] y) {{ a = Conv<{P}>(x, w3) h = Conv<pads=[0,1,0,1]>(x, wh) "
            "v = Conv<pads=[1,0,1,0]>(x, wv) y = Sum(a, h, v) }",
            {"w3": W3, "wh": integers("h", 4, 4, 1, 3), "wv": integers("v", 4, 4, 3, 1)},
            "Conv",
        )

    def test_dilated_branches_of_a_large_depthwise_kernel(self) -> None:
        merges(
            "(float[1,4,16,16] x) => (float[] y) { a = Conv<pads=[3,3,3,3], group=4>(x, w7) "
            "d = Conv<pads=[2,2,2,2], dilations=[2,2], group=4>(x, w3) y = Add(a, d) }",
            {"w7": integers("w7", 4, 1, 7, 7), "w3": D3},
            "Conv",
        )

    def test_average_pooling_that_counts_its_padding(self) -> None:
        merges(
            f"({X}) => (float[] y) {{ a = Conv<pads=[0,0,1,1], group=4>(x, w) "
            "p = AveragePool<kernel_shape=[2,2], pads=[0,0,1,1], count_include_pad=1>(x) "
            "y = Add(a, p) }",
            {"w": integers("w", 4, 1, 2, 2)},
            "Conv",
        )

    def test_transposed_convolutions(self) -> None:
        merges(
            "(float[N,4,H,W] x) => (float[] y) { a = ConvTranspose<strides=[2,2]>(x, w2) "
            "b = ConvTranspose<strides=[2,2], pads=[1,1,1,1]>(x, w4) y = Add(a, b) }",
            {"w2": integers("w2", 4, 2, 2, 2), "w4": integers("w4", 4, 2, 4, 4)},
            "ConvTranspose",
        )

    @pytest.mark.parametrize(("extents", "ends"), [("8,8", "1,1"), ("7,7", "1,1"), ("8,7", "0,1")])
    def test_strides_with_pads_that_differ(self, extents: str, ends: str) -> None:
        merges(
            f"(float[1,4,{extents}] x) => (float[] y) {{ c = Conv<strides=[2,2]>(x, w1) "
            f"a = Conv<strides=[2,2], pads=[1,1,{ends}]>(x, w3) y = Add(a, c) }}",
            {"w3": W3, "w1": W1},
            "Conv",
        )

    def test_even_kernels_that_line_up_differently(self) -> None:
        merges(
            f"({X}) => (float[] y) {{ a = Conv<pads=[1,1,0,0]>(x, w2) "
            "c = Conv<pads=[0,0,1,1]>(x, v2) y = Sub(a, c) }",
            {"w2": integers("w2", 4, 4, 2, 2), "v2": integers("v2", 4, 4, 2, 2)},
            "Conv",
        )

    @pytest.mark.parametrize("spatial", [1, 3])
    def test_one_and_three_axes(self, spatial: int) -> None:
        shape = ",".join(["6"] * spatial)
        pads = ",".join(["1"] * 2 * spatial)
        merges(
            f"(float[2,4,{shape}] x) => (float[] y) {{ a = Conv<pads=[{pads}]>(x, w3) "
            "c = Conv(x, w1) s = Add(a, c) y = Add(s, x) }",
            {
                "w3": integers("w3", 4, 4, *[3] * spatial),
                "w1": integers("w1", 4, 4, *[1] * spatial),
            },
            "Conv",
        )

    def test_double(self) -> None:
        model = parse(
            f"g (double[N,4,H,W] x) => (double[] y) {{ a = Conv<{P}>(x, w3) y = Add(a, x) }}",
            {"w3": W3.astype(np.float64)},
        )
        after, _ = merged(model)
        assert ops(after) == ["Conv"]
        assert_equal(model, after, runtime=False)  # which has no such convolution

    def test_a_cropping_kernel_with_one_tap_stays_a_convolution(self) -> None:
        corner = np.zeros((4, 1, 3, 3), np.float32)
        corner[:, :, 0, 0] = 2
        merges(
            f"({X}) => (float[] y) {{ a = Conv<group=4>(x, k) c = Conv<group=4>(x, k) "
            "y = Add(a, c) }",
            {"k": corner},
            "Conv",
        )

    def test_kernels_that_cancel_leave_the_right_shape(self) -> None:
        merges(
            f"({X}) => (float[] y) {{ a = Conv(x, w3) c = Conv(x, w3) y = Sub(a, c) }}",
            {"w3": W3},
            "Conv",
        )

    def test_what_is_only_added_stays_as_it_is(self) -> None:
        after = merges(
            f"({X}, float[N,4,H,W] z) => (float[] y) {{ a = Conv<{P}>(x, w3) c = Conv(x, w1) "
            "s = Sub(a, z) y = Add(s, c) }",
            {"w3": W3, "w1": W1},
            "Conv",
            "Sub",
        )
        assert after.graph.node[1].input[1] == "z"

    def test_a_branch_with_another_reader_is_kept_for_it(self) -> None:
        merges(
            f"({X}) => (float[] y, float[] c) {{ c = Conv(x, w1) a = Conv<{P}>(x, w3) "
            "y = Add(a, c) }",
            {"w3": W3, "w1": W1},
            "Conv",
            "Conv",
        )

    def test_the_result_of_a_graph_output_in_the_middle(self) -> None:
        merges(
            f"({X}) => (float[] s, float[] y) {{ a = Conv<{P}, group=4>(x, w3) "
            "s = Add(a, x) r = Relu(s) y = Add(r, s) }",
            {"w3": D3},
            "Conv",
            "Relu",
            "Add",
        )


class TestRefuses:
    def test_a_bias_in_front_of_a_padded_kernel(self) -> None:
        keeps(
            f"({X}) => (float[] y) {{ n = Add(x, t) a = Conv<{P}>(n, w3) c = Conv(x, w1) "
            "y = Add(a, c) }",
            {"t": np.ones((1, 4, 1, 1), np.float32), "w3": np.abs(W3) + 1, "w1": W1},
            "bias is non-zero and the 3x3 pads the border",
        )

    def test_a_branch_that_is_read_elsewhere_too(self) -> None:
        keeps(
            "(float[1,32,32,32] x) => (float[] y, float[] a) { a = Conv<pads=[1,1,1,1]>(x, w3) "
            "c = Conv(x, w1) y = Add(a, c) }",
            {"w3": integers("w3", 32, 32, 3, 3), "w1": integers("w1", 32, 32, 1, 1)},
            "its result is read elsewhere too",
        )

    def test_a_depthwise_kernel_that_would_become_dense(self) -> None:
        keeps(
            "(float[1,64,32,32] x) => (float[] y) { a = Conv<pads=[3,3,3,3], group=64>(x, w7) "
            "c = Conv(x, w1) y = Add(a, c) }",
            {"w7": integers("w7", 64, 1, 7, 7), "w1": integers("w1", 64, 64, 1, 1)},
            "would cost more than it saves",
        )

    def test_a_pyramid_of_wide_dilations(self) -> None:
        branches = " ".join(
            f"d{d} = Conv<pads=[{d},{d},{d},{d}], dilations=[{d},{d}]>(x, w)" for d in (1, 6, 13)
        )
        keeps(
            f"(float[1,32,33,33] x) => (float[] y) {{ {branches} y = Sum(d1, d6, d13) }}",
            {"w": integers("w", 32, 32, 3, 3)},
            "would cost more than it saves",
        )

    def test_a_bottleneck_is_not_made_dense(self) -> None:
        keeps(
            "(float[1,32,16,16] x) => (float[] y) { a = Conv(x, wa) r = Conv<pads=[1,1,1,1]>(a, wb)"
            " c = Conv(r, wc) y = Add(c, x) }",
            {
                "wa": integers("wa", 8, 32, 1, 1),
                "wb": integers("wb", 8, 8, 3, 3),
                "wc": integers("wc", 32, 8, 1, 1),
            },
            "merging it with what it reads would cost more than it saves",
        )

    def test_a_residual_block_is_left_alone_without_a_word(self) -> None:
        keeps(
            f"({X}) => (float[] y) {{ r = Relu(x) a = Conv<{P}>(r, w3) y = Add(a, x) }}",
            {"w3": W3},
        )

    def test_a_broadcast_vector_per_image(self) -> None:
        keeps(
            f"({STATIC}) => (float[] y) {{ a = Conv<{P}>(x, w3) p = GlobalAveragePool(x) "
            "c = Conv(p, w1) y = Add(a, c) }",
            {"w3": W3, "w1": W1},
        )

    def test_branches_of_one_input_that_broadcast(self) -> None:
        keeps(
            "(float[1,4,3,3] x) => (float[] y) { a = Conv<pads=[1,1,1,1]>(x, w3) c = Conv(x, w3) "
            "y = Add(a, c) }",
            {"w3": W3},
            "may broadcast",
        )

    def test_branches_that_broadcast_at_one_dynamic_size(self) -> None:
        model = parse(
            f"g ({X}) => (float[] y) {{ a = Conv<{P}>(x, w3) c = Conv(x, w3) y = Add(a, c) }}",
            {"w3": W3},
        )
        after, ledger = merged(model)
        assert ops(after) == ops(model)
        assert "different extents" in ledger.rejections[0].reason
        assert_equal(model, after, reference=False, feeds=[{"x": integers("x", 1, 4, 3, 3)}])

    def test_pooling_that_does_not_count_its_padding(self) -> None:
        keeps(
            f"({X}) => (float[] y) {{ a = Conv<pads=[0,0,1,1], group=4>(x, w) "
            "p = AveragePool<kernel_shape=[2,2], pads=[0,0,1,1]>(x) y = Add(a, p) }",
            {"w": integers("w", 4, 1, 2, 2)},
            "does not count its padding",
        )

    def test_numbers_that_the_type_cannot_hold(self) -> None:
        model = parse(
            f"g (float16[N,4,H,W] x) => (float16[N,4,H,W] y) {{ a = Conv<{P}>(x, w3) "
            "c = Conv(x, w1) y = Add(a, c) }",
            {
                "w3": np.full((4, 4, 3, 3), 6e4, np.float16),
                "w1": np.full((4, 4, 1, 1), 6e4, np.float16),
            },
        )
        after, ledger = merged(model)
        assert ops(after) == ops(model)
        assert "does not fit into float16" in ledger.rejections[0].reason

    def test_images_of_unknown_rank(self) -> None:
        model = parse(
            f"g ({X}, int64[R] shape) => (float[N,4,H,W] y) {{ r = Reshape(x, shape) "
            f"a = Conv<{P}>(r, w3) c = Conv(r, w1) s = Add(a, c) y = Relu(s) }}",
            {"w3": W3, "w1": W1},
        )
        after, ledger = merged(model)
        assert ops(after) == ops(model)
        assert "not known" in ledger.rejections[0].reason
        feed = {"x": integers("x", 1, 4, 5, 5), "shape": np.array([1, 4, 5, 5])}
        assert_equal(model, after, reference=False, feeds=[feed])

    def test_matrices_are_no_images(self) -> None:
        keeps(
            "(float[N,4] x) => (float[] y) { a = MatMul(x, w) c = MatMul(x, w) y = Add(a, c) }",
            {"w": integers("w", 4, 4)},
        )

    def test_weights_that_are_no_constants(self) -> None:
        keeps(
            f"({X}, float[4,4,3,3] w3) => (float[] y) {{ a = Conv<{P}>(x, w3) c = Conv(x, w1) "
            "y = Add(a, c) }",
            {"w1": W1},
            "not a floating-point constant",
        )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_types_keep_their_type(dtype: str) -> None:
    import ml_dtypes

    kind = np.float16 if dtype == "float16" else ml_dtypes.bfloat16
    model = parse(
        f"g ({dtype}[1,4,8,8] x) => ({dtype}[1,4,8,8] y) {{ a = Conv<{P}>(x, w3) c = Conv(x, w1) "
        "s = Add(a, c) y = Add(s, x) }",
        {"w3": W3.astype(kind), "w1": W1.astype(kind)},
        opset=22,
        ir_version=10,
    )
    after, _ = merged(model)
    assert ops(after) == ["Conv"]
    assert {each.data_type for each in after.graph.initializer} == {
        model.graph.input[0].type.tensor_type.elem_type
    }


def test_an_addition_that_may_broadcast_is_not_seen_by_a_kernel_behind_it() -> None:
    """With every step allowed, a padded kernel is not split over an addition of unlike maps."""
    model = parse(
        f"g ({X}, float[N,4,A,B] z) => (float[N,4,H,W] y) {{ s = Add(x, z) a = Conv<{P}>(s, w3) "
        f"c = Conv<{P}>(z, w3) y = Add(a, c) }}",
        {"w3": W3},
    )
    feed = {"x": integers("x", 1, 4, 5, 5), "z": integers("z", 1, 4, 1, 1)}
    outcome = PassManager([engine("all", EAGER, composed=True)]).run(load(model).model)
    assert_equal(model, to_proto(outcome.model), reference=False, feeds=[feed])


# Real networks

COUNTS = {
    "repvgg_a0": (22, 0, 0),
    "mobileone_s0": (43, 0, 0),
    "repvit_m0_9": (103, 0, None),
    "repghostnet_050": (95, 0, None),
    "fastvit_sa12_fpn": (72, 25, None),
    "fastvit_mci0": (96, 22, None),
}
"""At most so many Conv, BatchNormalization and (where no sum is to be left) Add nodes."""

NETWORKS = [name for name in zoo.names() if zoo.entry(name).network in COUNTS]


def with_merging() -> list[Pass]:
    """The default passes, with branches merged behind fuse_bn."""
    passes: list[Pass] = []
    for step in DEFAULT:
        if step is merge_branches.PASS:
            continue
        passes.append(step)
        if step.name == "fuse_bn":
            passes.append(merge_branches.PASS)
    return passes


@pytest.mark.parametrize("name", NETWORKS)
def test_real_networks_have_no_more_convolutions_than_their_authors_make_of_them(name: str) -> None:
    source = zoo.load(name)
    before = ops(source).count("Conv")
    outcome = PassManager(with_merging()).run(load(source).model)
    assert outcome.ledger.failures == []
    after = to_proto(outcome.model)
    found = ops(after)
    convolutions, norms, additions = COUNTS[zoo.entry(name).network]
    assert found.count("Conv") <= min(convolutions, before)
    assert found.count("BatchNormalization") <= norms
    if additions is not None:
        assert found.count("Add") <= additions
    verdict = Verifier(source, VerifyOptions(threads=1, max_feeds=2)).check(after)
    assert verdict.equal, verdict.reason
    again = PassManager(with_merging()).run(load(after).model)
    assert [str(each.key) for each in again.ledger.applied] == []


def test_the_same_bytes_under_two_hash_seeds() -> None:
    program = (
        "import sys, hashlib\n"
        "from tests import zoo\n"
        "from tests.passes.test_merge_branches import with_merging\n"
        "from onnxfold.model import load, to_proto\n"
        "from onnxfold.pipeline.manager import PassManager\n"
        "for name in ('repvgg_a0.script', 'fastvit_mci0.dynamo'):\n"
        "    model = PassManager(with_merging()).run(load(zoo.load(name)).model).model\n"
        "    data = to_proto(model).SerializeToString(deterministic=True)\n"
        "    print(hashlib.sha256(data).hexdigest())\n"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.getcwd()},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


def test_names_do_not_matter() -> None:
    model = parse(
        f"g ({X}) => (float[] y) {{ a = Conv<{P}>(x, w3) c = Conv(x, w1) y = Add(a, c) }}",
        {"w3": W3, "w1": W1},
    )
    after, _ = merged(renamed(model, {"a": "y.folded", "w3": "y.weight.folded"}))
    assert ops(after) == ["Conv"]
