"""fold_linear: whatever is linear between two nonlinearities, in any topology."""

import itertools

import numpy as np
import onnx
import pytest

from onnxfold.ir.graph import stamp_opset_versions
from onnxfold.ir.shapes import infer_shapes
from onnxfold.linear.reading import reading_of
from onnxfold.model import load
from onnxfold.passes import fold_linear, presets
from onnxfold.rewrite.rule import Reject
from tests import zoo
from tests.toolkit import folds, integers, parse, rewritten, run_ort, unchanged

P = "pads=[1,1,1,1]"


def test_what_gains_only_as_a_whole() -> None:
    """A stem in three steps: colours, blocks of pixels, and two branches over them."""
    model = parse(
        "g (float[N,3,32,32] x) => (float[] y) { c = Conv(x, colours)"
        " s = SpaceToDepth<blocksize=2>(c) a = Conv(s, wa) b = Conv(s, wb) y = Add(a, b) }",
        {
            "colours": integers("colours", 3, 3, 1, 1),
            "wa": integers("wa", 16, 12, 1, 1),
            "wb": integers("wb", 16, 12, 1, 1),
        },
    )
    folds(model, "fold_linear", ops={"Conv": 1})


def test_parallel_convolutions_behind_a_concat() -> None:
    model = parse(
        f"g (float[N,8,24,24] x) => (float[] y) {{ a = Conv<{P}>(x, wa, ba) b = Conv<{P}>(x, wb)"
        " y = Concat<axis=1>(a, b) }",
        {
            "wa": integers("wa", 8, 8, 3, 3),
            "ba": integers("ba", 8),
            "wb": integers("wb", 4, 8, 3, 3),
        },
    )
    folds(model, "fold_linear", ops={"Conv": 1})
    folds(model, "merge_branches", ops={"Conv": 1})


def border_fill(extents: str = "9,7", border: float | None = None) -> onnx.ModelProto:
    """A 1×1 with a bias, padded with that bias by ScatterND, and a 3×3 behind it."""
    height, width = (int(each) + 2 for each in extents.split(","))
    rows = np.array(list(itertools.product([0], range(4), [0, height - 1], range(width))))
    columns = np.array(list(itertools.product([0], range(4), range(height), [0, width - 1])))
    bias = np.array([3, -1, 2, 5], np.float32)
    fill = bias if border is None else np.full(4, border, np.float32)
    return parse(
        f"g (float[1,8,{extents}] x) => (float[] y) {{ a = Conv(x, wa, ba) p = Pad(a, pads)"
        " r = ScatterND(p, rows, high) c = ScatterND(r, columns, wide)"
        " k = Conv(c, wk, bk) d = Conv<pads=[1,1,1,1]>(x, wd) y = Add(k, d) }",
        {
            "wa": integers("wa", 4, 8, 1, 1),
            "ba": bias,
            "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64),
            "rows": rows.astype(np.int64),
            "high": fill[rows[:, 1]],
            "columns": columns.astype(np.int64),
            "wide": fill[columns[:, 1]],
            "wk": integers("wk", 6, 4, 3, 3),
            "bk": integers("bk", 6),
            "wd": integers("wd", 6, 8, 3, 3),
        },
    )


@pytest.mark.parametrize("name", ["merge_branches", "fold_linear"])
def test_a_border_filled_with_the_bias(name: str) -> None:
    """The branch of a diverse-branch block that normalizes between its 1×1 and its 3×3."""
    folds(border_fill(), name, ops={"Conv": 1})


def without_first(model: onnx.ModelProto, *names: str) -> None:
    """Cut the first of what ScatterND writes off indices and updates."""
    for tensor in model.graph.initializer:
        if tensor.name in names:
            kept = onnx.numpy_helper.to_array(tensor)[1:]
            tensor.CopyFrom(onnx.numpy_helper.from_array(kept, tensor.name))


def test_a_border_filled_with_something_else() -> None:
    assert "is not what the convolution makes of zeros" in reason(border_fill(border=1.0))


def test_a_border_of_which_a_corner_is_missing() -> None:
    model = border_fill()
    without_first(model, "rows", "high", "columns", "wide")
    assert "is not the same constant all around" in reason(model)


def test_a_filled_border_around_something_else() -> None:
    model = border_fill()
    model.graph.node[0].CopyFrom(onnx.helper.make_node("Relu", ["x"], ["a"]))
    assert "it fills is not that of a convolution" in reason(model)


def reason(model: onnx.ModelProto) -> str:
    """Why the border of the fourth node is left alone; nothing is merged then."""
    loaded = load(model).model
    infer_shapes(loaded)
    stamp_opset_versions(loaded)
    found = reading_of(loaded.graph[3].outputs[0])
    assert isinstance(found, Reject)
    if model.graph.node[0].op_type == "Conv":
        unchanged(model, "merge_branches")
    return found.reason


@pytest.mark.parametrize(("body", "reason"), [
    (
        "p = Pad(x, pads, one) y = Conv(p, w)",
        "it pads with something else than zeros, or more than the image",
    ),
    (
        "s = Slice(x, first, last, axes) y = Conv(s, w)",
        "it slices channels and places at once",
    ),
    (
        "s = Slice(x, back, last, high) y = Conv(s, v)",
        "where it begins depends on extents that are not known",
    ),
])  # fmt: skip
def test_refusals(body: str, reason: str) -> None:
    model = parse(
        f"g (float[N,4,H,W] x) => (float[] y) {{ {body} }}",
        {
            "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64),
            "one": np.ones((), np.float32),
            "w": integers("w", 4, 2 if "axes" in body else 4, 1, 1),
            "v": integers("v", 4, 4, 1, 1),
            "first": np.array([0, 1], np.int64),
            "last": np.array([2, 9] if "axes" in body else [2**62], np.int64),
            "axes": np.array([1, 2], np.int64),
            "back": np.array([-3], np.int64),
            "high": np.array([2], np.int64),
        },
    )
    unchanged(model, "fold_linear", reason=reason)


@pytest.mark.parametrize(
    "name", ["repvgg_a0.script", "fastvit_mci0.script", "repghostnet_050.script"]
)
def test_it_subsumes_the_others(name: str) -> None:
    """Alone it leaves no more convolutions, normalizations and additions than all others."""
    counted = ("Conv", "ConvTranspose", "BatchNormalization", "Add", "Slice", "Concat")
    model = zoo.load(name)
    others = [step.name for step in presets.DEFAULT if step is not fold_linear.PASS]
    alone = [each for each in others if each not in ("merge_branches", "fold_data")]
    first, _ = rewritten(model, others)
    second, _ = rewritten(model, [*alone, "fold_linear"])
    ops = [[node.op_type for node in each.graph.node] for each in (first, second)]
    assert sum(ops[1].count(op) for op in counted) <= sum(ops[0].count(op) for op in counted)


def test_a_bottleneck_is_left_alone() -> None:
    model = parse(
        "g (float[N,64,32,32] x) => (float[] y) { a = Conv(x, wa) b = Conv<pads=[1,1,1,1]>(a, wb)"
        " y = Conv(b, wc) }",
        {
            "wa": integers("wa", 8, 64, 1, 1),
            "wb": integers("wb", 8, 8, 3, 3),
            "wc": integers("wc", 64, 8, 1, 1),
        },
    )
    after, ledger = rewritten(model, ["fold_linear"])
    assert len(after.graph.node) == 3
    assert not ledger.applied
    feed = {"x": integers("x", 1, 64, 32, 32)}
    np.testing.assert_array_equal(run_ort(after, feed)[0], run_ort(model, feed)[0])
