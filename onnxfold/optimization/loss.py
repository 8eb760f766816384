"""What lossy passes cost: their result is measured, since it cannot be proven equal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxfold.errors import NotEqualError
from onnxfold.pipeline.report import Loss
from onnxfold.precision import rounding_model
from onnxfold.quantize.metrics import Comparison
from onnxfold.verify import ModelSource, Verifier
from onnxfold.verify.session import FeedRefusedError, Session
from onnxfold.verify.sources import folder_of, read_skeleton

Outputs = Mapping[str, NDArray[Any]]

_ORDINARY = ("data", "normal (", "normal")
"""How the labels of feeds begin that say something about a loss, the best ones first. Zeros and
huge values do not, and heavy borders little: quantization clips them."""


def check_loss(
    verifier: Verifier, candidate: ModelSource, passes: Sequence[str], threads: int | None
) -> Loss:
    """Run the result of lossy passes on the feeds of the verifier.

    Judged by the user's own data if there are any, else by plain normal values. What is float16 is
    rounded as on a machine that computes in it; inputs and outputs that became float16 are
    converted.

    Args:
        verifier: Of the model as it came.
        candidate: The result.
        passes: The names of the passes.
        threads: Threads per operator.

    Raises:
        CannotRunError: The runtime refuses the result.
        NotEqualError: It does not run on a feed, changed its outputs, or is not finite where it
            was.
    """
    result = _Result.of(candidate, threads)
    cases = list(zip(verifier.feeds(), verifier.expected(), strict=True))
    labels = [feed.label for feed, _ in cases if feed.label.startswith(_ORDINARY)]
    judged = _best(labels)
    found: Comparison | None = None
    first, reference = cases[0]  # there is always one
    notes = _about_types(result, first.arrays, reference)
    for feed, expected in cases:
        try:
            outputs = result.run(feed.arrays, expected)
        except FeedRefusedError as error:
            raise _broken(passes, f"it does not run on {feed.label}: {error}") from error
        problem = _problem(expected, outputs)
        if problem is not None and feed.label in labels:
            raise _broken(passes, f"{problem} on {feed.label}")
        if problem is not None:
            notes.append(f"{problem} on {feed.label}")
        if feed.label in judged:
            one = Comparison.of(expected, outputs)
            found = one if found is None else found.merged(one)
    sqnr = None if found is None else found.sqnr
    agreement = None if found is None else found.agreement
    return Loss(tuple(passes), sqnr, agreement, tuple(judged), tuple(notes))


@dataclass(frozen=True, slots=True)
class _Result:
    """The result, taking and giving float32 where the model as it came does.

    Attributes:
        session: The model, rounding as float16 does.
        inputs: Those that are float16.
        outputs: Likewise.
    """

    session: Session
    inputs: frozenset[str]
    outputs: frozenset[str]

    @classmethod
    def of(cls, candidate: ModelSource, threads: int | None) -> "_Result":
        proto = read_skeleton(candidate)
        if not _computes_in_half(proto):
            return cls(Session(candidate, threads=threads), frozenset(), frozenset())
        # The runtime computes float16 in float32 between Casts, and drops those that meet.
        rounding = rounding_model(proto)
        session = Session(rounding, threads=threads, folder=folder_of(candidate))
        return cls(session, _halves(proto.graph.input), _halves(proto.graph.output))

    def run(self, feed: Outputs, expected: Outputs) -> Outputs:
        shortened = self.shortened_inputs(feed)
        with np.errstate(over="ignore"):  # what is too large for float16 is infinite there
            arrays = {
                name: array.astype(np.float16) if name in shortened else array
                for name, array in feed.items()
            }
        outputs = self.session.run(arrays)
        lengthened = self.shortened_outputs(expected) & outputs.keys()
        return {
            name: array.astype(np.float32) if name in lengthened else array
            for name, array in outputs.items()
        }

    def shortened_inputs(self, feed: Outputs) -> set[str]:
        return {name for name in self.inputs & feed.keys() if feed[name].dtype == np.float32}

    def shortened_outputs(self, expected: Outputs) -> set[str]:
        names = self.outputs & expected.keys()
        return {name for name in names if expected[name].dtype == np.float32}


def _computes_in_half(proto: onnx.ModelProto) -> bool:
    half = onnx.TensorProto.FLOAT16
    types = {tensor.data_type for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        types |= {attribute.i for attribute in node.attribute if attribute.name == "to"}
    return half in types or bool(_halves(proto.graph.input) | _halves(proto.graph.output))


def _halves(values: Sequence[onnx.ValueInfoProto]) -> frozenset[str]:
    half = onnx.TensorProto.FLOAT16
    return frozenset(each.name for each in values if each.type.tensor_type.elem_type == half)


def _about_types(result: _Result, feed: Outputs, expected: Outputs) -> list[str]:
    shortened = [name for name in feed if name in result.shortened_inputs(feed)]
    shortened += [name for name in expected if name in result.shortened_outputs(expected)]
    if not shortened:
        return []
    names = ", ".join(f"'{name}'" for name in shortened)
    return [f"callers have to know: {names} became float16"]


def _best(labels: Sequence[str]) -> list[str]:
    by_kind = ([label for label in labels if label.startswith(kind)] for kind in _ORDINARY)
    return next((found for found in by_kind if found), [])


def _broken(passes: Sequence[str], problem: str) -> NotEqualError:
    return NotEqualError(
        f"the result of {', '.join(passes)} is broken: {problem}",
        "leave the pass out, or change its options",
    )


def _problem(expected: Outputs, outputs: Outputs) -> str | None:
    """What no loss of digits excuses."""
    if list(expected) != list(outputs):
        return f"its outputs are {', '.join(outputs)} and were {', '.join(expected)}"
    for name, before in expected.items():
        after = outputs[name]
        if after.dtype != before.dtype or after.shape != before.shape:
            return f"'{name}' became {after.dtype} {after.shape}"
        if before.dtype.kind == "f" and not np.isfinite(after[np.isfinite(before)]).all():
            return f"'{name}' is not finite where it was"
    return None
