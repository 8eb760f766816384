"""Chooses how ranges are made, and which layers stay float, by what models really do."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import onnx

from onnxfold.calibrate.ranges import Method
from onnxfold.quantization.builder import Builder, Settled
from onnxfold.quantization.latency import RUNTIMES
from onnxfold.quantization.options import QuantizeOptions
from onnxfold.quantization.prepare import Prepared
from onnxfold.quantization.samples import Subset
from onnxfold.quantize.bias_correction import correct_biases
from onnxfold.quantize.metrics import Comparison
from onnxfold.quantize.mixed_precision import search
from onnxfold.quantize.profitable import profitable_layers
from onnxfold.quantize.sensitivity import Trials
from onnxfold.targets.target import Target

Progress = Callable[[str], None]

_NEARLY = 0.1
"""Methods whose drop is within this share of the least count as equally good by labels."""
_CUTTING = frozenset((Method.PERCENTILE, Method.KL))
"""Methods that cut off what occurs, whatever that costs."""
_MARGIN = 1.0
"""How many dB these have to gain: inputs that reach further than those that judge are cut more."""
_FEW_LABELS = 1000
"""With fewer labels than these, which of two models keeps more of them is chance."""
_WORTH_A_WORD = 1.0
"""Percent of labels that change from which on the report speaks of it."""
_FOR_BIASES = 32
"""Samples that biases are corrected with, if the model is quick."""
_FOR_TRIALS = 8
"""The same for models that are only tried."""
_LEAST_FOR_BIASES = 8
_COST_OF_PAIR = 4
"""How many times longer than the float model the paired models run."""
_SLOWER, _INEXACT = "it is slower in INT8 here", "it was too inexact in INT8"


@dataclass(frozen=True, slots=True)
class Chosen:
    """A quantized model and how it was chosen.

    Attributes:
        settled: The model before its biases were corrected, and what its target makes of it.
        model: The model.
        method: How ranges were chosen.
        methods: What was tried for that.
        comparison: The model beside the float one.
        reasons: Why layers stay float, where this was chosen here.
        notes: What a user should know about it.
    """

    settled: Settled
    model: onnx.ModelProto
    method: Method
    methods: Mapping[str, Comparison]
    comparison: Comparison
    reasons: Mapping[str, str]
    notes: tuple[str, ...]


def choose(
    prepared: Prepared,
    target: Target,
    samples: Subset,
    options: QuantizeOptions,
    progress: Progress,
) -> Chosen:
    """Choose the method, leave in float what does not pay, and then what is too inexact.

    Args:
        prepared: The float model.
        target: What for.
        samples: To correct biases with.
        options: Budget of accuracy, threads, what is not to be done.
        progress: Told what is being done.
    """
    return _Choice(prepared, target, samples, options, progress, {}, []).run()


@dataclass(frozen=True, slots=True)
class _Choice:
    prepared: Prepared
    target: Target
    samples: Subset
    options: QuantizeOptions
    progress: Progress
    reasons: dict[str, str]
    notes: list[str]

    def run(self) -> Chosen:
        builder, methods = self._method()
        builder = self._rounded(builder)
        slow, seconds = self._slow(builder)
        self.reasons.update(dict.fromkeys(slow, _SLOWER))
        self.progress("compiling the quantized model")
        settled = builder.settled(slow)
        model, comparison = self._judged(settled.model, (_FOR_BIASES, 0))
        budget = self.options.budget(comparison)
        if budget is not None and comparison.drop is not None and comparison.drop > budget:
            settled = self._within(builder, settled, slow, seconds, budget)
            model, comparison = self._judged(settled.model, (_FOR_BIASES, _FOR_TRIALS, 0))
        elif budget is None and (comparison.drop or 0.0) > _WORTH_A_WORD:
            self.notes.append(
                f"{comparison.drop:.1f} % of the labels change, for better or worse: --max-drop "
                "keeps layers in float until fewer do"
            )
        return Chosen(
            settled,
            model,
            builder.method,
            methods,
            comparison,
            {**settled.taken_back, **self.reasons},
            tuple(self.notes),
        )

    def _method(self) -> tuple[Builder, dict[str, Comparison]]:
        """The builder with the best method."""
        wanted = self.options.method
        builders = {
            method: Builder(
                self.prepared.model,
                self.target,
                self.prepared.calibration,
                method,
                frozenset(self.options.exclude),
                self.prepared.rounding,
            )
            for method in ([wanted] if wanted is not None else Method)
        }
        found: dict[Method, Comparison] = {}
        for method, builder in builders.items():
            self.progress(f"trying ranges by {method}")
            found[method] = self._judged(builder.insert(), (_FOR_TRIALS, 0))[1]
        best = best_method(found)
        return builders[best], {str(method): each for method, each in found.items()}

    def _rounded(self, builder: Builder) -> Builder:
        """The builder, or one that rounds to the nearest integers where that is more exact."""
        if builder.rounding is None or not builder.plan().layers:
            return builder
        self.progress("trying how to round weights")
        nearest = replace(builder, rounding=None)
        of_nearest, adaptive = (
            self._judged(each.insert(), (_FOR_TRIALS, 0))[1] for each in (nearest, builder)
        )
        figures = f"{adaptive.sqnr:.1f} dB, and {of_nearest.sqnr:.1f} dB by nearest integers"
        if _harm(of_nearest) < _harm(adaptive):
            self.notes.append(f"weights are not rounded by what layers read: {figures}")
            return nearest
        self.notes.append(f"weights are rounded by what layers read: {figures}")
        return builder

    def _slow(self, builder: Builder) -> tuple[frozenset[str], Mapping[str, float] | None]:
        """What is slower in INT8 on the target, and what each layer gains."""
        if self.target.name not in RUNTIMES or not builder.plan().layers:
            return frozenset(), None
        self.progress("timing layers on the target")
        profit = profitable_layers(
            self.prepared.model,
            lambda excluded: builder.settled(excluded).model,
            self.target.name,
            self.prepared.judged.feed(0),
            threads=self.options.runtime_threads,
            seconds=self.options.seconds,
        )
        if self.options.force and builder.plan().layers <= profit.excluded:
            return frozenset(), profit.seconds
        return profit.excluded, profit.seconds

    def _judged(
        self, model: onnx.ModelProto, choices: Sequence[int]
    ) -> tuple[onnx.ModelProto, Comparison]:
        """The model with its biases corrected by as many samples as is best.

        Few samples, or activations that clip, may make biases worse than they were.
        """
        tried = []
        for most in choices if self.options.correct_biases else (0,):
            corrected = self._corrected(model, most)
            tried.append((corrected, self.prepared.evaluation.compare(corrected)))
        return min(tried, key=lambda each: _harm(each[1]))

    def _corrected(self, model: onnx.ModelProto, most: int) -> onnx.ModelProto:
        if not self.options.correct_biases or not most:
            return model
        self.progress("correcting biases")
        count = max(_LEAST_FOR_BIASES, self.prepared.affordable // _COST_OF_PAIR)
        samples = self.samples.first(min(most, count))
        threads = self.options.runtime_threads
        return correct_biases(self.prepared.model, model, samples, threads).model

    def _within(
        self,
        builder: Builder,
        settled: Settled,
        slow: frozenset[str],
        seconds: Mapping[str, float] | None,
        budget: float,
    ) -> Settled:
        """The model with as many more layers in float as the budget needs."""
        fixed = slow | settled.taken_back.keys()

        def build(layers: frozenset[str]) -> onnx.ModelProto:
            return self._corrected(builder.insert(fixed | layers), _FOR_TRIALS)

        def compare(model: onnx.ModelProto) -> Comparison:
            self.progress("looking for the layers that INT8 harms")
            return self.prepared.evaluation.compare(model)

        trials = Trials(build, compare)
        layers = [site.layer for site in settled.plan.weights]
        mixed = search(trials, layers, budget, seconds)
        self.reasons.update(dict.fromkeys(mixed.excluded, _INEXACT))
        self.notes.append(
            f"{len(mixed.excluded)} of {len(layers)} layers stay float to keep the budget of "
            f"{budget:g} points; {mixed.trials} models were tried"
        )
        return builder.settled(slow | mixed.excluded)


def _harm(comparison: Comparison) -> tuple[float, float]:
    return _counted_drop(comparison) or 0.0, -comparison.sqnr


def _counted_drop(comparison: Comparison) -> float | None:
    """Points lost, if there are enough labels to tell one model from another by them."""
    return comparison.drop if comparison.labels >= _FEW_LABELS else None


def best_method(found: Mapping[Method, Comparison]) -> Method:
    """By labels where there are any, and by SQNR among those that are about as good.

    On inputs that nobody has seen, percentiles and Kullback-Leibler divergence lose several dB on
    some networks and gain next to nothing on others: they have to be clearly better.
    """
    counted = {method: _counted_drop(each) for method, each in found.items()}
    drops = {method: drop for method, drop in counted.items() if drop is not None}
    least = min(drops.values(), default=0.0)
    most = least + _NEARLY * abs(least)  # below zero where more true labels are hit than in float
    good = [method for method in found if method not in drops or drops[method] <= most]
    return max(good, key=lambda method: found[method].sqnr - _MARGIN * (method in _CUTTING))
