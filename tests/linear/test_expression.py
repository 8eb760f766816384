"""Expressions: multiplied out late, exact or with a reason that says where."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxfold.algebra.convmap import ConvMap
from onnxfold.algebra.cost import footprint
from onnxfold.algebra.extents import ExtentRule, conv_extent
from onnxfold.algebra.operators import channel_affine, conv
from onnxfold.algebra.refusal import Refusal
from onnxfold.linear.expression import Expression, Obstacle, composed, summed

IMAGE = ir.Shape([1, 2, 8])


def value(name: str, extent: int | None = 8) -> ir.Value:
    return ir.Value(name=name, shape=ir.Shape([1, 2, extent]))


def expression(numbers: ConvMap, rule: ExtentRule, sign: int = 0) -> Expression:
    return Expression(footprint(numbers), (rule,), lambda: numbers, numbers.has_bias, sign)


def kernel(pad: int = 1, stride: int = 1) -> Expression:
    numbers = conv(np.ones((2, 2, 3)), np.ones(2), pads_begin=[pad], strides=[stride])
    return expression(numbers, conv_extent(3, stride, pad, pad))


def affine(shift: float) -> Expression:
    return expression(channel_affine(np.full(2, 2.0), np.full(2, shift), 1), ExtentRule())


IDENTITY = expression(channel_affine(np.ones(2), np.zeros(2), 1), ExtentRule(), sign=1)


def test_identities_cost_nothing() -> None:
    outer, x, m, y = kernel(), value("x"), value("m"), value("y")
    assert composed(outer, IDENTITY, x, m, y) is outer
    assert composed(IDENTITY, outer, x, m, y) is outer


def test_a_constant_in_front_of_a_padded_kernel_is_an_obstacle_at_the_value_between() -> None:
    middle = value("m")
    joined = composed(kernel(), affine(1.0), value("x"), middle, value("y"))
    assert isinstance(joined, Expression)
    assert isinstance(joined.value, Obstacle)
    assert joined.value.at is middle
    whole = summed([joined, kernel()], value("x"), value("y"))
    assert isinstance(whole, Expression)
    assert whole.value is joined.value


def test_a_scale_in_front_of_a_padded_kernel_is_exact() -> None:
    joined = composed(kernel(), affine(0.0), value("x"), value("m"), value("y"))
    assert isinstance(joined, Expression)
    assert isinstance(joined.value, ConvMap)
    assert (joined.value.kernel == 2).all()


def test_the_constant_can_be_left_out() -> None:
    numbers = kernel().without_constant().value
    assert isinstance(numbers, ConvMap)
    assert not numbers.has_bias
    assert not kernel().without_constant().shifts


def test_numbers_are_multiplied_out_once() -> None:
    calls: list[int] = []
    numbers = channel_affine(np.ones(2), np.zeros(2), 1)

    def count() -> ConvMap:
        calls.append(1)
        return numbers

    counted = Expression(footprint(numbers), (ExtentRule(),), count, shifts=False)
    assert counted.value is counted.value
    assert calls == [1]


def test_sums_need_the_same_rates_and_extents() -> None:
    x, y = value("x", None), value("y", None)
    assert isinstance(summed([kernel(), kernel(stride=2)], x, y), Refusal)
    assert isinstance(summed([kernel(), kernel(pad=0)], x, y), Refusal)
    assert isinstance(summed([kernel(), kernel()], x, y), Expression)


def test_known_extents_allow_rules_that_differ_elsewhere() -> None:
    odd = expression(conv(np.ones((2, 2, 1)), strides=[2]), ExtentRule(1, 1, 2))
    even = expression(conv(np.ones((2, 2, 1)), strides=[2]), ExtentRule(1, 0, 2))
    assert isinstance(summed([odd, even], value("x", 8), value("y", 4)), Expression)
    assert isinstance(summed([odd, even], value("x", None), value("y", None)), Refusal)
