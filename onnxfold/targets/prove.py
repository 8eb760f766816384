"""Proving what a quantized model runs in INT8 on its target: `prove`."""

import os

import onnx

from onnxfold.errors import BadOptionError
from onnxfold.model import load
from onnxfold.targets.proof import Proof
from onnxfold.verify.sources import ModelSource

PROVABLE = ("ort-cpu", "openvino", "tensorrt")
"""The targets that `prove` knows."""


def prove(model: ModelSource, target: str, *, inference_precision: str | None = None) -> Proof:
    """Say for every layer of a quantized model whether its target runs it in INT8, and why not.

    ONNX Runtime and OpenVINO compile the model and are asked what they made of it. TensorRT is
    not: its rules are applied, and the proof says how to build the engine.

    Args:
        model: A path or a message with QuantizeLinear and DequantizeLinear nodes; not changed.
        target: One of `PROVABLE`.
        inference_precision: What OpenVINO shall run the rest in, `f32` or `bf16`; its own choice
            for this processor when None. The other targets do not have that choice.

    Raises:
        BadModelError: It cannot be read.
        BadOptionError: There is no such target, or it has no choice of precision.
        CannotRunError: The target's runtime is not installed or refuses the model.
    """
    if inference_precision is not None and target != "openvino":
        raise BadOptionError(
            f"the target {target} has no choice of inference precision",
            "the types in the model say what it computes in",
        )
    match target:
        case "ort-cpu":
            from onnxfold.targets.proof_ort import prove_ort

            return prove_ort(load(model).model)
        case "openvino":
            from onnxfold.targets.proof_openvino import prove_openvino

            return prove_openvino(load(model).model, inference_precision)
        case "tensorrt":
            from onnxfold.targets.proof_tensorrt import prove_tensorrt

            file = "model.onnx" if isinstance(model, onnx.ModelProto) else os.fspath(model)
            return prove_tensorrt(load(model).model, file)
    raise BadOptionError(
        f"{target!r} is no target that can be proven", f"there are {', '.join(PROVABLE)}"
    )
