"""The oracle of this suite, and what the lowering writes, held against a real runtime."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxfold.algebra import lowering, operators
from onnxfold.algebra.compose import compose
from onnxfold.algebra.convmap import ConvMap
from onnxfold.algebra.extents import Extents
from tests.algebra import oracle, strategies
from tests.algebra.strategies import accepted


def _run(op: str, x: np.ndarray, weight: np.ndarray, bias: np.ndarray, **kw: Any) -> np.ndarray:
    """One node, float32, optimisation off; small integers make float32 exact."""
    node = helper.make_node(op, ["x", "w", "b"], ["y"], **kw)
    constants = [
        numpy_helper.from_array(np.ascontiguousarray(value, np.float32), name)
        for name, value in (("w", weight), ("b", bias))
    ]
    graph = helper.make_graph(
        [node],
        op,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, *x.shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * (x.ndim + 1))],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    y = np.asarray(session.run(["y"], {"x": x[None].astype(np.float32)})[0], np.float64)
    return np.asarray(y[0])


def _run_lowered(conv_map: ConvMap, x: np.ndarray, extents: Sequence[int]) -> np.ndarray:
    sizes = [Extents(i, o) for i, o in zip(x.shape[1:], extents, strict=True)]
    if all(u == 1 for u in conv_map.up):
        p = accepted(lowering.to_conv(conv_map, sizes))
        return _run(
            "Conv",
            x,
            p.weight,
            p.bias,
            strides=p.strides,
            pads=p.pads,
            dilations=p.dilations,
            group=p.group,
        )
    q = accepted(lowering.to_conv_transpose(conv_map, sizes))
    return _run(
        "ConvTranspose",
        x,
        q.weight,
        q.bias,
        strides=q.strides,
        pads=q.pads,
        dilations=q.dilations,
        group=q.group,
        output_padding=q.output_padding,
    )


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_the_oracle_agrees_with_the_runtime(op: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rank, group = 1 + seed % 3, (1, 2)[seed % 2]
    kernel = tuple(rng.integers(1, 4, rank).tolist())
    weight = strategies.integers(rng, (2 * group, 2, *kernel))
    strides, dilations = (rng.integers(1, 4, rank).tolist() for _ in range(2))
    pads = rng.integers(0, 2, 2 * rank).tolist()
    x = strategies.image(rng, 2 * group, tuple(rng.integers(7, 10, rank).tolist()))
    bias = strategies.integers(rng, (2 * group,))
    shared = {"strides": strides, "pads": pads, "dilations": dilations, "group": group}
    if op == "Conv":
        expected = oracle.conv(x, weight, bias, strides, pads, dilations, group)
        actual = _run(op, x, weight, bias, **shared)
    else:
        extra = [int(rng.integers(0, s)) for s in strides]
        expected = oracle.conv_transpose(x, weight, bias, strides, pads, dilations, group, extra)
        actual = _run(op, x, weight, bias, **shared, output_padding=extra)
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("seed", range(60))
def test_lowered_maps_run(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rank, groups = 1 + seed % 3, (1, 2, 4)[seed % 3]
    one = (1,) * rank
    rates = tuple(rng.integers(1, 4, rank).tolist())
    conv_map = ConvMap(
        strategies.integers(rng, (4, 4 // groups, *rng.integers(1, 4, rank)), zeros=0.3),
        strategies.integers(rng, (4,)),
        groups,
        tuple(rng.integers(-3, 3, rank).tolist()),
        rates if seed % 2 else one,
        one if seed % 2 else rates,
    )
    x = strategies.image(rng, 4, tuple(rng.integers(3, 7, rank).tolist()))
    extents = tuple(rng.integers(3, 9, rank).tolist())
    expected = oracle.outputs(conv_map, x, extents)
    np.testing.assert_array_equal(_run_lowered(conv_map, x, extents), expected)


def test_upsampling_then_convolution_runs_as_one_transpose() -> None:
    rng = np.random.default_rng(0)
    up = operators.conv_transpose(np.ones((4, 1, 2, 2)), strides=[2, 2], group=4)
    conv = operators.conv(strategies.integers(rng, (3, 4, 3, 3)), np.ones(3), pads_begin=[1, 1])
    x = strategies.image(rng, 4, (5, 6))
    middle = x.repeat(2, 1).repeat(2, 2)
    expected = oracle.outputs(conv, middle, (10, 12))
    actual = _run_lowered(accepted(compose(conv, up)), x, (10, 12))
    np.testing.assert_array_equal(actual, expected)
