"""How long operators take, roughly: enough to tell a merge that gains from one that loses."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from onnxfold.algebra.cost import Footprint


@dataclass(frozen=True, slots=True)
class CostModel:
    """A machine in six numbers; the defaults are those of ONNX Runtime in `machines.py`.

    Only ratios matter: a rewrite is made when the operators it removes cost more than the ones it
    makes. Seconds per operator are the larger of arithmetic and memory traffic, plus a start.

    Attributes:
        multiply_adds_per_second: Of convolutions that mix channels.
        depthwise_multiply_adds_per_second: Of convolutions that do not; no channel is reused there.
        transposed_share: How fast a ConvTranspose multiplies, as a share of a Conv.
        scatter_passes: How often the products of a ConvTranspose are moved before they are added
            up. A runtime that writes it as a matrix product whose result is scattered moves them
            often, in the layout that this takes; one that gathers what each output needs, hardly.
        bytes_per_second: Memory traffic.
        start_seconds: What every operator costs however small it is.
        element_bytes: Bytes of one number.
    """

    multiply_adds_per_second: float = 2.3e11
    depthwise_multiply_adds_per_second: float = 1.65e11
    transposed_share: float = 0.69
    scatter_passes: float = 9.5
    bytes_per_second: float = 9.4e10
    start_seconds: float = 0.5e-6
    element_bytes: int = 4

    def convolution(self, footprint: Footprint, out_extents: Sequence[int]) -> float:
        """Seconds of a Conv or ConvTranspose with this footprint on one image.

        Infinite for a map that is neither: it would both stride and upsample.
        """
        if any(up > 1 for up in footprint.up):
            if any(stride > 1 for stride in footprint.stride):
                return math.inf
            return self._transposed(footprint, out_extents)
        depthwise = footprint.groups > 1 and footprint.in_channels // footprint.groups < 4
        rate = (
            self.depthwise_multiply_adds_per_second if depthwise else self.multiply_adds_per_second
        )
        in_extents = source_extents(footprint, out_extents)
        traffic = (
            footprint.in_channels * math.prod(in_extents)
            + footprint.out_channels * math.prod(out_extents)
            + footprint.weights
        )
        arithmetic = footprint.multiply_adds(out_extents) / rate
        return self.start_seconds + max(arithmetic, self._moved(traffic))

    def _transposed(self, footprint: Footprint, out_extents: Sequence[int]) -> float:
        in_extents = source_extents(footprint, out_extents)
        products = footprint.out_channels * math.prod(footprint.taps) * math.prod(in_extents)
        traffic = (
            footprint.in_channels * math.prod(in_extents)
            + self.scatter_passes * products
            + footprint.out_channels * math.prod(out_extents)
            + footprint.weights
        )
        rate = self.multiply_adds_per_second * self.transposed_share
        arithmetic = footprint.multiply_adds(out_extents) / rate
        return self.start_seconds + arithmetic + self._moved(traffic)

    def pooling(self, footprint: Footprint, out_extents: Sequence[int]) -> float:
        """Seconds of an AveragePool, whose additions hide behind its traffic."""
        read = footprint.in_channels * math.prod(source_extents(footprint, out_extents))
        written = footprint.out_channels * math.prod(out_extents)
        return self.start_seconds + self._moved(read + written)

    def elementwise(self, channels: int, out_extents: Sequence[int], operands: int = 1) -> float:
        """Seconds of an elementwise operator with that many tensors to read."""
        return self.start_seconds + self._moved(channels * math.prod(out_extents) * (operands + 1))

    def _moved(self, numbers: float) -> float:
        return numbers * self.element_bytes / self.bytes_per_second


def source_extents(footprint: Footprint, out_extents: Sequence[int]) -> tuple[int, ...]:
    """About how large the input is from which a map makes an output of these extents."""
    return tuple(
        max(1, extent * stride // up)
        for extent, stride, up in zip(out_extents, footprint.stride, footprint.up, strict=True)
    )
