"""tensorrt: pairs stand where layers read, on shortcuts, around inner pools, and nowhere else."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnxfold.quantize.plan import Plan
from tests.targets.emitted import emitted, feeds, kernels, layer, normal, plan_of, run, sqnr
from tests.toolkit import parse

SAME = "pads=[1,1,1,1]"
ENDS = layer("w", 16, 16, 3, 3) | layer("v", 16, 16, 3, 3)


def between(middle: str, weights: Mapping[str, NDArray[Any]] | None = None) -> onnx.ModelProto:
    """Two convolutions, and `middle` from the ReLU `r` behind the first to `t`."""
    return parse(
        "g (float[N,16,H,W] x) => (float[] y)"
        f" {{ c = Conv<{SAME}>(x, w, wb) r = Relu(c) {middle} y = Conv<{SAME}>(t, v, vb) }}",
        {**ENDS, **(weights or {})},
    )


def reads(plan: Plan) -> dict[str, tuple[tuple[str, int], ...] | None]:
    """Who reads which value back from integers."""
    return {site.value: site.readers for site in plan.sites}


def test_everything_is_symmetric_and_signed() -> None:
    model = between("t = MaxPool<kernel_shape=[2,2]>(r)")
    plan, quantized = emitted(model, "tensorrt")
    zeros = {node.input[2] for node in quantized.graph.node if node.op_type.endswith("izeLinear")}
    held = {each.name: onnx.numpy_helper.to_array(each) for each in quantized.graph.initializer}
    assert all(held[name].dtype == np.int8 and not held[name].any() for name in zeros)
    assert plan.biases == ()
    assert reads(plan) == {"x": (("c", 0),), "t": (("y", 0),)}
    for feed in feeds(model):
        assert sqnr(run(model, feed)[0], run(quantized, feed)[0]) > 25


@pytest.mark.parametrize("middle", [
    'a = Resize<mode="nearest">(r, , scales) t = Relu(a)',
    "t = Concat<axis=1>(r)",
    "t = Pad(r, pads)",
    "s = Sigmoid(r) t = Mul(r, s)",
    "t = HardSwish(c)",
])  # fmt: skip
def test_nothing_stands_between_layers_but_at_their_inputs(middle: str) -> None:
    weights = {
        "scales": np.array([1, 1, 2, 2], np.float32),
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    }
    plan = plan_of(between(middle, weights), "tensorrt")
    assert reads(plan) == {"x": (("c", 0),), "t": (("y", 0),)}


def test_the_shortcut_alone_is_quantized() -> None:
    model = between(
        f"b = Conv<{SAME}>(r, u, ub) e = Relu(b) d = Conv<{SAME}>(e, p, pb) a = Add(d, r)"
        " t = Relu(a)",
        layer("u", 16, 16, 3, 3) | layer("p", 16, 16, 3, 3),
    )
    plan, quantized = emitted(model, "tensorrt")
    assert reads(plan)["r"] == (("b", 0), ("a", 1))
    assert "d" not in reads(plan)
    add = next(node for node in quantized.graph.node if node.output[0] == "a")
    assert add.input[0] == "d"


@pytest.mark.parametrize(("addition", "skip"), [("Add(d, s)", 1), ("Add(s, d)", 0)])
def test_of_two_branches_the_longer_one_stays_float(addition: str, skip: int) -> None:
    model = between(
        f"b = Conv<{SAME}>(r, u, ub) e = Relu(b) d = Conv<{SAME}>(e, p, pb) s = Conv(r, q, qb)"
        f" a = {addition} t = Relu(a)",
        layer("u", 16, 16, 3, 3) | layer("p", 16, 16, 3, 3) | layer("q", 16, 16, 1, 1),
    )
    assert reads(plan_of(model, "tensorrt"))["s"] == (("a", skip),)


def test_of_two_equal_branches_the_second_stays_float() -> None:
    model = between(
        "b = Conv(r, u, ub) d = Conv(r, q, qb) t = Add(b, d)",
        layer("u", 16, 16, 1, 1) | layer("q", 16, 16, 1, 1),
    )
    assert reads(plan_of(model, "tensorrt"))["b"] == (("t", 0),)


def test_a_sum_with_what_follows_from_it_is_no_shortcut() -> None:
    """ConvNeXt: the convolution itself is where both operands come from."""
    model = between(
        "b = Conv(r, u, ub) m = GlobalMaxPool(b) t = Add(b, m)", layer("u", 16, 16, 1, 1)
    )
    assert set(reads(plan_of(model, "tensorrt"))) == {"x", "r", "t"}


def test_a_sum_that_no_layer_reads_is_left_alone() -> None:
    model = parse(
        "g (float[N,16,H,W] x) => (float[] y)"
        f" {{ c = Conv<{SAME}>(x, w, wb) a = Add(c, x) y = Softmax<axis=1>(a) }}",
        layer("w", 16, 16, 3, 3),
    )
    assert reads(plan_of(model, "tensorrt")) == {"x": (("c", 0),)}


def test_a_pool_between_layers_has_integers_on_both_sides() -> None:
    inner = between(
        f"t = AveragePool<kernel_shape=[2,2]>(r) d = Conv<{SAME}>(r, u, ub)",
        layer("u", 16, 16, 3, 3),
    )
    assert reads(plan_of(inner, "tensorrt"))["r"] == (("t", 0), ("d", 0))
    lonely = between("t = AveragePool<kernel_shape=[2,2]>(r)")
    assert "r" not in reads(plan_of(lonely, "tensorrt"))


def test_the_last_convolution_writes_floats() -> None:
    _, quantized = emitted(between("t = Relu(r)"), "tensorrt")
    last = next(node for node in quantized.graph.node if "y" in node.output)
    assert last.op_type == "Conv"
    assert kernels(quantized.graph)["QuantizeLinear"] == 2


FEW = "it has fewer than 16 channels, in a form without a fast integer kernel"
GROUPS = "its groups are too small for an integer kernel"


@pytest.mark.parametrize(("attributes", "shape", "reason"), [
    ("group=1", (16, 3, 3, 3), None),  # the first layer
    ("group=1", (16, 3, 3, 5), FEW),
    ("group=1", (12, 3, 3, 3), FEW),
    ("group=16", (16, 1, 3, 3), None),
    ("group=16", (16, 1, 1, 1), GROUPS),
    ("group=6", (6, 1, 3, 3), GROUPS),
])  # fmt: skip
def test_convolutions_of_few_channels(
    attributes: str, shape: tuple[int, ...], reason: str | None
) -> None:
    channels = shape[1] * int(attributes.split("=")[1])
    model = parse(
        f"g (float[N,{channels},H,W] x) => (float[] y) {{ y = Conv<{attributes}>(x, w, wb) }}",
        layer("w", *shape),
    )
    found = plan_of(model, "tensorrt").float_layers
    assert found == ({} if reason is None else {"y": reason})


@pytest.mark.parametrize(("channels", "reason"), [((16, 8), None), ((8, 8), FEW), ((16, 3), FEW)])
def test_convolutions_of_few_channels_in_the_middle(
    channels: tuple[int, int], reason: str | None
) -> None:
    outputs, inputs = channels
    kernel = (3, 3) if inputs != 3 else (1, 3)
    model = parse(
        "g (float[N,16,H,W] x) => (float[] y)"
        " { c = Conv(x, w, wb) r = Relu(c) y = Conv(r, v, vb) }",
        layer("w", inputs, 16, 1, 1) | layer("v", outputs, inputs, *kernel),
    )
    assert plan_of(model, "tensorrt").float_layers.get("y") == reason


@pytest.mark.parametrize(("rows", "shape", "reason"), [
    ("20", (32, 16), None),
    ("20", (32, 10), "one of its dimensions is below 16"),
    ("20", (8, 16), "one of its dimensions is below 16"),
    ("1", (32, 16), "it multiplies a single row"),
])  # fmt: skip
def test_matrix_products(rows: str, shape: tuple[int, int], reason: str | None) -> None:
    model = parse(
        f"g (float[{rows},{shape[0]}] x) => (float[] y) {{ y = MatMul(x, w) }}",
        {"w": normal("w", *shape)},
    )
    found = plan_of(model, "tensorrt").float_layers
    assert found == ({} if reason is None else {"y": reason})


def test_transposed_convolutions_have_their_outputs_on_the_second_axis() -> None:
    model = between("t = ConvTranspose<strides=[2,2]>(r, u)", {"u": normal("u", 16, 16, 2, 2)})
    plan, quantized = emitted(model, "tensorrt")
    assert {site.layer: site.axis for site in plan.weights} == {"c": 0, "t": 1, "y": 0}
    feed = feeds(model)[0]
    assert sqnr(run(model, feed)[0], run(quantized, feed)[0]) > 25


def test_an_excluded_layer_reads_the_tensor_itself() -> None:
    model = between(f"d = Conv<{SAME}>(r, u, ub) t = Relu(d)", layer("u", 16, 16, 3, 3))
    plan, quantized = emitted(model, "tensorrt", {"d"})
    assert plan.float_layers == {"d": "it was excluded"}
    conv = next(node for node in quantized.graph.node if node.output[0] == "d")
    assert list(conv.input) == ["r", "u", "ub"]
