"""Fixtures of the tests of loading and saving."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def open_tmp_path() -> Iterator[Path]:
    """A temporary folder that other users can enter and write to, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="onnxfold-test-") as name:
        os.chmod(name, 0o777)
        yield Path(name)
