"""Footprints and extents that readings promise are those of the numbers behind them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from hypothesis import HealthCheck, given, settings

from onnxfold.algebra.convmap import ConvMap
from onnxfold.algebra.cost import footprint
from onnxfold.ir.graph import stamp_opset_versions
from onnxfold.ir.shapes import dim, infer_shapes
from onnxfold.linear.reading import Reading, reading_of
from onnxfold.model import load
from onnxfold.rewrite.rule import Reject
from tests.linear.random_regions import Example, regions
from tests.toolkit import integers, parse


def graph(model: object) -> ir.Graph:
    loaded = load(model).model  # type: ignore[arg-type]
    infer_shapes(loaded)
    stamp_opset_versions(loaded)
    return loaded.graph


def last(body: str, **weights: np.ndarray) -> Reading | Reject | None:
    return reading_of(list(graph(parse(f"g {body}", weights)))[-1].outputs[0])


@given(regions())
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example],
)
def test_what_is_promised_is_what_there_is(example: Example) -> None:
    for output in (output for node in graph(example.model) for output in node.outputs):
        reading = reading_of(output)
        if not isinstance(reading, Reading):
            continue
        for value, expression in reading.operands:
            numbers, promised = expression.value, expression.footprint
            assert isinstance(numbers, ConvMap)
            found = footprint(numbers)
            assert (found.out_channels, found.in_channels) == (
                promised.out_channels,
                promised.in_channels,
            )
            assert (found.up, found.stride, found.groups) == (
                promised.up,
                promised.stride,
                promised.groups,
            )
            if numbers.kernel.any():
                assert all(
                    set(f) <= set(p) for f, p in zip(found.offsets, promised.offsets, strict=True)
                )
            assert expression.shifts or not numbers.has_bias
            if expression.sign:
                assert numbers.is_pointwise
                assert (numbers.kernel == expression.sign).all()
            for axis, rule in enumerate(expression.rules):
                n_in, n_out = dim(value, axis + 2), dim(reading.output, axis + 2)
                assert n_in is None or n_out is None or rule(n_in) == n_out


def test_what_a_node_reads() -> None:
    w = integers("w", 4, 2, 3, 3)
    conv = last("(float[1,4,8,8] x) => (float[] y) { y = Conv<group=2>(x, w) }", w=w)
    assert isinstance(conv, Reading)
    assert not conv.operands[0][1].is_pointwise
    difference = last("(float[1,4,8,8] x, float[1,4,8,8] z) => (float[] y) { y = Sub(x, z) }")
    assert isinstance(difference, Reading)
    assert [each.sign for _, each in difference.operands] == [1, -1]
    assert difference.is_in_place


def test_a_pad_at_one_end_makes_it_no_pointwise_map() -> None:
    padded = last(
        "(float[1,4,8,8] x) => (float[] y) { y = Conv<group=4, pads=[0,0,1,1]>(x, w) }",
        w=integers("w", 4, 1, 1, 1),
    )
    assert isinstance(padded, Reading)
    assert not padded.operands[0][1].is_pointwise
    assert not padded.operands[0][1].is_channelwise


def test_dynamic_operands_may_be_broadcast_unless_their_symbols_agree() -> None:
    same = last("(float[N,4,H,W] x, float[N,4,H,W] z) => (float[N,4,H,W] y) { y = Add(x, z) }")
    other = last("(float[N,4,H,W] x, float[N,4,A,B] z) => (float[N,4,H,W] y) { y = Add(x, z) }")
    assert isinstance(same, Reading)
    assert same.is_in_place
    assert isinstance(other, Reading)
    assert not other.is_in_place


def test_what_is_refused() -> None:
    w = integers("w", 4, 4, 3, 3)
    cases = {
        "pads depend on extents": last(
            "(float[1,4,H,W] x) => (float[] y) "
            '{ y = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, w) }',
            w=w,
        ),
        "not a floating-point constant": last(
            "(float[1,4,8,8] x, float[4,4,3,3] v) => (float[] y) { y = Conv(x, v) }"
        ),
        "cut short": last(
            "(float[1,4,7,7] x) => (float[] y) { y = AveragePool<kernel_shape=[2,2], "
            "strides=[2,2], ceil_mode=1>(x) }"
        ),
        "not per channel": last(
            "(float[1,4,7,7] x) => (float[] y) { y = Mul(x, w) }", w=integers("v", 7)
        ),
        "may broadcast": last(
            "(float[1,4,7,7] x, float[1,4,1,1] z) => (float[] y) { y = Add(x, z) }"
        ),
    }
    for reason, found in cases.items():
        assert isinstance(found, Reject), reason
        assert reason in found.reason


def test_operators_before_numpy_broadcasting_are_left_alone() -> None:
    model = parse("g (float[1,4,7,7] x, float[1,4,7,7] z) => (float[] y) { y = Add(x, z) }")
    nodes = graph(model)
    node = nodes[0]
    assert isinstance(reading_of(node.outputs[0]), Reading)
    node.version = 6
    assert reading_of(node.outputs[0]) is None
