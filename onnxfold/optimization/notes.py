"""What a user should know about a model, beside what passes did to it."""

from onnxfold.model import LoadedModel
from onnxfold.targets.layers import quantized_node


def notes_about(loaded: LoadedModel, was_valid: bool, verify: bool) -> tuple[str, ...]:
    """One sentence each.

    Args:
        loaded: The model as it came.
        was_valid: Whether the ONNX checker accepted it.
        verify: Whether the result is verified.
    """
    notes = []
    if loaded.inlined:
        notes.append(f"{_count(len(loaded.inlined), 'model-local function')} inlined")
    if loaded.reordered:
        notes.append("the nodes were not in topological order and have been sorted")
    if loaded.demoted:
        notes.append(
            f"{_count(len(loaded.demoted), 'initializer')} taken for constants, although this "
            "IR version lists them as inputs too; --keep-overridable leaves them open"
        )
    if quantized_node(loaded.model.graph) is not None:
        notes.append("the model is quantized already: scales and integers stay as they are")
    if not was_valid:
        notes.append("the ONNX checker does not accept the model as it came")
    if not verify:
        notes.append("the result is not verified: nothing shows that it computes the same")
    return tuple(notes)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun} was" if number == 1 else f"{number} {noun}s were"
