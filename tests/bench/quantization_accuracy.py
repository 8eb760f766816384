"""Judges the models that `quantization_make` made: how near to float32, and what runs in INT8."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from pathlib import Path

import numpy as np

from examples.demo.street import CLASSES
from onnxfold.bench.runners import Precision, Runtime, Settings, open_runtime
from onnxfold.quantize.metrics import Comparison, Confusion
from onnxfold.targets.prove import prove
from tests.bench.quantization_make import FAILURES, Shelf
from tests.bench.quantization_networks import (
    BFLOAT,
    FLOAT,
    TARGETS,
    Array,
    Inputs,
    Network,
)

Say = Callable[[str], None]

_MANY = 200
"""Inputs that mean IoU is counted over, and labels where a picture has but one."""


@dataclass(slots=True)
class Verdict:
    """What one model computes on one runtime.

    Attributes:
        stamp: Of the file that was judged; another one is judged again.
        sqnr: Signal to noise ratio of the output, in dB.
        varying: The same without the mean of each channel.
        agreement: Equal labels in percent.
        iou_drop: Points of mean IoU lost, where the labels are known.
        int8_share: Share of the multiply-adds that run in INT8.
        runtime_weights: Weights that are dequantized in every run.
        error: Why there are no figures; empty if there are.
    """

    stamp: int
    sqnr: float | None = None
    varying: float | None = None
    agreement: float | None = None
    iou_drop: float | None = None
    int8_share: float | None = None
    runtime_weights: int | None = None
    error: str = ""


def verdicts(shelf: Shelf, runtime: str) -> dict[str, Verdict]:
    """What was found so far, by variant."""
    file = _file(shelf, runtime)
    listed = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return {name: Verdict(**fields) for name, fields in listed.items()}


def _file(shelf: Shelf, runtime: str) -> Path:
    return shelf.folder / f"accuracy.{runtime}.json"


def candidates(network: str, shelf: Shelf, runtime: str) -> dict[str, tuple[Path, Precision]]:
    """Every file with the precision that it runs in; the float model runs in two on OpenVINO."""
    found: dict[str, tuple[Path, Precision]] = {FLOAT: (shelf.folded, "f32")}
    if runtime == "openvino":
        found[BFLOAT] = (shelf.folded, "default")
    for name, path in shelf.models(network, runtime).items():
        found[name] = (path, "default")
    return found


def judge(network: Network, shelf: Shelf, runtime: str, count: int, threads: int, say: Say) -> None:
    """Judge what was not judged yet.

    Args:
        network: Which.
        shelf: Its models.
        runtime: On which runtime.
        count: By how many inputs; more where that says too little.
        threads: Of the runtime.
        say: Told what is being done.
    """
    needs_many = network.is_trained or network.is_classifier
    inputs = network.unseen(_MANY if needs_many else count)
    _Judge(network, shelf, runtime, inputs, threads, say).run()


@dataclass(frozen=True, slots=True)
class _Judge:
    network: Network
    shelf: Shelf
    runtime: str
    inputs: Inputs
    threads: int
    say: Say

    def run(self) -> None:
        files = candidates(self.network.name, self.shelf, self.runtime)
        known = {
            name: each for name, each in verdicts(self.shelf, self.runtime).items() if name in files
        }
        pending = {name: each for name, each in files.items() if _is_new(known.get(name), each[0])}
        if not pending:
            return
        opened = open_runtime(self.runtime)
        reference = list(self._outputs(opened, *files[FLOAT]))
        for name, (path, precision) in pending.items():
            self.say(f"judging {name} on {self.runtime}")
            known[name] = self._verdict(opened, name, path, precision, reference)
            self._write(known)

    def _verdict(
        self, opened: Runtime, name: str, path: Path, precision: Precision, floats: list[Array]
    ) -> Verdict:
        verdict = Verdict(_stamp(path))
        if not path.exists():
            verdict.error = self.shelf.error(path)
            return verdict
        try:
            found = list(self._outputs(opened, path, precision))
            self._compare(verdict, floats, found)
            if name not in (FLOAT, BFLOAT) and path.suffix == ".onnx":
                _prove(verdict, path, TARGETS[self.runtime])
        except FAILURES as error:
            verdict.error = str(error)
        return verdict

    def _outputs(self, runtime: Runtime, path: Path, precision: Precision) -> Iterator[Array]:
        runner = runtime.load(str(path), Settings(self.threads, precision))
        for feed in self.network.feeds(self.inputs):
            runner.bind(feed)
            (output,) = runner.outputs()
            yield output

    def _compare(
        self, verdict: Verdict, reference: Sequence[Array], found: Sequence[Array]
    ) -> None:
        whole = _comparison(zip(reference, found, strict=True))
        verdict.sqnr, verdict.agreement = whole.sqnr, whole.agreement
        if self.inputs.truth is None:
            means = _channel_means(reference)
            pairs = ((a - means, b - means) for a, b in zip(reference, found, strict=True))
            varying = _comparison(pairs)
            verdict.varying, verdict.agreement = varying.sqnr, varying.agreement
        else:
            before, after = (_mean_iou(self.inputs.truth, each) for each in (reference, found))
            verdict.iou_drop = before - after

    def _write(self, known: Mapping[str, Verdict]) -> None:
        text = json.dumps({name: asdict(each) for name, each in known.items()}, indent=1)
        _file(self.shelf, self.runtime).write_text(text + "\n", encoding="utf-8")


def _stamp(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def _is_new(verdict: Verdict | None, path: Path) -> bool:
    return verdict is None or verdict.stamp != _stamp(path)


def _channel_means(outputs: Iterable[Array]) -> Array:
    stacked = np.concatenate(list(outputs)).astype(np.float64)
    axes = tuple(axis for axis in range(stacked.ndim) if axis != 1)
    return np.asarray(stacked.mean(axis=axes, keepdims=True))


def _comparison(pairs: Iterable[tuple[Array, Array]]) -> Comparison:
    return reduce(Comparison.merged, (Comparison.of({"": a}, {"": b}) for a, b in pairs))


def _mean_iou(truth: Array, outputs: Iterable[Array]) -> float:
    """In percent, over the true labels [samples, height, width]."""
    confusions = (
        Confusion.of(labels, output[0].argmax(axis=0), len(CLASSES))
        for labels, output in zip(truth, outputs, strict=True)
    )
    return reduce(Confusion.merged, confusions).mean_iou


def _prove(verdict: Verdict, path: Path, target: str) -> None:
    proof = prove(path, target)
    verdict.int8_share = proof.int8_share
    verdict.runtime_weights = len(proof.runtime_weights)
