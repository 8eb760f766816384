"""Operators with constant weights that can take an `Affine` into themselves, on either side."""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxfold.algebra.normalisation import scale_outputs, scaled_input_weights
from onnxfold.algebra.operators import conv, transposed_channels
from onnxfold.algebra.rounding import cancels
from onnxfold.ir.constants import constant_tensor, float_constant
from onnxfold.ir.graph import input_at, int_attribute, ints_attribute, is_op
from onnxfold.ir.ops import Conv, ConvTranspose, Gemm, MatMul
from onnxfold.ir.shapes import rank
from onnxfold.linear.affine import Affine, Array
from onnxfold.rewrite.builder import Builder
from onnxfold.rewrite.rule import Reject


@dataclass(frozen=True, slots=True)
class Host:
    """A linear operator whose weights are known.

    Attributes:
        node: The operator.
        x: Its variable input.
        kernel: float64 weight, output channels first: (C_out, C_in/group, …).
        bias: float64, shape (C_out,) — for Gemm anything that broadcasts to (M, N); None: no bias.
        group: Number of channel groups.
        in_axis: Channel axis of `x`; None when the rank of `x` is not known.
        out_axis: Channel axis of the output; None when that is not known.
        pads_border: Whether it reads zeros outside `x`, or some outputs read fewer inputs.
        dtype: The type of the weights.
    """

    node: ir.Node
    x: ir.Value
    kernel: Array
    bias: Array | None
    group: int
    in_axis: int | None
    out_axis: int | None
    pads_border: bool
    dtype: ir.DataType

    @property
    def out_channels(self) -> int:
        """Number of output channels."""
        return int(self.kernel.shape[0])

    @property
    def in_channels(self) -> int:
        """Number of input channels over all groups."""
        return int(self.kernel.shape[1]) * self.group


def host_of(node: ir.Node | None) -> Host | Reject | None:
    """Read `node` as a linear operator with constant weights.

    Returns:
        The view; None when the node is no such operator; a `Reject` when its weights are not
        floating-point constants.
    """
    if node is None:
        return None
    if (convolution := Conv.of(node)) is not None:
        return _of_conv(convolution)
    if (transposed := ConvTranspose.of(node)) is not None:
        return _of_conv_transpose(transposed)
    if (gemm := Gemm.of(node)) is not None:
        return _of_gemm(gemm)
    if (product := MatMul.of(node)) is not None:
        return _of_matmul(product)
    return None


_NOT_CONSTANT = "its weight or bias is not a floating-point constant"


def _constants(
    node: ir.Node, weight: ir.Value, bias: ir.Value | None
) -> tuple[Array, Array | None, ir.DataType] | Reject:
    kernel, offset = float_constant(weight), float_constant(bias)
    tensor = constant_tensor(weight)
    if tensor is None or kernel is None or (bias is not None and offset is None):
        return Reject(_NOT_CONSTANT, node)
    if kernel.size == 0:
        return Reject("its weight is empty", node)
    return kernel, offset, tensor.dtype


def _of_conv(view: Conv) -> Host | Reject:
    numbers = _constants(view.node, view.weight, view.bias)
    if isinstance(numbers, Reject):
        return numbers
    kernel, bias, dtype = numbers
    pads = view.window.explicit_pads(view.x)
    pads_border = pads is None or any(pad > 0 for pad in pads)
    return Host(view.node, view.x, kernel, bias, view.group, 1, 1, pads_border, dtype)


def _of_conv_transpose(view: ConvTranspose) -> Host | Reject:
    numbers = _constants(view.node, view.weight, view.bias)
    if isinstance(numbers, Reject):
        return numbers
    weight, bias, dtype = numbers
    kernel = transposed_channels(weight, view.group)
    # Outputs near the border, and the phases between strides, see fewer inputs than the others.
    pads_border = (
        any(extent > 1 for extent in view.window.kernel_shape)
        or any(stride > 1 for stride in view.window.strides)
        or "output_shape" in view.node.attributes
        or any(ints_attribute(view.node, "output_padding", ()))
    )
    return Host(view.node, view.x, kernel, bias, view.group, 1, 1, pads_border, dtype)


def _of_gemm(view: Gemm) -> Host | Reject:
    numbers = _constants(view.node, view.weight, view.bias)
    if isinstance(numbers, Reject):
        return numbers
    weight, bias, dtype = numbers
    kernel = weight if view.transposed_weight else weight.T
    in_axis = 0 if view.transposed_x else 1
    with np.errstate(over="ignore", invalid="ignore"):
        kernel, scaled = kernel * view.alpha, None if bias is None else bias * view.beta
    return Host(view.node, view.x, kernel, scaled, 1, in_axis, 1, False, dtype)


def _of_matmul(view: MatMul) -> Host | Reject:
    numbers = _constants(view.node, view.weight, None)
    if isinstance(numbers, Reject):
        return numbers
    weight, _, dtype = numbers
    known = rank(view.x)
    last = None if known is None else known - 1
    return Host(view.node, view.x, weight.T, None, 1, last, last, False, dtype)


def emit_scaled_outputs(host: Host, affine: Affine, build: Builder) -> ir.Value:
    """Record `affine(host(x))` as one operator (a MatMul that gains a shift gets an Add).

    The affine lies along the output channels of the host and fits their number.
    """
    numbers = affine.channels(host.out_channels)
    assert numbers is not None
    scale, shift = numbers
    if is_op(host.node, "Gemm"):
        with np.errstate(over="ignore", invalid="ignore"):
            kernel = host.kernel * scale[:, None]
            bias = shift if host.bias is None else host.bias * scale + shift
        return _emit(host, kernel, bias, build)
    flat = conv(host.kernel, host.bias, group=host.group)
    scaled = scale_outputs(flat, scale, shift)
    with np.errstate(over="ignore", invalid="ignore"):
        takes_back = cancels(flat.bias * scale, shift, host.dtype.numpy())
    bias = np.zeros_like(scaled.bias) if takes_back else scaled.bias
    return _emit(host, scaled.kernel, bias, build)


def emit_scaled_inputs(host: Host, x: ir.Value, affine: Affine, build: Builder) -> ir.Value:
    """Record `host(affine(x))` as one operator.

    The affine lies along the input channels of the host and fits their number, and its shift is
    zero where the host pads the border.
    """
    numbers = affine.channels(host.in_channels)
    assert numbers is not None
    kernel, addend = scaled_input_weights(host.kernel, *numbers, host.group)
    with np.errstate(over="ignore", invalid="ignore"):
        bias = addend if host.bias is None else host.bias + addend
    return _emit(host, kernel, bias, build, x)


def _emit(
    host: Host, kernel: Array, bias: Array, build: Builder, x: ir.Value | None = None
) -> ir.Value:
    node, source = host.node, host.x if x is None else x
    old_weight, old_bias = node.inputs[1], input_at(node, 2)
    assert old_weight is not None
    largest = _largest_of_channels(kernel, bias)
    new_bias = None
    if old_bias is not None or bias.any():
        name = _bias_name(node) if old_bias is None else old_bias.name
        new_bias = build.constant(bias, host.dtype, name, beside=largest)
    beside = np.broadcast_to(largest.reshape(-1, *(1,) * (kernel.ndim - 1)), kernel.shape)
    layout, judged = _in_layout_of(host, kernel), _in_layout_of(host, beside)
    weight = build.constant(layout, host.dtype, old_weight.name, beside=judged)
    if is_op(node, "MatMul"):
        product = build.like(node, [source, weight])
        return product if new_bias is None else _added(product, new_bias, build)
    changed = {"alpha": 1.0, "beta": 1.0} if is_op(node, "Gemm") else {}
    return build.like(node, [source, weight, new_bias], changed)


def _largest_of_channels(kernel: Array, bias: Array) -> Array:
    """Per output channel the largest weight or bias, beside which its small numbers are judged."""
    rows = np.abs(kernel).max(axis=tuple(range(1, kernel.ndim)))
    offsets = np.abs(np.broadcast_to(bias, np.broadcast_shapes(bias.shape, (1, rows.size))))
    return np.asarray(np.maximum(rows, offsets.max(axis=0)))


def _in_layout_of(host: Host, kernel: Array) -> Array:
    """A kernel with output channels first, as the operator stores it."""
    if is_op(host.node, "ConvTranspose"):
        return transposed_channels(kernel, host.group)
    if is_op(host.node, "MatMul"):
        return kernel.T
    if is_op(host.node, "Gemm") and not int_attribute(host.node, "transB", 0):
        return kernel.T
    return kernel


def _added(product: ir.Value, shift: ir.Value, build: Builder) -> ir.Value:
    output = build.op("Add", [product, shift])
    output.type = product.type
    output.shape = None if product.shape is None else ir.Shape(product.shape)
    return output


def _bias_name(node: ir.Node) -> str:
    return f"{node.name or node.outputs[0].name}.bias"
