"""Weights in external data take little memory, however many they are."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxfold.model import load
from tests.model.models import external_entry

_TENSORS = 10
_ITEMS = 8_000_000
_WEIGHT_BYTES = _TENSORS * _ITEMS * 4

_PROGRAM = """
import sys
import numpy as np
import onnx_ir as ir
from onnxfold.model import load, save, to_proto

def peak():
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024

before = peak()
model = load(sys.argv[1]).model
after_load = peak()
if sys.argv[3] == "read":
    for value in model.graph.initializers.values():
        assert value.const_value.numpy()[0] == 0
        value.const_value.numpy().max()
        value.const_value.release()
if sys.argv[3] == "compute":
    for value in model.graph.initializers.values():
        old = value.const_value
        def compute(old=old):
            array = old.numpy() + 1
            old.release()
            return ir.tensor(array)
        value.const_value = ir.LazyTensor(compute, old.dtype, old.shape)
save(model, sys.argv[2])
print(before, after_load, peak())
"""


@pytest.fixture(scope="module")
def large_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with 320 MB of weights in a file that takes no room on disk."""
    folder = tmp_path_factory.mktemp("large")
    make = onnx.helper.make_node
    info = onnx.helper.make_tensor_value_info
    names = [f"w{index}" for index in range(_TENSORS)]
    graph = onnx.helper.make_graph(
        [make("Sum", ["x", *names], ["y"])], "g", [info("x", 1, [1])], [info("y", 1, [_ITEMS])]
    )
    for index, name in enumerate(names):
        tensor = graph.initializer.add(name=name, data_type=1, dims=[_ITEMS])
        external_entry(tensor, location="w.bin", offset=index * _ITEMS * 4, length=_ITEMS * 4)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    with (folder / "w.bin").open("wb") as file:
        file.truncate(_WEIGHT_BYTES)
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("work", "share"),
    [
        # Nothing but the pieces that are copied; one tensor that is read, mapped; one tensor
        # that is computed, and the one that it is computed from.
        ("nothing", 0.1),
        ("read", 0.2),
        ("compute", 0.3),
    ],
)
def test_peak_of_load_and_save(large_model: Path, tmp_path: Path, work: str, share: float) -> None:
    out = tmp_path / "out.onnx"
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM, str(large_model), str(out), work],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        before, after_load, peak = map(int, done.stdout.split())
        assert after_load - before < 0.05 * _WEIGHT_BYTES
        assert peak - before < share * _WEIGHT_BYTES
        if work == "compute":
            saved = load(out).model.graph.initializers["w9"].const_value
            assert saved is not None
            np.testing.assert_array_equal(saved.numpy(), np.ones(_ITEMS, np.float32))
    finally:
        (tmp_path / "out.onnx.data").unlink(missing_ok=True)
