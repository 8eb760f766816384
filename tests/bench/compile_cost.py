"""What optimizing costs: time beside onnxsim, growth with nodes, peak memory, start of the command.

python -m tests.bench.compile_cost [--rounds 5] [--gigabytes 3] [time growth memory start]
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import onnx

from tests import zoo
from tests.bench.chain import write_chain, write_large
from tests.bench.processes import Samples, alternate, describe, ratios, run_once

_ONNXFOLD = [sys.executable, "-m", "onnxfold"]
_FASTVIT = "fastvit_sa12_fpn.script"


def _optimize(source: Path, *flags: str) -> list[str]:
    return [*_ONNXFOLD, "optimize", str(source), "-o", str(source.with_suffix(".out")), *flags]


def _onnxsim(source: Path) -> list[str]:
    return [str(Path(sys.executable).with_name("onnxsim")), str(source), str(source) + ".sim"]


def time(folder: Path, rounds: int) -> None:
    """`optimize --no-verify` on FastViT-SA12 with a semantic FPN, beside onnxsim alone."""
    source = folder / "fastvit.onnx"
    onnx.save(zoo.load(_FASTVIT), source)
    samples = alternate(
        {"onnxfold": _optimize(source, "--no-verify"), "onnxsim": _onnxsim(source)}, rounds
    )
    _compare(_FASTVIT, samples)


def growth(folder: Path, rounds: int) -> None:
    """A residual chain of 100,000 nodes beside one of 10,000, and that beside onnxsim."""
    small, large = folder / "chain10k.onnx", folder / "chain100k.onnx"
    write_chain(10_000, small)
    write_chain(100_000, large)
    samples = alternate(
        {"onnxfold": _optimize(small, "--no-verify"), "onnxsim": _onnxsim(small)}, rounds
    )
    _compare("chain of 10,000 nodes", samples)
    tenfold = Samples()
    run_once(_optimize(large, "--no-verify"), tenfold)
    factor = tenfold.wall[0] / statistics.median(samples["onnxfold"].wall)
    print(f"chain of 100,000 nodes: {tenfold.wall[0]:.1f} s, {factor:.1f} times that of 10,000")


def memory(folder: Path, gigabytes: float) -> None:
    """Peak memory on a model with external weights, as a multiple of the weights."""
    source = folder / "large.onnx"
    write_large(int(gigabytes * 1e9), source)
    weights = source.with_name("large.onnx.weights").stat().st_size
    for flags in (["--no-verify"], []):
        samples = Samples()
        run_once(_optimize(source, *flags), samples)
        share = samples.peak_bytes[0] / weights
        label = "without verification" if flags else "with verification"
        print(
            f"{weights / 1e9:.2f} GB of weights, {label}: peak {samples.peak_bytes[0] / 1e9:.2f} GB"
            f" = {share:.2f} x the weights, {samples.wall[0]:.0f} s"
        )


def start(rounds: int) -> None:
    """How long `onnxfold --help` takes."""
    samples = alternate({"help": [*_ONNXFOLD, "--help"]}, 2 * rounds)["help"]
    print(f"onnxfold --help: {describe(samples.wall)} s")


def _compare(title: str, samples: dict[str, Samples]) -> None:
    ours, theirs = samples["onnxfold"], samples["onnxsim"]
    print(f"{title}: onnxfold {describe(ours.wall)} s, onnxsim {describe(theirs.wall)} s")
    print(f"  ratio onnxfold / onnxsim, wall: {ratios(ours.wall, theirs.wall)}")
    print(f"  ratio onnxfold / onnxsim, processor: {ratios(ours.cpu, theirs.cpu)}")


def main() -> None:
    """Run the chosen measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", default=["time", "growth", "memory", "start"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--gigabytes", type=float, default=3.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "start" in arguments.what:
            start(arguments.rounds)
        if "time" in arguments.what:
            time(folder, arguments.rounds)
        if "growth" in arguments.what:
            growth(folder, arguments.rounds)
        if "memory" in arguments.what:
            memory(folder, arguments.gigabytes)


if __name__ == "__main__":
    main()
