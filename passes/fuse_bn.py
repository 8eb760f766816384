"""Fold BatchNormalization and per-channel constants into the weights around them.

    y = γ · (conv(x) − μ) / sqrt(σ² + ε) + β   becomes one Conv with W' = s · W, b' = s · b + t,
    where s = γ / sqrt(σ² + ε) and t = β − μ · s

What it does:
    Moves a BatchNormalization, or Mul, Add, Sub, Div and Neg with a constant that is one number per
    channel, into the Conv, ConvTranspose, Gemm, MatMul or BatchNormalization that computes its
    input; or else into the one that reads its output. On the way it passes Concat, additions,
    Transpose, Reshape and pooling, and ReLU where the scale is positive and nothing is shifted.
When it applies:
    The weights are constants, and every tensor on the way has one reader.
When it refuses:
    A normalization in training form; a shift in front of a kernel that pads the border with zeros,
    which come after the shift (of several steps there, one Add stays); a constant that is not per
    channel or changes the shape; constants that belong to a decomposed activation or normalization,
    which backends run as one kernel; what would move work into the body of control flow; a result
    that the type of the model cannot hold.
Exactness:
    reassociated: computed in float64 and rounded once.
Example:
    before: c = Conv(x, w)  y = BatchNormalization(c, scale, bias, mean, var)
    after:  y = Conv(x, w.folded, bias.folded)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxfold.ir.graph import is_op, producer
from onnxfold.ir.ops import BatchNormalization
from onnxfold.ir.shapes import rank
from onnxfold.linear.absorb import IntoHost, Plan, Through, emit, plan_at
from onnxfold.linear.affine import (
    AFFINE_OPS,
    ARITHMETIC,
    Affine,
    AffineNode,
    affine_of,
    broadcast_shape,
)
from onnxfold.linear.batchnorm import emit_batch_normalization
from onnxfold.linear.feed import Pulled, emit_source, pull_above, refusal
from onnxfold.linear.hosts import Host, emit_scaled_inputs, host_of
from onnxfold.pipeline.passes import NoOptions, RulePass
from onnxfold.rewrite.builder import Builder
from onnxfold.rewrite.rule import AnyRule, Reject, Rule


@dataclass(frozen=True, slots=True)
class AffineAfterLinear:
    """An affine node whose input can take it."""

    plan: Plan


def match_after(node: ir.Node) -> AffineAfterLinear | Reject | None:
    """An affine node behind something linear."""
    step = affine_of(node)
    if not isinstance(step, AffineNode):
        return step if _is_near_miss(node) else None
    steps = plan_at(step)
    if isinstance(steps, Reject):
        return steps if _is_near_miss(node) else None
    spare = 1 if is_op(node, "BatchNormalization") else 0
    if _added_nodes(steps) > spare:
        return Reject("it would need more nodes than it saves", node)
    return AffineAfterLinear(steps)


def _is_near_miss(node: ir.Node) -> bool:
    """Whether a user would expect the fold: constant arithmetic is everywhere in a graph."""
    return is_op(node, "BatchNormalization") or any(
        is_op(producer(value), "Conv", "ConvTranspose", "Gemm", "BatchNormalization")
        for value in node.inputs
    )


def _added_nodes(steps: Plan) -> int:
    """How many nodes the plan adds: a MatMul has no bias, so a shift becomes an Add."""
    match steps:
        case IntoHost(host, affine):
            return int(is_op(host.node, "MatMul") and affine.shifts)
        case Through(_, inputs):
            return sum(_added_nodes(inner) for inner in inputs if inner is not None)
        case _:
            return 0


def rewrite_after(found: AffineAfterLinear, build: Builder) -> ir.Value:
    """Record what computes the output of the affine node without it."""
    return emit(found.plan, build)


@dataclass(frozen=True, slots=True)
class AffineBeforeLinear:
    """A linear operator that reads the output of an affine node.

    Attributes:
        host: The operator.
        pulled: What goes into it.
        kept: What has to be added in front of it all the same, before the scale.
    """

    host: Host
    pulled: Pulled
    kept: Affine | None = None


def match_before(node: ir.Node) -> AffineBeforeLinear | Reject | None:
    """A linear operator behind an affine node."""
    pulled = pull_above(node)
    if not isinstance(pulled, Pulled):
        return pulled
    if is_op(node, "Gemm", "MatMul") and all(is_op(step, *ARITHMETIC) for step in pulled.taken):
        # The scale and shift of a layer normalization stand here; backends fuse them with it.
        return None
    host = host_of(node)
    if not isinstance(host, Host):
        return host
    if (reason := refusal(host, pulled.affine)) is not None:
        return _shift_alone(host, pulled) or Reject(reason.reason, pulled.taken[0])
    return AffineBeforeLinear(host, pulled)


def _shift_alone(host: Host, pulled: Pulled) -> AffineBeforeLinear | None:
    """`conv(pad(s·x + t)) = conv'(pad(x + t/s))`, where that saves a node."""
    scale, shift, axis = pulled.affine.scale, pulled.affine.shift, pulled.affine.axis
    if len(pulled.taken) < 2 or pulled.through is not None or rank(pulled.value) is None:
        return None
    if refusal(host, Affine(scale, np.zeros_like(scale), axis)) is not None or not scale.all():
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        first = shift / scale
    if not np.isfinite(first).all():
        return None
    return AffineBeforeLinear(host, pulled, Affine(np.ones_like(first), first, axis))


def rewrite_before(found: AffineBeforeLinear, build: Builder) -> ir.Value:
    """Record the operator with scaled input channels."""
    source, affine = emit_source(found.pulled, build), found.pulled.affine
    if found.kept is not None:
        source = _shifted(source, found.kept, found, build)
        affine = Affine(affine.scale, np.zeros_like(affine.scale), affine.axis)
    return emit_scaled_inputs(found.host, source, affine, build)


def _shifted(x: ir.Value, kept: Affine, found: AffineBeforeLinear, build: Builder) -> ir.Value:
    old, known = found.pulled.taken[0].outputs[0], rank(x)
    assert known is not None
    numbers = kept.shift.reshape(broadcast_shape(kept, known))
    added = build.op("Add", [x, build.constant(numbers, found.host.dtype, old.name)])
    added.type = old.type
    added.shape = None if old.shape is None else ir.Shape(old.shape)
    return added


@dataclass(frozen=True, slots=True)
class AffineBeforeBatchNormalization:
    """A BatchNormalization that reads the output of constant arithmetic."""

    norm: BatchNormalization
    pulled: Pulled
    joined: Affine


def match_chain(node: ir.Node) -> AffineBeforeBatchNormalization | None:
    """Constant arithmetic in front of a BatchNormalization."""
    norm, step = BatchNormalization.of(node), affine_of(node)
    if norm is None or not isinstance(step, AffineNode):
        return None
    pulled = pull_above(node)
    if not isinstance(pulled, Pulled):
        return None
    joined = step.affine.after(pulled.affine)
    return None if joined is None else AffineBeforeBatchNormalization(norm, pulled, joined)


def rewrite_chain(found: AffineBeforeBatchNormalization, build: Builder) -> ir.Value:
    """Record one BatchNormalization that does the work of the whole chain."""
    source = emit_source(found.pulled, build)
    return emit_batch_normalization(found.norm, source, found.joined, build)


def rules(_: NoOptions) -> Sequence[AnyRule]:
    """The rules in the order in which a node is offered to them."""
    return (AFTER, BEFORE, CHAIN)


AFTER = Rule("after_linear", AFFINE_OPS, match_after, rewrite_after)
BEFORE = Rule(
    "before_linear",
    frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"}),
    match_before,
    rewrite_before,
)
CHAIN = Rule("chain", frozenset({"BatchNormalization"}), match_chain, rewrite_chain)
PASS = RulePass("fuse_bn", rules, __doc__ or "")
