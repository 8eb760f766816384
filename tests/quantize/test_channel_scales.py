"""Every scale that is said to be free changes nothing, over every operator and on real networks."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from onnxfold.model import to_proto
from onnxfold.quantize.channel_scales import channel_scales
from onnxfold.quantize.channel_variables import ChannelScales, Variables
from onnxfold.quantize.equalize import equalization
from onnxfold.quantize.scaled_weights import ConstantScales, LayerScales, write_scales
from onnxfold.rewrite.ledger import Ledger
from onnxfold.rewrite.rewriter import Rewriter
from onnxfold.rewrite.tensor_store import MemoryStore
from tests import zoo
from tests.quantize.flow import depthwise_net, inferred
from tests.toolkit import drawn_feeds, integers, parse, rewritten, run_ort

Floats = NDArray[np.float64]


def rescaled(model: onnx.ModelProto, seed: int = 0) -> tuple[onnx.ModelProto, int]:
    """Every free channel divided by a random power of two; and how many are free."""
    loaded = inferred(model)
    found = channel_scales(loaded.graph)
    found.pin_clipped()
    roots = found.variables.find(np.arange(len(found.variables)))
    powers = 2.0 ** np.random.default_rng(seed).integers(-3, 4, roots.size)
    scale = np.where(found.free(), powers, 1.0)[roots]
    layers = [_layer(side.host.node, side.inputs, side.outputs, scale) for side in found.sides]
    constants = [
        ConstantScales(side.node, side.index, side.axis, scale[side.ids])
        for side in found.constants
    ]
    return written(loaded, [*layers, *constants]), int(np.unique(roots[found.free()]).size)


def written(model: ir.Model, changes: Sequence[LayerScales | ConstantScales]) -> onnx.ModelProto:
    """The model with these scales in its weights."""
    rewriter = Rewriter(model, Ledger(), MemoryStore())
    assert write_scales(rewriter, changes, "test") is None
    return to_proto(rewriter.model)


def _layer(node: ir.Node, inputs: Any, outputs: Any, scale: Floats) -> LayerScales:
    return LayerScales(
        node,
        None if inputs is None else scale[inputs],
        None if outputs is None else scale[outputs],
    )


W = {
    "w1": integers("w1", 8, 3, 3, 3),
    "b1": integers("b1", 8),
    "w2": integers("w2", 6, 8, 1, 1),
    "b2": integers("b2", 6),
}


def between(operators: str, second: str = "w2", **weights: NDArray[Any]) -> onnx.ModelProto:
    """A Conv of 8 channels `a`, some operators from `a` to `r`, and a Conv that reads `r`."""
    body = f"""g (float[2, 3, 8, 8] x) => (float[] y) {{
        a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
        {operators}
        y = Conv (r, {second}, b2)
    }}"""
    return parse(body, {**W, **weights}, opset=18)


HANDED_ON = {
    "Relu": between("r = Relu (a)"),
    "LeakyRelu": between("r = LeakyRelu <alpha = 0.25> (a)"),
    "PRelu": between("r = PRelu (a, s)", s=integers("s", 8, 1, 1)),
    "Identity": between("r = Identity (a)"),
    "MaxPool": between("r = MaxPool <kernel_shape = [2, 2], pads = [1, 1, 0, 0]> (a)"),
    "AveragePool": between("r = AveragePool <kernel_shape = [2, 2], pads = [1, 1, 0, 0]> (a)"),
    "GlobalAveragePool": between("r = GlobalAveragePool (a)"),
    "Resize nearest": between(
        'r = Resize <mode = "nearest"> (a, , k)', k=np.array([1, 1, 2, 2], np.float32)
    ),
    "Resize linear": between(
        'r = Resize <mode = "linear"> (a, , k)', k=np.array([1, 1, 2, 2], np.float32)
    ),
    "Pad": between("r = Pad (a, k)", k=np.array([0, 0, 1, 1, 0, 0, 1, 1])),
    "Pad reflect": between(
        'r = Pad <mode = "reflect"> (a, k)', k=np.array([0, 0, 1, 1, 0, 0, 1, 1])
    ),
    "Clip from zero": between("r = Clip (a, z)", z=np.array(0, np.float32)),
    "product": between("r = Mul (a, k)", k=integers("k", 8, 1, 1)),
    "quotient": between("r = Div (a, k)", k=np.array(4, np.float32)),
    "gate": between(
        "m = GlobalAveragePool (a) h = Conv (m, wh, bh) e = Sigmoid (h) r = Mul (a, e)",
        wh=integers("wh", 8, 8, 1, 1),
        bh=integers("bh", 8),
    ),
    "Concat": between(
        "q = Relu (a) r = Concat <axis = 1> (a, q)", "wc", wc=integers("wc", 6, 16, 1, 1)
    ),
    "Concat of rows": between("q = Relu (a) r = Concat <axis = 2> (a, q)"),
    "Split": between(
        "u, v = Split <axis = 1, num_outputs = 2> (a) r = Add (u, v)",
        "wc",
        wc=integers("wc", 6, 4, 1, 1),
    ),
    "Slice": between(
        "r = Slice (a, f, t, x1)",
        "wc",
        wc=integers("wc", 6, 3, 1, 1),
        f=np.array([2]),
        t=np.array([5]),
        x1=np.array([1]),
    ),
    "Slice of rows": between(
        "r = Slice (a, f, t, x1)", f=np.array([2]), t=np.array([5]), x1=np.array([2])
    ),
    "Transpose": between(
        "t = Transpose <perm = [0, 2, 3, 1]> (a) q = Relu (t) "
        "r = Transpose <perm = [0, 3, 1, 2]> (q)"
    ),
    "DepthToSpace": between(
        "r = DepthToSpace <blocksize = 2> (a)", "wc", wc=integers("wc", 6, 2, 1, 1)
    ),
    "DepthToSpace CRD": between(
        'r = DepthToSpace <blocksize = 2, mode = "CRD"> (a)', "wc", wc=integers("wc", 6, 2, 1, 1)
    ),
    "ReduceMean": between("r = ReduceMean <keepdims = 1> (a, k)", k=np.array([2, 3])),
    "skip": between(
        "d = Conv (a, wd) q = Add (a, d) e = Conv (q, wd) r = Add (q, e)",
        wd=integers("wd", 8, 8, 1, 1),
    ),
    "depthwise": between(
        "q = Relu (a) d = Conv <group = 8> (q, wd) r = Relu (d)", wd=integers("wd", 8, 1, 3, 3)
    ),
    "grouped": between("r = Conv <group = 4> (a, wd)", wd=integers("wd", 8, 2, 3, 3)),
    "ConvTranspose": between(
        "r = ConvTranspose <group = 2, strides = [2, 2]> (a, wd, bd)",
        wd=integers("wd", 8, 4, 3, 3),
        bd=integers("bd", 8),
    ),
    "added vector": between("q = Add (a, k) r = Relu (q)", k=integers("k", 8, 1, 1)),
    "vector minus": between("q = Sub (k, a) r = Relu (q)", k=integers("k", 1, 8, 1, 1)),
    "added map": between("r = Add (a, k)", k=integers("k", 1, 8, 8, 8)),
    "norm": between(
        "s = Sigmoid (a) n = InstanceNormalization (s, g, h) r = Relu (n)",
        g=integers("g", 8),
        h=integers("h", 8),
    ),
    "gain": between(
        "s = Sigmoid (a) m = Mul (s, g) r = Add (m, h)",
        g=integers("g", 8, 1, 1),
        h=integers("h", 8, 1, 1),
    ),
    "shape": between("q = Relu (a) k = Shape (q) r = Reshape (q, k)"),
    "two readers": between(
        "q = Relu (a) c = Conv (q, wd) e = Conv (q, wd) r = Add (c, e)",
        wd=integers("wd", 8, 8, 1, 1),
    ),
}


@pytest.mark.parametrize("name", HANDED_ON)
def test_every_free_scale_is_exact(name: str) -> None:
    model = HANDED_ON[name]
    scaled, free = rescaled(model)
    assert free >= 2
    for feed in drawn_feeds(model):
        for before, after in zip(run_ort(model, feed), run_ort(scaled, feed), strict=True):
            np.testing.assert_array_equal(before, after)


def test_matrix_products_take_scales_too() -> None:
    body = """g (float[2, 5, 8] x) => (float[] y) {
        a = MatMul (x, wa)  r = Relu (a)  b = MatMul (r, wb)  f = Flatten <axis = 1> (b)
        c = Gemm <transB = 1, alpha = 2.0> (f, wc, bc)  y = Gemm (c, wd)
    }"""
    weights = {
        "wa": integers("wa", 8, 6),
        "wb": integers("wb", 6, 7),
        "wc": integers("wc", 9, 35),
        "bc": integers("bc", 9),
        "wd": integers("wd", 9, 4),
    }
    model = parse(body, weights, opset=18)
    scaled, free = rescaled(model)
    assert free == 6 + 9
    feed = drawn_feeds(model)[0]
    np.testing.assert_array_equal(run_ort(model, feed)[0], run_ort(scaled, feed)[0])


def test_layer_normalization_takes_scales() -> None:
    body = """g (float[2, 5, 8] x) => (float[] y) {
        n = LayerNormalization (x, g, h)  a = MatMul (n, wa)  b = Add (a, k)  r = Relu (b)
        c = MatMul (r, wb)  m = LayerNormalization (c, g)  y = MatMul (m, wb)
    }"""
    weights = {
        "g": integers("g", 8),
        "h": integers("h", 8),
        "k": integers("k", 8),
        "wa": integers("wa", 8, 8),
        "wb": integers("wb", 8, 8),
    }
    model = parse(body, weights, opset=18)
    scaled, free = rescaled(model)
    assert free == 3 * 8
    feed = drawn_feeds(model)[0]
    np.testing.assert_allclose(run_ort(scaled, feed)[0], run_ort(model, feed)[0], rtol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        "mobileone_s0.script",
        "unet_mobilenet_v2.script",
        "lraspp_mobilenet_v3_large.dynamo",
        "shufflenet_v2_x0_5.script",
        "ghostnet_100.script",
        "segformer_b0.script",
        "densenet121.script",
        "unet_scse_resnet18.script",
        "hrnet_w18_small.script",
    ],
)
def test_real_networks_keep_their_outputs(name: str) -> None:
    model, _ = rewritten(zoo.load(name), ("fold_constants", "drop_identities", "fuse_bn"))
    scaled, free = rescaled(model)
    assert free > 100
    feed = zoo.feeds(name)
    for before, after in zip(run_ort(model, feed), run_ort(scaled, feed), strict=True):
        np.testing.assert_allclose(after, before, rtol=0, atol=1e-5 * np.abs(before).max())


PINNED = {
    "Sigmoid does not commute with a scale": between("r = Sigmoid (a)"),
    "HardSwish does not commute with a scale": between("r = HardSwish (a)"),
    "a Clip that does not start at zero does not commute with a scale": between(
        "r = Clip (a, z)", z=np.array(-1, np.float32)
    ),
    "a Clip cuts it off at 6": between(
        "r = Clip (a, z, k)", z=np.array(0, np.float32), k=np.array(6, np.float32)
    ),
    "it pads with a value that is not zero": between(
        "r = Pad (a, k, o)", k=np.array([0, 0, 1, 1, 0, 0, 1, 1]), o=np.array(1, np.float32)
    ),
    "it reduces over the channels": between(
        "m = ReduceMean (a, k) r = Add (a, m)", k=np.array([1])
    ),
    "the constant that is added is the same for all channels": between(
        "r = Add (a, k)", k=np.array(2, np.float32)
    ),
    "Mul does not commute with a scale": between("q = Relu (a) r = Mul (a, q)"),
    "more than one of its outputs is read": between(
        "p, i = MaxPool <kernel_shape = [1, 1]> (a) c = Cast <to = 1> (i) r = Add (p, c)"
    ),
}


@pytest.mark.parametrize("reason", PINNED)
def test_what_stands_in_the_way_is_named(reason: str) -> None:
    loaded = inferred(PINNED[reason])
    found = equalization(loaded.graph, {})
    assert [pin.reason for _, pin in found.refused] == [reason]
    assert found.changes == ()


def test_an_output_of_the_model_is_not_scaled() -> None:
    body = """g (float[1, 3, 8, 8] x) => (float[] y, float[] r) {
        a = Conv (x, w1, b1)  r = Relu (a)  y = Conv (r, w2, b2)
    }"""
    found = equalization(inferred(parse(body, W)).graph, {})
    assert [pin.reason for _, pin in found.refused] == ["it is an output of the model"]


def test_part_of_a_concat_may_be_free() -> None:
    body = """g (float[1, 3, 8, 8] x) => (float[] y) {
        a = Conv (x, w1, b1)  s = Sigmoid (a)  c = Conv (x, w1, b1)  r = Relu (c)
        j = Concat <axis = 1> (s, r)  y = Conv (j, wj)
    }"""
    model = parse(body, {**W, "wj": integers("wj", 4, 16, 1, 1)})
    scaled, free = rescaled(model)
    assert free == 8
    feed = drawn_feeds(model)[0]
    np.testing.assert_array_equal(run_ort(model, feed)[0], run_ort(scaled, feed)[0])


def test_united_variables_are_one() -> None:
    variables = Variables()
    one, two, three = (variables.fresh(4) for _ in range(3))
    variables.unite(one, two[::-1])
    variables.unite(two[:2], three[2:])
    variables.unite(three[:1], one[:1])
    roots = variables.find(np.arange(12))
    groups = {tuple(np.flatnonzero(roots == root)) for root in set(roots.tolist())}
    assert groups == {(0, 7, 8), (1, 6), (2, 5, 11), (3, 4, 10), (9,)}


def variables_of(found: ChannelScales, name: str) -> list[int]:
    roots: Mapping[str, Any] = {
        value.name or "": found.variables.find(placement.ids)
        for value, placement in found.placements.items()
    }
    return list(roots[name])


def test_a_residual_stream_is_one_group() -> None:
    found = channel_scales(inferred(depthwise_net()).graph)
    assert variables_of(found, "f") == variables_of(found, "s") == variables_of(found, "p")
    assert not set(variables_of(found, "d")) & set(variables_of(found, "s"))
