"""The published networks of `examples/seeds`: merged as far as their authors merge them, or left.

The graphs are stored as those of the zoo are; the twin of a network is what its authors run.
"""

import math
from functools import cache
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

from onnxfold.optimization import Optimization, OptimizeOptions, optimize
from tests import zoo
from tests.bench.twins import Counts, counts_of

_FOLDER = Path(__file__).parent / "data" / "seeds"
_LARGEST_FOLDER = 500_000
_FORMS = ("dynamo", "half", "raw")
_STORED = sorted(path.name.split(".onnx")[0] for path in _FOLDER.glob("*.onnx.xz"))
_SOURCES = [name for name in _STORED if not name.endswith(".twin")]
_WITH_TWIN = [name for name in _SOURCES if f"{name.split('.')[0]}.twin" in _STORED]
_OPEN = {
    "dbb_blocks_joined": "a border joined to the tensor is not read as its padding",
}
_WITHOUT_TWIN = [name for name in _SOURCES if name not in _WITH_TWIN]


def load(name: str) -> onnx.ModelProto:
    model = zoo.load_skeleton(name, _FOLDER)
    zoo.draw_weights(model, name)
    return model


@cache
def optimized(name: str) -> Optimization:
    """Verified by `optimize` itself; kept, because two tests look at it."""
    return optimize(load(name), options=OptimizeOptions(threads=1))


def _marks(name: str) -> list[pytest.MarkDecorator]:
    reason = _OPEN.get(name.split(".")[0])
    return [] if reason is None else [pytest.mark.xfail(reason=reason, strict=True)]


def twin_counts(name: str) -> Counts:
    return counts_of(zoo.load_skeleton(f"{name.split('.')[0]}.twin", _FOLDER))


def test_every_network_is_stored_raw_and_from_both_exporters() -> None:
    networks = {name.split(".")[0] for name in _STORED}
    assert len(networks) == 18
    for form in ("raw", "dynamo"):
        assert {f"{network}.{form}" for network in networks} < set(_SOURCES)
    assert sum(path.stat().st_size for path in _FOLDER.iterdir()) < _LARGEST_FOLDER


@pytest.mark.parametrize("name", _SOURCES)
def test_it_computes_the_same(name: str) -> None:
    report = optimized(name).report
    assert report.verdict is not None
    assert report.verdict.equal
    assert report.rolled_back == ()
    assert report.failures == ()


@pytest.mark.parametrize("name", [pytest.param(name, marks=_marks(name)) for name in _WITH_TWIN])
def test_it_merges_as_far_as_its_authors_do(name: str) -> None:
    left = counts_of(optimized(name).to_proto())
    assert left.normalizations == 0
    assert not left.exceeds(twin_counts(name)), f"{left}, twin {twin_counts(name)}"


@pytest.mark.parametrize("name", _WITHOUT_TWIN)
def test_what_would_explode_is_left_alone(name: str) -> None:
    report = optimized(name).report
    assert report.before.multiply_adds is not None
    assert report.after.multiply_adds is not None
    assert report.after.multiply_adds < 1.02 * report.before.multiply_adds


@pytest.mark.parametrize("form", _FORMS)
def test_no_widely_dilated_convolution_becomes_dense(form: str) -> None:
    kernels = [
        math.prod(weight.shape.numpy()[2:])
        for node in optimized(f"espnet.{form}").model.graph
        if node.op_type == "Conv" and (weight := _weight(node)).shape is not None
    ]
    assert len(kernels) == 52
    assert max(kernels) <= 25  # dilations 1 and 2 may meet where a map is tiny


def _weight(node: ir.Node) -> ir.Value:
    weight = node.inputs[1]
    assert weight is not None
    return weight


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("form", _FORMS)
def test_a_folded_image_is_one_strided_convolution(factor: int, form: str) -> None:
    first = next(iter(optimized(f"l3unet_{factor}.{form}").model.graph))
    assert first.op_type == "Conv"
    assert first.attributes.get_ints("strides") == (factor, factor)
