"""Real networks for the tests: stored graphs without weights, and the weights drawn again.

`tests/data/zoo` holds graphs exported by `examples/zoo`, whose float weights were left out. Each
missing tensor carries how it is drawn (see `_DRAWS`) with a scale measured at export, so that
activations keep the magnitude they had there. The draws depend on the model's name and the
tensor's name alone and use exact arithmetic on PCG64's output: the bytes are the same everywhere.
"""

from __future__ import annotations

import hashlib
import json
import lzma
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

_FOLDER = Path(__file__).parent / "data" / "zoo"
_SUFFIX = ".onnx.xz"
_NEGATIVE_SHARE = 0.08

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known about one model of the zoo.

    Attributes:
        name: ``<network>.<exporter>``, as `names` and `load` use it.
        network: The network alone.
        exporter: ``script`` (TorchScript, BN kept, nothing folded), ``script_frozen`` (the
            same, the weights being Constant nodes), ``dynamo`` (the newer exporter, not optimised)
            or ``dynamo_opt`` (the newer exporter's default, which folds a part).
        family: ``classification``, ``segmentation`` or ``instance``.
        source: Python package the network comes from; ``own`` for those of `examples/zoo`.
        versions: Versions of the packages that made the export.
        opset: Version of the default operator set.
        shapes: Shapes to run the model with, by input; more than one where axes are open.
        dynamic: Names of the open axes; empty for a static model.
        batch_norms: How many BatchNormalization nodes the graph holds.
        nodes: How many nodes of each type.
    """

    name: str
    network: str
    exporter: str
    family: str
    source: str
    versions: dict[str, str]
    opset: int
    shapes: tuple[dict[str, tuple[int, ...]], ...]
    dynamic: tuple[str, ...]
    batch_norms: int
    nodes: dict[str, int]


def names(exporter: str | None = None) -> list[str]:
    """Return the names of all models, sorted, or of those by one exporter."""
    return [name for name, each in _index().items() if exporter in (None, each.exporter)]


def entry(name: str) -> Entry:
    """Return what is known about the model ``name``.

    Raises:
        KeyError: There is no such model.
    """
    return _index()[name]


def load(name: str) -> onnx.ModelProto:
    """Return the model ``name`` with its weights drawn.

    Raises:
        FileNotFoundError: There is no such model.
    """
    model = load_skeleton(name)
    draw_weights(model, name)
    return model


def draw_weights(model: onnx.ModelProto, name: str) -> None:
    """Give the skeleton ``model`` its weights, in place, as those of the model ``name``."""
    for value, tensor in _tensors(model.graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            _fill(tensor, _generator(name, value))


def load_skeleton(name: str, folder: Path = _FOLDER) -> onnx.ModelProto:
    """Return the model ``name`` as stored, its weights missing: no runtime takes it like this."""
    packed = (folder / f"{name}{_SUFFIX}").read_bytes()
    model = onnx.ModelProto()
    model.ParseFromString(lzma.decompress(packed))
    return model


def feeds(name: str, shape: int = 0, seed: int = 0) -> dict[str, npt.NDArray[np.float32]]:
    """Return inputs for the model ``name``, uniform with mean 0 and variance 1.

    Args:
        name: The model.
        shape: Which of the entry's shapes.
        seed: Seed of the draw.
    """
    drawn = {}
    for value, dims in entry(name).shapes[shape].items():
        unit = _generator(f"{name}:{seed}", value).random(dims)
        drawn[value] = (3**0.5 * (2.0 * unit - 1.0)).astype(np.float32)
    return drawn


@cache
def _index() -> dict[str, Entry]:
    listed = json.loads((_FOLDER / "index.json").read_text(encoding="utf-8"))
    return {
        name: Entry(
            name=name,
            network=fields["network"],
            exporter=fields["exporter"],
            family=fields["family"],
            source=fields["source"],
            versions=fields["versions"],
            opset=fields["opset"],
            shapes=tuple(
                {value: tuple(dims) for value, dims in shapes.items()}
                for shapes in fields["shapes"]
            ),
            dynamic=tuple(fields["dynamic"]),
            batch_norms=fields["batch_norms"],
            nodes=fields["nodes"],
        )
        for name, fields in sorted(listed.items())
    }


def _tensors(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Yield every initializer and Constant tensor with its value name, subgraphs included."""
    for initializer in graph.initializer:
        yield initializer.name, initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR and node.op_type == "Constant":
                yield node.output[0], attribute.t
            elif attribute.type == onnx.AttributeProto.GRAPH:
                yield from _tensors(attribute.g)


def _generator(model: str, value: str) -> np.random.Generator:
    digest = hashlib.sha256(f"{model}\0{value}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))


def _uniform(unit: Floats, entries: dict[str, str], _: np.random.Generator) -> Floats:
    """Weights, biases and means: even about ``mean``, up to ``spread`` on either side."""
    return float(entries["mean"]) + float(entries["spread"]) * (2.0 * unit - 1.0)


def _positive(unit: Floats, entries: dict[str, str], _: np.random.Generator) -> Floats:
    """Variances and the gains of layer normalisation: 0.5 to 1.5 times ``scale``."""
    return float(entries["scale"]) * (0.5 + unit)


def _gain(unit: Floats, entries: dict[str, str], generator: np.random.Generator) -> Floats:
    """Gamma of batch normalisation: as `_positive`, and a few of them negative."""
    flips = generator.random(unit.shape) < _NEGATIVE_SHARE
    return np.where(flips, -1.0, 1.0) * _positive(unit, entries, generator)


_DRAWS: dict[str, Callable[[Floats, dict[str, str], np.random.Generator], Floats]] = {
    "uniform": _uniform,
    "positive": _positive,
    "gain": _gain,
}


def _fill(tensor: onnx.TensorProto, generator: np.random.Generator) -> None:
    entries = {each.key: each.value for each in tensor.external_data}
    unit = generator.random(tuple(tensor.dims))
    value = _DRAWS[entries["draw"]](unit, entries, generator)
    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")
    tensor.raw_data = value.astype(dtype.newbyteorder("<")).tobytes()
