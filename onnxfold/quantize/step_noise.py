"""How much noise quantization steps make in a group of channels, and the scales that make least.

A tensor gets one step `Δ = (max − min) / 255` for all its channels: a channel that uses a tenth of
the range keeps a tenth of the steps. Dividing channel i by s_i, and multiplying the weights that
read it, makes ranges alike. It is not free, because weights have one step δ_o per *output* channel:
a large factor on one input channel coarsens the others. Relative to the signal of each output o of
a reader with weights W,

    noise(s) = mean_o [ Σ_i E_oi · min(Δ² s_i² / 12, m_i) + δ_o² / 12 · K · Σ_i m_i / s_i² ] / S_o

with E_oi = Σ_k W_oik², m_i = E[x_i²], S_o = Σ_i E_oi m_i, K taps, and the steps after scaling:
Δ = (max_i x_i / s_i − min_i x_i / s_i) / 255, δ_o = max_ik |W_oik| s_i / 127. A channel below half
a step is lost, which costs its own energy and no more. None of it depends on how channels further
up or down are scaled, so that groups are settled one by one.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]

DEAD = 1e-6
"""A channel that carries less of the energy of what reads it is taken for dead and not lifted:
what it does on other inputs is not known."""
_LEAST_SCALE = 2.0**-16
LEAST_GAIN = 0.02
"""Scales are taken when the predicted noise falls by this share; a second run then does nothing."""
_POWERS = np.linspace(0, 1.5, 46)
_SHIFTS = 2.0 ** np.arange(-6, 7)
_ROUNDS = 20
_HEADROOM, _MANY = 1.25, 4096
_PEAK_TO_RMS = 4.0
"""Activations are taken to peak at this many times their root mean square: rectified normals do."""


def power(low: Floats, high: Floats) -> Floats:
    """The mean square of channels that reach from `low` to `high`, as a guess."""
    return np.asarray((np.maximum(high, -low) / _PEAK_TO_RMS) ** 2)


def headroom(count: int) -> float:
    """How far beyond the peak of `count` values of a channel other values may lie.

    Where every channel fills the range with its own peak, every channel is cut off when new inputs
    exceed it. The numbers are measured: on real topologies a quarter is best or nearly so, and
    channels of which little was seen need more.
    """
    rare = max(_MANY / max(count, 1), 1.0)
    return float(min(_HEADROOM * rare**0.125, 2.0))


@dataclass(frozen=True, slots=True, eq=False)
class ReaderNoise:
    """An operator that reads channels of a group.

    Attributes:
        ids: Variable of each input channel, shape (channels,).
        cost: mean_o E_oi / S_o, shape (channels,): what noise in that channel costs.
        peaks: max_k |W_oik|, shape (groups, outputs, inputs).
        signal: S_o / K, shape (groups, outputs).
        power: m_i, shape (groups, inputs).
    """

    ids: Ids
    cost: Floats
    peaks: Floats
    signal: Floats
    power: Floats

    @classmethod
    def of(cls, ids: Ids, kernel: Floats, group: int, low: Floats, high: Floats) -> "ReaderNoise":
        """Read a kernel (C_out, C_in / group, *taps) over channels of these ranges, (C_in,)."""
        blocks = kernel.reshape(group, kernel.shape[0] // group, kernel.shape[1], -1)
        powers = power(low, high).reshape(group, -1)
        powers = np.maximum(powers, powers.max() * _LEAST_SCALE**2)
        energy = (blocks**2).sum(axis=3)
        signal = (energy * powers[:, None, :]).sum(axis=2)
        relative = np.zeros_like(energy)
        np.divide(energy, signal[:, :, None], out=relative, where=signal[:, :, None] > 0)
        cost = relative.mean(axis=1).reshape(-1) / group
        return cls(ids, cost, np.abs(blocks).max(axis=3), signal / blocks.shape[3], powers)

    def weight_noise(self, scale: Floats) -> float:
        """What the steps of the weights add when the channels are divided by `scale`."""
        own = scale[self.ids].reshape(self.power.shape)
        steps = (self.peaks * own[:, None, :]).max(axis=2) / 127
        spread = (self.power / own**2).sum(axis=1)
        noise = np.zeros_like(steps)
        np.divide(steps**2 / 12 * spread[:, None], self.signal, out=noise, where=self.signal > 0)
        return float(noise.mean())


@dataclass(frozen=True, slots=True, eq=False)
class TensorNoise:
    """A tensor that gets a step of its own.

    Attributes:
        ids: Variable of each channel, shape (channels,).
        low: Smallest value of each channel or zero, (channels,).
        high: Largest value of each channel or zero, (channels,).
        cost: What noise in each channel costs, (channels,).
        headroom: How far above its measured peak a lifted channel must be able to rise.
    """

    ids: Ids
    low: Floats
    high: Floats
    cost: Floats
    headroom: float = 1.0

    def step_noise(self, scale: Floats) -> float:
        """What the step of the tensor adds when its channels are divided by `scale`."""
        own = scale[self.ids]
        step = ((self.high / own).max() - (self.low / own).min()) / 255
        noise = np.minimum(step**2 / 12 * own**2, power(self.low, self.high))
        return float((self.cost * noise).sum())

    @property
    def is_dead(self) -> NDArray[np.bool_]:
        """Which channels carry next to nothing, (channels,); however they are scaled."""
        energy = self.cost * power(self.low, self.high)
        return np.asarray(energy <= DEAD * energy.sum())

    @property
    def peaks(self) -> Floats:
        """The largest magnitude of each channel, (channels,)."""
        return np.asarray(np.maximum(self.high, -self.low))


@dataclass(frozen=True, slots=True, eq=False)
class ScaleGroup:
    """Channels that can only be scaled together, with all that quantization does to them.

    Attributes:
        tensors: The tensors that hold them.
        readers: The operators that read them.
        least: The smallest scale of each variable, (variables,); zero where there is no bound.
        pinned: Which variables stay at one, (variables,).
    """

    tensors: tuple[TensorNoise, ...]
    readers: tuple[ReaderNoise, ...]
    least: Floats
    pinned: NDArray[np.bool_]

    def noise(self, scale: Floats) -> float:
        """The formula above, summed over tensors and readers."""
        steps = sum(tensor.step_noise(scale) for tensor in self.tensors)
        return steps + sum(reader.weight_noise(scale) for reader in self.readers)

    def best_scales(self) -> tuple[Floats, float]:
        """Scales, and the noise that they leave as a share of the noise without them.

        The noise is nearly convex in log s, and least close to the line `s_i = range_i^α`: the
        search goes along this line, and again from where it ends, until nothing is gained.
        """
        scale = np.ones(self.least.size)
        start = best = self.noise(scale)
        for _ in range(_ROUNDS):
            candidates = self._candidates(scale)
            noises = [self.noise(candidate) for candidate in candidates]
            chosen = int(np.argmin(noises))
            if not noises[chosen] < best * (1 - LEAST_GAIN):
                break
            scale, best = candidates[chosen], noises[chosen]
        return scale, best / start if start else 1.0

    def _candidates(self, scale: Floats) -> list[Floats]:
        used = self._used_share(scale)
        floor = np.maximum(self.least, _LEAST_SCALE)
        found = []
        for exponent in _POWERS:
            moved = scale * used**exponent
            for shift in _SHIFTS if self.pinned.any() else (1 / moved.max(),):
                shifted = np.clip(moved * shift, floor, 1 / _LEAST_SCALE)
                if (self.least > 0).any():
                    shifted = np.minimum(shifted, np.where(self.least > 0, 1.0, np.inf))
                found.append(np.where(self.pinned, 1.0, shifted))
        return found

    def _used_share(self, scale: Floats) -> Floats:
        """How much of the range of its tensor each channel uses, headroom included; at most one."""
        used = np.zeros(self.least.size)
        for tensor in self.tensors:
            own = tensor.peaks / scale[tensor.ids]
            if own.max() > 0:
                share = np.minimum(own / own.max() * tensor.headroom, 1.0)
                np.maximum.at(used, tensor.ids, np.where(tensor.is_dead, 1.0, share))
        return np.where(used == 0, 1.0, used)
