"""What hands on its input unchanged, and what only looks like it."""

import numpy as np
import onnx
import pytest

from tests.toolkit import Weights, folds, integers, parse, run, unchanged

PASS = "drop_identities"
X = "float[N,3,H,W] x"


def model(
    body: str, inputs: str = X, outputs: str = "float[] y", opset: int = 18
) -> onnx.ModelProto:
    weights: Weights = {
        "zero": np.zeros((), np.float32), "one": np.ones(1, np.float32),
        "ones": np.ones((1, 1, 1, 1), np.float32), "wide": np.zeros((1, 1, 1, 1, 1), np.float32),
        "row": np.zeros((3, 1, 1), np.float32), "five": np.zeros((5, 3, 1, 1), np.float32),
        "izero": np.zeros((), np.int64), "ione": np.ones((), np.int64),
        "p": np.zeros(8, np.int64), "crop": np.array([0, 0, 0, 0, 0, 0, 0, -1], np.int64),
        "same": np.array([2, 3, 4, 5], np.int64), "starts": np.zeros(1, np.int64),
        "ends": np.array([2**62], np.int64), "axes": np.array([3], np.int64),
        "back": np.array([-1], np.int64), "scales": np.ones(4, np.float32),
        "half": np.array(0.5, np.float32), "no": np.array(False), "yes": np.array(True),
        "unit": np.array([1, 1, 1, 1], np.int64), "almost": np.array([1, 1, 1.1, 1], np.float32),
        "like": np.zeros(1, np.float16), "like32": np.zeros(1, np.float32),
    }  # fmt: skip
    used = {n: a for n, a in weights.items() if n in body.replace("(", " ").replace(")", " ")
            .replace(",", " ").split()}  # fmt: skip
    return parse(f"g ({inputs}) => ({outputs}) {{ {body} }}", used, opset=opset)


STATIC = "float[2,3,4,5] x"
DROPPED = [
    ("i = Identity(x) y = Relu(i)", X, 18),
    ("r = Relu(x) y = Identity(r)", X, 18),
    ("i = Identity(x) j = Identity(i) k = Identity(j) y = Relu(k)", X, 18),
    ("i = Dropout(x) y = Relu(i)", X, 7),
    ("i = Dropout<ratio=0.5>(x) y = Relu(i)", X, 10),
    ("i = Dropout(x, half) y = Relu(i)", X, 13),
    ("i = Dropout(x, half, no) y = Relu(i)", X, 13),
    ("i = Cast<to=1>(x) y = Relu(i)", X, 18),
    ("i = CastLike(x, like32) y = Relu(i)", X, 18),
    ("i = Reshape(x, same) y = Relu(i)", STATIC, 18),
    ("i = Expand(x, unit) y = Relu(i)", STATIC, 18),
    ("i = Transpose<perm=[0,1,2,3]>(x) y = Relu(i)", X, 18),
    ("a = Transpose<perm=[0,2,3,1]>(x) i = Transpose<perm=[0,3,1,2]>(a) y = Relu(i)", X, 18),
    ("i = Pad(x, p) y = Relu(i)", X, 18),
    ("i = Slice(x, starts, ends, axes) y = Relu(i)", STATIC, 18),
    ("i = Concat<axis=1>(x) y = Relu(i)", X, 18),
    ("i = Sum(x) y = Relu(i)", X, 18),
    ("i = Flatten(x) y = Relu(i)", "float[4,5] x", 18),
    ("i = Resize(x, , scales) y = Relu(i)", STATIC, 18),
    ("i = Resize<mode=\"linear\">(x, , , same) y = Relu(i)", STATIC, 18),
    ("i = Resize(x, scales) y = Relu(i)", STATIC, 10),
    ("i = Add(x, zero) y = Relu(i)", X, 18),
    ("i = Add(row, x) y = Relu(i)", STATIC, 18),
    ("i = Sub(x, zero) y = Relu(i)", X, 18),
    ("i = Mul(one, x) y = Relu(i)", X, 18),
    ("i = Div(x, ones) y = Relu(i)", X, 18),
]  # fmt: skip


@pytest.mark.parametrize(("body", "inputs", "opset"), DROPPED)
def test_dropped(body: str, inputs: str, opset: int) -> None:
    folds(model(body, inputs, opset=opset), PASS, ops={"Relu": 1}, reference=False)


KEPT = [
    ("y = Identity(x)", X, 18),  # an output needs a name of its own
    ("i, t = Dropout(x) y = Relu(i) s = Not(t)", X, 13),
    ("i = Dropout(x, half, yes) y = Relu(i)", X, 13),
    ("i = Dropout<is_test=0>(x) y = Relu(i)", X, 6),
    ("i = Reshape(x, same) y = Relu(i)", X, 18),
    ("i = Transpose(x) y = Relu(i)", "float[4,4] x", 18),
    ("i = Transpose<perm=[1,0]>(x) y = Relu(i)", "float[4,4] x", 18),
    ("i = Pad(x, crop) y = Relu(i)", X, 18),
    ("i = Slice(x, back, ends, axes) y = Relu(i)", STATIC, 18),
    ("i = Slice(x, back, ends, axes, back) y = Relu(i)", STATIC, 18),
    ('i = Resize<mode="linear", coordinate_transformation_mode="tf_crop_and_resize">'
     "(x, roi, scales) y = Relu(i)", f"{STATIC}, float[8] roi", 18),
    ('i = Resize<mode="linear">(x, , almost) y = Relu(i)', STATIC, 18),
    ('i = Resize<mode="linear">(x, , z) y = Relu(i)', f"{STATIC}, float[4] z", 18),
    ("i = Add(x, five) y = Relu(i)", "float[N,3,4,5] x", 18),
    ("i = Add(x, row) y = Relu(i)", "float[N,C,4,5] x", 18),
    ("i = Add(x, wide) y = Relu(i)", X, 18),
    ("i = Sub(zero, x) y = Relu(i)", X, 18),
    ("i = Div(one, x) y = Relu(i)", X, 18),
    ("i = Mul(x, zero) y = Relu(i)", X, 18),
]  # fmt: skip


@pytest.mark.parametrize(("body", "inputs", "opset"), KEPT)
def test_kept(body: str, inputs: str, opset: int) -> None:
    outputs = "float[2,3,4,5] y" if ", z)" in body else "float[] y"
    outputs += ", bool[] s" if "Not" in body else ""
    kept = model(body, inputs, outputs, opset)
    unchanged(kept, PASS)


def test_integer_arithmetic() -> None:
    body = "a = Add(x, izero) b = Mul(ione, a) c = Div(b, ione) y = Neg(c)"
    folds(model(body, "int64[N] x", "int64[] y"), PASS, ops={"Neg": 1})


def test_cast_like_becomes_cast() -> None:
    result = folds(
        model("i = CastLike(x, like) y = Neg(i)", X, "float16[] y"), PASS, ops={"Cast": 1, "Neg": 1}
    )
    assert result.after.graph.node[0].op_type == "Cast"


def test_transposes_become_one() -> None:
    body = "a = Transpose<perm=[0,2,3,1]>(x) i = Transpose<perm=[0,2,1,3]>(a) y = Relu(i)"
    folds(model(body), PASS, ops={"Transpose": 1, "Relu": 1})


def test_a_transpose_that_takes_back_another_that_is_read_elsewhere() -> None:
    body = (
        "a = Transpose<perm=[0,2,3,1]>(x) i = Transpose<perm=[0,3,1,2]>(a) y = Relu(i) t = Neg(a)"
    )
    folds(model(body, outputs="float[] y, float[] t"), PASS,
          ops={"Transpose": 1, "Relu": 1, "Neg": 1})  # fmt: skip


TOKENS = {"tokens": np.array([0, 3, -1], np.int64), "image": np.array([0, 3, 4, 5], np.int64),
          "row": np.array([-1], np.int64), "rows": np.array([0, 0, -1], np.int64),
          "two": np.array([2], np.int64)}  # fmt: skip


def views(body: str, inputs: str, outputs: str = "float[] y") -> onnx.ModelProto:
    used = {name: array for name, array in TOKENS.items() if f", {name})" in body}
    return parse(f"g ({inputs}) => ({outputs}) {{ {body} }}", used)


@pytest.mark.parametrize(("body", "inputs", "ops"), [
    ("a = Reshape(x, image) b = Reshape(a, tokens) y = Relu(b)", "float[2,3,20] x", {"Relu": 1}),
    ("a = Reshape(x, image) b = Reshape(a, row) y = Relu(b)", "float[N,3,20] x",
     {"Reshape": 1, "Relu": 1}),
    ("a = Reshape(x, image) b = Reshape(a, tokens) y = Relu(b)", "float[N,60] x",
     {"Reshape": 2, "Relu": 1}),
    ("a = Unsqueeze(x, two) b = Reshape(a, rows) y = Relu(b)", "float[N,3,H] x",
     {"Reshape": 1, "Unsqueeze": 1, "Relu": 1}),
    ("a = Reshape(x, image) b = Reshape(a, rows) y = Relu(b)", "float[N,60] x",
     {"Reshape": 2, "Relu": 1}),
    ("a = Flatten(x) b = Reshape(a, row) y = Relu(b)", "float[2,3,4] x",
     {"Reshape": 1, "Relu": 1}),
])  # fmt: skip
def test_two_views_become_one(body: str, inputs: str, ops: dict[str, int]) -> None:
    folds(views(body, inputs), PASS, ops=ops)


def test_a_view_that_takes_back_another_that_is_read_elsewhere() -> None:
    body = "a = Reshape(x, image) b = Reshape(a, tokens) y = Relu(b) t = Neg(a)"
    model = views(body, "float[2,3,20] x", "float[] y, float[] t")
    folds(model, PASS, ops={"Reshape": 1, "Relu": 1, "Neg": 1})


def test_tokens_and_back() -> None:
    """Transformers for segmentation write this between two layer normalizations."""
    body = (
        "a = Transpose<perm=[0,2,1]>(x) b = Reshape(a, image) c = Reshape(b, tokens)"
        " d = Transpose<perm=[0,2,1]>(c) y = Relu(d)"
    )
    folds(views(body, "float[2,20,3] x"), PASS, ops={"Relu": 1})


@pytest.mark.parametrize(("body", "ops"), [
    ("a = Concat<axis=1>(x, z) b = Concat<axis=1>(a, x) y = Relu(b)", {"Concat": 1, "Relu": 1}),
    ("a = Concat<axis=1>(x, z) b = Concat<axis=1>(z, a) c = Concat<axis=1>(b, a) y = Relu(c)",
     {"Concat": 2, "Relu": 1}),
    ("a = Concat<axis=1>(x, z) b = Concat<axis=2>(a, a) y = Relu(b)", {"Concat": 2, "Relu": 1}),
])  # fmt: skip
def test_a_concat_of_a_concat(body: str, ops: dict[str, int]) -> None:
    folds(parse(f"g (float[N,3,H,W] x, float[N,2,H,W] z) => (float[] y) {{ {body} }}"), PASS,
          ops=ops)  # fmt: skip


def test_a_relu_of_a_relu() -> None:
    folds(model("a = Relu(x) b = Relu(a) y = Neg(b)"), PASS, ops={"Relu": 1, "Neg": 1})


def test_a_transpose_with_another_reader_stays() -> None:
    body = "a = Transpose<perm=[0,2,3,1]>(x) y = Transpose<perm=[0,2,1,3]>(a) t = Relu(a)"
    unchanged(model(body, outputs="float[] y, float[] t"), PASS)


def test_two_outputs_of_one_value_keep_their_names() -> None:
    body = "a = Relu(x) y = Identity(a) t = Identity(a)"
    result = run(model(body, outputs="float[] y, float[] t"), PASS)
    assert result.ops == {"Relu": 1, "Identity": 1}
    folds(model(body, outputs="float[] y, float[] t"), PASS, ops=result.ops)


def test_identity_of_a_captured_value_as_output_of_a_body() -> None:
    text = (
        "g (float[N,3,H,W] x, bool f) => (float[N,3,H,W] y) { a = Relu(x)"
        " y = If(f) <then_branch = t () => (float[] z) { z = Identity(a) },"
        " else_branch = e () => (float[] o) { i = Identity(x) o = Neg(i) }> }"
    )
    feeds = [{"x": integers("x", 2, 3, 4, 5), "f": np.array(f)} for f in (True, False)]
    folds(parse(text), PASS, ops={"Relu": 1, "If": 1, "Identity": 1, "Neg": 1}, feeds=feeds)


def test_what_an_output_declares_is_not_believed() -> None:
    """An export may name the axes of a cropped image as those of the image."""
    cropped = model("y = Slice(x, back, ends, axes)", "float[N,3,H,W] x", "float[N,3,H,W] y")
    unchanged(cropped, PASS)


def test_symbols_that_inference_makes_up_are_not_compared() -> None:
    """Two unknown extents must not look equal because two runs of inference number them alike."""
    body = (
        "k = NonZero(x) s = Shape(m) h = Reshape(m, s)"
        " q = Cast<to=1>(k) e = Reshape(q, z) y = Relu(e) t = Relu(h)"
    )
    unclear = parse(
        f"g (float[a,b] x, float[2,3] m, int64[2] z) => (float[c,d] y, float[2,3] t) {{ {body} }}"
    )
    result = run(unclear)
    assert result.ops["Reshape"] == 1
