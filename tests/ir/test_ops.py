"""Typed views: defaults, left-out inputs and automatic pads."""

import numpy as np
import onnx_ir as ir
import pytest

from onnxfold.ir.constants import constant_array, float_constant, int_constant, is_constant
from onnxfold.ir.graph import captured_values, describe, has_other_readers, stamp_opset_versions
from onnxfold.ir.ops import BatchNormalization, Conv, Gemm, MatMul, Pad
from onnxfold.ir.shapes import infer_shapes
from onnxfold.model import load
from tests.toolkit import Weights, batch_norm, integers, parse


def model_of(text: str, weights: Weights, opset: int = 18) -> ir.Model:
    model = load(parse(text, weights, opset=opset)).model
    infer_shapes(model)
    stamp_opset_versions(model)
    return model


@pytest.mark.parametrize(("attributes", "pads"), [
    ("", (0, 0, 0, 0)),
    ("pads=[1,2,3,4]", (1, 2, 3, 4)),
    ('auto_pad="VALID"', (0, 0, 0, 0)),
    ('auto_pad="SAME_UPPER", strides=[2,3]', (0, 0, 1, 0)),
    ('auto_pad="SAME_LOWER", strides=[2,3]', (1, 0, 0, 0)),
    ('auto_pad="SAME_UPPER", strides=[4,4]', (0, 1, 0, 1)),
    ('auto_pad="SAME_UPPER", strides=[5,5]', (0, 0, 0, 0)),
])  # fmt: skip
def test_pads_of_a_conv(attributes: str, pads: tuple[int, ...]) -> None:
    text = f"g (float[1,2,8,9] x) => (float[] y) {{ y = Conv<{attributes}>(x, w) }}"
    model = model_of(text.replace("<>", ""), {"w": integers("w", 3, 2, 3, 3)})
    view = Conv.of(next(iter(model.graph)))
    assert view is not None
    assert view.window.explicit_pads(view.x) == pads
    assert (view.window.kernel_shape, view.group, view.bias) == ((3, 3), 1, None)


def test_defaults() -> None:
    model = model_of(
        "g (float[2,4] x) => (float[] y, float[] z) { a = Gemm(x, w)"
        " y = BatchNormalization(a, g, b, m, v) z = MatMul(x, w) }",
        {"w": integers("w", 4, 4), **batch_norm(4)},
    )  # fmt: skip
    gemm, norm, product = model.graph
    view = Gemm.of(gemm)
    assert view is not None
    assert (view.alpha, view.beta, view.transposed_weight, view.bias) == (1.0, 1.0, False, None)
    normalisation = BatchNormalization.of(norm)
    assert normalisation is not None
    assert normalisation.epsilon == pytest.approx(1e-5)
    assert not normalisation.training
    assert MatMul.of(product) is not None
    assert MatMul.of(gemm) is None
    assert Conv.of(None) is None


@pytest.mark.parametrize(("opset", "attributes", "training"), [
    (6, "", True), (6, "is_test=1", False), (7, "spatial=0", True), (7, "", False), (9, "", False),
    (14, "training_mode=1", True), (15, "", False),
])  # fmt: skip
def test_training_forms(opset: int, attributes: str, training: bool) -> None:
    text = f"g (float[2,4,3,3] x) => (float[2,4,3,3] y) {{ y = BatchNormalization<{attributes}>"
    text = text.replace("<>", "") + "(x, g, b, m, v) }"
    model = model_of(text, batch_norm(4), opset)
    view = BatchNormalization.of(next(iter(model.graph)))
    assert view is not None
    assert view.training is training


def test_forms_of_pad() -> None:
    model = model_of(
        "g (float[1,2,8,9] x, int64[4] unknown) => (float[] a, float[] b, float[e,f,g,h] c)"
        " { a = Pad(x, p, z, q) b = Pad(x, p, z, q) c = Pad(x, unknown, z, q) }",
        {"p": np.array([1, 2, 3, 4]), "z": np.array(0.5, np.float32), "q": np.array([-1, 2])},
    )  # fmt: skip
    first, _, last = model.graph
    view, other = Pad.of(first), Pad.of(last)
    assert view is not None
    assert other is not None
    assert view.pads == ((0, 0), (0, 0), (2, 4), (1, 3))
    assert (view.value, view.mode) == (0.5, "constant")
    assert other.pads is None


def test_constants() -> None:
    model = model_of(
        "g (float[1] x, float[1] o) => (float[] y) { a = Constant<value_float = 2.0>()"
        " i = Identity(a) j = Identity(i) k = Identity(o) n = Neg(w) b = Add(x, j) c = Add(b, k)"
        " d = Add(c, n) y = Add(d, o) }",
        {"o": np.ones(1, np.float32), "w": np.ones(1, np.float32)},
    )  # fmt: skip
    values = {output.name: output for node in model.graph for output in node.outputs}
    assert float_constant(values["j"]) == 2.0
    assert not is_constant(values["k"])
    assert not is_constant(values["n"])
    assert constant_array(model.graph.inputs[0]) is None
    assert int_constant(values["j"]) is None


def test_captures_count_as_readers() -> None:
    model = model_of(
        "g (float[3] x, bool f) => (float[] y) { a = Relu(x) b = Neg(a) c = If(f)"
        " <then_branch = t () => (float[3] z) { z = Neg(a) },"
        " else_branch = e () => (float[3] o) { o = Neg(x) }> y = Add(b, c) }",
        {},
    )
    relu, _, branching, _ = model.graph
    assert has_other_readers(relu.outputs[0])
    assert {value.name for value in captured_values(branching)} == {"a", "x"}
    assert describe(relu) == "Relu of 'a'"
