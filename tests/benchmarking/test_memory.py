"""Peak memory, measured in processes of their own."""

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxfold.bench import RUNTIMES
from onnxfold.bench.memory import peak_memory
from onnxfold.bench.runners import Settings
from onnxfold.errors import CannotRunError
from onnxfold.verify.session import Array
from tests.benchmarking.networks import parsed
from tests.verify.networks import tensor

COLUMNS = 1024
MEGABYTE = 2**20

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def product(rows: int) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """y = x W with `rows` x 1024 weights of 4 bytes, and an input for it."""
    weight = np.random.default_rng(0).standard_normal((rows, COLUMNS), dtype=np.float32)
    model = parsed(f"(float[1, {rows}] x) => (float[1, {COLUMNS}] y) {{ y = MatMul(x, w) }}")
    model.graph.initializer.append(tensor("w", weight))
    return model, {"x": np.ones((1, rows), np.float32)}


@pytest.mark.parametrize("runtime", sorted(RUNTIMES))
def test_a_weight_of_64_megabytes_is_seen(runtime: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime" if runtime == "ort" else runtime)
    peaks = []
    for rows in (16, 16 * 1024):
        model, feed = product(rows)
        path = tmp_path / f"{rows}.onnx"
        onnx.save(model, path)
        peaks.append(peak_memory(str(path), runtime, feed, Settings(threads=1)))
    more = (peaks[1] - peaks[0]) / MEGABYTE
    # Once as it was read, and once as the runtime packs it for its kernel.
    assert 60 < more < 160, peaks


def test_what_this_process_holds_does_not_count() -> None:
    held = np.ones(300 * MEGABYTE // 8)
    model, feed = product(16)
    peak = peak_memory(model.SerializeToString(), "ort", feed, Settings(threads=1))
    assert 0 <= peak < 50 * MEGABYTE
    assert held[-1] == 1


def test_a_model_that_does_not_run_is_told() -> None:
    model, feed = product(16)
    with pytest.raises(CannotRunError, match="Invalid rank"):
        peak_memory(model.SerializeToString(), "ort", {"x": feed["x"][0]}, Settings())
    broken = parsed("(float[1] x) => (float[1] y) { y = Baz(x) }")
    with pytest.raises(CannotRunError, match="does not know the operator Baz"):
        peak_memory(broken.SerializeToString(), "ort", feed, Settings())
