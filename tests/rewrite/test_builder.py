"""Rounding of new constants: what is kept, and what is refused."""

import numpy as np
import onnx_ir as ir
import pytest

from onnxfold.rewrite.builder import Builder, Refused
from onnxfold.rewrite.tensor_store import MemoryStore

HALF = ir.DataType.FLOAT16


def builder() -> Builder:
    return Builder(18, MemoryStore())


def held(value: ir.Value) -> np.ndarray:
    assert value.const_value is not None
    return value.const_value.numpy()


def test_a_small_number_beside_a_large_one_may_be_subnormal() -> None:
    value = builder().constant(np.array([1.0, 1e-6, 1e-12]), HALF)
    np.testing.assert_array_equal(held(value), np.array([1.0, 1e-6, 0.0], np.float16))


def test_alone_it_is_refused() -> None:
    with pytest.raises(Refused, match="below the normal range of float16"):
        builder().constant(np.array([1e-6, 0.0]), HALF)


def test_every_channel_is_judged_for_itself() -> None:
    numbers = np.array([[1.0, 1e-6], [1e-6, 2e-6]])
    with pytest.raises(Refused, match="below the normal range"):
        builder().constant(numbers, HALF, beside=np.abs(numbers).max(axis=1, keepdims=True))
    builder().constant(numbers, HALF)


def test_zeros_are_no_underflow() -> None:
    builder().constant(np.zeros((3, 2)), HALF, beside=np.zeros((3, 1)))


@pytest.mark.parametrize(("number", "reason"), [(7e4, "does not fit into float16"),
                                                (np.inf, "infinite or not a number"),
                                                (np.nan, "infinite or not a number")])  # fmt: skip
def test_too_large(number: float, reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        builder().constant(np.array([1.0, number]), HALF)


def test_a_discarded_recording_reads_nothing() -> None:
    build, x = builder(), ir.Value(name="x")
    build.op("Relu", [x])
    assert len(x.uses()) == 1
    build.discard()
    assert not x.uses()
    assert not build.nodes
