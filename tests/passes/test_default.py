"""The default passes together: random networks to the bit, determinism, real networks, time."""

import hashlib
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import HealthCheck, given, settings
from onnx.reference import ReferenceEvaluator

from onnxfold.model import load
from onnxfold.passes.presets import DEFAULT
from onnxfold.pipeline.manager import PassManager
from tests import zoo
from tests.passes.networks import networks
from tests.toolkit import (
    BN,
    all_nodes,
    assert_equal,
    batch_norm,
    folds,
    integers,
    parse,
    powers,
    rewritten,
    run,
)

_ROOT = Path(__file__).parents[2]
_EXAMPLES = max(300, settings().max_examples)


@settings(
    max_examples=_EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(model=networks())
def test_random_networks_stay_equal_to_the_bit(model: onnx.ModelProto) -> None:
    extents = [axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim]
    feed = {"x": integers("x", 2, *extents[1:], largest=4)}
    assert_equal(model, run(model).after, feeds=[feed], reference=False)


def _everything() -> onnx.ModelProto:
    """A model in which every default pass has something to do."""
    return parse(
        f"g (float[N,4,8,8] x) => (float[] y, float[] t) {{ i = Identity(x) q = Pad(i, p)"
        f" a = Conv(q, w) c = {BN}(a, g, b, m, v) d = Conv(q, w) e = {BN}(d, hg, hb, hm, hv)"
        " r = Relu(c) l = Relu(c) j = Concat<axis=1>(r, l, e) s = Mul(j, k) o = Neg(n)"
        " z = Mul(s, o) y = Conv(z, u) dead = Neg(e) t = Identity(x) }",
        {"w": integers("w", 6, 4, 3, 3), "u": integers("u", 5, 18, 1, 1),
         "k": powers("k", 18, 1, 1), "n": np.array(2, np.float32),
         "p": np.array([0, 0, 1, 1, 0, 0, 1, 1]), **batch_norm(6), **batch_norm(6, "h")},
    )  # fmt: skip


def test_together() -> None:
    result = run(_everything())
    folds(_everything(), ops=result.ops)
    busy = {each.key.pass_name for each in result.ledger.applied}
    assert busy >= {
        "drop_dead",
        "drop_identities",
        "fold_constants",
        "fuse_pad",
        "fuse_bn",
        "share_duplicates",
    }


def _settled(model: onnx.ModelProto, ops: dict[str, int]) -> None:
    """All is done in the first run, and a second one finds nothing."""
    _, ledger = rewritten(folds(model, ops=ops).after)
    assert [str(each.key) for each in ledger.applied] == []


def test_a_normalization_behind_a_sum_that_becomes_one_kernel() -> None:
    """Pyramids of dilated kernels that are added up one by one, as in ESPNetv2."""
    model = parse(
        "g (float[1,8,32,32] x) => (float[] y) { a = Conv<group=8, pads=[1,1,1,1]>(x, w)"
        " c = Conv<group=8, pads=[2,2,2,2], dilations=[2,2]>(x, u) s = Add(a, c)"
        f" j = Concat<axis=1>(a, s) n = {BN}(j, g, b, m, v) y = PRelu(n, k) }}",
        {"w": integers("w", 8, 1, 3, 3), "u": integers("u", 8, 1, 3, 3),
         "k": powers("k", 16, 1, 1), **batch_norm(16)},
    )  # fmt: skip
    _settled(model, {"Conv": 2, "Concat": 1, "PRelu": 1})


def test_arithmetic_between_layouts() -> None:
    """What comes from TensorFlow, with its normalizations as Mul and Add in channels-last."""
    model = parse(
        "g (float[N,8,8,3] x) => (float[] y) { a = Transpose<perm=[0,3,1,2]>(x) c = Conv(a, w)"
        " e = Transpose<perm=[0,2,3,1]>(c) h = Mul(e, q) i = Add(h, r)"
        " o = Transpose<perm=[0,3,1,2]>(i) z = Conv(o, u) y = Transpose<perm=[0,2,3,1]>(z) }",
        {"w": integers("w", 8, 3, 3, 3), "u": integers("u", 8, 8, 1, 1), "q": powers("q", 8),
         "r": integers("r", 8)},
    )  # fmt: skip
    _settled(model, {"Conv": 1, "Transpose": 2})


def test_a_concat_that_two_equal_ones_read() -> None:
    """Encoders hand on what they joined, and join it again for themselves."""
    model = parse(
        "g (float[N,3,H,W] x, float[N,2,H,W] z) => (float[] y) { a = Concat<axis=1>(x, z)"
        " c = Concat<axis=1>(a, z) d = Concat<axis=1>(a, z) e = Relu(c) f = Tanh(d) y = Mul(e, f) }"
    )
    _settled(model, {"Concat": 1, "Relu": 1, "Tanh": 1, "Mul": 1})


def test_same_bytes_whatever_the_hash_seed(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(_everything(), path)
    script = (
        "import sys, hashlib\n"
        "from onnxfold.model import load, to_proto\n"
        "from onnxfold.passes.presets import DEFAULT\n"
        "from onnxfold.pipeline.manager import PassManager\n"
        "proto = to_proto(PassManager(DEFAULT).run(load(sys.argv[1]).model).model)\n"
        "print(hashlib.sha256(proto.SerializeToString(deterministic=True)).hexdigest())\n"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", script, str(path)],
            cwd=_ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    own = hashlib.sha256(rewritten(_everything())[0].SerializeToString(deterministic=True))
    assert digests == {own.hexdigest() + "\n"}


def test_overridable_weights_are_refused() -> None:
    """An initializer that is a graph input too may be replaced by the caller."""
    model = parse(
        f"g (float[N,4,H,W] x, float[6,4,3,3] w) => (float[] y)"
        f" {{ c = Conv(x, w) y = {BN}(c, g, b, m, v) }}",
        {"w": integers("w", 6, 4, 3, 3), **batch_norm(6)},
    )
    assert run(model).ops == {"Conv": 1, "BatchNormalization": 1}


def test_old_models_list_every_initializer_as_an_input() -> None:
    model = parse(
        f"g (float[N,4,H,W] x) => (float[] y) {{ c = Conv(x, w) y = {BN}(c, g, b, m, v) }}",
        {"w": integers("w", 6, 4, 3, 3), **batch_norm(6)},
        ir_version=3,
        opset=9,
    )
    for each in model.graph.initializer:
        model.graph.input.append(
            onnx.helper.make_tensor_value_info(each.name, each.data_type, each.dims)
        )
    after, ledger = rewritten(model)
    assert [node.op_type for node in after.graph.node] == ["Conv"]
    assert not ledger.failures
    onnx.checker.check_model(after)


def test_one_value_as_both_operands_and_as_output() -> None:
    model = parse(
        f"g (float[N,4,H,W] x) => (float[] y, float[] c) {{ c = Conv(x, w) a = Add(c, c)"
        f" y = {BN}(a, g, b, m, v) }}",
        {"w": integers("w", 6, 4, 3, 3), **batch_norm(6)},
    )
    # c is an output, so its Conv stays; twice its channels are one scale and shift.
    folds(model, ops={"Conv": 1, "Mul": 1, "Add": 1})


def test_no_batch_at_all() -> None:
    model = parse(
        f"g (float[N,4,7,6] x) => (float[] y) {{ c = Conv(x, w) y = {BN}(c, g, b, m, v) }}",
        {"w": integers("w", 6, 4, 3, 3), **batch_norm(6)},
    )
    folds(model, ops={"Conv": 1}, feeds=[{"x": np.zeros((0, 4, 7, 6), np.float32)}],
          reference=False)  # fmt: skip


def test_rounding_stays_within_the_bound_of_a_dot_product() -> None:
    """Real weights: |error| ≤ (K + 3) · 2⁻²⁴ · Σ|w||x| on both sides, K products per output."""
    generator = np.random.default_rng(0)
    weights = {
        "w": generator.normal(size=(8, 4, 3, 3)), "d": generator.normal(size=8),
        "g": generator.normal(size=8), "b": generator.normal(size=8),
        "m": generator.normal(size=8), "v": generator.uniform(0.1, 2, 8),
    }  # fmt: skip
    narrow = {name: array.astype(np.float32) for name, array in weights.items()}
    text = (
        "g (float[N,4,H,W] x) => (float[] y) { c = Conv<pads=[1,1,1,1]>(x, w, d)"
        " y = BatchNormalization(c, g, b, m, v) }"
    )
    model = parse(text, narrow)
    x = generator.normal(size=(2, 4, 9, 8)).astype(np.float32)
    wide = parse(text.replace("float[", "double["), {n: a.astype(float) for n, a in narrow.items()})
    magnitude = {n: np.abs(a.astype(float)) for n, a in narrow.items()}
    magnitude["m"] = -magnitude["m"]
    largest = parse(text.replace("float[", "double["), magnitude)
    (exact,) = _reference(wide, x.astype(float))
    (scale,) = _reference(largest, np.abs(x).astype(float))
    bound = (4 * 9 + 2 + 3) * 2.0**-24 * scale
    result = run(model)
    assert result.ops == {"Conv": 1}
    for each in (model, result.after):
        session = ort.InferenceSession(each.SerializeToString(), _options())
        (found,) = session.run(None, {"x": x})
        assert (np.abs(found - exact) <= bound).all()


def _reference(model: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    return [np.asarray(y) for y in ReferenceEvaluator(model).run(None, {"x": x})]


def _options(
    level: ort.GraphOptimizationLevel = ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return options


_RECOGNISED = ("Gelu", "BiasGelu", "FastGelu", "QuickGelu", "LayerNormalization", "HardSwish",
               "SkipLayerNormalization", "BiasSoftmax", "MatMulAdd", "Attention")  # fmt: skip


@pytest.mark.parametrize("name", [
    "fastvit_sa12_fpn.script", "fastvit_mci0.dynamo", "segformer_b0.script", "segformer_b0.dynamo",
    "convnext_atto.script", "convnext_atto.dynamo", "mobilenetv3_small_100.script",
])  # fmt: skip
def test_the_runtime_still_recognises_activations(name: str, tmp_path: Path) -> None:
    """GELU, LayerNormalization and their like must not be taken apart by moving constants."""
    model = zoo.load(name)
    after, ledger = rewritten(model)
    assert not ledger.failures
    before = _fused(model, tmp_path / "before.onnx")
    now = _fused(after, tmp_path / "after.onnx")
    assert all(now[kind] >= before[kind] for kind in _RECOGNISED), (before, now)


def _fused(model: onnx.ModelProto, path: Path) -> Counter[str]:
    options = _options(ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
    options.optimized_model_filepath = str(path)
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    fused = onnx.load(path, load_external_data=False)
    return Counter(node.op_type for node in all_nodes(fused.graph))


def _chain(length: int, *, shared: bool) -> onnx.ModelProto:
    """Conv-BN-ReLU-Add, `length` nodes of it, unnamed; weights shared or not."""
    weights = {"w": integers("w", 2, 2, 1, 1), **batch_norm(2)}
    model = parse("g (float[1,2,4,4] x) => (float[1,2,4,4] y) { y = Identity(x) }", weights)
    del model.graph.node[:]
    last = "x"
    for index in range(length // 4):
        names = ["w", "g", "b", "m", "v"]
        if not shared:
            copies = [f"{name}.{index}" for name in names]
            for old, new in zip(names, copies, strict=True):
                model.graph.initializer.append(
                    onnx.numpy_helper.from_array(weights[old] + np.float32(index), new)
                )
            names = copies
        out = "y" if index == length // 4 - 1 else f"a{index}"
        nodes = (
            ("Conv", [last, names[0]], f"c{index}"),
            ("BatchNormalization", [f"c{index}", *names[1:]], f"n{index}"),
            ("Relu", [f"n{index}"], f"r{index}"),
            ("Add", [last, f"r{index}"], out),
        )
        for op, inputs, output in nodes:
            model.graph.node.append(onnx.helper.make_node(op, inputs, [output]))
        last = out
    return model


def _seconds(model: onnx.ModelProto) -> float:
    loaded = load(model).model
    started = time.process_time()
    run = PassManager(DEFAULT).run(loaded)
    taken = time.process_time() - started
    assert not run.ledger.failures
    assert "BatchNormalization" not in {node.op_type for node in run.model.graph}
    return taken


@pytest.mark.parametrize("shared", [True, False])
def test_time_grows_with_the_nodes(shared: bool) -> None:
    """Four times the nodes take four times as long, twice that at most for noise."""
    short = min(_seconds(_chain(2_000, shared=shared)) for _ in range(2))
    assert _seconds(_chain(8_000, shared=shared)) <= 8 * short


def test_deep_chains_do_not_exhaust_the_stack() -> None:
    steps = " ".join(f"r{i + 1} = Relu(r{i})" for i in range(3000))
    model = parse(
        f"g (float[1,2,4,4] x) => (float[] y, float[] t) {{ r0 = Mul(x, k) {steps}"
        f" s = Mul(r3000, k) y = Conv(s, w) c = Conv(x, w) t = {BN}(c, g, b, m, v) }}",
        {"w": integers("w", 2, 2, 1, 1), "k": powers("k", 2, 1, 1, negative=False),
         **batch_norm(2)},
    )  # fmt: skip
    after, ledger = rewritten(model)
    assert not ledger.failures
    assert "BatchNormalization" not in {node.op_type for node in after.graph.node}
