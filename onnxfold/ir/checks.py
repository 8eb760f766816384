"""Whether a graph is one that ONNX allows."""

import onnx


def structural_problem(skeleton: onnx.ModelProto) -> str | None:
    """What ONNX's own checker has against a model, in one line; None when it has nothing.

    Args:
        skeleton: The model as `ir.shapes.skeleton_proto` gives it: large weights are not looked at,
            so the size of the model does not matter.
    """
    try:
        onnx.checker.check_model(skeleton)
    except onnx.checker.ValidationError as error:
        return str(error).strip().splitlines()[0]
    return None
