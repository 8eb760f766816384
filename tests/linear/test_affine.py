"""Reading nodes as channel affines, and following axes."""

import numpy as np
import onnx_ir as ir
import pytest

from onnxfold.ir.shapes import infer_shapes
from onnxfold.linear.affine import Affine, AffineNode, affine_of, is_part_of_activation
from onnxfold.linear.axes import axis_after, axis_before
from onnxfold.linear.reach import is_within_reach
from onnxfold.model import load
from tests.toolkit import integers, parse, powers


def nodes_of(body: str, inputs: str = "float[2,3,4,5] x", **weights: np.ndarray) -> list[ir.Node]:
    model = load(parse(f"g ({inputs}) => (float[] y) {{ {body} }}", weights)).model
    infer_shapes(model)
    return list(model.graph)


def vector(*numbers: float) -> np.ndarray:
    return np.array(numbers)


def test_affine_after_another() -> None:
    inner = Affine(vector(2, 3), vector(1, -1), 1)
    outer = Affine(np.array(-2.0), np.array(5.0), None)
    joined = outer.after(inner)
    assert joined is not None
    np.testing.assert_array_equal(joined.scale, [-4, -6])
    np.testing.assert_array_equal(joined.shift, [3, 7])
    assert joined.axis == 1
    assert outer.after(Affine(vector(1, 2), vector(0, 0), 2)) is not None
    assert Affine(vector(1, 2), vector(0, 0), 3).after(inner) is None


def test_parts_and_predicates() -> None:
    affine = Affine(vector(1, 2, 3), vector(0, 0, 1), 1)
    np.testing.assert_array_equal(affine.part(1, 3).scale, [2, 3])
    assert affine.shifts
    assert not affine.part(0, 2).shifts
    assert affine.part(0, 1).is_identity
    assert affine.keeps_order
    assert not Affine(vector(0, 1), vector(0, 0), 1).keeps_order
    assert affine.channels(4) is None


@pytest.mark.parametrize(("body", "scale", "shift"), [
    ("y = Sub(k, x)", -1, 4), ("y = Sub(x, k)", 1, -4), ("y = Div(x, k)", 0.25, 0),
    ("y = Mul(k, x)", 4, 0), ("y = Neg(x)", -1, 0),
])  # fmt: skip
def test_constants_on_either_side(body: str, scale: float, shift: float) -> None:
    (node,) = nodes_of(body, k=np.array(4, np.float32))
    step = affine_of(node)
    assert isinstance(step, AffineNode)
    assert (float(step.affine.scale), float(step.affine.shift)) == (scale, shift)


def test_constant_divided_by_a_tensor_is_no_affine() -> None:
    assert affine_of(nodes_of("y = Div(k, x)", k=np.array(4, np.float32))[0]) is None


@pytest.mark.parametrize(("shape", "axis"), [((3, 1, 1), 1), ((1, 3, 1, 1), 1), ((5,), 3),
                                             ((4, 1), 2), ((2, 1, 1, 1), 0)])  # fmt: skip
def test_where_the_numbers_lie(shape: tuple[int, ...], axis: int) -> None:
    step = affine_of(nodes_of("y = Mul(x, k)", k=powers("k", *shape))[0])
    assert isinstance(step, AffineNode)
    assert step.affine.axis == axis


def test_decomposed_gelu_and_layer_norm() -> None:
    gelu = nodes_of("e = Erf(x) a = Add(e, one) m = Mul(x, a) y = Mul(m, half)",
                    one=np.array(1, np.float32), half=np.array(0.5, np.float32))  # fmt: skip
    assert is_part_of_activation(gelu[3])
    assert not is_part_of_activation(gelu[1])
    norm = nodes_of("d = Div(x, s) m = Mul(d, w) y = Add(m, b)", "float[2,3] x, float[2,1] s",
                    w=integers("w", 3), b=integers("b", 3))  # fmt: skip
    assert is_part_of_activation(norm[1])
    assert is_part_of_activation(norm[2])


@pytest.mark.parametrize("gate", ["Sigmoid", "HardSigmoid"])
def test_a_gated_tensor_is_whole_with_the_product(gate: str) -> None:
    nodes = nodes_of(f"g = {gate}(x) m = Mul(x, g) y = Add(m, k)", k=powers("k", 1, 3, 1, 1))
    assert not is_part_of_activation(nodes[2])


@pytest.mark.parametrize(("body", "axis", "before"), [
    ("y = Transpose<perm=[0,2,3,1]>(x)", 3, 1),
    ("y = Transpose<perm=[0,2,3,1]>(x)", 1, 2),
    ("y = Transpose(x)", 0, 3),
    ("y = Reshape(x, s)", 1, 1),
    ("y = Reshape(x, s)", 2, None),
    ("y = Flatten<axis=3>(x)", 1, 3),
    ("y = Unsqueeze(x, z)", 2, 1),
])  # fmt: skip
def test_axes_through_rearrangements(body: str, axis: int, before: int | None) -> None:
    (node,) = nodes_of(body, s=np.array([2, 3, 20]), z=np.array([0]))
    assert axis_before(node, axis) == before
    if before is not None:
        assert axis_after(node, before) == axis


def test_reach_is_bounded() -> None:
    chain = nodes_of("r0 = Relu(x) " + " ".join(f"r{i + 1} = Relu(r{i})" for i in range(70))
                     + " y = Neg(r70)")  # fmt: skip
    carriers = frozenset({"Relu"})
    assert is_within_reach(chain[40].outputs[0], carriers)
    assert not is_within_reach(chain[70].outputs[0], carriers)
