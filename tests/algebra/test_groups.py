import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxfold.algebra import operators
from onnxfold.algebra.convmap import ConvMap, is_zero
from onnxfold.algebra.dilation import undilated
from onnxfold.algebra.groups import finest_groups, with_finest_groups, with_groups
from onnxfold.algebra.refusal import AlgebraError
from tests.algebra import oracle, strategies


@settings(max_examples=120, deadline=None)
@given(strategies.maps(), st.data())
def test_coarser_groups_and_back(conv_map: ConvMap, data: st.DataObject) -> None:
    divisors = [g for g in range(1, conv_map.groups + 1) if conv_map.groups % g == 0]
    coarse = with_groups(conv_map, data.draw(st.sampled_from(divisors)))
    np.testing.assert_array_equal(oracle.dense(coarse), oracle.dense(conv_map))
    back = with_groups(coarse, conv_map.groups)
    np.testing.assert_array_equal(back.kernel, conv_map.kernel)


@settings(max_examples=150, deadline=None)
@given(strategies.maps())
def test_finest_groups_are_the_finest_that_hold_every_tap(conv_map: ConvMap) -> None:
    dense = oracle.dense(conv_map)
    used = dense.reshape(*dense.shape[:2], -1).any(axis=2)
    common = math.gcd(*dense.shape[:2])

    def fits(groups: int) -> bool:
        rows, columns = dense.shape[0] // groups, dense.shape[1] // groups
        return all(o // rows == i // columns for o, i in np.argwhere(used))

    expected = max(g for g in range(1, common + 1) if common % g == 0 and fits(g))
    assert finest_groups(conv_map) == expected
    np.testing.assert_array_equal(oracle.dense(with_finest_groups(conv_map)), dense)


def test_groups_that_lose_a_tap_are_an_error() -> None:
    dense = operators.conv(np.ones((4, 4, 1)))
    with pytest.raises(AlgebraError, match="taps outside 2 groups"):
        with_groups(dense, 2)
    for groups in (0, 3, 8):
        with pytest.raises(AlgebraError, match=r"in \d groups"):
            with_groups(dense, groups)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 3), strategies.rngs(), st.data())
def test_dilation_is_read_back(rank: int, rng: np.random.Generator, data: st.DataObject) -> None:
    taps = data.draw(st.tuples(*[st.integers(1, 4)] * rank))
    dilation = data.draw(st.tuples(*[st.integers(1, 4)] * rank))
    weight = rng.integers(1, 5, (2, 1, *taps)).astype(np.float64)
    kernel, found = undilated(operators.conv(weight, dilations=dilation))
    np.testing.assert_array_equal(kernel, weight)
    assert found == tuple(d if n > 1 else 1 for d, n in zip(dilation, taps, strict=True))


@settings(max_examples=100, deadline=None)
@given(strategies.maps())
def test_dilating_again_gives_the_same_outputs(conv_map: ConvMap) -> None:
    kernel, dilation = undilated(conv_map)
    trimmed_taps = [d * (n - 1) + 1 for d, n in zip(dilation, kernel.shape[2:], strict=True)]
    nonzero = np.count_nonzero(operators.dilated(kernel, dilation))
    assert nonzero == np.count_nonzero(conv_map.kernel)
    assert is_zero(conv_map) or all(
        n <= m for n, m in zip(trimmed_taps, conv_map.taps, strict=True)
    )
