"""Small models for the tests of passes: drawn, rewritten, and compared to the bit.

Weights are small integers, scales are powers of two and variances powers of four with epsilon 0:
float32 then computes every sum without rounding, so that a fold that is right is right to the bit
and no tolerance is needed.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from onnxfold.ir.interface import interface_difference
from onnxfold.model import load, to_proto
from onnxfold.passes.presets import BUILTIN, DEFAULT
from onnxfold.pipeline.manager import PassManager
from onnxfold.pipeline.passes import ConfiguredPass, Pass
from onnxfold.rewrite.ledger import Ledger

Array = NDArray[Any]
Weights = Mapping[str, Array]

_SIZES = {"N": 2, "H": 7, "W": 6, "C": 4, "B": 1}
"""Extents of symbolic axes when a test does not say."""


def integers(name: str, *shape: int, largest: int = 3) -> NDArray[np.float32]:
    """Integers between -largest and largest, drawn from the name."""
    drawn = _generator(name).integers(-largest, largest + 1, shape)
    return drawn.astype(np.float32)


def powers(name: str, *shape: int, negative: bool = True) -> NDArray[np.float32]:
    """Powers of two between a half and two, some of them negative."""
    generator = _generator(name)
    sign = generator.choice([-1.0, 1.0], shape) if negative else np.ones(shape)
    return np.asarray(sign * 2.0 ** generator.integers(-1, 2, shape), np.float32)


def batch_norm(
    channels: int, prefix: str = "", *, negative: bool = True, dtype: Any = np.float32
) -> dict[str, Array]:
    """Parameters `g b m v` of a BatchNormalization that float32 computes without rounding."""
    drawn = {
        "g": powers(f"{prefix}g", channels, negative=negative),
        "b": integers(f"{prefix}b", channels),
        "m": integers(f"{prefix}m", channels),
        "v": powers(f"{prefix}v", channels, negative=False) ** 2,
    }
    return {prefix + name: array.astype(dtype) for name, array in drawn.items()}


BN = "BatchNormalization <epsilon: float = 0.0>"
"""A BatchNormalization in ONNX text, with the epsilon that keeps the arithmetic exact."""


def parse(
    body: str, weights: Weights | None = None, *, opset: int = 18, ir_version: int = 9
) -> onnx.ModelProto:
    """A model from ONNX text without its header, with `weights` as initializers.

    Outputs written `float[]` get the shape that ONNX infers.
    """
    header = f'<ir_version: {ir_version}, opset_import: ["" : {opset}, "test.custom" : 1]>'
    model = onnx.parser.parse_model(f"{header}\n{body}")
    for name, array in (weights or {}).items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph.output
    for value, found in zip(model.graph.output, inferred, strict=True):
        if not value.type.tensor_type.HasField("shape"):
            value.CopyFrom(found)
    return model


@dataclass(frozen=True, slots=True)
class Result:
    """What a run of passes made of a model.

    Attributes:
        before: The model that went in.
        after: The model that came out.
        ledger: What was done.
    """

    before: onnx.ModelProto
    after: onnx.ModelProto
    ledger: Ledger

    @property
    def ops(self) -> dict[str, int]:
        """How many nodes of each type there are now, bodies of control flow included."""
        return dict(Counter(node.op_type for node in all_nodes(self.after.graph)))

    @property
    def reasons(self) -> list[str]:
        """The reasons given for near misses, without the node they name."""
        return [re.sub(r" \(\w+ (of )?'.*'\)$", "", r.reason) for r in self.ledger.rejections]


def run(model: onnx.ModelProto, *passes: str) -> Result:
    """Run passes by name (the default ones when none is named) and check what must always hold.

    The model stays valid, keeps its interface, has unique names, nothing raised, and a second run
    finds nothing to do. Several passes may make work for an earlier one of them, but not for ever.
    """
    after, ledger = rewritten(model, passes)
    assert not ledger.failures, ledger.failures
    check_invariants(model, after)
    settled = after
    for _ in range(0 if len(passes) == 1 else 3):
        settled, _ = rewritten(settled, passes)
    again, last = rewritten(settled, passes)
    assert not last.failures, last.failures
    assert [str(each.key) for each in last.applied] == []
    assert again.SerializeToString() == settled.SerializeToString()
    return Result(model, after, ledger)


def rewritten(
    model: onnx.ModelProto, passes: Sequence[str] = (), ledger: Ledger | None = None
) -> tuple[onnx.ModelProto, Ledger]:
    """The model after these passes, unchecked."""
    by_name = {step.name: step for step in BUILTIN}
    steps: list[Pass | ConfiguredPass] = [by_name[name] for name in passes] or list(DEFAULT)
    outcome = PassManager(steps).run(load(model).model, ledger)
    return to_proto(outcome.model), outcome.ledger


def check_invariants(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    """Fail unless `after` is a valid model with the interface of `before` and unique names."""
    onnx.checker.check_model(after, full_check=not _uses_custom_domain(after))
    assert interface_difference(load(before).model, load(after).model) is None
    values = [name for name in value_names(after.graph) if name]
    old = Counter(value_names(before.graph))
    assert not [n for n, count in Counter(values).items() if count > max(1, old[n])]
    nodes = Counter(node.name for node in all_nodes(after.graph) if node.name)
    old_nodes = Counter(node.name for node in all_nodes(before.graph))
    assert not [n for n, count in nodes.items() if count > max(1, old_nodes[n])]


def folds(model: onnx.ModelProto, *passes: str, ops: Mapping[str, int], **kinds: Any) -> Result:
    """Run the passes, expect exactly these nodes, and the same outputs to the bit."""
    result = run(model, *passes)
    assert result.ops == dict(ops), result.reasons
    assert_equal(model, result.after, **kinds)
    return result


def unchanged(model: onnx.ModelProto, *passes: str, reason: str | None = None) -> Result:
    """Run the passes and expect that nothing was done, for that reason if one is given."""
    result = run(model, *passes)
    assert [str(each.key) for each in result.ledger.applied] == []
    if reason is not None:
        assert reason in result.reasons
    return result


def assert_equal(
    before: onnx.ModelProto,
    after: onnx.ModelProto,
    *,
    feeds: Sequence[Weights] | None = None,
    runtime: bool = True,
    reference: bool = True,
) -> None:
    """Fail unless both models give the same bits on the runtime, and on the reference as well.

    Args:
        before: One model.
        after: The other.
        feeds: Inputs; drawn for two sizes of the symbolic axes when None.
        runtime: Whether ONNX Runtime can run the model.
        reference: Whether onnx.reference can run the model.
    """
    engines = [run_ort] * runtime + [run_reference] * reference
    for feed in feeds if feeds is not None else drawn_feeds(before):
        for engine in engines:
            old, new = engine(before, feed), engine(after, feed)
            for expected, found in zip(old, new, strict=True):
                assert expected.dtype == found.dtype
                assert expected.shape == found.shape
                np.testing.assert_array_equal(found, expected)


def drawn_feeds(model: onnx.ModelProto) -> list[dict[str, Array]]:
    """Integer inputs of either sign, for two choices of the symbolic axes."""
    given = {initializer.name for initializer in model.graph.initializer}
    feeds = []
    for growth in (0, 3):
        feed: dict[str, Array] = {}
        for value in model.graph.input:
            if value.name in given:
                continue
            kind = value.type.tensor_type
            shape = [d.dim_value or _SIZES.get(d.dim_param, 5) + growth for d in kind.shape.dim]
            dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
            generator = _generator(f"{value.name}{growth}")
            feed[value.name] = np.asarray(generator.integers(-4, 5, shape)).astype(dtype)
        feeds.append(feed)
    return feeds


def run_ort(model: onnx.ModelProto, feed: Weights) -> list[Array]:
    """Outputs by ONNX Runtime with every optimization off."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [np.asarray(each) for each in session.run(None, dict(feed))]


def run_reference(model: onnx.ModelProto, feed: Weights) -> list[Array]:
    """Outputs by the reference implementation of the onnx package."""
    return [np.asarray(each) for each in ReferenceEvaluator(model).run(None, dict(feed))]


def all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Every node, bodies of control flow included."""
    for node in graph.node:
        yield node
        for body in _bodies(node):
            yield from all_nodes(body)


def renamed(model: onnx.ModelProto, names: Mapping[str, str]) -> onnx.ModelProto:
    """The model with values of its main graph called otherwise; ONNX text allows few characters."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for node in copy.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for tensor in copy.graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for value in (*copy.graph.input, *copy.graph.output):
        value.name = names.get(value.name, value.name)
    return copy


def value_names(graph: onnx.GraphProto) -> Iterator[str]:
    """Every name that some node, input or initializer gives to a value."""
    inputs = {value.name for value in graph.input}
    yield from sorted(inputs)
    yield from (each.name for each in graph.initializer if each.name not in inputs)
    for node in graph.node:
        yield from node.output
        for body in _bodies(node):
            yield from value_names(body)


def _bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [attribute.g for attribute in node.attribute if attribute.HasField("g")]


def _uses_custom_domain(model: onnx.ModelProto) -> bool:
    return any(node.domain not in ("", "ai.onnx") for node in all_nodes(model.graph))


def _generator(name: str) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
