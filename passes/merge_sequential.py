"""Merge linear operators in a row into one.

    conv_b(conv_a(x)) = conv_c(x),  (x A) B = x (A B),
    because linear maps compose

What it does:
    Composes a convolution, transposed convolution or counting average pooling with the one that it
    alone reads, constants in between included: 1×1 and k×k in either order, 1×1 and 1×1, strided
    and transposed ones, depthwise and pointwise. Two MatMul with constant matrices become one.
    Option: `target` (any, ort-cpu, openvino or tensorrt), for what operators cost there.
When it applies:
    The result is cheaper by the cost model of the target: linear expansions and over-parameterized
    sequences are; a bottleneck, and a depthwise kernel that would become dense, are not.
When it refuses:
    An intermediate result with another reader; a bias or a reach across the border that the second
    kernel pads; a stride before an upsampling; a result that would cost more.
Exactness:
    reassociated: kernels are multiplied out in float64 and rounded once.
Example:
    before: a = Conv(x, wa)  y = Conv(a, wb)       # 16 → 256 channels, 256 → 16 channels
    after:  y = Conv(x, w.folded)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxfold.cost.machine import CostModel
from onnxfold.cost.machines import MachineOptions, machine_named
from onnxfold.ir.constants import float_constant
from onnxfold.ir.graph import has_other_readers, is_op, producer
from onnxfold.ir.shapes import rank
from onnxfold.linear.affine import AFFINE_OPS
from onnxfold.linear.emit import emit_collapse
from onnxfold.linear.reading import WINDOW_OPS
from onnxfold.linear.region import Collapse, Steps, collapse
from onnxfold.pipeline.passes import RulePass
from onnxfold.rewrite.builder import Builder
from onnxfold.rewrite.rule import AnyRule, Reject, Rule

STEPS = Steps(inlined=WINDOW_OPS | AFFINE_OPS, into_kernels=WINDOW_OPS, only_meeting=False)


def match_windows(node: ir.Node, costs: CostModel) -> Collapse | Reject | None:
    """A convolution of what another one computes."""
    return collapse(node, STEPS, costs, wanted=WINDOW_OPS)


def rewrite_windows(found: Collapse, build: Builder) -> ir.Value | Reject:
    """Record the composed convolution."""
    return emit_collapse(found, build)


@dataclass(frozen=True, slots=True)
class ProductOfProduct:
    """`(x · first [+ shift]) · second`.

    Attributes:
        x: What the first product reads.
        first: Shape (in, middle).
        shift: What is added in between, shape (middle,), or None.
        second: Shape (middle, out).
        dtype: The floating-point type of all of it.
        name: Wish for the name of the new weight.
    """

    x: ir.Value
    first: NDArray[np.float64]
    shift: NDArray[np.float64] | None
    second: NDArray[np.float64]
    dtype: ir.DataType
    name: str | None


def match_products(node: ir.Node) -> ProductOfProduct | Reject | None:
    """A MatMul of a MatMul, both with a constant matrix, and at most a bias in between."""
    middle, weight = node.inputs
    inner = producer(middle)
    bias: ir.Value | None = None
    if is_op(inner, "Add") and inner is not None and middle is not None:
        bias = next((v for v in inner.inputs if float_constant(v) is not None), None)
        behind = next((v for v in inner.inputs if v is not bias), None)
        if bias is None or behind is None or has_other_readers(middle):
            return None
        middle, inner = behind, producer(behind)
    if middle is None or inner is None or not is_op(inner, "MatMul"):
        return None
    x, dtype = inner.inputs[0], node.outputs[0].dtype
    first, second = float_constant(inner.inputs[1]), float_constant(weight)
    shift = float_constant(bias)
    if x is None or dtype is None or first is None or second is None:
        return None
    if first.ndim != 2 or second.ndim != 2 or (rank(x) or 0) < 2:
        return None
    if shift is not None and shift.shape not in ((first.shape[1],), (1, first.shape[1])):
        return None
    if has_other_readers(middle):
        return Reject("the product in between has another reader", inner)
    before, after = first.size + second.size, first.shape[0] * second.shape[1]
    if after > before:
        return Reject("the product of both matrices would cost more than they do", node)
    name = None if weight is None else weight.name
    return ProductOfProduct(x, first, shift, second, dtype, name)


def rewrite_products(found: ProductOfProduct, build: Builder) -> ir.Value:
    """Record the one product, and what the bias in between comes to."""
    weight = build.constant(found.first @ found.second, found.dtype, found.name)
    product = build.op("MatMul", [found.x, weight])
    if found.shift is None:
        return product
    shift = found.shift.reshape(-1) @ found.second
    product.type = ir.TensorType(found.dtype)
    if found.x.shape is not None:
        product.shape = ir.Shape([*found.x.shape[:-1], found.second.shape[1]])
    return build.op("Add", [product, build.constant(shift, found.dtype)])


def rules(options: MachineOptions) -> Sequence[AnyRule]:
    """Convolutions, then matrix products."""
    costs = machine_named(options.target)
    windows = Rule(
        "conv_of_conv", WINDOW_OPS, lambda node: match_windows(node, costs), rewrite_windows
    )
    return (windows, PRODUCTS)


PRODUCTS = Rule("product_of_product", frozenset({"MatMul"}), match_products, rewrite_products)
PASS = RulePass("merge_sequential", rules, __doc__ or "", options_type=MachineOptions)
