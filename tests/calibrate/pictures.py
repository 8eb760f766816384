"""Real image files and small models for the tests of samples."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from PIL import Image

from onnxfold.errors import BadOptionError
from onnxfold.model import load
from tests.toolkit import Weights, parse


def colours(seed: int, height: int = 40, width: int = 56) -> NDArray[np.uint8]:
    """A picture of noise over a gradient: (height, width, 3)."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 200, width)[None, :, None]
    noise = rng.integers(0, 56, (height, width, 3))
    return np.asarray(ramp + noise, np.uint8)


def folder_of(path: Path, count: int, *, suffix: str = "png", **size: int) -> Path:
    """A folder with so many different images."""
    path.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        Image.fromarray(colours(index, **size)).save(path / f"{index:03}.{suffix}")
    return path


def truncated(path: Path, source: Path | None = None) -> Path:
    """A file of which the second half is missing."""
    if source is None:
        Image.fromarray(colours(7, 200, 200)).save(path)
        source = path
    content = source.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


def model_of(body: str, weights: Weights | None = None) -> ir.Model:
    """A model from ONNX text, as `open_samples` takes it."""
    return load(parse(body, weights)).model


def plain(shape: str = "1,3,32,48", kind: str = "float", name: str = "image") -> ir.Model:
    """A model with one input that it hands on."""
    body = f"agraph ({kind}[{shape}] {name}) => ({kind}[{shape}] y) {{ y = Identity({name}) }}"
    return model_of(body)


def stemmed(
    nodes: str, weights: Weights, shape: str = "1,3,32,48", kind: str = "float"
) -> ir.Model:
    """A model whose first nodes make `x` from `image`."""
    body = f"agraph ({kind}[{shape}] image) => (float[] y) {{ {nodes} y = Relu(x) }}"
    return model_of(body, weights)


def refused(error: pytest.ExceptionInfo[BadOptionError], message: str, hint: str) -> None:
    """One sentence with these words, and a hint with those."""
    assert message in error.value.message
    assert hint in error.value.hint
    for text in (error.value.message, error.value.hint):
        assert not text.endswith(".")
        assert "\n" not in text


def one(warnings: tuple[str, ...], text: str) -> str:
    """The only warning with this text."""
    (found,) = (each for each in warnings if text in each)
    return found


def per_channel(*numbers: float) -> NDArray[Any]:
    """A constant for (1, channels, 1, 1)."""
    return np.asarray(numbers, np.float32).reshape(1, -1, 1, 1)
