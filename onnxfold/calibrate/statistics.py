"""What is known about the values of tensors; everything merges exactly, in any order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxfold.calibrate.histogram import Histogram
from onnxfold.calibrate.sums import ExactSums
from onnxfold.errors import BadOptionError


@dataclass(frozen=True, slots=True)
class ChannelStatistics:
    """What is known about each of `C` channels.

    Attributes:
        minimum: float32 (C,), over all elements.
        maximum: float32 (C,), over all elements.
        sums: Of the means of the channel, one term for each image.
    """

    minimum: NDArray[np.float32]
    maximum: NDArray[np.float32]
    sums: ExactSums

    def merged(self, other: ChannelStatistics) -> ChannelStatistics:
        """What is known from the data of both, which have equally many channels."""
        return ChannelStatistics(
            np.minimum(self.minimum, other.minimum),
            np.maximum(self.maximum, other.maximum),
            self.sums.merged(other.sums),
        )

    def __eq__(self, other: object) -> bool:
        """Whether both say the same."""
        return (
            isinstance(other, ChannelStatistics)
            and np.array_equal(self.minimum, other.minimum)
            and np.array_equal(self.maximum, other.maximum)
            and self.sums == other.sums
        )

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, slots=True)
class TensorStatistics:
    """What is known about the elements of one tensor over all samples seen.

    Attributes:
        count: How many elements the tensor had in all samples together.
        minimum: The least of all elements, exactly.
        maximum: The greatest of all elements, exactly.
        zeros: How many of the elements counted in the histogram are exactly zero.
        histogram: Of a regular share of the elements; of all of them where they are few.
        channels: None where the tensor has no channel axis, or its extent changes.
    """

    count: int
    minimum: float
    maximum: float
    zeros: int
    histogram: Histogram
    channels: ChannelStatistics | None = None

    @staticmethod
    def of(array: NDArray[np.floating], channel_axis: int | None = None) -> TensorStatistics:
        """The statistics of an array, every element of it counted.

        Args:
            array: Finite numbers, at least one; axis 0 counts images when there are channels.
            channel_axis: Which axis holds the channels, None for no channels.

        Raises:
            ValueError: It is empty, or holds NaN or infinity.
        """
        return TensorStatistics(
            count=array.size,
            minimum=float(array.min()) + 0.0,
            maximum=float(array.max()) + 0.0,
            zeros=array.size - int(np.count_nonzero(array)),
            histogram=Histogram.of(array),
            channels=None if channel_axis is None else _channels_of(array, channel_axis),
        )

    @property
    def channel_minimum(self) -> NDArray[np.float32] | None:
        """The least element of each channel, (C,)."""
        return None if self.channels is None else self.channels.minimum

    @property
    def channel_maximum(self) -> NDArray[np.float32] | None:
        """The greatest element of each channel, (C,)."""
        return None if self.channels is None else self.channels.maximum

    @property
    def channel_mean(self) -> NDArray[np.float64] | None:
        """The mean over images of the mean of each channel, (C,)."""
        return None if self.channels is None else self.channels.sums.means

    def merged(self, other: TensorStatistics) -> TensorStatistics:
        """What is known from the data of both."""
        return TensorStatistics(
            count=self.count + other.count,
            minimum=min(self.minimum, other.minimum),
            maximum=max(self.maximum, other.maximum),
            zeros=self.zeros + other.zeros,
            histogram=self.histogram.merged(other.histogram),
            channels=_merged_channels(self.channels, other.channels),
        )


@dataclass(frozen=True, slots=True)
class Calibration:
    """What the values of a graph were on a set of samples.

    Attributes:
        graph_hash: Of the model that ran, as `onnxfold.calibrate.store.graph_hash` gives it.
        data: What tells one data set from another; empty when that is not known.
        samples: Indices of the samples seen, ascending.
        tensors: Statistics by name of value.
    """

    graph_hash: str
    data: str
    samples: tuple[int, ...]
    tensors: Mapping[str, TensorStatistics]

    def merged(self, other: Calibration) -> Calibration:
        """What is known from the samples of both.

        Raises:
            BadOptionError: They are of different models, data or values, or share a sample.
        """
        self._refuse_to_merge(other)
        return Calibration(
            self.graph_hash,
            self.data,
            tuple(sorted(self.samples + other.samples)),
            {name: each.merged(other.tensors[name]) for name, each in self.tensors.items()},
        )

    def _refuse_to_merge(self, other: Calibration) -> None:
        hint = "calibrate again from the start, with one model and one data set"
        if self.graph_hash != other.graph_hash:
            raise BadOptionError("the calibrations are of different models", hint)
        if self.data != other.data:
            raise BadOptionError("the calibrations are of different data sets", hint)
        if self.tensors.keys() != other.tensors.keys():
            raise BadOptionError("the calibrations observed different values", hint)
        both = set(self.samples).intersection(other.samples)
        if both:
            raise BadOptionError(
                f"the calibrations share {len(both)} samples, the first being {min(both)}",
                "merge calibrations of different samples",
            )


def _channels_of(array: NDArray[np.floating], axis: int) -> ChannelStatistics:
    ordered = np.moveaxis(array, axis, 1)
    rows = ordered.reshape(*ordered.shape[:2], -1)
    means = rows.mean(axis=2, dtype=np.float64).astype(np.float32)
    return ChannelStatistics(
        rows.min(axis=(0, 2)).astype(np.float32) + np.float32(0),
        rows.max(axis=(0, 2)).astype(np.float32) + np.float32(0),
        ExactSums.of(means),
    )


def _merged_channels(
    one: ChannelStatistics | None, two: ChannelStatistics | None
) -> ChannelStatistics | None:
    if one is None or two is None or len(one.minimum) != len(two.minimum):
        return None
    return one.merged(two)
