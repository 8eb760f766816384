"""A large model is optimized and verified without its weights ever being in memory twice."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.chain import write_large

_PROGRAM = """
import sys
from onnxfold.optimization import OptimizeOptions, optimize
from tests.verify.networks import DYNAMIC, conv_net

def peak():
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024

optimize(conv_net(1, 4, dims=DYNAMIC))  # everything is imported now
before = peak()
options = OptimizeOptions(verify=sys.argv[3] == "verified", threads=1)
report = optimize(sys.argv[1], sys.argv[2], options=options).report
assert report.after.nodes["BatchNormalization"] == 0
print(before, peak())
"""


@pytest.fixture(scope="module")
def large_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Over half a gigabyte of weights: from there on they stay mapped in the runtime too."""
    path = tmp_path_factory.mktemp("large") / "m.onnx"
    write_large(600_000_000, path)
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("how", "share"), [("unverified", 0.8), ("verified", 1.3)])
def test_peak_as_a_share_of_the_weights(
    large_model: Path, tmp_path: Path, how: str, share: float
) -> None:
    weights = large_model.with_name("m.onnx.weights").stat().st_size
    output = tmp_path / "out.onnx"
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM, str(large_model), str(output), how],
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        before, peak = map(int, done.stdout.split())
        assert peak - before < share * weights, (peak - before) / weights
    finally:
        (tmp_path / "out.onnx.data").unlink(missing_ok=True)
        if how == "verified":
            large_model.with_name("m.onnx.weights").unlink()
