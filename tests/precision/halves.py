"""Models converted to float16 for the tests, checked for what must hold of every one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxfold.ir.graph import describe
from onnxfold.ir.shapes import infer_shapes
from onnxfold.model import load, to_proto
from onnxfold.precision import Float16Options, convert_to_float16, rounding_model
from tests.toolkit import Weights, run_ort, value_names

FLOAT, FLOAT16 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16


@dataclass(frozen=True, slots=True)
class Converted:
    """A model and what became of it.

    Attributes:
        before: The float32 model.
        after: The converted one.
        reasons: Why nodes stayed in float32, by their description.
    """

    before: onnx.ModelProto
    after: onnx.ModelProto
    reasons: dict[str, str]

    @property
    def ops(self) -> dict[str, int]:
        """How many nodes of each type the main graph has."""
        return dict(Counter(node.op_type for node in self.after.graph.node))

    @property
    def casts(self) -> list[tuple[str, str]]:
        """Source and target of every Cast between float16 and float32."""
        types, both = self.types, {FLOAT, FLOAT16}
        return [
            (node.input[0], node.output[0])
            for node in self.after.graph.node
            if node.op_type == "Cast" and {types[node.input[0]], types[node.output[0]]} == both
        ]

    @property
    def types(self) -> dict[str, int]:
        """The element type of every value of the main graph."""
        graph = onnx.shape_inference.infer_shapes(self.after, strict_mode=True).graph
        found = {tensor.name: tensor.data_type for tensor in graph.initializer}
        for value in (*graph.value_info, *graph.input, *graph.output):
            kind = value.type
            if kind.HasField("sequence_type"):
                kind = kind.sequence_type.elem_type
            found[value.name] = kind.tensor_type.elem_type
        return found

    def run(self, feed: Weights) -> list[NDArray[Any]]:
        """Outputs with every float16 result rounded."""
        return run_ort(rounding_model(self.after), feed)


def convert(
    model: onnx.ModelProto,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    **options: Any,
) -> Converted:
    """Convert a model, and check that the result is valid and stays as it is when converted again.

    Args:
        model: Left as it is.
        ranges: Measured ranges by name.
        **options: Fields of `Float16Options`.
    """
    after, reasons = _convert(model, ranges, options)
    onnx.checker.check_model(after, full_check=True)
    names = list(value_names(after.graph))
    assert len(names) == len(set(names))
    _check_casts(after)
    again, same = _convert(after, ranges, options)
    assert again.SerializeToString() == after.SerializeToString()
    assert reasons.keys() <= same.keys()
    return Converted(model, after, reasons)


def _convert(
    model: onnx.ModelProto, ranges: Mapping[str, tuple[float, float]] | None, options: Any
) -> tuple[onnx.ModelProto, dict[str, str]]:
    loaded = load(model).model
    infer_shapes(loaded)
    islands = convert_to_float16(loaded, Float16Options(**options), ranges)
    return to_proto(loaded), {describe(island.node): island.reason for island in islands}


def _check_casts(model: onnx.ModelProto) -> None:
    """No value is cast twice to one type, and no Cast feeds only another."""
    targets = Counter(
        (node.input[0], node.attribute[0].i) for node in model.graph.node if node.op_type == "Cast"
    )
    assert max(targets.values(), default=1) == 1, targets


def sqnr(expected: Sequence[NDArray[Any]], found: Sequence[NDArray[Any]]) -> float:
    """The smallest ratio of signal to error of all outputs, in dB."""
    ratios = []
    for one, other in zip(expected, found, strict=True):
        assert np.isfinite(other).all()
        wide, noise = one.astype(np.float64), one.astype(np.float64) - other.astype(np.float64)
        power = np.square(noise).sum()
        ratios.append(10 * np.log10(np.square(wide).sum() / power) if power else np.inf)
    return float(min(ratios))
