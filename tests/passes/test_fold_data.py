"""fold_data: a space-to-depth in front of a convolution goes into its kernel."""

import itertools

import numpy as np
import onnx
import pytest

from onnxfold.linear.tracing import rearrangement_of
from onnxfold.model import load
from onnxfold.pipeline.manager import PassManager
from tests.toolkit import batch_norm, folds, integers, parse, rewritten, run_ort, unchanged

_ORDERS = {
    # Which axis of (C, H/b, b, W/b, b) each of the output's (…, H/b, W/b) is.
    "DCR": (0, 3, 5, 1, 2, 4),
    "CRD": (0, 1, 3, 5, 2, 4),
    "columns first": (0, 5, 3, 1, 2, 4),
}


def stem(
    order: str, block: int, conv: str = "Conv(s, w)", size: int = 16, channels: int = 3,
    kernel: int = 1, group: int = 1, inputs: str | None = None, outputs: str = "float[] y",
) -> onnx.ModelProto:  # fmt: skip
    """A space-to-depth written as Reshape, Transpose and Reshape, and a convolution behind it."""
    small, folded = size // block, channels * block * block
    weights: dict[str, np.ndarray] = {
        "split": np.array([0, channels, small, block, small, block], np.int64),
        "join": np.array([0, folded, small, small], np.int64),
        "w": integers("w", 6, folded // group, kernel, kernel),
        "b": integers("b", 6),
    }
    permutation = ",".join(map(str, _ORDERS[order]))
    given = inputs or f"float[N,{channels},{size},{size}] x"
    return parse(
        f"g ({given}) => ({outputs}) {{ r = Reshape(x, split)"
        f" t = Transpose<perm=[{permutation}]>(r) s = Reshape(t, join) y = {conv} }}",
        {name: array for name, array in weights.items() if name != "b" or ", b)" in conv},
    )


@pytest.mark.parametrize("order", _ORDERS)
@pytest.mark.parametrize("block", [2, 4, 8])
def test_any_order_of_phases_and_any_fold_factor(order: str, block: int) -> None:
    after = folds(stem(order, block), "fold_data", ops={"Conv": 1}).after
    (node,) = after.graph.node
    attributes = {each.name: list(each.ints) for each in node.attribute}
    assert attributes["strides"] == [block, block]
    assert attributes["kernel_shape"] == [block, block]


@pytest.mark.parametrize("conv", [
    "Conv<pads=[1,1,1,1]>(s, w, b)",
    "Conv<pads=[0,1,1,0]>(s, w, b)",
    "Conv<strides=[2,2], pads=[1,1,1,1]>(s, w)",
    "Conv<strides=[2,1], pads=[1,0,1,2]>(s, w, b)",
])  # fmt: skip
@pytest.mark.parametrize("order", ["DCR", "CRD"])
def test_pads_and_strides(conv: str, order: str) -> None:
    folds(stem(order, 2, conv, kernel=3), "fold_data", ops={"Conv": 1})


def test_odd_extents_behind_the_fold() -> None:
    conv = "Conv<strides=[2,2], pads=[1,1,1,1]>(s, w)"
    folds(stem("CRD", 2, conv, size=10, kernel=3), "fold_data", ops={"Conv": 1})


def test_space_to_depth() -> None:
    model = parse(
        "g (float[N,3,12,8] x) => (float[] y)"
        " { s = SpaceToDepth<blocksize=2>(x) y = Conv<pads=[1,1,1,1]>(s, w) }",
        {"w": integers("w", 5, 12, 3, 3)},
    )
    folds(model, "fold_data", ops={"Conv": 1})


def test_a_shuffle_of_channels() -> None:
    model = parse(
        "g (float[N,6,5,7] x) => (float[] y) { r = Reshape(x, split)"
        " t = Transpose<perm=[0,2,1,3,4]>(r) s = Reshape(t, join) y = Conv(s, w) }",
        {
            "split": np.array([0, 2, 3, 5, 7], np.int64),
            "join": np.array([0, 6, 5, 7], np.int64),
            "w": integers("w", 5, 6, 3, 3),
        },
    )
    folds(model, "fold_data", ops={"Conv": 1})


def test_the_normalization_in_front_follows() -> None:
    model = parse(
        "g (float[N,3,8,8] x) => (float[] y) { m = Sub(x, mean) d = Div(m, std)"
        " s = SpaceToDepth<blocksize=2>(d) c = Conv(s, w)"
        " y = BatchNormalization<epsilon=0.0>(c, g, b, m2, v) }".replace("m2", "m_"),
        {
            "mean": integers("mean", 1, 3, 1, 1),
            "std": np.array([2, 4, 0.5], np.float32).reshape(1, 3, 1, 1),
            "w": integers("w", 4, 12, 1, 1),
            **{("m_" if name == "m" else name): a for name, a in batch_norm(4).items()},
        },
    )
    folds(model, ops={"Conv": 1})


@pytest.mark.parametrize(("model", "reason"), [
    (
        stem("DCR", 2, outputs="float[] y, float[] s"),
        "its result is read elsewhere too, so merging loses",
    ),
    (
        stem("DCR", 2, "Conv<dilations=[2,2], pads=[2,2,2,2]>(s, w)", size=128, kernel=3),
        "merging it with what it reads would cost more than it saves",
    ),
    (
        stem("DCR", 2, "Conv<group=24>(s, w)", size=32, kernel=3, group=24, channels=24),
        "merging it with what it reads would cost more than it saves",
    ),
])  # fmt: skip
def test_refusals(model: onnx.ModelProto, reason: str) -> None:
    unchanged(model, "fold_data", reason=reason)


@pytest.mark.parametrize("body", [
    # The rows of the blocks end up in the columns: no convolution.
    "r = Reshape(x, split) t = Transpose<perm=[0,1,3,5,4,2]>(r) s = Reshape(t, join)",
    # Nothing moves, but elements of different channels become neighbours.
    "s = Reshape(x, join)",
])  # fmt: skip
def test_what_is_no_convolution_is_left_alone(body: str) -> None:
    model = parse(
        f"g (float[N,3,8,8] x) => (float[] y) {{ {body} y = Conv(s, w) }}",
        {
            "split": np.array([0, 3, 4, 2, 4, 2], np.int64),
            "join": np.array([0, 12, 4, 4], np.int64),
            "w": integers("w", 4, 12, 1, 1),
        },
    )
    unchanged(model, "fold_data")


def test_a_transpose_that_moves_the_batch_is_not_followed() -> None:
    model = parse(
        "g (float[4,4,6,6] x) => (float[] y) { s = Transpose<perm=[1,0,2,3]>(x) y = Conv(s, w) }",
        {"w": integers("w", 4, 4, 1, 1)},
    )
    unchanged(model, "fold_data")


def test_a_whole_image_as_channels_is_left_alone() -> None:
    """As a convolution that would be one tap for each pair of 262,144 channels and 1024 pixels."""
    model = parse(
        "g (float[1,256,32,32] x) => (float[] y) { s = Reshape(x, join) y = Conv(s, w) }",
        {"join": np.array([1, 262144, 1, 1], np.int64), "w": integers("w", 2, 262144, 1, 1)},
    )
    after, ledger = rewritten(model, ["fold_data"])
    assert not ledger.applied
    assert len(after.graph.node) == 2


def test_dynamic_extents() -> None:
    model = parse(
        "g (float[N,3,H,W] x) => (float[] y) { s = SpaceToDepth<blocksize=2>(x) y = Conv(s, w) }",
        {"w": integers("w", 4, 12, 1, 1)},
    )
    after, _ = rewritten(model, ["fold_data"])
    assert [node.op_type for node in after.graph.node] == ["Conv"]
    feed = {"x": integers("x", 2, 3, 6, 10)}
    np.testing.assert_array_equal(run_ort(after, feed)[0], run_ort(model, feed)[0])


def test_a_reshape_of_dynamic_extents_is_left_alone() -> None:
    model = parse(
        "g (float[N,4,H,W] x) => (float[] y) { s = Reshape(x, join) y = Conv(s, w) }",
        {"join": np.array([0, 16, 4, 4], np.int64), "w": integers("w", 4, 16, 1, 1)},
    )
    after, ledger = rewritten(model, ["fold_data"])
    assert not ledger.applied
    assert len(after.graph.node) == 2


FOCUS = list(itertools.permutations(range(4)))


@pytest.mark.parametrize("order", FOCUS)
@pytest.mark.parametrize("extents", ["10,8", "H,W"])
def test_focus_in_every_order_of_the_phases(order: tuple[int, ...], extents: str) -> None:
    """Two strided slices for each phase, as `x[..., 0::2, 1::2]` is exported."""
    body = "".join(
        f"r{p} = Slice(x, s{p // 2}, far, two, step)"
        f" c{p} = Slice(r{p}, s{p % 2}, far, three, step) "
        for p in range(4)
    )
    joined = ", ".join(f"c{p}" for p in order)
    model = parse(
        f"g (float[N,3,{extents}] x) => (float[] y) {{ {body} f = Concat<axis=1>({joined})"
        " y = Conv<pads=[1,1,1,1]>(f, w, b) }",
        {
            "w": integers("w", 8, 12, 3, 3),
            "b": integers("b", 8),
            **{f"s{p}": np.array([p], np.int64) for p in range(2)},
            "far": np.array([2**62], np.int64),
            "two": np.array([2], np.int64),
            "three": np.array([3], np.int64),
            "step": np.array([2], np.int64),
        },
    )
    after, _ = rewritten(model, ["fold_data"])
    assert [node.op_type for node in after.graph.node] == ["Conv"]
    for height, width in [(10, 8)] if extents == "10,8" else [(10, 8), (4, 6)]:
        feed = {"x": integers("x", 2, 3, height, width)}
        np.testing.assert_array_equal(run_ort(after, feed)[0], run_ort(model, feed)[0])


def test_channels_in_another_order() -> None:
    """Blue, green, red in place of red, green, blue."""
    model = parse(
        "g (float[N,3,H,W] x) => (float[] y) { g = Gather<axis=1>(x, order)"
        " y = Conv<pads=[1,1,1,1]>(g, w) }",
        {"order": np.array([2, 1, 0], np.int64), "w": integers("w", 8, 3, 3, 3)},
    )
    after, _ = rewritten(model, ["fold_data"])
    assert [node.op_type for node in after.graph.node] == ["Conv"]
    feed = {"x": integers("x", 2, 3, 6, 5)}
    np.testing.assert_array_equal(run_ort(after, feed)[0], run_ort(model, feed)[0])


def test_channels_that_are_cut_away_are_not_computed() -> None:
    model = parse(
        "g (float[N,4,9,9] x) => (float[] y) { c = Conv(x, w, b) y = Slice(c, first, last, axis) }",
        {
            "w": integers("w", 16, 4, 3, 3),
            "b": integers("b", 16),
            "first": np.array([4], np.int64),
            "last": np.array([8], np.int64),
            "axis": np.array([1], np.int64),
        },
    )
    folds(model, "fold_data", ops={"Conv": 1})
    after, _ = rewritten(model, ["fold_data"])
    assert {tuple(each.dims) for each in after.graph.initializer} == {(4, 4, 3, 3), (4,)}


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space_is_traced_as_upsampling(mode: str) -> None:
    model = parse(
        "g (float[N,12,4,5] x) => (float[] y)"
        f' {{ y = DepthToSpace<blocksize=2, mode="{mode}">(x) }}',
        {},
    )
    graph = PassManager([]).run(load(model).model).model.graph
    found = rearrangement_of(graph[0])
    assert found is not None
    assert (found.expression.footprint.up, found.expression.footprint.stride) == ((2, 2), (1, 1))


@pytest.mark.parametrize(("body", "left"), [
    ("a, b = Split<axis=1>(x, halves) y = Concat<axis=1>(a, b)", {"Identity": 1}),
    ("a = Gather<axis=1>(x, order) y = Gather<axis=1>(a, back)", {"Identity": 1}),
    (
        "a = Relu(x) b = Sigmoid(x) c = Concat<axis=1>(a, b) d, e = Split<axis=1>(c, wholes)"
        " y = Sub(d, e)",
        {"Relu": 1, "Sigmoid": 1, "Sub": 1},
    ),
    (
        "a = Relu(x) b = Sigmoid(x) c = Concat<axis=-3>(a, b, a) d, e = Split<axis=1>(c, uneven)"
        " f = Concat<axis=1>(x, x) g = Mul(d, f) y = Concat<axis=1>(g, e)",
        {"Relu": 1, "Sigmoid": 1, "Mul": 1, "Concat": 3},
    ),
])  # fmt: skip
def test_movement_that_cancels(body: str, left: dict[str, int]) -> None:
    model = parse(
        f"g (float[N,6,H,W] x) => (float[] y) {{ {body} }}",
        {
            "halves": np.array([2, 4], np.int64),
            "wholes": np.array([6, 6], np.int64),
            "uneven": np.array([12, 6], np.int64),
            "order": np.array([2, 0, 1, 5, 3, 4], np.int64),
            "back": np.array([1, 2, 0, 4, 5, 3], np.int64),
        },
    )
    folds(model, "fold_data", ops=left, reference="Sigmoid" not in body)


def test_a_split_between_the_joints_stays() -> None:
    model = parse(
        "g (float[N,6,H,W] x) => (float[] y) { a = Relu(x) c = Concat<axis=1>(a, x)"
        " d, e = Split<axis=1>(c, cuts) f, h = Split<axis=1>(e, more) y = Add(d, h) }",
        {"cuts": np.array([4, 8], np.int64), "more": np.array([4, 4], np.int64)},
    )
    unchanged(model, "fold_data")


@pytest.mark.parametrize(("parts", "kernel", "bias", "extents"), [
    (2, 1, True, "H,W"), (2, 3, True, "9,12"), (3, 1, False, "9,12"), (4, 3, True, "H,W"),
])  # fmt: skip
def test_convolutions_between_a_split_and_a_concat_are_one_in_groups(
    parts: int, kernel: int, bias: bool, extents: str
) -> None:
    """Runtimes that know this form themselves only know it without biases."""
    weights: dict[str, np.ndarray] = {"s": np.full(parts, 6)}
    names, body = [f"p{i}" for i in range(parts)], ""
    for i, name in enumerate(names):
        weights[f"w{i}"] = integers(f"w{i}", 8, 6, kernel, kernel)
        weights |= {f"b{i}": integers(f"b{i}", 8)} if bias else {}
        pads = ",".join([str(kernel // 2)] * 4)
        body += f" c{i} = Conv<pads=[{pads}]>({name}, w{i}{f', b{i}' if bias else ''})"
    joined = ", ".join(f"c{i}" for i in range(parts))
    model = parse(
        f"g (float[N,{6 * parts},{extents}] x) => (float[] y) {{ r = Relu(x)"
        f" {', '.join(names)} = Split<axis=1>(r, s){body} j = Concat<axis=1>({joined})"
        " y = Relu(j) }",
        weights,
    )
    result = folds(model, "fold_data", ops={"Relu": 2, "Conv": 1}).after
    (conv,) = (node for node in result.graph.node if node.op_type == "Conv")
    assert onnx.helper.get_node_attr_value(conv, "group") == parts
