"""How far a quantized model is from its float model: SQNR, label agreement, mean IoU.

All three are sums over samples, so they are gathered one sample at a time and merged.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Distortion:
    """Energy of a signal and of the error in it.

    Attributes:
        signal: Sum of squares of the reference.
        noise: Sum of squares of the difference; infinite where one side alone is not finite.
    """

    signal: float = 0.0
    noise: float = 0.0

    @classmethod
    def of(cls, reference: Array, candidate: Array) -> "Distortion":
        """Compare two arrays of one shape; elements that are not finite in both are left out."""
        kept = np.isfinite(reference)
        if (kept != np.isfinite(candidate)).any():
            return cls(float(np.square(reference[kept], dtype=np.float64).sum()), math.inf)
        error = np.subtract(reference[kept], candidate[kept], dtype=np.float64)
        signal = np.square(reference[kept], dtype=np.float64)
        return cls(float(signal.sum()), float(np.square(error, out=error).sum()))

    def merged(self, other: "Distortion") -> "Distortion":
        """Both together."""
        return Distortion(self.signal + other.signal, self.noise + other.noise)

    @property
    def decibels(self) -> float:
        """Signal to quantization noise ratio, `10 · log10(Σ ref² / Σ (ref − x)²)`, in dB.

        Infinite without noise, minus infinity where the noise is infinite or there is no signal.
        """
        if self.noise == 0:
            return math.inf
        if self.signal == 0 or math.isinf(self.noise):
            return -math.inf
        return 10 * math.log10(self.signal / self.noise)


@dataclass(frozen=True, slots=True)
class Agreement:
    """At how many positions two models give the same label.

    Attributes:
        same: Positions with equal labels.
        total: All positions.
    """

    same: int = 0
    total: int = 0

    @classmethod
    def of(cls, reference: Array, candidate: Array) -> "Agreement":
        """Compare two arrays of labels of one shape."""
        return cls(int(np.count_nonzero(reference == candidate)), int(reference.size))

    def merged(self, other: "Agreement") -> "Agreement":
        """Both together."""
        return Agreement(self.same + other.same, self.total + other.total)

    @property
    def percent(self) -> float:
        """Equal labels in percent; 100 where there are none to compare."""
        return 100.0 * self.same / self.total if self.total else 100.0


@dataclass(frozen=True, slots=True, eq=False)
class Confusion:
    """Counts of positions by true and by predicted class.

    Attributes:
        counts: int64, shape (classes, classes): [true class, predicted class].
    """

    counts: NDArray[np.int64]

    @classmethod
    def of(cls, truth: Array, predicted: Array, classes: int, ignored: int = 255) -> "Confusion":
        """Count one sample.

        Args:
            truth: Labels of any integer type.
            predicted: Labels of the shape of `truth`.
            classes: How many classes there are.
            ignored: Positions of this true label are left out, and those of labels that are no
                class.
        """
        kept = (truth != ignored) & (truth >= 0) & (truth < classes)
        kept &= (predicted >= 0) & (predicted < classes)
        places = truth[kept].astype(np.int64) * classes + predicted[kept].astype(np.int64)
        counts = np.bincount(places, minlength=classes * classes)
        return cls(counts.reshape(classes, classes).astype(np.int64))

    def merged(self, other: "Confusion") -> "Confusion":
        """Both together."""
        return Confusion(self.counts + other.counts)

    @property
    def class_iou(self) -> NDArray[np.float64]:
        """Intersection over union of each class; NaN where a class neither is nor is predicted."""
        hits = self.counts.diagonal().astype(np.float64)
        union = self.counts.sum(axis=0) + self.counts.sum(axis=1) - hits
        scores = np.full_like(hits, np.nan)
        np.divide(hits, union, out=scores, where=union > 0)
        return scores

    @property
    def mean_iou(self) -> float:
        """Mean intersection over union of the classes that occur, in percent; NaN without any."""
        scores = self.class_iou
        occurring = scores[~np.isnan(scores)]
        return 100.0 * float(occurring.mean()) if occurring.size else math.nan


def labels(output: Array, reference: Array | None = None) -> Array | None:
    """The labels that an output stands for, or None when it does not look like a class map.

    Args:
        output: Scores (N, classes, …): the largest along axis 1 wins. A single class map
            (N, 1, …) of scores: above a half when the reference holds probabilities, above zero
            otherwise. Integers or booleans: labels already.
        reference: The output of the float model, which decides what a single class map holds;
            `output` itself when None.
    """
    if output.dtype.kind in "iub":
        return output if output.ndim > 1 else None
    if output.dtype.kind != "f" or output.ndim < 2 or output.size == 0:
        return None
    if output.shape[1] > 1:
        return np.asarray(output.argmax(axis=1))
    if output.ndim < 3:
        return None
    judged = output if reference is None else reference
    holds_probabilities = bool((judged >= 0).all() and (judged <= 1).all())
    return np.asarray(output[:, 0] > (0.5 if holds_probabilities else 0.0))


@dataclass(frozen=True, slots=True)
class OutputComparison:
    """One output of the quantized model beside that of the float model.

    Attributes:
        distortion: Of its numbers.
        agreement: Of its labels; None when it does not look like a class map.
    """

    distortion: Distortion
    agreement: Agreement | None

    @classmethod
    def of(cls, reference: Array, candidate: Array) -> "OutputComparison":
        """Compare one sample."""
        before, after = labels(reference), labels(candidate, reference)
        agreement = None if before is None or after is None else Agreement.of(before, after)
        return cls(Distortion.of(reference, candidate), agreement)

    def merged(self, other: "OutputComparison") -> "OutputComparison":
        """Both together."""
        mine, theirs = self.agreement, other.agreement
        agreement = mine.merged(theirs) if mine is not None and theirs is not None else None
        return OutputComparison(self.distortion.merged(other.distortion), agreement)


@dataclass(frozen=True, slots=True)
class Comparison:
    """All outputs of a quantized model beside those of its float model.

    Attributes:
        outputs: By name, in the order of the model.
        samples: How many samples were compared.
        truth: Of the float model and of the quantized one against true labels; None without any.
    """

    outputs: Mapping[str, OutputComparison]
    samples: int
    truth: tuple[Confusion, Confusion] | None = None

    @classmethod
    def of(cls, reference: Mapping[str, Array], candidate: Mapping[str, Array]) -> "Comparison":
        """Compare one sample; `candidate` has the outputs of `reference`, of the same shapes."""
        return cls(
            {name: OutputComparison.of(each, candidate[name]) for name, each in reference.items()},
            samples=1,
        )

    def merged(self, other: "Comparison") -> "Comparison":
        """Both together."""
        truth = None
        if self.truth is not None and other.truth is not None:
            pairs = zip(self.truth, other.truth, strict=True)
            before, after = (mine.merged(theirs) for mine, theirs in pairs)
            truth = before, after
        return Comparison(
            {name: each.merged(other.outputs[name]) for name, each in self.outputs.items()},
            self.samples + other.samples,
            truth,
        )

    @property
    def sqnr(self) -> float:
        """The lowest signal to noise ratio of all outputs, in dB."""
        return min((each.distortion.decibels for each in self.outputs.values()), default=math.inf)

    @property
    def agreement(self) -> float | None:
        """Equal labels over all class maps, in percent; None when no output is one."""
        found = [each.agreement for each in self.outputs.values() if each.agreement is not None]
        if not found:
            return None
        return Agreement(sum(a.same for a in found), sum(a.total for a in found)).percent

    @property
    def labels(self) -> int:
        """How many labels were compared."""
        return sum(each.agreement.total for each in self.outputs.values() if each.agreement)

    @property
    def mean_iou(self) -> tuple[float, float] | None:
        """Of the float model and of the quantized one, in percent; None without true labels."""
        return None if self.truth is None else (self.truth[0].mean_iou, self.truth[1].mean_iou)

    @property
    def drop(self) -> float | None:
        """What quantization costs, in points: of mean IoU if there are true labels, else of labels.

        None when there is nothing to judge by: no true labels and no class map.
        """
        if (scores := self.mean_iou) is not None:
            return scores[0] - scores[1]
        return None if self.agreement is None else 100.0 - self.agreement
