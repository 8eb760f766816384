"""All that is measured of the reference: its interface, outputs, noise."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from time import perf_counter
from typing import TypeAlias

import numpy as np
import onnx

from onnxfold.errors import CannotRunError
from onnxfold.verify.feeds import Feed, FeedFinder, Outputs, Run
from onnxfold.verify.interface import Interface
from onnxfold.verify.options import VerifyOptions
from onnxfold.verify.perturb import FLOAT_TYPES, Reach, nudge_feed, perturbed
from onnxfold.verify.session import MAP_WEIGHTS_FROM, Array, FeedRefusedError, open_reference
from onnxfold.verify.sources import ModelSource, read_skeleton, walk_graphs, weight_bytes
from onnxfold.verify.tolerance import (
    FACTOR,
    QUANTIZED_SLACK,
    QUANTIZED_ULPS,
    SMALL_OUTPUT,
    Noise,
    allowance,
    finite_magnitudes,
    measure,
)

Progress: TypeAlias = Callable[[str, int, int], None]
Data: TypeAlias = Iterable[Mapping[str, Array]]

#: How many times the reference runs perturbed on every feed.
NOISE_RUNS = 2
#: The same where some output is small.
NOISE_RUNS_SMALL = 8
#: An output whose tolerance is above this share of its scale on every feed is worth a warning.
BLUNT = 0.02
#: Seconds are only counted once this many feeds are there.
MIN_FEEDS = 2


@dataclass(frozen=True, slots=True)
class Case:
    """A feed, the reference's outputs on it and their noise (None: not measured)."""

    feed: Feed
    outputs: Outputs
    noise: dict[str, Noise | None]


@dataclass(frozen=True, slots=True)
class Baseline:
    """What candidates are compared with.

    Attributes:
        interface: The reference's.
        cases: The feeds with outputs and noise.
        flip_rates: For every output that is not float, the share of elements that rounding may
            flip; None in a model without floats.
        map_weights: Whether sessions keep their weights mapped.
        notes: What limits a verdict.
    """

    interface: Interface
    cases: tuple[Case, ...]
    flip_rates: Mapping[str, float | None]
    map_weights: bool
    notes: tuple[str, ...]


def measure_baseline(
    reference: ModelSource, options: VerifyOptions, data: Data | None, progress: Progress
) -> Baseline:
    """Run the reference on every feed, then perturbed.

    Raises:
        BadModelError: The reference cannot be read.
        BadOptionError: A shape or an item of data does not fit the model.
        CannotRunError: The runtime cannot run the reference.
    """
    return _Measurement(reference, options, progress).baseline(data)


class _Measurement:
    """The steps of `measure_baseline`, with what they share."""

    def __init__(self, reference: ModelSource, options: VerifyOptions, progress: Progress) -> None:
        proto = read_skeleton(reference)
        self._reference = reference
        self._options = options
        self._progress = progress
        self._interface = Interface.of(proto)
        self._map_weights = weight_bytes(proto) >= MAP_WEIGHTS_FROM
        self._quantized = _is_quantized(proto)
        self._has_floats = _has_floats(proto)
        self._notes: list[str] = []
        self._runs = NOISE_RUNS
        # The proto goes here: one read from a path must not stay in memory beside a session.

    def baseline(self, data: Data | None) -> Baseline:
        cases = self._run_reference(data)
        own_tolerance = self._options.rtol is None and self._options.atol is None
        if own_tolerance:
            self._add_noise(cases)
            self._notes.extend(_blunt_outputs(cases))
        return Baseline(
            self._interface,
            tuple(cases),
            self._flip_rates(cases),
            self._map_weights,
            tuple(self._notes),
        )

    def _run_reference(self, data: Data | None) -> list[Case]:
        options = self._options
        finder = FeedFinder(self._interface.inputs, options.input_shapes, options.seed)
        session = open_reference(self._reference, options.threads, self._map_weights)
        spent: list[float] = []

        def run(arrays: Mapping[str, Array]) -> Outputs:
            start = perf_counter()
            outputs = session.run(arrays)
            spent.append(perf_counter() - start)
            return outputs

        made_up = self._made_up(finder, run, required=data is None)
        own = finder.from_data(data, run) if data is not None else iter(())
        cases: list[Case] = []
        for feed, outputs in _own_data_second(made_up, own):
            cases.append(Case(feed, outputs, dict.fromkeys(outputs)))
            self._progress("running the reference", len(cases), 0)
            if self._enough(len(cases), spent):
                break
        if not cases:
            raise CannotRunError("there is nothing to feed the model with", "give data that fits")
        return cases

    def _enough(self, count: int, spent: list[float]) -> bool:
        options = self._options
        if options.max_feeds is not None and count >= options.max_feeds:
            return True
        expected = (1 + NOISE_RUNS) * (sum(spent) + spent[-1])
        if options.time_limit is None or count < MIN_FEEDS or expected <= options.time_limit:
            return False
        self._notes.append(
            f"only {count} feeds were tried, to stay within {options.time_limit:g} s"
        )
        return True

    def _made_up(
        self, finder: FeedFinder, run: Run, *, required: bool
    ) -> Iterator[tuple[Feed, Outputs]]:
        """The made-up feeds; where none can be made, the user's data must do."""
        try:
            yield from finder.synthetic(run)
        except CannotRunError as error:
            if required:
                raise
            self._notes.append(f"only the given data was used: {error.message}")

    def _add_noise(self, cases: list[Case]) -> None:
        ulps = QUANTIZED_ULPS if self._quantized else 1
        factor = QUANTIZED_SLACK if self._quantized else 1.0
        self._runs = _noise_runs(cases)
        for number in range(self._runs):
            found = self._noise(cases, ulps, number)
            if found is None:
                self._notes.append(
                    "rounding noise could not be measured: a unit in the last place of the inputs "
                    "changes the shape of an output"
                )
                return
            for case, noise in zip(cases, found, strict=True):
                for name, measured in noise.items():
                    scaled = measured.scaled(factor * case.feed.slack)
                    before = case.noise[name]
                    case.noise[name] = scaled.merged(before) if before else scaled

    def _noise(self, cases: list[Case], ulps: int, number: int) -> list[dict[str, Noise]] | None:
        """The noise under one perturbation, as far-reaching as the model bears."""
        for reach in sorted(Reach, reverse=True):
            found = self._moved(cases, ulps, number, reach)
            if found is None:
                continue
            if reach is Reach.WEIGHTS and _is_blunt(cases, found):
                # Perhaps something was moved that is no weight: kernels are beyond doubt.
                surer = self._moved(cases, ulps, number, Reach.KERNELS)
                return _surer(found, surer) if surer is not None else found
            return found
        return None

    def _moved(
        self, cases: list[Case], ulps: int, number: int, reach: Reach
    ) -> list[dict[str, Noise]] | None:
        """The noise on every case under one perturbation, None if it breaks the model."""
        options = self._options
        model = perturbed(self._reference, reach, ulps, options.seed + number)
        # Moves are independent, so their effects add in quadrature; the cap keeps a sample that
        # is all but empty from excusing everything.
        factor = min(model.share**-0.5, 8.0) if model.share > 0 else 1.0
        try:
            session = model.open(options.threads, self._map_weights)
        except CannotRunError:
            return None
        found: list[dict[str, Noise]] = []
        for step, case in enumerate(cases):
            done = step + number * len(cases)
            self._progress("measuring rounding noise", done, self._runs * len(cases))
            rng = np.random.default_rng([options.seed, number, ulps, step])
            try:
                outputs = session.run(nudge_feed(case.feed.arrays, ulps, rng))
            except FeedRefusedError:
                return None
            noise: dict[str, Noise] = {}
            for name, reference in case.outputs.items():
                measured = measure(reference, outputs[name]) if name in outputs else None
                if measured is None:
                    return None
                noise[name] = measured.scaled(factor)
            found.append(noise)
        return found

    def _flip_rates(self, cases: list[Case]) -> dict[str, float | None]:
        """The share of elements of every discrete output that flip, over all cases and runs."""
        names = {
            name
            for case in cases
            for name, array in case.outputs.items()
            if array.dtype.kind in "iub"
        }
        if not names or not self._has_floats:
            return dict.fromkeys(names)
        flips = dict.fromkeys(names, 0.0)
        sizes = dict.fromkeys(names, 0)
        for number in range(NOISE_RUNS):
            ulps = QUANTIZED_ULPS if self._quantized else FACTOR
            for case, noise in zip(cases, self._noise(cases, ulps, number) or [], strict=False):
                for name in names & noise.keys():
                    flips[name] += noise[name].flips * case.outputs[name].size
                    sizes[name] += case.outputs[name].size
        return {name: flips[name] / max(sizes[name], 1) for name in names}


def _noise_runs(cases: Iterable[Case]) -> int:
    """More runs where an output has too few elements for two to show its noise."""
    small = any(
        array.dtype.kind == "f" and 0 < array.size < SMALL_OUTPUT
        for case in cases
        for array in case.outputs.values()
    )
    return NOISE_RUNS_SMALL if small else NOISE_RUNS


def _own_data_second(
    made_up: Iterator[tuple[Feed, Outputs]], own: Iterator[tuple[Feed, Outputs]]
) -> Iterator[tuple[Feed, Outputs]]:
    """The most telling made-up feed, then the user's data, then the rest."""
    first = next(made_up, None)
    return chain([first] if first else [], own, made_up)


def _is_quantized(proto: onnx.ModelProto) -> bool:
    """Whether activations are rounded to integers somewhere."""
    rounding = {"QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul"}
    return any(
        node.op_type in rounding for graph in walk_graphs(proto.graph) for node in graph.node
    )


def _has_floats(proto: onnx.ModelProto) -> bool:
    """Whether any input or weight is a float, so that anything can be rounded at all."""
    kinds = {value.type.tensor_type.elem_type for value in proto.graph.input}
    for graph in walk_graphs(proto.graph):
        kinds.update(tensor.data_type for tensor in graph.initializer)
        kinds.update(
            attribute.t.data_type
            for node in graph.node
            for attribute in node.attribute
            if attribute.type == onnx.AttributeProto.TENSOR
        )
    return bool(kinds & FLOAT_TYPES)


def _scale(array: Array) -> float:
    """Largest finite magnitude of a float output, 0 for anything else."""
    if array.dtype.kind != "f":
        return 0.0
    return float(finite_magnitudes(array).max(initial=0.0))


def _is_blunt(cases: Iterable[Case], found: Iterable[Mapping[str, Noise]]) -> bool:
    """Whether some output's tolerance would be a sizeable share of its scale."""
    return any(
        FACTOR * noise[name].peak > BLUNT * _scale(array)
        for case, noise in zip(cases, found, strict=True)
        for name, array in case.outputs.items()
        if array.dtype.kind == "f"
    )


def _surer(
    found: Iterable[Mapping[str, Noise]], surer: Iterable[Mapping[str, Noise]]
) -> list[dict[str, Noise]]:
    """The second measurement wherever it is smaller by an order of magnitude."""
    return [
        {name: few[name] if 10 * few[name].peak < all_[name].peak else all_[name] for name in all_}
        for all_, few in zip(found, surer, strict=True)
    ]


def _blunt_outputs(cases: Iterable[Case]) -> Iterator[str]:
    """A warning for every output in which rounding alone hides small errors on every feed."""
    sharpest: dict[str, float] = {}
    for case in cases:
        for name, array in case.outputs.items():
            scale = _scale(array)
            if scale > 0:
                share = float(allowance(array, case.noise[name]).max()) / scale
                sharpest[name] = min(share, sharpest.get(name, share))
    for name, share in sharpest.items():
        if share > BLUNT:
            yield (
                f"output {name} is dominated by rounding: its tolerance, measured from rounding "
                f"alone, is {share:.1%} of its scale, so errors below that go unseen"
            )
