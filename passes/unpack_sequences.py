"""Read the pieces of a tensor from a Split instead of from a sequence of them.

What it does:
    Replaces SequenceAt with a constant position by what stands there: an output of a Split where
    SplitToSequence made the sequence, an operand where SequenceConstruct did. Exporters write
    `chunk` so; what is in a sequence has no known shape, so that nothing behind it folds, and not
    every backend takes sequences.
When it applies:
    The lengths of all pieces are known: constants that are given, or a constant length and a known
    extent of the axis.
When it refuses:
    Positions or lengths that are computed, an extent that is not known, a position beyond the end;
    given lengths together with keepdims = 0, which the standard ignores and runtimes do not.
Exactness:
    exact.
Example:
    before: s = SplitToSequence<axis = 1>(x, lengths)  y = SequenceAt(s, 1)
    after:  p, y = Split<axis = 1>(x, lengths)
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from onnxfold.ir.constants import constant_array, int_constant
from onnxfold.ir.graph import describe, input_at, int_attribute, is_op, nested_graphs, producer
from onnxfold.ir.shapes import dim, infer_shapes, rank
from onnxfold.pipeline.passes import EditPass, NoOptions
from onnxfold.rewrite.builder import Builder
from onnxfold.rewrite.ledger import Rejection
from onnxfold.rewrite.rewriter import Rewriter
from onnxfold.rewrite.rule import Exactness, Reject

_NAME, _RULE = "unpack_sequences", "piece"
_FIRST_WITH_LENGTHS_AS_INPUT = 13


@dataclass(frozen=True, slots=True)
class Pieces:
    """A tensor that is cut along an axis.

    Attributes:
        x: The tensor.
        axis: Not negative where the rank is known.
        lengths: Of the pieces.
        is_squeezed: Whether the pieces, of length one, lose the axis.
    """

    x: ir.Value
    axis: int
    lengths: tuple[int, ...]
    is_squeezed: bool


@dataclass(frozen=True, slots=True)
class _Cuts:
    """The outputs of each Split that was made, by the sequence that it stands for."""

    made: dict[ir.Value, tuple[ir.Value, ...]] = field(default_factory=dict)


def edit(rewriter: Rewriter, _: NoOptions) -> None:
    """Go through the graphs from top to bottom, so that a Split stands before all its readers."""
    graph, before = rewriter.model.graph, len(rewriter.ledger.applied)
    for each in (graph, *nested_graphs(graph)):
        cuts = _Cuts()
        for node in list(each):
            if node.graph is not None and is_op(node, "SequenceAt"):
                _edit_one(rewriter, node, cuts)
    if len(rewriter.ledger.applied) > before:
        infer_shapes(rewriter.model)


def _edit_one(rewriter: Rewriter, node: ir.Node, cuts: _Cuts) -> None:
    build, known = rewriter.builder(node), set(cuts.made)
    piece = _piece(node, build, cuts)
    if isinstance(piece, ir.Value):
        done = rewriter.replace(node, [piece], build, pass_name=_NAME, rule=_RULE)
        for sequence in cuts.made.keys() - known if done is None else ():
            del cuts.made[sequence]  # it was not admitted, and is not there
    elif piece is not None:
        where = "" if piece.node is node else f" ({describe(piece.node)})"
        reason = f"{piece.reason}{where}"
        rejection = Rejection(_NAME, _RULE, describe(node), node.op_type, reason)
        rewriter.ledger.reject(node, rejection)


def _piece(node: ir.Node, build: Builder, cuts: _Cuts) -> ir.Value | Reject | None:
    """What a SequenceAt gives, as far as it is plain."""
    sequence = node.inputs[0]
    maker = producer(sequence)
    if sequence is None or maker is None:
        return None
    if is_op(maker, "SequenceConstruct"):
        place = _place(node, len(maker.inputs))
        return place if isinstance(place, Reject) else maker.inputs[place]
    # Lengths may be constants of another graph, and a Split there would be one too many.
    if not is_op(maker, "SplitToSequence") or maker.graph is not node.graph:
        return None
    pieces = _pieces(maker)
    if isinstance(pieces, Reject):
        return pieces
    place = _place(node, len(pieces.lengths))
    if isinstance(place, Reject):
        return place
    if sequence not in cuts.made:
        cuts.made[sequence] = _split(pieces, node.version or 0, build)
    piece = cuts.made[sequence][place]
    return _squeezed(piece, pieces.axis, node, build) if pieces.is_squeezed else piece


def _place(node: ir.Node, count: int) -> int | Reject:
    position = int_constant(node.inputs[1])
    if position is None:
        return Reject("the position in the sequence is not a constant", node)
    if not -count <= position[0] < count:
        return Reject("the position is beyond the end of the sequence", node)
    return position[0] % count


def _pieces(maker: ir.Node) -> Pieces | Reject:
    x, given = maker.inputs[0], input_at(maker, 1)
    assert x is not None
    axis, axes = int_attribute(maker, "axis", 0), rank(x)
    if axis < 0 and axes is not None:
        axis += axes
    lengths = _lengths(given, dim(x, axis))
    if lengths is None:
        return Reject("the lengths of its pieces are not known", maker)
    is_squeezed = not int_attribute(maker, "keepdims", 1)
    if given is not None and is_squeezed:
        return Reject("runtimes do not agree whether its pieces keep the axis", maker)
    return Pieces(x, axis, lengths, is_squeezed)


def _lengths(given: ir.Value | None, extent: int | None) -> tuple[int, ...] | None:
    """Of all pieces; without any given length they are one, and a lone number is for all."""
    array = np.array(1) if given is None else constant_array(given)
    if array is None or not array.size or array.min() < 0:
        return None
    if array.ndim:
        return tuple(int(length) for length in array)
    if not extent or not array:
        return None
    return tuple(min(int(array), extent - begin) for begin in range(0, extent, int(array)))


def _split(pieces: Pieces, version: int, build: Builder) -> tuple[ir.Value, ...]:
    count, axis, x = len(pieces.lengths), {"axis": pieces.axis}, pieces.x
    outputs: Sequence[ir.Value]
    if version < _FIRST_WITH_LENGTHS_AS_INPUT:
        outputs = build.several("Split", [x], count, {**axis, "split": pieces.lengths})
    else:
        lengths = build.tensor(np.array(pieces.lengths, np.int64), ir.DataType.INT64)
        outputs = build.several("Split", [x, lengths], count, axis)
    for output, length in zip(outputs, pieces.lengths, strict=True):
        output.type = x.type
        if x.shape is not None:
            output.shape = ir.Shape(x.shape)
            output.shape[pieces.axis] = length
    return tuple(outputs)


def _squeezed(piece: ir.Value, axis: int, node: ir.Node, build: Builder) -> ir.Value:
    if (node.version or 0) < _FIRST_WITH_LENGTHS_AS_INPUT:
        result = build.op("Squeeze", [piece], {"axes": [axis]})
    else:
        axes = build.tensor(np.array([axis], np.int64), ir.DataType.INT64)
        result = build.op("Squeeze", [piece, axes])
    result.type = piece.type
    if piece.shape is not None:
        result.shape = ir.Shape([e for i, e in enumerate(piece.shape) if i != axis])
    return result


PASS = EditPass(_NAME, edit, __doc__ or "", exactness=Exactness.EXACT)
