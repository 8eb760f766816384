"""What every error that a user meets has to look like."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from onnxfold.errors import OnnxfoldError


@contextmanager
def refused(kind: type[OnnxfoldError], message: str) -> Iterator[SimpleNamespace]:
    """The block raises `kind` with exactly this message: one sentence, with a hint, exit code 2.

    The hint is in `.hint` of what the block gets, after it.
    """
    outcome = SimpleNamespace(hint="")
    with pytest.raises(kind) as caught:
        yield outcome
    error = caught.value
    assert error.message == message
    assert str(error) == message
    for text in (error.message, error.hint):
        assert text
        assert "\n" not in text
        assert not text.endswith(".")
    assert error.exit_code == 2
    outcome.hint = error.hint
