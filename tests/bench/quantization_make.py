"""Makes the quantized models that `tests.bench.quantization` compares, ours and the peers'.

Nothing here is a measurement of time, so it may run on a busy machine, apart from what `quantize`
itself looks at to choose what stays float. All is kept in a folder for each network, and what is
there already is not made again.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np
import onnx

from onnxfold.errors import OnnxfoldError
from onnxfold.optimization import OptimizeOptions, optimize
from onnxfold.passes.presets import DEFAULT
from onnxfold.quantization import QuantizationReport, QuantizeOptions, quantize
from onnxfold.verify.session import FeedRefusedError
from tests.bench import quantization_peers
from tests.bench.quantization_networks import (
    FLOAT,
    OURS,
    TARGETS,
    UNMERGED,
    Network,
    peers,
    suffix,
)

Say = Callable[[str], None]

FAILURES = (OnnxfoldError, FeedRefusedError)
_MERGING = ("merge_branches", "fold_linear")
_CONTENTS = "made.json"


@dataclass(slots=True)
class Made:
    """One model, or why there is none.

    Attributes:
        when: When it was made.
        seconds: What that took; on a busy machine.
        error: Why there is none; empty if there is.
        floats: Layers that our model leaves in float, with the reason.
        notes: What `quantize` says about it.
        accuracy: SQNR in dB and label agreement in percent, as `quantize` judges it.
    """

    when: str = ""
    seconds: float = 0.0
    error: str = ""
    floats: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    accuracy: dict[str, tuple[float, float | None]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Shelf:
    """The folder of one network.

    Attributes:
        folder: Where all its files are.
    """

    folder: Path

    @property
    def folded(self) -> Path:
        """The float model, which peers start from."""
        return self.folder / f"{FLOAT}.onnx"

    @property
    def unmerged(self) -> Path:
        """The float model with its branches apart."""
        return self.folder / "unmerged.onnx"

    @property
    def samples(self) -> Path:
        """What is calibrated with."""
        return self.folder / "samples.npy"

    def own(self, variant: str, runtime: str) -> Path:
        """A model of ours."""
        return self.folder / f"{variant}.{runtime}.onnx"

    def peer(self, recipe: str) -> Path:
        """A model of a peer."""
        return self.folder / f"{recipe}{suffix(recipe)}"

    def contents(self) -> dict[str, Made]:
        """What was made, by the stem of its file."""
        file = self.folder / _CONTENTS
        listed = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        return {name: Made(**fields) for name, fields in listed.items()}

    def enter(self, path: Path, made: Made) -> None:
        """Note what was made."""
        listed = {name: asdict(each) for name, each in self.contents().items()}
        listed[path.stem] = asdict(made)
        text = json.dumps(listed, indent=1)
        (self.folder / _CONTENTS).write_text(text + "\n", encoding="utf-8")

    def has(self, path: Path) -> bool:
        """Whether that was made, or tried in vain."""
        made = self.contents().get(path.stem)
        return made is not None and (path.exists() or bool(made.error))

    def error(self, path: Path) -> str:
        """Why a model that was tried is not there; empty if it is."""
        return self.contents()[path.stem].error

    def models(self, network: str, runtime: str) -> dict[str, Path]:
        """What is compared on a runtime and was made, or tried in vain, by variant."""
        found = {name: self.own(name, runtime) for name in (OURS, UNMERGED)}
        found |= {recipe: self.peer(recipe) for recipe in peers(network, runtime)}
        return {name: path for name, path in found.items() if self.has(path)}

    def has_merges(self) -> bool:
        """Whether folding merges branches of that network."""
        return _convolutions(self.unmerged) > _convolutions(self.folded)


@dataclass(frozen=True, slots=True)
class Maker:
    """Makes the models of one network.

    Attributes:
        network: Which.
        shelf: Where they go.
        calibration: How many inputs to calibrate with.
        threads: Of our own runs.
        peers_python: Python of an environment with NNCF; None leaves it out.
        say: Told what is being done.
    """

    network: Network
    shelf: Shelf
    calibration: int
    threads: int
    peers_python: Path | None
    say: Say

    def prepare(self) -> None:
        """Fold the float model, with and without merging branches, and draw the samples."""
        if self.shelf.samples.exists():
            return
        self.say("folding")
        self.shelf.folder.mkdir(parents=True, exist_ok=True)
        options = OptimizeOptions(input_shapes=self._shapes, threads=self.threads)
        optimize(self.network.source, self.shelf.folded, options=options)
        unmerged = [step for step in DEFAULT if step.name not in _MERGING]
        optimize(self.network.source, self.shelf.unmerged, passes=unmerged, options=options)
        images = self.network.for_calibration(self.calibration).images
        np.save(self.shelf.samples, images, allow_pickle=False)

    @property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {self.network.input_name: self.network.shape}

    def ours(self, again: bool, unmerged: bool = True) -> None:
        """Make our models for every target.

        Args:
            again: Also those that are there.
            unmerged: Those with branches apart, too.
        """
        variants = (OURS, UNMERGED) if unmerged and self.shelf.has_merges() else (OURS,)
        for variant in variants:
            for runtime in TARGETS:
                path = self.shelf.own(variant, runtime)
                if again or not self.shelf.has(path):
                    self._made(path, partial(self._own, variant, runtime, path))

    def theirs(self) -> None:
        """Make the models of the peers that are not there yet."""
        recipes = (each for runtime in TARGETS for each in peers(self.network.name, runtime))
        for recipe in dict.fromkeys(recipes):
            path = self.shelf.peer(recipe)
            if not self.shelf.has(path):
                self._made(path, partial(self._peer, recipe, path))

    def _made(self, path: Path, make: Callable[[], Made]) -> None:
        self.say(f"making {path.name}")
        path.unlink(missing_ok=True)
        began, when = perf_counter(), datetime.now(UTC)
        made = make()
        made.when = when.strftime("%Y-%m-%d %H:%M UTC")
        made.seconds = round(perf_counter() - began, 1)
        self.shelf.enter(path, made)
        self.say(f"{path.name}: {made.error or 'made'}, {made.seconds:.0f} s")

    def _own(self, variant: str, runtime: str, path: Path) -> Made:
        """What `quantize` makes of the network as it came, or of the graph with its branches.

        `force`: whether it is faster than the float model is for the stage `speed` to say.
        """
        is_merged = variant == OURS
        options = QuantizeOptions(
            input_shapes=self._shapes if is_merged else {},
            optimize=is_merged,
            force=True,
            threads=self.threads,
            seconds=5.0,
        )
        source = self.network.source if is_merged else self.shelf.unmerged
        try:
            done = quantize(
                source,
                path,
                self.shelf.samples,
                target=TARGETS[runtime],
                options=options,
            )
        except FAILURES as error:
            return Made(error=str(error))
        return _told(done.report)

    def _peer(self, recipe: str, path: Path) -> Made:
        python = self.peers_python if recipe.startswith("nncf") else sys.executable
        if python is None:
            return Made(error="not asked for (--peers-python)")
        script = Path(quantization_peers.__file__)
        command = [str(python), str(script), recipe, str(self.shelf.folded)]
        try:
            done = subprocess.run(
                [*command, str(self.shelf.samples), str(path)], capture_output=True, text=True
            )
        except OSError as error:
            return Made(error=str(error))
        if done.returncode == 0 and path.exists():
            return Made()
        return Made(error=(done.stderr.strip().splitlines() or ["no reason given"])[-1])


def _told(report: QuantizationReport) -> Made:
    layers = (each.precision for each in report.float_layers)
    accuracy = {
        each.where: (each.comparison.sqnr, each.comparison.agreement) for each in report.accuracy
    }
    return Made(
        floats={layer.layer: layer.reason for layer in layers},
        notes=[f"ranges by {report.method}", *report.notes],
        accuracy=accuracy,
    )


def _convolutions(path: Path) -> int:
    nodes = onnx.load(path, load_external_data=False).graph.node
    return sum(node.op_type == "Conv" for node in nodes)
