"""What stays in float32, and the reason that is given."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from onnxfold.errors import BadOptionError
from onnxfold.precision import Float16Options
from tests.precision.halves import convert
from tests.toolkit import parse

F = np.float32
IMAGE = "float[1,4,64,64] x"
WEIGHT = {"w": np.ones((4, 4, 1, 1), F)}


REFUSALS: list[tuple[str, str, dict[str, Any]]] = [
    # Sums
    ("Reduce", "the sum of 4096 numbers may reach 2.62e+05", {"body": "y = ReduceMean(c, axes)"}),
    ("Reduce", "the sum of 4096 numbers", {"body": "y = ReduceSum(c, axes)"}),
    ("Reduce", "the sum of 16384 numbers", {"body": "y = ReduceL1(c)"}),
    ("Reduce", "the sum of 4096 squares", {"body": "y = ReduceL2(c, axes)"}),
    ("Reduce", "the sum of 4096 squares", {"body": "y = ReduceSumSquare(c, axes)"}),
    ("Reduce", "no rule says", {"body": "y = ReduceProd(c, axes)"}),
    ("Reduce", "no rule says", {"body": "y = ReduceLogSumExp(c, axes)"}),
    ("Reduce", "the sum of 4096 numbers",
     {"body": "y = ReduceSum<axes=[2, 3]>(c)", "opset": 11}),
    ("Global", "the sum of 4096 numbers", {"body": "y = GlobalAveragePool(c)"}),
    ("Global", "the sum of 4096 squares", {"body": "y = GlobalLpPool(c)"}),
    ("Average", "the sum of 4096 numbers",
     {"body": "y = AveragePool<kernel_shape=[64, 64]>(c)"}),
    ("CumSum", "the sum of 64 numbers may reach 1.31e+05",
     {"body": "d = Mul(c, big) y = CumSum(d, three)", "weights": {"big": F(32), "three": 3}}),
    ("Reduce", "depends on a dynamic extent",
     {"body": "y = ReduceMean(c, axes)", "inputs": "float[1,4,H,W] x"}),
    ("Softmax", "depends on a dynamic extent",
     {"body": "y = Softmax(c)", "inputs": "float[1,4,H,W] x"}),
    # Normalizations
    ("Instance", "the sum of 4096 squares", {"body": "y = InstanceNormalization(c, v, v)"}),
    ("Group", "the sum of 16384 squares",
     {"body": "y = GroupNormalization<num_groups=2, stash_type=16>(c, v, v)", "opset": 21,
      "outputs": "float[1,4,64,64] y"}),
    ("Layer", "the sum of 64 squares",
     {"body": "y = LayerNormalization<stash_type=16>(c, row, row)",
      "weights": {"row": np.ones(64, F)}}),
    ("LpNorm", "the sum of 64 squares", {"body": "y = LpNormalization(c)"}),
    ("BatchNorm", "its variance may be too small",
     {"body": "y = BatchNormalization(c, v, v, v, tiny)",
      "weights": {"tiny": np.array([1, 1, 1, 1e-6], F)}}),
    # Small numbers
    ("Softmax", "over 16384 elements are too small",
     {"body": "r = Reshape(c, flat) y = Softmax(r)", "weights": {"flat": np.array([1, -1])}}),
    ("Softmax", "over 16384 elements",
     {"body": "y = Softmax(c)", "opset": 12}),  # the axes behind the first are one
    ("Div", "its divisor may be too small", {"body": "y = Div(c, c)"}),
    ("Div", "loses digits of a small constant",
     {"body": "y = Div(c, d)", "weights": {"d": np.array([1, 1e-7], F).reshape(2, 1, 1, 1)}}),
    ("Reciprocal", "its divisor", {"body": "y = Reciprocal(c)"}),
    ("Log", "its operand may be too small", {"body": "y = Log(c)"}),
    ("Sqrt", "its operand may be too small", {"body": "y = Sqrt(c)"}),
    ("Add", "loses digits of a small constant",
     {"body": "y = Add(c, e)", "weights": {"e": F(1e-6)}}),
    ("Conv", "loses digits of a small constant",
     {"body": "y = Conv(c, t)", "weights": {"t": np.full((4, 4, 1, 1), 1e-8, F)}}),
    # Large numbers
    ("Exp", "how large its operand becomes was not measured", {"body": "y = Exp(c)"}),
    ("Exp", "its operand reaches 12", {"body": "y = Exp(c)", "ranges": {"c": (-12.0, 3.0)}}),
    ("Softplus", "was not measured", {"body": "y = Softplus(c)"}),
    ("Sin", "its operand reaches 100", {"body": "y = Sin(c)", "ranges": {"c": (0.0, 100.0)}}),
    ("Pow", "how large its result becomes", {"body": "y = Pow(c, p)", "weights": {"p": F(2)}}),
    ("Pow", "its exponent is not known", {"body": "y = Pow(c, c)"}),
    ("Add", "a constant as large as 1e+09", {"body": "y = Add(c, m)", "weights": {"m": F(-1e9)}}),
    ("Pad", "a constant as large as 3.4e+38",
     {"body": "y = Pad(c, pads, m)",
      "weights": {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "m": np.finfo(F).min}}),
    ("MaxPool", "it reads values that may be as large as 1e+09",
     {"body": "a = Where(b, c, m) y = MaxPool<kernel_shape=[2, 2]>(a)",
      "weights": {"b": np.array(True), "m": F(-1e9)}}),
    ("Mul", "it computes values that may be as large as 2.62e+05",
     {"body": "d = Mul(c, c) y = Mul(d, c)"}),
    ("Conv", "it reads values that are as large as 3e+04",
     {"body": "y = Conv(c, w)", "ranges": {"c": (-3e4, 10.0)}}),
    ("Conv", "it computes values that are as large as 3e+04",
     {"body": "y = Conv(c, w)", "ranges": {"y": (-3e4, 10.0)}}),
    # Places
    ("Mul", "indices or coordinates are computed from it",
     {"body": "d = Mul(c, c) i = Cast<to=7>(d) y = Cast<to=1>(i)"}),
    ("Cast", "does not hold the integers above 2048",
     {"body": "i = ArgMax(c) f = Cast<to=1>(i) y = Add(f, c)"}),
    ("GridSample", "no rule says",
     {"body": "t = Transpose<perm=[0,2,3,1]>(c) g = Slice(t, zero, two, three)"
      " y = GridSample(c, g)", "opset": 17,
      "weights": {"zero": np.array([0]), "two": np.array([2]), "three": np.array([3])}}),
    # What it is
    ("Celu", "no rule says", {"body": "y = Celu(c)"}),
    ("CumSum", "operator set 13 has no float16 form",
     {"body": "y = CumSum(c, three)", "weights": {"three": np.array(3)}, "opset": 13}),
    ("Custom", "operators of the domain test.custom",
     {"body": "y = test.custom.Custom(c)", "outputs": "float[1,4,64,64] y", "valid": False}),
    ("Det", "no rule says", {"body": "y = Det(c)"}),
    ("Relu", "asked to stay", {"body": "y = Relu(c)", "options": {"keep": ("Relu",)}}),
    ("Relu", "asked to stay", {"body": "y = Relu(c)", "options": {"keep": ("y",)}}),
    ("Relu", "asked to stay", {"body": "y = Relu(c)", "options": {"keep": ("[xy]", "R?l*")}}),
]  # fmt: skip


@pytest.mark.parametrize(("op_type", "reason", "case"), REFUSALS)
def test_a_node_that_stays(op_type: str, reason: str, case: dict[str, Any]) -> None:
    known = {**WEIGHT, "axes": np.array([2, 3]), "v": np.ones(4, F), **case.get("weights", {})}
    body = "c = Conv(x, w) " + case["body"]
    used = {name: np.asarray(known[name]) for name in known if name in re.findall(r"\w+", body)}
    text = f"g ({case.get('inputs', IMAGE)}) => ({case.get('outputs', 'float[] y')}) {{ {body} }}"
    made = parse(text, used, opset=case.get("opset", 18))
    options = case.get("options", {})
    found = convert(made, case.get("ranges"), **options).reasons
    near = {node: why for node, why in found.items() if node.startswith(op_type)}
    assert any(reason in why for why in near.values()), found


@pytest.mark.parametrize("limit", [0.0, -1.0, 7e4, float("nan")])
def test_a_limit_that_float16_does_not_have(limit: float) -> None:
    with pytest.raises(BadOptionError, match="max_activation cannot be"):
        Float16Options(max_activation=limit)


def test_a_name_that_nothing_has() -> None:
    made = parse(f"g ({IMAGE}) => (float[] y) {{ y = Conv(x, w) }}", WEIGHT)
    with pytest.raises(BadOptionError, match="nothing in the model is called 'nothing'"):
        convert(made, keep=("nothing",))
