"""INT8 beside its peers: how fast, how near to float32, and how much of it really is INT8.

    python -m venv PEERS && PEERS/bin/pip install nncf onnxruntime onnx
    python -m tests.bench.quantization --peers-python PEERS/bin/python
    python -m tests.bench.quantization unet_resnet18 demo --runtime ort --rounds 12

Nine topologies of the zoo, whose weights are drawn, and the trained demonstration network. All are
folded first, and peers quantize the folded model too. Everything is calibrated with the same drawn
scenes and judged by others, float32 on the same runtime being right. Models are timed in rounds in
which each runs once, in an order drawn anew; speeds are ratios within rounds.

With drawn weights one channel may win everywhere, and a constant offset may hold most of the energy
of an output. For those networks the mean of each channel over all inputs is taken off before labels
are compared, and the signal to noise ratio is given with it and without it.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial, reduce
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from examples.demo.evaluate import MODEL, SIZE
from examples.demo.scenes import CALIBRATION_SEEDS, FRESH_SEEDS, draw_scene
from examples.demo.street import CLASSES
from onnxfold.bench.runners import Precision, Runtime, Settings, open_runtime
from onnxfold.bench.sittings import FixedRounds, run_rounds, shuffled
from onnxfold.bench.statistics import Summary, speed_ups, summarize
from onnxfold.errors import OnnxfoldError
from onnxfold.optimization import OptimizeOptions, optimize
from onnxfold.passes.presets import DEFAULT
from onnxfold.quantization import QuantizationReport, QuantizeOptions, quantize
from onnxfold.quantize.metrics import Comparison, Confusion
from onnxfold.quantize.mixed_precision import DEFAULT_BUDGET
from onnxfold.targets.prove import prove
from onnxfold.verify.session import FeedRefusedError
from tests import zoo
from tests.bench import quantization_peers
from tests.bench.quantization_table import (
    BFLOAT,
    FLOAT,
    GOALS,
    HEAD,
    NETWORKS,
    OURS,
    TARGETS,
    UNMERGED,
    Row,
    float_layers,
    goal,
    line,
)

Array = npt.NDArray[Any]
Say = Callable[[str], None]

_TRANSFORMERS = ("segformer_b0", "fastvit_sa12_fpn")
_MERGING = ("merge_branches", "fold_linear")
_MEAN, _DEVIATION = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))
_FOR_IOU = 200
_FAILURES = (OnnxfoldError, FeedRefusedError)


@dataclass(frozen=True, slots=True)
class Network:
    """A float model with the inputs that it is calibrated with and judged by.

    Attributes:
        name: As in `NETWORKS`.
        source: As it was exported.
        shape: Of its only input.
        calibration: Inputs, [samples, channels, height, width].
        unseen: Others.
        truth: True labels of `unseen`, where the network was trained on them.
    """

    name: str
    source: onnx.ModelProto
    shape: tuple[int, ...]
    calibration: Array
    unseen: Array
    truth: Array | None

    @property
    def input_name(self) -> str:
        """The name of the input."""
        return self.source.graph.input[0].name

    def feeds(self) -> Iterator[dict[str, Array]]:
        """The unseen inputs, one by one."""
        return ({self.input_name: np.ascontiguousarray(each[None])} for each in self.unseen)


def open_network(name: str, size: int | None, calibration: int, unseen: int) -> Network:
    """Load a network and draw its inputs.

    Args:
        name: As in `NETWORKS`.
        size: Height and width where the network leaves them open; None for those of the zoo.
        calibration: How many inputs to calibrate with.
        unseen: How many to judge by; more where mean IoU is counted.
    """
    is_trained = name == "demo"
    source = onnx.load(MODEL) if is_trained else zoo.load(f"{name}.script")
    edges = (SIZE, SIZE) if is_trained else _edges(name, size)

    def draw(seeds: Sequence[int]) -> tuple[Array, Array]:
        scenes = [draw_scene(seed, *edges) for seed in seeds]
        images = np.stack([image for image, _ in scenes]).astype(np.float64)
        if not is_trained:  # the demonstration network normalises by itself
            images = (images / 255.0 - _MEAN) / _DEVIATION
        return images.transpose(0, 3, 1, 2).astype(np.float32), np.stack([y for _, y in scenes])

    inputs, truth = draw(FRESH_SEEDS[: _FOR_IOU if is_trained else unseen])
    return Network(
        name,
        source,
        (1, 3, *edges),
        draw(CALIBRATION_SEEDS[:calibration])[0],
        inputs,
        truth if is_trained else None,
    )


def _edges(name: str, size: int | None) -> tuple[int, int]:
    entry = zoo.entry(f"{name}.script")
    (*_, height, width) = next(iter(entry.shapes[0].values()))
    return (
        (size, size)
        if size is not None and {"height", "width"} <= {*entry.dynamic}
        else (
            height,
            width,
        )
    )


@dataclass(slots=True)
class _Maker:
    """Makes the variants of a network as files; what could not be made is kept with the reason."""

    network: Network
    folder: Path
    options: argparse.Namespace
    say: Say
    errors: dict[tuple[str, str], str] = field(default_factory=dict)
    reports: dict[tuple[str, str], QuantizationReport] = field(default_factory=dict)
    tried: dict[str, str] = field(default_factory=dict)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {self.network.input_name: self.network.shape}

    @property
    def folded(self) -> Path:
        return self.folder / "folded.onnx"

    @property
    def samples(self) -> Path:
        return self.folder / "samples.npy"

    def prepare(self) -> None:
        """Fold the float model, which all variants start from."""
        options = OptimizeOptions(input_shapes=self.shapes)
        self.say("folding")
        self.folder.mkdir(parents=True, exist_ok=True)
        optimize(self.network.source, self.folded, options=options)
        unmerged = [step for step in DEFAULT if step.name not in _MERGING]
        optimize(self.network.source, self._unmerged, passes=unmerged, options=options)
        np.save(self.samples, self.network.calibration, allow_pickle=False)

    @property
    def _unmerged(self) -> Path:
        return self.folder / "unmerged.onnx"

    def variants(self, runtime: str) -> dict[str, Path]:
        """Every variant that can be made for a runtime."""
        made = self._own(runtime, OURS)
        if self._has_merges():
            made |= self._own(runtime, UNMERGED)
        for recipe in quantization_peers.RECIPES:
            if recipe != "nncf-transformer" or self.network.name in _TRANSFORMERS:
                made |= self._peer(runtime, recipe)
        return made

    def _has_merges(self) -> bool:
        return _convolutions(self._unmerged) > _convolutions(self.folded)

    def _own(self, runtime: str, variant: str) -> dict[str, Path]:
        """What `quantize` makes of the network as it came, or of the graph with its branches."""
        is_merged = variant == OURS
        target = self.folder / f"{'merged' if is_merged else 'unmerged'}.{runtime}.onnx"
        self.say(f"{variant} for {runtime}")
        options = QuantizeOptions(
            max_drop=None if self.network.truth is None else DEFAULT_BUDGET,
            input_shapes=self.shapes if is_merged else {},
            optimize=is_merged,
            force=not is_merged,
            threads=self.options.threads,
            seconds=self.options.own_seconds,
        )
        source = self.network.source if is_merged else self._unmerged
        try:
            done = quantize(source, target, self.samples, target=TARGETS[runtime], options=options)
        except _FAILURES as error:
            self.errors[runtime, variant] = str(error)
            return {}
        self.reports[runtime, variant] = done.report
        return {variant: target}

    def _peer(self, runtime: str, recipe: str) -> dict[str, Path]:
        """What a peer makes is the same for every runtime, and made once."""
        target = self.folder / f"{recipe}.onnx"
        if recipe not in self.tried:
            self.say(recipe)
            self.tried[recipe] = self._run_peer(recipe, target)
        if self.tried[recipe]:
            self.errors[runtime, recipe] = self.tried[recipe]
            return {}
        return {recipe: target}

    def _run_peer(self, recipe: str, target: Path) -> str:
        python = self.options.peers_python if recipe.startswith("nncf") else sys.executable
        if python is None:
            return "not asked for (--peers-python)"
        script = Path(quantization_peers.__file__)
        command = [str(python), str(script), recipe, str(self.folded), str(self.samples)]
        try:
            done = subprocess.run([*command, str(target)], capture_output=True, text=True)
        except OSError as error:
            return str(error)
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return "" if done.returncode == 0 and target.exists() else lines[-1]


def _convolutions(path: Path) -> int:
    nodes = onnx.load(path, load_external_data=False).graph.node
    return sum(node.op_type == "Conv" for node in nodes)


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A file and how it is run; the float model is run in two ways on OpenVINO."""

    path: Path
    precision: Precision


def _candidates(runtime: str, folded: Path, made: Mapping[str, Path]) -> dict[str, _Candidate]:
    found = {FLOAT: _Candidate(folded, "f32")}
    if runtime == "openvino":
        found[BFLOAT] = _Candidate(folded, "default")
    return found | {name: _Candidate(path, "default") for name, path in made.items()}


def measure_network(network: Network, options: argparse.Namespace, say: Say) -> list[Row]:
    """All variants of a network on all runtimes."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        maker = _Maker(network, options.keep or Path(folder), options, say)
        maker.prepare()
        for runtime in options.runtime:
            candidates = _candidates(runtime, maker.folded, maker.variants(runtime))
            found = _judged(network, runtime, candidates, options.threads, say)
            running = {name: candidates[name] for name, row in found.items() if not row.error}
            say(f"timing on {runtime}")
            _time(network, runtime, running, found, options)
            for name, row in found.items():
                report = maker.reports.get((runtime, name))
                row.floats = {} if report is None else _reasons(report)
            rows += found.values()
            rows += [
                Row(network.name, runtime, variant, error=error)
                for (where, variant), error in maker.errors.items()
                if where == runtime
            ]
    return rows


def _reasons(report: QuantizationReport) -> dict[str, str]:
    layers = (each.precision for each in report.float_layers)
    return {layer.layer: layer.reason for layer in layers}


def _judged(
    network: Network,
    runtime: str,
    candidates: Mapping[str, _Candidate],
    threads: int | None,
    say: Say,
) -> dict[str, Row]:
    """Accuracy and share of INT8 of every candidate."""
    opened = open_runtime(runtime)
    reference = list(_outputs(opened, candidates[FLOAT], network, threads))
    means = _channel_means(reference) if network.truth is None else None
    rows: dict[str, Row] = {}
    for name, candidate in candidates.items():
        say(f"judging {name} on {runtime}")
        row = rows[name] = Row(network.name, runtime, name)
        try:
            found = list(_outputs(opened, candidate, network, threads))
            _compare(row, network, reference, found, means)
            if name not in (FLOAT, BFLOAT):
                _prove(row, candidate.path)
        except _FAILURES as error:
            row.error = str(error)
    return rows


def _outputs(
    runtime: Runtime, candidate: _Candidate, network: Network, threads: int | None
) -> Iterator[Array]:
    runner = runtime.load(str(candidate.path), Settings(threads, candidate.precision))
    for feed in network.feeds():
        runner.bind(feed)
        (output,) = runner.outputs()
        yield output


def _channel_means(outputs: Iterable[Array]) -> Array:
    stacked = np.concatenate(list(outputs)).astype(np.float64)
    axes = tuple(axis for axis in range(stacked.ndim) if axis != 1)
    return np.asarray(stacked.mean(axis=axes, keepdims=True))


def _compare(
    row: Row,
    network: Network,
    reference: Sequence[Array],
    found: Sequence[Array],
    means: Array | None,
) -> None:
    pairs = list(zip(reference, found, strict=True))
    whole = _comparison(pairs)
    row.sqnr, row.agreement = whole.sqnr, whole.agreement
    if means is not None:
        varying = _comparison([(a - means, b - means) for a, b in pairs])
        row.varying, row.agreement = varying.sqnr, varying.agreement
    if network.truth is not None:
        before, after = (_mean_iou(network.truth, outputs) for outputs in (reference, found))
        row.iou_drop = before - after


def _comparison(pairs: Iterable[tuple[Array, Array]]) -> Comparison:
    return reduce(Comparison.merged, (Comparison.of({"": a}, {"": b}) for a, b in pairs))


def _mean_iou(truth: Array, outputs: Iterable[Array]) -> float:
    """In percent, over the true labels [samples, height, width]."""
    confusions = (
        Confusion.of(labels, output[0].argmax(axis=0), len(CLASSES))
        for labels, output in zip(truth, outputs, strict=True)
    )
    return reduce(Confusion.merged, confusions).mean_iou


def _prove(row: Row, path: Path) -> None:
    proof = prove(path, TARGETS[row.runtime])
    row.int8_share = proof.int8_share


def _time(
    network: Network,
    runtime: str,
    candidates: Mapping[str, _Candidate],
    rows: Mapping[str, Row],
    options: argparse.Namespace,
) -> None:
    """Time all candidates in one process; the precision differs, so `bench.measure` cannot."""
    opened, generator = open_runtime(runtime), random.Random(0)
    schedule, began = FixedRounds(options.rounds), perf_counter()
    feed = next(network.feeds())
    samples: dict[str, list[Sequence[float]]] = {name: [] for name in candidates}
    for sitting in count():
        runners = {
            name: opened.load(
                str(candidates[name].path), Settings(options.threads, candidates[name].precision)
            )
            for name in shuffled(candidates, generator)
        }
        for runner in runners.values():
            runner.bind(feed)
        _, run_ms = run_rounds(
            {name: runners[name].run for name in candidates},
            generator,
            3,
            partial(schedule.is_sitting_done, sitting, loading=0.0),
        )
        for name, values in run_ms.items():
            samples[name].append(values)
        if schedule.stop(sitting + 1, perf_counter() - began, 0.0):
            break
    for name, groups in samples.items():
        pairs = zip(samples[FLOAT], groups, strict=True)
        rows[name].milliseconds = summarize(groups).median
        rows[name].speed = _interval(summarize([speed_ups(first, own) for first, own in pairs]))
        if OURS in samples:
            pairs = zip(groups, samples[OURS], strict=True)
            rows[name].beaten_by = summarize([speed_ups(own, ours) for own, ours in pairs]).median


def _interval(summary: Summary) -> tuple[float, float, float]:
    return summary.median, *(summary.interval or summary.quartiles)


def main() -> None:
    """Print the tables."""
    options = _options()
    rows: list[Row] = []
    goals: list[str] = []
    print(*HEAD, sep="\n", flush=True)
    for name in options.names or NETWORKS:
        network = open_network(name, options.size, options.calibration, options.unseen)
        found = measure_network(network, options, partial(_say, name))
        for row in found:
            print(line(row), flush=True)
        rows += found
        goals += [goal([row for row in found if row.runtime == each]) for each in options.runtime]
        if options.json is not None:
            options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    print("", *GOALS, *goals, "", *float_layers(rows), sep="\n")


def _say(name: str, text: str) -> None:
    print(f"{name}: {text}", file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(NETWORKS)} (default: all)")
    parser.add_argument("--peers-python", type=Path, help="Python of an environment with NNCF")
    parser.add_argument("--runtime", type=_listed, default=list(TARGETS), help="ort,openvino")
    parser.add_argument("--rounds", type=int, default=90, help="how often every model is timed")
    parser.add_argument("--threads", type=int, help="default: what the runtime takes")
    parser.add_argument("--size", type=int, help="height and width where the network allows it")
    parser.add_argument("--calibration", type=int, default=64, help="inputs to calibrate with")
    parser.add_argument("--unseen", type=int, default=32, help="inputs to judge by")
    parser.add_argument("--own-seconds", type=float, default=5.0, help="that onnxfold may time")
    parser.add_argument("--json", type=Path, help="write all figures there too")
    parser.add_argument("--keep", type=Path, help="a folder to leave the models of one network in")
    options = parser.parse_intermixed_args()
    unknown = [name for name in options.names if name not in NETWORKS]
    if unknown:
        parser.error(f"there is no network {unknown[0]}")
    return options


def _listed(text: str) -> list[str]:
    return text.split(",")


if __name__ == "__main__":
    main()
