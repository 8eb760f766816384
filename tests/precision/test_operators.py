"""Every operator that may become float16 runs as such, and every refusal has its reason."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxfold.precision import operators
from onnxfold.precision.schemas import op_types
from tests.precision.halves import FLOAT16, convert, sqnr
from tests.toolkit import parse, run_ort

X = np.abs(np.random.default_rng(0).normal(size=(2, 8, 4, 4))).astype(np.float32) + np.float32(0.1)

WEIGHTS = {
    "w": np.random.default_rng(1).normal(size=(8, 8, 1, 1)).astype(np.float32),
    "v": np.random.default_rng(2).uniform(0.5, 1.5, 8).astype(np.float32),
    "l": np.ones(4, np.float32),
    "half": np.array(0.5, np.float32),
    "two": np.array(2.0, np.float32),
    "scales": np.array([1, 1, 2, 2], np.float32),
    "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    "zero": np.array(0),
    "one": np.array([1]),
    "ones": np.array([1, 1, 1, 1]),
    "shape": np.array([2, 8, 4, 4]),
    "flat": np.array([2, -1]),
    "places": np.array([[0], [1]]),
    "updates": np.ones((2, 8, 4, 4), np.float32),
    "indices": np.zeros((2, 8, 4, 4), np.int64),
    "some": np.array([True, False]),
    "lengths": np.array([2] * 8),
    "on_off": np.array([0, 1], np.float32),
    "step": np.array(0.02, np.float32),
    "zero_point": np.array(0, np.int8),
}

ONE_OPERAND = op_types(
    "Abs Neg Relu LeakyRelu Elu Selu Sigmoid HardSigmoid HardSwish Tanh Erf ThresholdedRelu Shrink "
    "Softsign Floor Ceil Round Sign Identity Hardmax GlobalMaxPool GlobalAveragePool Trilu Flatten "
    "ArgMax ArgMin ReduceMax ReduceMin ReduceSum ReduceMean ReduceL1 Softmax LogSoftmax NonZero "
    "IsNaN Squeeze Dropout Gelu Transpose InstanceNormalization LpNormalization GlobalLpPool "
    "ReduceL2 ReduceSumSquare Exp Log Sqrt Reciprocal Sin Cos Softplus Mish IsInf"
)
TWO_OPERANDS = op_types(
    "Add Sub Mul Min Max Mean Sum PRelu MatMul Greater Less Equal GreaterOrEqual LessOrEqual Div"
)
BODIES = {
    **{name: f"y = {name}(x)" for name in ONE_OPERAND},
    **{name: f"y = {name}(x, x)" for name in TWO_OPERANDS},
    "InstanceNormalization": "y = InstanceNormalization(x, v, v)",
    "Pow": "y = Pow(x, two)",
    "Conv": "y = Conv(x, w, v)",
    "ConvTranspose": "y = ConvTranspose(x, w)",
    "Gemm": "m = Flatten(x) y = Gemm<transB=1>(m, m)",
    "Einsum": 'y = Einsum<equation="abcd,abcd->abc">(x, x)',
    "Clip": "y = Clip(x, half, two)",
    "Resize": 'y = Resize<mode="linear">(x, , scales)',
    "Pad": "y = Pad(x, pads, half)",
    "Where": "g = Greater(x, half) y = Where(g, x, half)",
    "Concat": "y = Concat<axis=1>(x, x)",
    "Split": "y, z = Split<axis=1, num_outputs=2>(x)",
    "Slice": "y = Slice(x, zeros, one, one)",
    "Gather": "y = Gather<axis=1>(x, one)",
    "GatherND": "y = GatherND(x, places)",
    "GatherElements": "y = GatherElements(x, indices)",
    "ScatterND": "y = ScatterND(x, places, updates)",
    "ScatterElements": "y = ScatterElements(x, indices, updates)",
    "Expand": "y = Expand(x, shape)",
    "Tile": "y = Tile(x, ones)",
    "Reshape": "y = Reshape(x, flat)",
    "Unsqueeze": "y = Unsqueeze(x, one)",
    "Compress": "y = Compress<axis=0>(x, some)",
    "ReverseSequence": "y = ReverseSequence(x, lengths)",
    "DepthToSpace": "y = DepthToSpace<blocksize=2>(x)",
    "SpaceToDepth": "y = SpaceToDepth<blocksize=2>(x)",
    "MaxPool": "y = MaxPool<kernel_shape=[2, 2]>(x)",
    "AveragePool": "y = AveragePool<kernel_shape=[2, 2]>(x)",
    "LpPool": "y = LpPool<kernel_shape=[2, 2]>(x)",
    "MaxUnpool": "p, i = MaxPool<kernel_shape=[2, 2], strides=[2, 2]>(x)"
    " y = MaxUnpool<kernel_shape=[2, 2], strides=[2, 2]>(p, i)",
    "BatchNormalization": "y = BatchNormalization(x, v, v, v, v)",
    "LayerNormalization": "y = LayerNormalization(x, l, l)",
    "GroupNormalization": "y = GroupNormalization<num_groups=2>(x, v, v)",
    "LRN": "y = LRN<size=3>(x)",
    "TopK": "y, z = TopK(x, one)",
    "CumSum": "y = CumSum(x, zero)",
    "OneHot": "a = Mul(on_off, on_off) i = ArgMax(x) y = OneHot(i, one, a)",
    "ConstantOfShape": "c = ConstantOfShape<value=float[1] {1.5}>(shape) y = Add(x, c)",
    "EyeLike": "m = Flatten(x) e = EyeLike<dtype=1>(m) y = Add(e, m)",
    "Cast": "b = Cast<to=9>(x) c = Cast<to=1>(b) y = Mul(x, c)",
    "CastLike": "b = Cast<to=9>(x) c = CastLike(b, x) y = Mul(x, c)",
    "SplitToSequence": "s = SplitToSequence<axis=1>(x) y = SequenceAt(s, zero)",
    "ConcatFromSequence": "s = SequenceConstruct(x, x) y = ConcatFromSequence<axis=0>(s)",
    "QuantizeLinear": "q = QuantizeLinear(x, step, zero_point)"
    " y = DequantizeLinear(q, step, zero_point)",
    "Upsample": "y = Upsample(x, scales)",
}
OPSETS = {"Upsample": 9, "Gelu": 20, "IsInf": 20, "GroupNormalization": 21, "QuantizeLinear": 19}
UNTESTED = {
    "Swish",  # operator set 24
    "RMSNormalization",  # operator set 23
    "SequenceAt",
    "SequenceConstruct",
    "DequantizeLinear",  # with their counterparts
}


def _model(name: str) -> onnx.ModelProto:
    known = {**WEIGHTS, "zeros": np.array([0])}
    body = BODIES[name]
    used = {word.strip("(),") for word in body.replace("(", " ( ").split()}
    weights = {key: known[key] for key in known if key in used}
    kinds = {"ArgMax": "int64", "ArgMin": "int64", "NonZero": "int64"}
    kinds |= dict.fromkeys(("Greater", "Less", "Equal", "GreaterOrEqual"), "bool")
    kinds |= dict.fromkeys(("LessOrEqual", "IsNaN", "IsInf"), "bool")
    kind = "float[2,8,4,4]" if name == "GroupNormalization" else f"{kinds.get(name, 'float')}[]"
    text = f"g (float[2,8,4,4] x) => ({kind} y) {{ {body} }}"
    return parse(text, weights, opset=OPSETS.get(name, 18))


@pytest.mark.parametrize("name", sorted(BODIES))
def test_it_runs_as_float16(name: str) -> None:
    model = _model(name)
    values = {value for node in model.graph.node for value in (*node.input, *node.output)}
    converted = convert(model, dict.fromkeys(values, (0.1, 4.0)), keep_io=False)
    assert converted.reasons == {}
    assert converted.casts == []
    types = converted.types
    node = next(node for node in converted.after.graph.node if node.op_type == name)
    assert FLOAT16 in {types[value] for value in (*node.input, *node.output) if value}
    (expected, *_), (found, *_) = run_ort(model, {"x": X}), converted.run({"x": X.astype("f2")})
    assert found.shape == expected.shape
    if expected.dtype == np.float32:
        assert found.dtype == np.float16
        assert sqnr([expected], [found]) > 45
    else:
        assert found.dtype == expected.dtype
        assert (found == expected).mean() > 0.98


def test_every_rule_was_tried() -> None:
    allowed = operators.PLAIN | operators.RULES.keys()
    assert allowed - UNTESTED == BODIES.keys()
