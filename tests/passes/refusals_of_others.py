"""One small model per reason for which the other passes leave a pattern alone."""

import numpy as np

from tests.passes.refusals import W, X, case
from tests.toolkit import integers

PADS = {"p": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64)}
PADDED = "q = Pad(x, p)"
INFINITY = {"i": np.array(-np.inf, np.float32)}

PAD = [
    case(reason, *rest, step="fuse_pad", **kinds)  # type: ignore[arg-type]
    for reason, *rest, kinds in (
        ("it pads with mode reflect", 'q = Pad<mode="reflect">(x, p) y = Conv(q, w)',
         {**PADS, **W}, {}),
        ("it pads with mode edge", 'q = Pad<mode="edge">(x, p) y = Conv(q, w)', {**PADS, **W}, {}),
        ("it pads with mode wrap", 'q = Pad<mode="wrap">(x, p) y = Conv(q, w)', {**PADS, **W},
         {"opset": 19}),
        ("its pads are not constants", "q = Pad(x, p) y = Conv(q, w)", W,
         {"inputs": f"{X}, int64[8] p", "outputs": "float[N,6,H,W] y"}),
        ("negative pads crop the tensor", "q = Pad(x, p) y = Conv(q, w)",
         {**W, "p": np.array([0, 0, -1, 0, 0, 0, 1, 0], np.int64)}, {}),
        ("it pads the batch or channel axis", "q = Pad(x, p) y = Conv(q, w)",
         {"w": integers("w", 6, 5, 3, 3), "p": np.array([0, 0, 1, 0, 0, 1, 1, 0], np.int64)}, {}),
        ("it pads with a value that is not zero", "q = Pad(x, p, k) y = Conv(q, w)",
         {**PADS, **W, "k": np.array(1, np.float32)}, {}),
        ("it pads with a value that is not zero", "q = Pad(x, p, k) y = Conv(q, w)",
         {**PADS, **W}, {"inputs": f"{X}, float k"}),
        ("an average before operator set 7 cannot count its padding",
         "q = Pad<pads=[0,0,1,1,0,0,1,1]>(x) y = AveragePool<kernel_shape=[3,3]>(q)", {},
         {"opset": 6}),
        ("an average over rounded-up extents does not count the padding behind the end",
         f"{PADDED} y = AveragePool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1>(q)", PADS, {}),
        ("an average that leaves out its own padding would leave out these zeros too",
         f"{PADDED} y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(q)", PADS, {}),
        ("the padded tensor is an output of the graph", f"{PADDED} y = Conv(q, w)",
         {**PADS, **W}, {"outputs": "float[] y, float[] q"}),
        ("its window has another rank than the padded tensor",
         f"{PADDED} y = AveragePool<kernel_shape=[3]>(q)", PADS,
         {"valid": False, "outputs": "float[N,4,7,6] y"}),
        ("its own pads depend on extents that are not known",
         f'{PADDED} y = Conv<auto_pad="SAME_UPPER">(q, w)', {**PADS, **W},
         {"inputs": "float[N,4,H,W] x"}),
        ("a pooling window may not lie in the padding alone",
         "q = Pad(x, p) y = AveragePool<kernel_shape=[2,2]>(q)",
         {"p": np.array([0, 0, 2, 0, 0, 0, 0, 0], np.int64)}, {}),
        ("a MaxPool pads with minus infinity, and the Pad writes something else",
         f"{PADDED} y = MaxPool<kernel_shape=[3,3]>(q)", PADS, {}),
        ("its indices or rounded-up extents depend on the padded tensor",
         "q = Pad(x, p, i) y, t = MaxPool<kernel_shape=[3,3]>(q)", {**PADS, **INFINITY},
         {"outputs": "float[] y, int64[] t"}),
        ("its indices or rounded-up extents depend on the padded tensor",
         "q = Pad(x, p, i) y = MaxPool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1>(q)",
         {**PADS, **INFINITY}, {}),
        ("another reader of the padded tensor cannot take the pads",
         f"{PADDED} y = Conv(q, w) t = Relu(q)", {**PADS, **W},
         {"outputs": "float[] y, float[] t"}),
        ("another reader of the padded tensor cannot take the pads",
         f"{PADDED} y = Conv(q, q)", {"p": np.array([0, 0, 1, 0, 0, 0, 1, 0], np.int64)},
         {"inputs": "float[4,4,3,3] x"}),
    )
]  # fmt: skip

FOLD = [
    case(
        "the size of its constant result is not known",
        "n = NonZero(k) y = Cast<to=1>(n)",
        {"k": integers("k", 3, 3)},
        step="fold_constants",
        inputs="float[1] x",
    ),
    case(
        "its constant result of 4000000 bytes would make the model larger",
        "e = Expand(k, s) y = Add(x, e)",
        {"k": np.ones(1, np.float32), "s": np.array([1000, 1000], np.int64)},
        step="fold_constants",
        inputs="float[1] x",
    ),
    case(
        "the runtime cannot compute it: the runtime has no CPU kernel for Conv (version 11) with"
        " these types",
        "c = Conv(k, w) d = Cast<to=1>(c) y = Add(x, d)",
        {"k": np.ones((1, 4, 3, 3)), "w": np.ones((6, 4, 3, 3))},
        step="fold_constants",
        inputs="float[1] x",
        valid=False,
    ),
    case(
        "an integer division whose divisor is not known to be positive may stop the runtime",
        "q = Div(k, d) f = Cast<to=1>(q) y = Add(f, x)",
        {"k": np.full((9, 9), -(2**63)), "d": np.full((9, 9), -1, np.int64)},
        step="fold_constants",
        inputs="float[1] x",
        valid=False,  # the runtime would be killed by it
    ),
]

_CUT = "s = SplitToSequence<axis = 1>(x, k) y = SequenceAt(s, i)"
_SECOND = {"i": np.array(1, np.int64)}

UNPACK = [
    case(reason, body, weights, step="unpack_sequences", inputs=inputs, valid=valid)
    for reason, body, weights, inputs, valid in (
        ("the position in the sequence is not a constant", _CUT,
         {"k": np.array(2, np.int64)}, f"{X}, int64 i", True),
        ("the position is beyond the end of the sequence", _CUT,
         {"k": np.array(4, np.int64), **_SECOND}, X, True),
        ("the lengths of its pieces are not known", _CUT, _SECOND, f"{X}, int64 k", True),
        ("the lengths of its pieces are not known", _CUT,
         {"k": np.array(2, np.int64), **_SECOND}, "float[N,C,H,W] x", True),
        ("the lengths of its pieces are not known", _CUT,
         {"k": np.array([5, -1], np.int64), **_SECOND}, X, True),
        ("runtimes do not agree whether its pieces keep the axis",
         "s = SplitToSequence<axis = 1, keepdims = 0>(x, k) y = SequenceAt(s, i)",
         {"k": np.array(1, np.int64), **_SECOND}, X, True),
    )
]  # fmt: skip
