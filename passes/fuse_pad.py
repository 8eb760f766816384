"""Fold a Pad of zeros into the pads of the Conv or pooling that reads it.

    conv(pad(x, p), pads=q) = conv(x, pads=p + q)

What it does:
    Adds the pads of a Pad node to those of the Conv or AveragePool behind it, or of a MaxPool when
    the Pad writes minus infinity. A Pad with several such readers is folded into each of them.
When it applies:
    The Pad is of mode constant, pads only spatial axes, and its pads and value are constants.
When it refuses:
    Another mode or value; negative pads (they crop); a padded batch or channel axis; pads that are
    computed; SAME pads of an input whose extent is not known; a MaxPool behind zeros, because its
    own padding is minus infinity; an AveragePool that does not count its padding, or rounds up; a
    reader that cannot take the pads, because then the Pad would stay; pads as wide as a pooling
    window, which runtimes refuse.
Exactness:
    exact: the same numbers are multiplied and added.
Example:
    before: p = Pad(x, [0,0,1,1,0,0,1,1])  y = Conv<pads=[0,0,0,0]>(p, w)
    after:  y = Conv<pads=[1,1,1,1]>(x, w)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxfold.ir.graph import int_attribute, ints_attribute, is_op, producer
from onnxfold.ir.ops import Conv, Pad, SlidingWindow
from onnxfold.pipeline.passes import NoOptions, RulePass
from onnxfold.rewrite.builder import Builder
from onnxfold.rewrite.rule import AnyRule, Exactness, Reject, Rule

_READERS = frozenset({"Conv", "AveragePool", "MaxPool"})


@dataclass(frozen=True, slots=True)
class PadBeforeWindow:
    """A Conv or pooling node behind a Pad.

    Attributes:
        reader: The Conv or pooling node.
        x: What the Pad reads.
        pads: The sum of both pads, in the order of the ONNX attribute.
    """

    reader: ir.Node
    x: ir.Value
    pads: tuple[int, ...]


def match(node: ir.Node) -> PadBeforeWindow | Reject | None:
    """A Conv or pooling node whose input is padded by a node of its own."""
    x = node.inputs[0]
    pad = Pad.of(producer(x))
    if pad is None or x is None:
        return None
    if x.is_graph_output():
        return Reject("the padded tensor is an output of the graph", pad.node)
    found = _fold(node, pad)
    if isinstance(found, Reject):
        return found
    for reader, index in x.uses():
        if index != 0 or not _takes(reader, pad):
            return Reject("another reader of the padded tensor cannot take the pads", reader)
    return found


def _takes(reader: ir.Node, pad: Pad) -> bool:
    return is_op(reader, *_READERS) and not isinstance(_fold(reader, pad), Reject)


def _fold(reader: ir.Node, pad: Pad) -> PadBeforeWindow | Reject:
    spatial = _spatial_pads(pad)
    if isinstance(spatial, str):
        return Reject(spatial, pad.node)
    if (reason := _refusal(reader, pad)) is not None:
        return Reject(reason, reader)
    own = _own_pads(reader, pad)
    if own is not None and len(own) != len(spatial):
        return Reject("its window has another rank than the padded tensor", reader)
    if own is None:
        return Reject("its own pads depend on extents that are not known", reader)
    total = tuple(a + b for a, b in zip(own, spatial, strict=True))
    if not is_op(reader, "Conv") and _covers_a_window(total, reader):
        return Reject("a pooling window may not lie in the padding alone", reader)
    return PadBeforeWindow(reader, pad.x, total)


def _spatial_pads(pad: Pad) -> tuple[int, ...] | str:
    """The pads in the order of the ONNX attribute, or why they cannot be folded."""
    if pad.mode != "constant":
        return f"it pads with mode {pad.mode}"
    if pad.pads is None:
        return "its pads are not constants"
    if any(amount < 0 for pair in pad.pads for amount in pair):
        return "negative pads crop the tensor"
    if len(pad.pads) < 3 or any(pair != (0, 0) for pair in pad.pads[:2]):
        return "it pads the batch or channel axis"
    spatial = pad.pads[2:]
    return (*(begin for begin, _ in spatial), *(end for _, end in spatial))


def _refusal(reader: ir.Node, pad: Pad) -> str | None:
    if is_op(reader, "MaxPool"):
        if pad.value != float("-inf"):
            return "a MaxPool pads with minus infinity, and the Pad writes something else"
        if len(reader.outputs) > 1 or int_attribute(reader, "ceil_mode", 0):
            return "its indices or rounded-up extents depend on the padded tensor"
        return None
    if pad.value != 0:
        return "it pads with a value that is not zero"
    if is_op(reader, "Conv"):
        return None
    if (reader.version or 0) < 7:
        return "an average before operator set 7 cannot count its padding"
    if int_attribute(reader, "ceil_mode", 0):
        return "an average over rounded-up extents does not count the padding behind the end"
    own_pads = any(ints_attribute(reader, "pads", ()))
    if own_pads and not int_attribute(reader, "count_include_pad", 0):
        return "an average that leaves out its own padding would leave out these zeros too"
    return None


def _covers_a_window(pads: tuple[int, ...], reader: ir.Node) -> bool:
    """Whether the pads are as wide as the window, which runtimes refuse for pooling."""
    extents = ints_attribute(reader, "kernel_shape", ())
    return any(pad >= extent for pad, extent in zip(pads, extents * 2, strict=True))


def _own_pads(reader: ir.Node, pad: Pad) -> tuple[int, ...] | None:
    conv = Conv.of(reader)
    padded = pad.node.outputs[0]
    if conv is not None:
        return conv.window.explicit_pads(padded)
    kernel_shape = ints_attribute(reader, "kernel_shape", ())
    window = SlidingWindow.of(reader, kernel_shape)
    if is_op(reader, "AveragePool") and window.auto_pad.startswith("SAME"):
        return None
    return window.explicit_pads(padded)


def rewrite(found: PadBeforeWindow, build: Builder) -> ir.Value:
    """Record the reader with the pads of both."""
    reader = found.reader
    changed: dict[str, Sequence[int] | str | int] = {"pads": found.pads}
    if "auto_pad" in reader.attributes:
        changed["auto_pad"] = "NOTSET"
    if is_op(reader, "AveragePool"):
        changed["count_include_pad"] = 1
    return build.like(reader, [found.x, *reader.inputs[1:]], changed)


def rules(_: NoOptions) -> Sequence[AnyRule]:
    """The one rule."""
    return (RULE,)


RULE = Rule("pad_before_window", _READERS, match, rewrite, exactness=Exactness.EXACT)
PASS = RulePass("fuse_pad", rules, __doc__ or "", exactness=Exactness.EXACT)
