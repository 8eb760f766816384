"""openvino: what is planned runs as integers once OpenVINO has compiled it."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnxfold.calibrate.scheme import INT8, UINT8, UINT8_NON_NEGATIVE
from onnxfold.quantize.plan import Plan
from tests.targets.emitted import emitted, feeds, layer, normal, run, sqnr
from tests.toolkit import parse

openvino = pytest.importorskip("openvino")

SAME = "pads=[1,1,1,1]"
NEAREST = 'mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"'
ENDS = layer("w", 16, 16, 3, 3) | layer("v", 16, 16, 3, 3)
DOUBLED = {"scales": np.array([1, 1, 2, 2], np.float32)}
LAYERS = ("Convolution", "Deconvolution", "FullyConnected")


def between(
    middle: str, weights: Mapping[str, NDArray[Any]] | None = None, *, extents: str = "32,32"
) -> onnx.ModelProto:
    """Two convolutions, and `middle` from `c`, or the ReLU `r` behind it, to `t`."""
    relu = "r = Relu(c)" if "(r" in middle else ""
    return parse(
        f"g (float[1,16,{extents}] x) => (float[] y)"
        f" {{ c = Conv<{SAME}>(x, w, wb) {relu} {middle} y = Conv<{SAME}>(t, v, vb) }}",
        {**ENDS, **(weights or {})},
    )


def compiled(model: onnx.ModelProto, excluded: frozenset[str] = frozenset()) -> tuple[Plan, Any]:
    """The plan, and the compiled model; its numbers are near those of the float model."""
    plan, quantized = emitted(model, "openvino", excluded)
    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    program = core.compile_model(core.read_model(quantized.SerializeToString()), "CPU", settings)
    for feed in feeds(model):
        for index, expected in enumerate(run(model, feed)):
            assert sqnr(expected, program(dict(feed))[index]) > 25
            assert sqnr(expected, run(quantized, feed)[index]) > 25
    return plan, program


def precisions(program: Any, *kinds: str) -> dict[str, int]:
    """How many operators of these kinds run in which precision."""
    found: Counter[str] = Counter()
    for op in program.get_runtime_model().get_ordered_ops():
        info = op.get_rt_info()
        if info["layerType"].astype(str) in kinds:
            found[info["runtimePrecision"].astype(str)] += 1
    return dict(found)


def kinds(program: Any) -> Counter[str]:
    """How many operators of each kind there are, conversions of layouts aside."""
    nodes = program.get_runtime_model().get_ordered_ops()
    return Counter(op.get_rt_info()["layerType"].astype(str) for op in nodes)


@pytest.mark.parametrize(("middle", "weights"), [
    ("t = MaxPool<kernel_shape=[2,2]>(r)", {}),
    ("t = AveragePool<kernel_shape=[2,2]>(r)", {}),
    (f"t = Resize<{NEAREST}>(r, , scales)", DOUBLED),
    ('t = Resize<mode="linear">(r, , scales)', DOUBLED),
    ("s = Sigmoid(c) t = Mul(c, s)", {}),
    ("t = HardSwish(c)", {}),
    ("t = LeakyRelu<alpha=0.1>(c)", {}),
    (f"d = Conv<group=16, {SAME}>(r, a, ab) t = Relu(d)", layer("a", 16, 1, 3, 3)),
    (f"d = Conv<group=4, {SAME}>(r, a, ab) t = Relu(d)", layer("a", 16, 4, 3, 3)),
    ("t = ConvTranspose<strides=[2,2]>(r, a)", {"a": normal("a", 16, 16, 2, 2, scale=0.2)}),
    ("t = ConvTranspose<strides=[2,2]>(c, a)", {"a": normal("a", 16, 16, 2, 2, scale=0.2)}),
])  # fmt: skip
def test_every_layer_runs_in_integers(middle: str, weights: dict[str, Any]) -> None:
    _, program = compiled(between(middle, weights))
    assert set(precisions(program, *LAYERS)) <= {"u8", "i8"}


def test_activations_stay_part_of_their_convolution() -> None:
    gelu = "a = Div(c, root) e = Erf(a) f = Add(e, one) m = Mul(c, f) t = Mul(m, half)"
    constants = {
        "root": np.array(2**0.5, np.float32),
        "one": np.array(1, np.float32),
        "half": np.array(0.5, np.float32),
    }
    for middle, weights in ((gelu, constants), ("s = Sigmoid(c) t = Mul(c, s)", {})):
        plan, program = compiled(between(middle, weights))
        assert [site.value for site in plan.sites] == ["x", "t"]
        assert kinds(program)["Convolution"] == 2
        assert not {"Eltwise", "Math"} & kinds(program).keys()


@pytest.mark.parametrize("activation", ["t = Relu(a)", "t = Neg(a)"])
def test_a_residual_addition_is_part_of_its_convolution(activation: str) -> None:
    model = between(
        f"b = Conv<{SAME}>(r, u, ub) e = Relu(b) d = Conv<{SAME}>(e, p, pb) a = Add(d, r)"
        f" {activation}",
        layer("u", 16, 16, 3, 3) | layer("p", 16, 16, 3, 3),
    )
    plan, program = compiled(model)
    assert [site.value for site in plan.sites] == ["x", "r", "e", "d", "t"]
    assert precisions(program, "Convolution") == {"u8": 4}
    assert "Eltwise" not in kinds(program)


def test_a_bias_that_two_layers_share_is_part_of_both() -> None:
    model = between(
        f"b = Conv<{SAME}>(r, u, ub) e = Relu(b) d = Conv<{SAME}>(e, p, ub) a = Add(d, r)"
        " t = Relu(a)",
        layer("u", 16, 16, 3, 3) | layer("p", 16, 16, 3, 3),
    )
    _, program = compiled(model)
    assert precisions(program, "Convolution") == {"u8": 4}
    assert kinds(program)["Subgraph"] == 1  # the quantization of the input


def test_what_is_moved_has_one_pair_in_front() -> None:
    plan, program = compiled(between("t = MaxPool<kernel_shape=[2,2]>(r)"))
    assert [site.value for site in plan.sites] == ["x", "r"]
    assert precisions(program, "Pooling") == {"u8": 1}


def test_the_last_convolution_writes_floats() -> None:
    plan, _ = compiled(between("t = Relu(c)"))
    assert [site.value for site in plan.sites] == ["x", "t"]
    assert plan.biases == ()


def test_a_concat_of_a_skip_and_its_own_branch() -> None:
    model = between(
        f"d = Conv<{SAME}>(r, u, ub) e = Relu(d) j = Concat<axis=1>(r, e) t = Conv(j, p, pb)",
        layer("u", 16, 16, 3, 3) | layer("p", 16, 32, 1, 1),
    )
    plan, program = compiled(model)
    assert precisions(program, "Convolution") == {"u8": 4}
    assert precisions(program, "Concatenation") == {"u8": 1}
    groups = {name: [site.value for site in sites] for name, sites in plan.groups().items()}
    assert groups["e"] == ["e", "j"]
    assert groups["r"] == ["r"]


def test_squeeze_and_excitation() -> None:
    model = between(
        "g = GlobalAveragePool(r) d = Conv(g, a, ab) e = Relu(d) h = Conv(e, b, bb)"
        " s = Sigmoid(h) t = Mul(r, s)",
        layer("a", 8, 16, 1, 1) | layer("b", 16, 8, 1, 1),
    )
    plan, program = compiled(model)
    assert precisions(program, "Convolution") == {"u8": 4}
    assert [site.value for site in plan.sites] == ["x", "r", "g", "e", "s", "t"]


def test_zero_points() -> None:
    """A ConvTranspose computes with integers only where the zero point is 0."""
    weights = {"a": normal("a", 16, 16, 2, 2)}
    for source, scheme in (("r", UINT8_NON_NEGATIVE), ("c", INT8)):
        plan, _ = emitted(
            between(f"t = ConvTranspose<strides=[2,2]>({source}, a)", weights), "openvino"
        )
        assert {site.value: site.scheme for site in plan.sites}[source] == scheme
    plan, _ = emitted(between("t = Neg(c)"), "openvino")
    assert {site.value: site.scheme for site in plan.sites} == {"x": UINT8, "t": UINT8}


def test_matrix_products() -> None:
    model = parse(
        "g (float[1,20,32] x) => (float[1,20,16] y) { n = LayerNormalization<axis=-1>(x, g)"
        " m = MatMul(n, w) b = Add(m, wb) y = Tanh(b) }",
        {"g": normal("g", 32), "w": normal("w", 32, 16), "wb": normal("wb", 16)},
    )
    plan, program = compiled(model)
    assert [site.value for site in plan.sites] == ["n"]
    assert set(precisions(program, "FullyConnected")) <= {"u8", "i8"}


@pytest.mark.parametrize(("rows", "share"), [(1, 0), (8, 0), (16, 2), (20, 2)])
def test_matrix_products_of_few_rows_stay_float(rows: int, share: int) -> None:
    """Squeeze-and-excitation by matrices without biases: zeros, if it were all INT8."""
    model = parse(
        f"g (float[{rows},32] x) => (float[{rows},32] y)"
        " { m = MatMul(x, a) r = Relu(m) h = MatMul(r, b) y = Sigmoid(h) }",
        {"a": normal("a", 32, 16, scale=0.2), "b": normal("b", 16, 32, scale=0.2)},
    )
    plan, _ = compiled(model)
    assert len(plan.layers) == share
    assert set(plan.float_layers) == ({"m", "h"} if share == 0 else set())
    assert all("few rows" in reason for reason in plan.float_layers.values())


def test_a_depth_to_space_moves_only_what_is_not_negative() -> None:
    tail = "t = DepthToSpace<blocksize=2>"
    weights = layer("v", 16, 4, 3, 3)
    plan, _ = compiled(between(f"{tail}(r)", weights))
    assert [site.value for site in plan.sites] == ["x", "r"]
    plan, _ = compiled(between(f"{tail}(c)", weights))
    assert [site.value for site in plan.sites] == ["x", "t"]


def test_a_resize_to_a_computed_size_is_quantized_behind() -> None:
    model = between(
        f"s = Shape(x) t = Resize<{NEAREST}>(r, , , s)", {}, extents="H,W"
    )  # fmt: skip
    plan, quantized = emitted(model, "openvino")
    assert [site.value for site in plan.sites] == ["x", "t"]
    feed = feeds(model)[0]
    assert sqnr(run(model, feed)[0], run(quantized, feed)[0]) > 25


def test_an_excluded_layer_stays_float() -> None:
    model = between(f"d = Conv<{SAME}>(r, u, ub) t = Relu(d)", layer("u", 16, 16, 3, 3))
    plan, program = compiled(model, frozenset({"d"}))
    assert plan.float_layers == {"d": "it was excluded"}
    assert precisions(program, "Convolution") == {"u8": 2, "f32": 1}
