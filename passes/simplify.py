"""Let onnxsim simplify the model first.

What it does:
    Hands the model to onnxsim, which folds constants and shapes, fuses and removes nodes by rules
    of its own, and takes the result as one rewrite. onnxsim runs in a process of its own, with a
    time limit of `timeout_s` seconds.
When it applies:
    When it is asked for: its result may run slower than its input, because ONNX Runtime then
    recognises fewer of its own fusions (GELU, for one).
When it refuses:
    onnxsim crashes, raises, takes too long, or makes something that is no valid model or has other
    inputs or outputs. This is reported, and the model stays as it is.
Exactness:
    reassociated, if onnxsim is right; verification tells.
Example:
    before: s = Shape(x)  r = Reshape(x, s)  y = Relu(r)      # x is float[1,3,8,8]
    after:  y = Relu(x)
"""

from dataclasses import dataclass

import onnx_ir as ir

from onnxfold.interop.onnxsim import run_onnxsim
from onnxfold.pipeline.passes import ModelPass
from onnxfold.rewrite.rule import Exactness


@dataclass(frozen=True, slots=True)
class SimplifyOptions:
    """Options of simplify.

    Attributes:
        timeout_s: Seconds after which onnxsim is stopped and its work thrown away.
    """

    timeout_s: float = 120.0


def transform(model: ir.Model, options: SimplifyOptions) -> ir.Model:
    """The model as onnxsim simplifies it."""
    return run_onnxsim(model, options.timeout_s)


PASS = ModelPass(
    "simplify",
    transform,
    __doc__ or "",
    exactness=Exactness.REASSOCIATED,
    options_type=SimplifyOptions,
)
