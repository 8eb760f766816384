"""Records a BatchNormalization that computes a given affine."""

import numpy as np
import onnx_ir as ir

from onnxfold.ir.constants import constant_tensor, float_constant
from onnxfold.ir.ops import BatchNormalization
from onnxfold.linear.affine import Affine
from onnxfold.rewrite.builder import Builder


def emit_batch_normalization(
    view: BatchNormalization, x: ir.Value, affine: Affine, build: Builder
) -> ir.Value:
    """Record `affine(x)` as the normalization `view` with another scale and bias.

    Mean and variance stay what they are, so that numbers keep their size; from
    `γ' · (x − μ) / σ + β' = scale · x + shift` follow `γ' = scale · σ` and
    `β' = shift + scale · μ`.

    Args:
        view: A normalization with constant parameters, of shape (C,).
        x: What to normalize, shape (N, C, …).
        affine: What to compute, along axis 1.
        build: The recording.

    Raises:
        Refused: The new parameters do not fit the type of the old ones.
    """
    mean, variance = float_constant(view.mean), float_constant(view.variance)
    old_scale = constant_tensor(view.scale)
    assert mean is not None
    assert variance is not None
    assert old_scale is not None
    numbers = affine.channels(mean.size)
    assert numbers is not None
    with np.errstate(over="ignore", invalid="ignore"):
        gamma = numbers[0] * np.sqrt(variance + view.epsilon)
        beta = numbers[1] + numbers[0] * mean
    largest = np.maximum(np.abs(gamma), np.abs(beta))
    new_scale = build.constant(gamma, old_scale.dtype, view.scale.name, beside=largest)
    new_bias = build.constant(beta, old_scale.dtype, view.bias.name, beside=largest)
    return build.like(view.node, [x, new_scale, new_bias, view.mean, view.variance])
