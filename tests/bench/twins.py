"""Networks in training form beside their twins, merged as their authors do it: counts and speed.

    python -m examples.seeds.export FOLDER                   # needs PyTorch: makes the graphs
    python -m tests.bench.twins FOLDER                       # measures them, prints the table
    python -m tests.bench.twins FOLDER --counts              # counts, and what stood in the way
    python -m tests.bench.twins FOLDER NAME … --runtime ort --rounds 20 --threads 1

For every network: the raw export, the half-folded one, the twin, the twin after onnxsim, and what
onnxfold makes of the raw and of the half-folded export, timed in one process in random order.
Every result is verified against its input before it is timed, and all must agree with the twin.
"""

import argparse
import math
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from onnxfold.bench import Measurement, measure
from onnxfold.optimization import OptimizeOptions, optimize
from onnxfold.pipeline.report import OptimizationReport
from onnxfold.verify import Verdict, Verifier

_SHAPE_OPS = ("Shape", "Size")


@dataclass(frozen=True, slots=True)
class Counts:
    """How many convolutions, BN and sums of computed tensors a graph has."""

    convolutions: int
    normalizations: int
    sums: int

    def __str__(self) -> str:
        return f"{self.convolutions} + {self.normalizations} + {self.sums}"

    def exceeds(self, other: "Counts") -> bool:
        """Whether there is more of anything."""
        return (
            self.convolutions > other.convolutions
            or self.normalizations > other.normalizations
            or self.sums > other.sums
        )


def counts_of(model: onnx.ModelProto) -> Counts:
    """Count what is computed from the inputs; arithmetic on shapes and weights is left out."""
    graph = model.graph
    computed = {value.name for value in graph.input} - {held.name for held in graph.initializer}
    found: Counter[str] = Counter()
    for node in graph.node:
        variable = sum(name in computed for name in node.input)
        if not variable or node.op_type in _SHAPE_OPS:
            continue
        computed.update(node.output)
        if node.op_type not in ("Add", "Sum"):
            found[node.op_type] += 1
        elif variable > 1:
            found["Add"] += 1
    return Counts(found["Conv"], found["BatchNormalization"], found["Add"])


@dataclass(frozen=True, slots=True)
class Graphs:
    """The variants of one network.

    Attributes:
        name: Of the network.
        paths: The files, by label; the first is what the others are compared with.
        reports: What onnxfold says of its results, by label.
        verdict: How the twin compares with the raw export; None when it was not asked.
    """

    name: str
    paths: dict[str, Path]
    reports: dict[str, OptimizationReport]
    verdict: Verdict | None

    def counts(self) -> dict[str, Counts]:
        """The counts of every variant."""
        return {
            label: counts_of(onnx.load(path, load_external_data=False))
            for label, path in self.paths.items()
        }


def prepare(exports: Path, name: str, work: Path, verify: bool = True) -> Graphs:
    """Optimize the exports of one network into the folder ``work``.

    Args:
        exports: Folder that `examples.seeds.export` wrote.
        name: Of the network.
        work: Where results go.
        verify: Prove every result equal to its input.
    """
    twin = exports / f"{name}.twin.onnx"
    paths = {"twin": twin} if twin.exists() else {}
    reports = {}
    for form in ("raw", "half"):
        paths[form] = exports / f"{name}.{form}.onnx"
        result = work / f"{name}.{form}.onnxfold.onnx"
        options = OptimizeOptions(verify=verify)
        reports[f"ours({form})"] = optimize(paths[form], result, options=options).report
        paths[f"ours({form})"] = result
    verdict = None
    if twin.exists():
        verdict = Verifier(paths["raw"]).check(twin) if verify else None
        simplified = work / f"{name}.twin.onnxsim.onnx"
        if _simplify(twin, simplified):
            paths["twin+onnxsim"] = simplified
    return Graphs(name, paths, reports, verdict)


def _simplify(source: Path, target: Path) -> bool:
    tool = Path(sys.executable).with_name("onnxsim")
    command = [str(tool), str(source), str(target)]
    return (
        tool.exists() and not subprocess.run(command, capture_output=True, check=False).returncode
    )


def names_in(exports: Path) -> list[str]:
    """The networks exported to a folder; those with a twin first."""
    names = [path.name.removesuffix(".raw.onnx") for path in exports.glob("*.raw.onnx")]
    return sorted(names, key=lambda name: (not (exports / f"{name}.twin.onnx").exists(), name))


COUNTS_HEAD = (
    "| network | Conv + BN + sums, raw | half | twin | ours (raw) | ours (half) |",
    "|---|---|---|---|---|---|",
)


def counts_row(graphs: Graphs) -> str:
    """A line of the table of counts."""
    counts = graphs.counts()
    labels = ("raw", "half", "twin", "ours(raw)", "ours(half)")
    return _row(graphs.name, [str(counts.get(label, "–")) for label in labels])


def obstacles(graphs: Graphs) -> list[str]:
    """What onnxfold says where one of its results has more than the twin (or any BN at all)."""
    counts = graphs.counts()
    lines = []
    if graphs.verdict is not None and not graphs.verdict.equal:
        lines.append(f"{graphs.name}: the twin is another network: {graphs.verdict.reason}")
    for label, report in graphs.reports.items():
        left = counts[label]
        limit = Counts(left.convolutions, 0, left.sums)
        if not left.exceeds(limit) and not left.exceeds(counts.get("twin", left)):
            continue
        lines.append(f"{graphs.name}, {label}: {left}, twin {counts.get('twin', '–')}")
        reasons: dict[tuple[str, str], list[str]] = {}
        for each in report.rejections:
            reason = re.sub(r" '[^']*'", "", each.reason)
            reasons.setdefault((each.pass_name, reason), []).append(each.node)
        for (step, reason), nodes in sorted(reasons.items(), key=lambda item: -len(item[1])):
            lines.append(f"  {len(nodes):4} × {step}: {reason}; first at {nodes[0]}")
    return lines


RATIOS = ("twin", "twin+onnxsim", "ours(raw)", "ours(half)")


def timing_head(runtimes: Iterable[str]) -> tuple[str, str]:
    """The head of the table of times."""
    columns = ["network"]
    for runtime in runtimes:
        columns += [f"{runtime}: raw ms", *RATIOS, "ours(raw) / twin", "ours(half) / twin"]
    return _row(columns[0], columns[1:]), "|" + "---|" * len(columns)


def timing_cells(measured: Measurement) -> tuple[list[str], dict[str, float]]:
    """What one runtime showed: the cells, and the ratios that go into the means.

    ``twin`` and the like are speed-ups over the raw export; ``… / twin`` over the twin, with the
    interval in which its median lies.
    """
    base = measured.timings[0].name
    ratios: dict[str, float] = {}
    raw = measured["raw"].run_ms.median
    cells = [f"{raw:.2f}"]
    for label in RATIOS:
        if label not in {timing.name for timing in measured.timings}:
            cells.append("–")
            continue
        ratios[label] = raw / measured[label].run_ms.median
        cells.append(f"{ratios[label]:.2f}")
    for label in ("ours(raw)", "ours(half)"):
        speed_up = measured[label].speed_up
        if base != "twin" or speed_up is None:
            cells.append("–")
            continue
        ratios[f"{label} / twin"] = speed_up.median
        low, high = speed_up.interval or speed_up.quartiles
        cells.append(f"{speed_up.median:.3f} ({low:.3f}–{high:.3f})")
    return cells, ratios


def means_row(ratios: Sequence[Sequence[dict[str, float]]]) -> str:
    """The line of geometric means; ``ratios`` holds one sequence for every runtime."""
    cells = []
    for of_runtime in ratios:
        cells.append("")
        for label in (*RATIOS, "ours(raw) / twin", "ours(half) / twin"):
            values = [each[label] for each in of_runtime if label in each]
            mean = math.exp(math.fsum(map(math.log, values)) / len(values)) if values else None
            cells.append("–" if mean is None else f"{mean:.3f}")
    return _row("geometric mean", cells)


def _row(first: str, cells: Sequence[str]) -> str:
    return "| " + " | ".join((first, *cells)) + " |"


def main() -> None:
    """Print the tables."""
    options = _options()
    stated: list[str] = []
    measured: dict[str, list[dict[str, float]]] = {each: [] for each in options.runtime}
    for line in COUNTS_HEAD if options.counts else timing_head(options.runtime):
        print(line)
    with tempfile.TemporaryDirectory() as folder:
        for name in options.names or names_in(options.folder):
            graphs = prepare(options.folder, name, Path(folder), options.verify)
            row = counts_row(graphs) if options.counts else _timing_row(graphs, options, measured)
            print(row, flush=True)
            stated += obstacles(graphs)
            for made in Path(folder).iterdir():
                made.unlink()  # the next network needs the room
    if not options.counts:
        print(means_row(list(measured.values())))
    print("", *stated, sep="\n")


def _timing_row(
    graphs: Graphs, options: argparse.Namespace, measured: dict[str, list[dict[str, float]]]
) -> str:
    cells = []
    for runtime in options.runtime:
        result = measure(
            graphs.paths,
            runtime,
            rounds=options.rounds,
            seconds=options.seconds,
            threads=options.threads,
        )
        for note in result.notes:
            print(f"{graphs.name}, {runtime}: {note}", file=sys.stderr)
        own, ratios = timing_cells(result)
        cells += own
        measured[runtime].append(ratios)
    return _row(graphs.name, cells)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, help="where examples.seeds.export wrote")
    parser.add_argument("names", nargs="*", help="networks (default: all in the folder)")
    parser.add_argument("--counts", action="store_true", help="count, and time nothing")
    parser.add_argument("--no-verify", dest="verify", action="store_false", help="for a quick look")
    parser.add_argument("--runtime", type=_listed, default=["ort", "openvino"])
    parser.add_argument("--rounds", type=int, help="run so many instead of until it is certain")
    parser.add_argument("--seconds", type=float, default=60.0, help="at most, for every network")
    parser.add_argument("--threads", type=int)
    return parser.parse_intermixed_args()


def _listed(text: str) -> list[str]:
    return text.split(",")


if __name__ == "__main__":
    main()
