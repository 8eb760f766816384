"""The errors a user can meet, each with one sentence, a hint and an exit code.

Everything that onnxfold raises on purpose is an `OnnxfoldError`. The command line prints
`error: <message>` and `hint: <hint>`, and exits with `exit_code`; anything else that escapes is a
bug in onnxfold (exit code 70).
"""

from typing import ClassVar


class OnnxfoldError(Exception):
    """Base of the errors that onnxfold raises on purpose.

    Attributes:
        message: One sentence, without a full stop.
        hint: What the user can do about it, without a full stop; may be empty.
        exit_code: What the command line exits with.
    """

    exit_code: ClassVar[int] = 2

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class BadModelError(OnnxfoldError):
    """The input is not a model that onnxfold can read."""


class BadOptionError(OnnxfoldError):
    """An option, a pass name or an input shape that does not fit."""


class CannotWriteError(OnnxfoldError):
    """The output could not be written; nothing was changed on disk."""


class PluginError(OnnxfoldError):
    """A plugin could not be loaded."""


class NotEqualError(OnnxfoldError):
    """The two models do not compute the same; nothing was written."""

    exit_code: ClassVar[int] = 1


class NotFasterError(OnnxfoldError):
    """The INT8 model is not faster than the float model on its target; nothing was written."""

    exit_code: ClassVar[int] = 1


class NotAccurateError(OnnxfoldError):
    """The INT8 model cannot keep the budget of accuracy; nothing was written."""

    exit_code: ClassVar[int] = 1


class CannotRunError(OnnxfoldError):
    """The runtime on this machine cannot run the model, so it cannot be verified."""

    exit_code: ClassVar[int] = 3


class CannotVerifyError(CannotRunError):
    """That a result computes the same cannot be shown on this machine; nothing was written."""
