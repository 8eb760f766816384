"""split_depthwise: several outputs per channel become several depthwise convolutions."""

import numpy as np
import onnx
import pytest

from tests.toolkit import folds, integers, parse, unchanged

NAME = "split_depthwise"
REASON = "what reads it cannot take its channels in another order"
SAME = "pads=[1,1,1,1]"


def network(
    middle: str = "", *, outputs: int = 8, group: int = 4, reader: str = "y = Conv({}, v, vb)",
    bias: bool = True, per_group: int = 1,
) -> onnx.ModelProto:  # fmt: skip
    weights = {
        "w": integers("w", outputs, per_group, 3, 3),
        "b": integers("b", outputs),
        "v": integers("v", 5, outputs, 3, 3),
        "vb": integers("vb", 5),
        "k": integers("k", outputs, 1, 3, 3),
        "six": np.array(6, np.float32),
        "zero": np.array(0, np.float32),
    }
    depthwise = f"Conv<group={group}, {SAME}>(x, w{', b' if bias else ''})"
    last = "r" if middle else "c"
    body = f"c = {depthwise} {middle} {reader.format(last)}"
    channels = group * per_group
    return parse(f"g (float[N,{channels},H,W] x) => (float[] y) {{ {body} }}", weights)


@pytest.mark.parametrize(("outputs", "bias"), [(8, True), (8, False), (12, True), (16, True)])
def test_each_output_has_its_convolution(outputs: int, bias: bool) -> None:
    model = network(outputs=outputs, bias=bias)
    folds(model, NAME, ops={"Conv": outputs // 4 + 1, "Concat": 1})


@pytest.mark.parametrize(("middle", "extra"), [
    ("r = Relu(c)", {"Relu": 2}),
    ("a = LeakyRelu<alpha=0.5>(c) r = Clip(a, zero, six)", {"LeakyRelu": 2, "Clip": 2}),
])  # fmt: skip
def test_activations_in_between(middle: str, extra: dict[str, int]) -> None:
    folds(network(middle), NAME, ops={"Conv": 3, "Concat": 1, **extra})


@pytest.mark.parametrize("model", [
    network(reader="y = Neg({})"),
    network("r = Relu(c)", reader="y = Neg({})"),
    network(reader=f"y = Conv<group=8, {SAME}>({{}}, k)"),
    network(reader="d = Conv({0}, v, vb) e = Abs({0}) f = GlobalMaxPool(e) g = GlobalMaxPool(d)"
            " h = ReduceMax<keepdims=0>(f) y = Add(g, h)"),
    network("r = Softmax<axis=1>(c)"),
    network(reader="q = Neg(v) y = Conv({}, q)"),
])  # fmt: skip
def test_channels_that_cannot_change_places(model: onnx.ModelProto) -> None:
    unchanged(model, NAME, reason=REASON)


@pytest.mark.parametrize("model", [
    network(outputs=4),
    network(outputs=20),
    network(outputs=4, group=1, per_group=4),
    network(outputs=8, group=2, per_group=2),
])  # fmt: skip
def test_other_convolutions_stay(model: onnx.ModelProto) -> None:
    assert unchanged(model, NAME).reasons == []
