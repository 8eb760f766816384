"""One small model per reason for which fuse_bn leaves a pattern alone."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx

from tests.toolkit import BN, Weights, batch_norm, integers, parse, powers

X = "float[N,4,7,6] x"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A near miss.

    Attributes:
        reason: What the report says.
        passes: The passes that run.
        model: Makes the model.
        valid: Whether the checker takes the model; the others must merely be left alone.
    """

    reason: str
    passes: tuple[str, ...]
    model: Callable[[], onnx.ModelProto]
    valid: bool = True


def case(
    reason: str,
    body: str,
    weights: Weights,
    *,
    inputs: str = X,
    outputs: str = "float[] y",
    step: str = "fuse_bn",
    opset: int = 18,
    valid: bool = True,
    known: str = "",
) -> Refusal:
    def model() -> onnx.ModelProto:
        declared = f"<{known}>" if known else ""
        text = f"g ({inputs}) => ({outputs}) {declared} {{ {body.replace('{BN}', BN)} }}"
        return parse(text, weights, opset=opset)

    # The checker wants inputs of known rank; runtimes do not.
    return Refusal(reason, (step,), model, valid and not inputs.startswith("float[]"))


W = {"w": integers("w", 6, 4, 3, 3)}
BN6, BN4 = batch_norm(6), batch_norm(4)
POSITIVE6 = batch_norm(6, negative=False)
SHIFTLESS6 = {**POSITIVE6, "b": np.zeros(6, np.float32), "m": np.zeros(6, np.float32)}
ONES4 = {"g": np.ones(4, np.float32), "b": integers("b", 4) + 5, "m": np.zeros(4, np.float32),
         "v": np.ones(4, np.float32)}  # fmt: skip

AFTER = [
    case("its input is an input of the graph", "y = {BN}(x, g, b, m, v)", BN4),
    case(
        "what it reads has another reader",
        "c = Conv(x, w) y = {BN}(c, g, b, m, v) t = Relu(c)",
        {**W, **BN6},
        outputs="float[] y, float[] t",
    ),
    case(
        "what it reads is computed outside the body of control flow",
        "c = Conv(x, w) y = If(f) <then_branch = t () => (float[] z) { z = {BN}(c, g, b, m, v) },"
        " else_branch = e () => (float[] o) { o = Neg(x) }>",
        {"w": integers("w", 4, 4, 1, 1), **BN4},
        inputs=f"{X}, bool f",
    ),
    case(
        "no linear operator before it can take it",
        "c = Sigmoid(x) y = {BN}(c, g, b, m, v)",
        BN4,
    ),
    case(
        "no linear operator before it can take it",
        "s = Sigmoid(x) c = Mul(x, s) y = {BN}(c, g, b, m, v)",
        BN4,
    ),
    case(
        "too many operators lie before it",
        "r0 = Relu(x) "
        + " ".join(f"r{i + 1} = Relu(r{i})" for i in range(99))
        + " y = {BN}(r99, g, b, m, v)",
        BN4,
    ),
    case(
        "a constant on the way would grow",
        "c = Conv(x, w) a = Add(c, k) y = {BN}(a, g, b, m, v)",
        {**W, **BN6, "k": integers("k", 1, 1, 5, 4)},
    ),
    case(
        "a constant on the way would grow",
        "c = Conv(x, w) a = Add(c, k) y = {BN}(a, g, b, m, v)",
        {**W, **BN6, "k": integers("k", 5, 4)},
    ),
    case(
        "it does not work along the output channels",
        "c = Conv(x, w) y = Mul(c, k)",
        {**W, "k": powers("k", 4)},
    ),
    case(
        "its constant broadcasts the channels to another number",
        "c = Conv(x, w) y = Mul(c, k)",
        {"w": integers("w", 1, 4, 3, 3), "k": powers("k", 6, 1, 1)},
        inputs="float[] x",
        outputs="float[N,6,H,W] y",
        known="float[n,c,h,w] c",
    ),
    case(
        "a MatMul has no bias to take a shift",
        "c = MatMul(x, w) y = {BN}(c, g, b, m, v)",
        {"w": integers("w", 5, 4), **ONES4},
        inputs="float[N,5] x",
    ),
    case(
        "it does not work along the channels of the normalization",
        "c = {BN}(x, g, b, m, v) y = Mul(c, k)",
        {**BN4, "k": powers("k", 6)},
    ),
    case(
        "it would need more nodes than it saves",
        "c = MatMul(x, w) y = Sub(k, c)",
        {"w": integers("w", 5, 4), "k": powers("k", 4)},
        inputs="float[N,5] x",
    ),
    case(
        "it would need more nodes than it saves",
        "c = MatMul(x, w) d = MatMul(x, w) j = Concat<axis=1>(c, d) y = {BN}(j, g, b, m, v)",
        {"w": integers("w", 5, 3), **BN6},
        inputs="float[N,5] x",
    ),
    case(
        "the rank of a Concat on the way is not known",
        "c = Conv(x, w) d = Conv(x, w) j = Concat<axis=1>(c, d) y = {BN}(j, g, b, m, v)",
        {"w": integers("w", 3, 4, 3, 3), **BN6},
        inputs="float[] x",
        outputs="float[N,6,H,W] y",
    ),
    case(
        "the channels of a Concat on the way are not known",
        "c = Conv(x, w) d = Conv(x, w) j = Concat<axis=1>(c, d) y = {BN}(j, g, b, m, v)",
        {"w": integers("w", 3, 4, 3, 3), **BN6},
        inputs="float[] x",
        outputs="float[N,6,H,W] y",
        known="float[n,c,h,w] j",
    ),
    case(
        "an addition on the way broadcasts its operands",
        "c = Conv(x, w) a = Add(c, z) y = {BN}(a, g, b, m, v)",
        {**W, **BN6},
        inputs=f"{X}, float[6,1,1] z",
    ),
    case(
        "an addition on the way broadcasts its channels",
        "c = Conv(x, w) d = Conv(x, u) a = Add(c, d) y = {BN}(a, g, b, m, v)",
        {**W, "u": integers("u", 1, 4, 3, 3), **BN6},
    ),
    case(
        "a multiplication on the way cannot take a shift",
        "s = Sigmoid(x) c = Mul(s, k) q = MaxPool<kernel_shape=[2,2]>(c) y = {BN}(q, g, b, m, v)",
        {"k": -powers("k", 4, 1, 1, negative=False), **batch_norm(4, negative=False)},
    ),
    case(
        "the rank of a multiplication on the way is not known",
        "s = Sigmoid(x) c = Mul(s, k) q = MaxPool<kernel_shape=[2,2]>(c) y = {BN}(q, g, b, m, v)",
        {"k": np.array(-2, np.float32), **SHIFTLESS6},
        inputs="float[] x",
        outputs="float[N,6,H,W] y",
    ),
    case(
        "a shift or a negative scale cannot move past the activation",
        "c = Conv(x, w) r = Relu(c) y = {BN}(r, g, b, m, v)",
        {**W, **POSITIVE6},
    ),
    case(
        "a shift or a negative scale cannot move past the activation",
        "c = Conv(x, w) r = LeakyRelu(c) y = {BN}(r, g, b, m, v)",
        {**W, **SHIFTLESS6, "g": -SHIFTLESS6["g"]},
    ),
    case(
        "the indices of a MaxPool on the way are read",
        "c = Conv(x, w) q, t = MaxPool<kernel_shape=[2,2]>(c) y = {BN}(q, g, b, m, v)",
        {**W, **POSITIVE6},
        outputs="float[] y, int64[] t",
    ),
    case(
        "a negative scale cannot move past the maximum",
        "c = Conv(x, w) q = MaxPool<kernel_shape=[2,2]>(c) y = {BN}(q, g, b, m, v)",
        {**W, **BN6, "g": -POSITIVE6["g"]},
    ),
    *(
        case(
            "it does not work along the channels of the pooling",
            f"c = Conv(x, w) q = {pool}<kernel_shape=[2,1]>(c) t = Transpose<perm=[0,2,3,1]>(q)"
            " y = {BN}(t, g, b, m, v)",
            {**W, **batch_norm(4, negative=False)},
        )
        for pool in ("MaxPool", "AveragePool")
    ),
    *(
        case(
            "a shift cannot move past an average that counts padding",
            f"c = Conv(x, w) q = AveragePool<{attributes}>(c) y = {{BN}}(q, g, b, m, v)",
            {**W, **BN6},
        )
        for attributes in (
            "kernel_shape=[2,2], pads=[1,0,0,1], count_include_pad=1",
            'kernel_shape=[2,2], auto_pad="SAME_UPPER", count_include_pad=1',
            "kernel_shape=[2,2], strides=[2,2], ceil_mode=1",
        )
    ),
    case(
        "the channels cannot be followed through a reshape",
        "c = Conv(x, w) q = Reshape(c, s) y = {BN}(q, g, b, m, v)",
        {**W, "s": np.array([-1, 12, 10], np.int64), **batch_norm(12)},
    ),
    case(
        "the rank of its input is not known",
        "c = Conv(x, w) y = Mul(c, k)",
        {**W, "k": powers("k", 6, 1, 1)},
        inputs="float[] x",
        outputs="float[N,6,H,W] y",
    ),
    case(
        "its constant has more axes than the tensor, so it changes the shape",
        "c = Conv(x, w) y = Mul(c, k)",
        {**W, "k": powers("k", 1, 1, 6, 1, 1)},
    ),
    case(
        "its constant varies along more than one axis",
        "c = Conv(x, w) y = Mul(c, k)",
        {**W, "k": powers("k", 6, 5, 1)},
    ),
    case(
        "its constant broadcasts the tensor to a larger shape",
        "c = Conv(x, w) y = Mul(c, k)",
        {"w": integers("w", 1, 4, 3, 3), "k": powers("k", 6, 1, 1)},
    ),
    case(
        "it normalizes with the statistics of its own batch",
        "c = Conv(x, w) y, a, e = BatchNormalization<training_mode=1>(c, g, b, m, v)",
        {**W, **BN6},
        outputs="float[] y, float[6] a",
    ),
    case(
        "it normalizes with the statistics of its own batch",
        "c = Conv(x, w) y, a, e, f, h = BatchNormalization(c, g, b, m, v)",
        {**W, **BN6},
        outputs="float[] y, float[6] a",
        opset=9,
    ),
    case(
        "it normalizes with the statistics of its own batch",
        "c = Conv(x, w) y = BatchNormalization<spatial=0>(c, g, b, m, v)",
        {**W, **BN6},
        opset=7,
        valid=False,
    ),
    case(
        "it normalizes with the statistics of its own batch",
        "c = Conv(x, w) y = BatchNormalization(c, g, b, m, v)",
        {**W, **BN6},
        opset=6,
    ),
    case(
        "its parameters are not constants",
        "c = Conv(x, w) y = {BN}(c, z, b, m, v)",
        {**W, **BN6},
        inputs=f"{X}, float[6] z",
    ),
    case(
        "its parameters do not fit its input",
        "c = Conv(x, w) y = {BN}(c, g, b, m, v)",
        {**W, **BN6, "m": integers("m", 5)},
        valid=False,
    ),
    case(
        "it aligns its constant as operator sets before 7 do",
        "c = Conv(x, w) y = Mul<broadcast=1, axis=1>(c, k)",
        {**W, "k": powers("k", 6)},
        opset=6,
    ),
    case(
        "it divides by zero or by infinity",
        "c = Conv(x, w) y = Div(c, k)",
        {**W, "k": np.zeros((1, 6, 1, 1), np.float32)},
    ),
    case(
        "its weight or bias is not a floating-point constant",
        "c = Conv(x, w, z) y = {BN}(c, g, b, m, v)",
        {**W, **BN6},
        inputs=f"{X}, float[6] z",
    ),
    case(
        "its weight or bias is not a floating-point constant",
        "c = Conv(x, z) y = {BN}(c, g, b, m, v)",
        BN6,
        inputs=f"{X}, float[6,4,3,3] z",
    ),
    case(
        "its weight or bias is not a floating-point constant",
        "w = DequantizeLinear(q, s) c = Conv(x, w) y = {BN}(c, g, b, m, v)",
        {"q": integers("q", 6, 4, 3, 3).astype(np.int8), "s": np.array(0.5, np.float32), **BN6},
    ),
    case(
        "its weight is empty",
        "c = Conv(x, w) y = Mul(c, k)",
        {"w": np.zeros((0, 4, 1, 1), np.float32), "k": np.array(2, np.float32)},
        valid=False,
    ),
    case(
        "var + epsilon of the BatchNormalization is not positive",
        "c = Conv(x, w) y = {BN}(c, g, b, m, v)",
        {**W, **BN6, "v": np.zeros(6, np.float32)},
    ),
    case(
        "a weight or bias is infinite or not a number",
        "c = Conv(x, w) y = Mul(c, k)",
        {**W, "k": np.array(np.inf, np.float32)},
    ),
    case(
        "a weight of 1.2e+07 does not fit into float16",
        "c = Conv(x, w) y = Mul(c, k)",
        {"w": np.full((6, 4, 1, 1), 3e3, np.float16), "k": np.array(4e3, np.float16)},
        inputs="float16[N,4,7,6] x",
        outputs="float16[] y",
    ),
    case(
        "weights of a channel fall below the normal range of float16",
        "c = Conv(x, w) y = Mul(c, k)",
        {"w": np.full((6, 4, 1, 1), 1e-4, np.float16), "k": np.array(1e-4, np.float16)},
        inputs="float16[N,4,7,6] x",
        outputs="float16[] y",
    ),
]

BEFORE = [
    case(
        "it belongs to an activation or normalization",
        "e = Erf(x) a = Mul(x, e) h = Mul(a, k) y = Conv(h, w)",
        {**W, "k": np.array(0.5, np.float32)},
    ),
    case(
        "its constant may broadcast the tensor to more channels",
        "q = Mul(x, k) y = Conv(q, w)",
        {**W, "k": powers("k", 4, 1, 1)},
        inputs="float[N,C,7,6] x",
    ),
    case(
        "it has another reader that cannot take it",
        "q = Mul(x, k) y = Conv(q, w) t = Sigmoid(q)",
        {**W, "k": powers("k", 4, 1, 1)},
        outputs="float[] y, float[] t",
    ),
    case(
        "it has another reader that cannot take it",
        "q = Mul(x, k) y = Conv(q, w)",
        {**W, "k": powers("k", 4, 1, 1)},
        outputs="float[] y, float[] q",
    ),
    case(
        "it does not work along the input channels",
        "q = Mul(x, k) y = Conv(q, w)",
        {**W, "k": powers("k", 6)},
    ),
    case(
        "its constant broadcasts the channels to another number",
        "q = {BN}(x, g, b, m, v) y = Conv(q, w)",
        {"w": integers("w", 6, 3, 3, 3), **BN4},
        outputs="float[N,6,5,4] y",
        valid=False,
    ),
    *(
        case(
            "its shift is not zero, and the zeros that pad the border come after it",
            f"q = Add(x, k) y = {conv}(q, w)",
            {"w": integers("w", 4, 4, 3, 3), "k": powers("k", 4, 1, 1)},
        )
        for conv in (
            "Conv<pads=[0,0,1,0]>",
            'Conv<auto_pad="SAME_LOWER">',
            "ConvTranspose",
            "ConvTranspose<strides=[2,2]>",
        )
    ),
    case(
        "the channels of a Concat on the way are not known",
        "q = {BN}(x, g, b, m, v) j = Concat<axis=1>(q, z) y = Conv(j, w)",
        {"w": integers("w", 6, 7, 1, 1), **BN4},
        inputs=f"{X}, float[N,C,7,6] z",
    ),
    *(
        case(
            "a shift or a negative scale cannot move past it",
            f"q = {{BN}}(x, g, b, m, v) r = {carrier}(q) y = Conv(r, w)",
            {**W, **BN4},
        )
        for carrier in ("Relu", "LeakyRelu", "MaxPool<kernel_shape=[2,2]>")
    ),
    case(
        "the channels cannot be followed through a reshape",
        "q = {BN}(x, g, b, m, v) r = Reshape(q, s) y = Conv(r, w)",
        {"w": integers("w", 6, 2, 3, 3), "s": np.array([-1, 2, 14, 6], np.int64), **BN4},
    ),
    case(
        "the average is not over places alone",
        "q = {BN}(x, g, b, m, v) r = ReduceMean<keepdims=0>(q, axes) y = MatMul(r, w)",
        {"w": integers("w", 6, 5), "axes": np.array([1, 2], np.int64), **BN4},
        inputs="float[N,4,7,6] x",
    ),
    case(
        "it counts padding, which a shift cannot move past",
        "q = {BN}(x, g, b, m, v)"
        " r = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(q)"
        " y = Conv(r, w)",
        {**W, **BN4},
    ),
]
