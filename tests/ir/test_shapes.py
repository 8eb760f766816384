"""What inference may say about shapes, and what is known of computed ones."""

import numpy as np
import onnx_ir as ir
import pytest

from onnxfold.ir.shape_values import shape_values
from onnxfold.ir.shapes import infer_shapes
from onnxfold.model import load
from tests.toolkit import parse


def inferred(text: str, **weights: np.ndarray) -> dict[str, ir.Value]:
    model = load(parse(text, weights)).model
    infer_shapes(model)
    infer_shapes(model)
    return {output.name or "": output for node in model.graph for output in node.outputs}


def shape(value: ir.Value) -> list[int | str | None]:
    assert value.shape is not None
    return [e if isinstance(e, int) else e.value for e in value.shape]


def test_symbols_of_the_interface_are_kept_and_made_up_ones_are_not() -> None:
    values = inferred(
        "g (float[N,3] x, int64[2] s) => (float[a,b] y)"
        " { r = Relu(x) k = NonZero(x) q = Reshape(x, s) y = Relu(q) }"
    )
    assert shape(values["r"]) == ["N", 3]
    assert shape(values["k"]) == [2, None]
    assert shape(values["q"]) == [None, None]


def test_one_name_for_several_extents_of_a_shape_says_nothing() -> None:
    values = inferred(
        "g (float[d,3,d,d] x, float[b,3] u, float[b,3] v) => (float[a,e,f,g] y, float[h,i] z)"
        " <float[k,k,k,n] r> { r = Relu(x) t = Transpose<perm=[0,1,3,2]>(r) y = Relu(t)"
        " w = Add(u, v) z = Relu(w) }"
    )
    assert shape(values["r"]) == ["x.0", 3, "x.2", "x.3"]
    assert shape(values["t"]) == ["x.0", 3, "x.3", "x.2"]
    assert shape(values["w"]) == ["b", 3]


def test_value_info_that_contradicts_the_inputs_is_out_of_date() -> None:
    values = inferred(
        "g (float[N,3,8] x) => (float[a,b,c] y) <float[1,3,4] r, float[1,3,4] q>"
        " { r = Relu(x) q = Relu(r) y = Relu(q) }"
    )
    assert shape(values["r"]) == ["N", 3, 8]
    assert shape(values["q"]) == ["N", 3, 8]


def test_value_info_is_believed_where_inference_knows_nothing() -> None:
    values = inferred(
        "g (float[1,3] x) => (float[a,b] y) <float[2,7] c> { c = test.custom.Thing(x) y = Relu(c) }"
    )
    assert shape(values["c"]) == [2, 7]


@pytest.mark.parametrize(("body", "expected"), [
    ("v = Shape(x)", ("N", 3, 8, 6)),
    ("v = Shape<start=1, end=-1>(x)", (3, 8)),
    ("s = Shape(x) v = Gather(s, i)", ("N", 6)),
    ("s = Shape(x) v = Slice(s, a, b)", (3, 8)),
    ("s = Shape(x) v = Slice(s, minus, far)", (6,)),
    ("s = Shape(x) t = Slice(s, a, b) v = Concat<axis=0>(t, i)", (3, 8, 0, -1)),
    ("s = Shape(x) t = Slice(s, a, b) v = Mul(t, two)", (6, 16)),
    ("s = Shape(x) t = Slice(s, a, b) v = Div(t, minus)", (-3, -8)),
    ("s = Shape(x) v = Add(s, two)", (None, 5, 10, 8)),
    ("s = Shape(x) t = Mul(s, huge) v = Slice(t, a, b)", (None, None)),
])  # fmt: skip
def test_computed_shapes(body: str, expected: tuple[int | str | None, ...]) -> None:
    weights = {"i": np.array([0, -1]), "a": np.array([1]), "b": np.array([3]),
               "minus": np.array([-1]), "far": np.array([2**63 - 1]), "two": np.array(2),
               "huge": np.array([2**62])}  # fmt: skip
    model = load(parse(f"g (float[N,3,8,6] x) => (int64[] v) {{ {body} }}", weights)).model
    infer_shapes(model)
    known = shape_values(model.graph)
    assert known[model.graph.outputs[0]].items == expected


def test_a_shape_that_repeats_a_name_is_not_read_by_it() -> None:
    model = load(parse("g (float[d,3,d,w] x) => (int64[4] v) { v = Shape(x) }")).model
    infer_shapes(model)
    assert shape_values(model.graph)[model.graph.outputs[0]].items == (None, 3, None, "w")
