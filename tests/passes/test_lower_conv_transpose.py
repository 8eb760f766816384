"""lower_conv_transpose: convolutions for the phases of a ConvTranspose, equal to the bit."""

import ast
import re
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxfold.model import load, to_proto
from onnxfold.passes.presets import BUILTIN
from onnxfold.pipeline.manager import PassManager, PipelineRun
from onnxfold.pipeline.registry import Registry
from tests.toolkit import (
    Array,
    all_nodes,
    assert_equal,
    check_invariants,
    folds,
    integers,
    parse,
    run_ort,
    unchanged,
)

NAME = "lower_conv_transpose"


KINDS = {"float": np.float32, "float16": np.float16, "double": np.float64}


def transposed(
    attributes: str,
    shape: tuple[int, ...] = (4, 6, 2, 2),
    *,
    group: int = 1,
    then: str = "",
    extents: str = "H,W",
    kind: str = "float",
) -> onnx.ModelProto:
    dtype = KINDS[kind]
    weights: dict[str, Array] = {
        "w": integers("w", *shape).astype(dtype),
        "b": integers("b", shape[1] * group).astype(dtype),
        "zero": np.zeros((), dtype),
    }
    body = f"{'c' if then else 'y'} = ConvTranspose<group={group}, {attributes}>(x, w, b) {then}"
    return parse(f"g ({kind}[N,{shape[0]},{extents}] x) => ({kind}[] y) {{ {body} }}", weights)


def overlapping(model: onnx.ModelProto) -> tuple[onnx.ModelProto, PipelineRun]:
    outcome = PassManager(Registry(BUILTIN).parse(f"{NAME}:overlapping=true")).run(
        load(model).model
    )
    assert not outcome.ledger.failures
    return to_proto(outcome.model), outcome


@pytest.mark.parametrize("kind", KINDS)
def test_a_kernel_as_large_as_the_stride_is_one_convolution(kind: str) -> None:
    model = transposed("strides=[2,2]", kind=kind)
    runtime = kind == "float"  # ONNX Runtime has no other kernels
    folds(model, NAME, ops={"Conv": 1, "DepthToSpace": 1}, runtime=runtime)


@pytest.mark.parametrize("attributes", [
    'strides=[2,2], auto_pad="SAME_UPPER"',
    'strides=[2,2], auto_pad="SAME_LOWER"',
    'strides=[2,2], auto_pad="VALID"',
    "strides=[2,2], pads=[0,0,0,0], kernel_shape=[2,2], dilations=[1,1]",
])  # fmt: skip
def test_padding_that_comes_to_nothing(attributes: str) -> None:
    model = transposed(attributes)
    folds(model, NAME, ops={"Conv": 1, "DepthToSpace": 1}, reference=False)


def test_a_stride_of_one_needs_no_depth_to_space() -> None:
    folds(transposed("strides=[1,1]", (4, 6, 1, 1)), NAME, ops={"Conv": 1})


def test_without_a_bias() -> None:
    model = parse(
        "g (float[N,4,H,W] x) => (float[] y) { y = ConvTranspose<strides=[3,3]>(x, w) }",
        {"w": integers("w", 4, 5, 3, 3)},
    )
    folds(model, NAME, ops={"Conv": 1, "DepthToSpace": 1})


@pytest.mark.parametrize(("then", "name"), [
    ("y = Relu(c)", "Relu"),
    ("y = Clip(c, zero)", "Clip"),
    ("y = LeakyRelu<alpha=0.5>(c)", "LeakyRelu"),
])  # fmt: skip
def test_an_activation_stays_behind_the_convolution(then: str, name: str) -> None:
    result = folds(
        transposed("strides=[2,2]", then=then), NAME, ops={"Conv": 1, name: 1, "DepthToSpace": 1}
    )
    assert [node.op_type for node in result.after.graph.node] == ["Conv", name, "DepthToSpace"]


@pytest.mark.parametrize("then", ["y = Add(c, c)", "r = Relu(c) y = Add(r, c)", "y = Clip(c, m)"])
def test_other_readers_read_the_result(then: str) -> None:
    model = transposed("strides=[2,2]", then=("m = ReduceMax<keepdims=0>(x) " + then))
    after, _ = overlapping(model)
    assert [node.op_type for node in after.graph.node].count("DepthToSpace") == 1
    assert_equal(model, after)


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_every_kernel_stride_and_padding(stride: int, group: int) -> None:
    lowered = 0
    for kernel, begin, end, extra in product((1, 2, 3, 4, 5), (0, 1, 2), (0, 1, 2), (0, 1)):
        if kernel < stride or extra >= stride:
            continue
        model = transposed(
            f"strides=[{stride},{stride}], pads=[{begin},{begin},{end},{end}],"
            f" output_padding=[{extra},{extra}]",
            (4, 6 // group, kernel, min(kernel + 1, 4)),
            group=group,
        )
        after, outcome = overlapping(model)
        if not outcome.ledger.applied:
            assert [each.reason for each in outcome.ledger.rejections] == [MULTIPLE]
            continue
        check_invariants(model, after)
        assert_equal(model, after, reference=False)
        lowered += 1
    assert lowered > 5


MULTIPLE = "its output is no multiple of its stride"


def test_each_phase_is_a_convolution_of_its_own() -> None:
    model = transposed("strides=[2,2], pads=[1,1,1,1]", (4, 6, 4, 4), then="y = Relu(c)")
    after, outcome = overlapping(model)
    ops = [node.op_type for node in all_nodes(after.graph)]
    assert ops == ["Conv", "Relu"] * 4 + ["Concat", "DepthToSpace"]
    taps = sum(np.prod(each.dims) for each in after.graph.initializer if len(each.dims) == 4)
    assert taps == 4 * 6 * 4 * 4  # as many multiply-adds as before
    assert len(outcome.ledger.applied) == 1
    again, second = overlapping(after)
    assert not second.ledger.applied
    assert again.SerializeToString() == after.SerializeToString()


def test_a_weight_that_two_layers_share() -> None:
    model = parse(
        "g (float[N,4,H,W] x, float[N,4,H,W] z) => (float[] y) { a = ConvTranspose<strides=[2,2]>"
        "(x, w) b = ConvTranspose<strides=[2,2]>(z, w) y = Add(a, b) }",
        {"w": integers("w", 4, 5, 2, 2)},
    )
    folds(model, NAME, ops={"Conv": 2, "DepthToSpace": 2, "Add": 1})


REFUSALS = {
    "DepthToSpace has two spatial axes": transposed("strides=[2]", (4, 6, 2), extents="W"),
    "its strides differ or are above 4": transposed("strides=[2,1]"),
    "its kernel is dilated": transposed("strides=[2,2], dilations=[2,2]"),
    "its kernel leaves gaps": transposed("strides=[3,3]"),
    "its kernel overlaps itself": transposed("strides=[2,2]", (4, 6, 3, 3)),
    "its padding is chosen automatically": transposed("strides=[2,2], output_shape=[8,8]"),
    "its weight or bias is computed at run time": parse(
        "g (float[N,4,H,W] x, float[4,5,2,2] w) => (float[] y)"
        " { y = ConvTranspose<strides=[2,2]>(x, w) }"
    ),
    MULTIPLE: transposed("strides=[2,2], pads=[1,1,0,0]"),
}


@pytest.mark.parametrize("reason", REFUSALS)
def test_near_misses(reason: str) -> None:
    unchanged(REFUSALS[reason], NAME, reason=reason)


def test_more_near_misses() -> None:
    five = transposed("strides=[5,5]", (2, 3, 5, 5))
    unchanged(five, NAME, reason="its strides differ or are above 4")
    bias = parse(
        "g (float[N,4,H,W] x, float[5] b) => (float[] y)"
        " { y = ConvTranspose<strides=[2,2]>(x, w, b) }",
        {"w": integers("w", 4, 5, 2, 2)},
    )
    unchanged(bias, NAME, reason="its weight or bias is computed at run time")
    same = transposed('strides=[2,2], auto_pad="SAME_UPPER"', (4, 6, 3, 3))
    after, outcome = overlapping(same)
    assert [each.reason for each in outcome.ledger.rejections] == [
        "its padding is chosen automatically"
    ]
    feed = {"x": integers("x", 1, 4, 3, 3)}
    np.testing.assert_array_equal(run_ort(after, feed)[0], run_ort(same, feed)[0])


def test_a_refusal_behind_an_activation_names_the_operator() -> None:
    model = transposed("strides=[3,3]", then="y = Relu(c)")
    result = unchanged(model, NAME, reason="its kernel leaves gaps")
    assert [each.node for each in result.ledger.rejections] == ["Relu of 'y'"]


def test_every_reason_is_provoked() -> None:
    source = Path(__file__).parents[2] / "passes" / f"{NAME}.py"
    tree = ast.parse(source.read_text(encoding="utf-8"))
    given = {
        re.sub(r"\{.*\}", "4", ast.unparse(node.value).removeprefix("f").strip("'\""))
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef) and function.name == "_refusal"
        for node in ast.walk(function)
        if isinstance(node, ast.Return) and isinstance(node.value, ast.Constant | ast.JoinedStr)
        and not (isinstance(node.value, ast.Constant) and node.value.value is None)
    }  # fmt: skip
    assert given | {MULTIPLE} == set(REFUSALS)
