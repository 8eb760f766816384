"""`ConvMap`: a multirate convolution with a constant, the one type of the algebra."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxfold.algebra.refusal import AlgebraError, by_axis

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class ConvMap:
    """On every spatial axis, `y[o] = bias + Σ_i K[u·i − s·o] · x[i]`, with x zero outside.

    `u` and `s` are coprime on every axis: `u·i − s·o` takes only multiples of their common factor,
    so dividing by it loses nothing, and makes the kernel of a given map unique up to zero taps.
    Use `reduced_map` to build one from rates that may share a factor.

    Attributes:
        kernel: Taps, float64, shape (out_channels, in_channels / groups, *taps).
        bias: Constant, float64, shape (out_channels,).
        groups: Number of contiguous, equally large channel groups.
        origin: Per axis, the index t of the first stored tap.
        up: Per axis, the upsampling rate u (the stride of a ConvTranspose).
        stride: Per axis, the downsampling rate s (the stride of a Conv).

    Raises:
        AlgebraError: If the shapes, groups or rates do not fit together.
    """

    kernel: Array
    bias: Array
    groups: int
    origin: tuple[int, ...]
    up: tuple[int, ...]
    stride: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "kernel", _read_only(self.kernel))
        object.__setattr__(self, "bias", _read_only(self.bias))
        object.__setattr__(self, "origin", tuple(map(int, self.origin)))
        object.__setattr__(self, "up", tuple(map(int, self.up)))
        object.__setattr__(self, "stride", tuple(map(int, self.stride)))
        _check(self)

    @property
    def out_channels(self) -> int:
        """Number of output channels."""
        return int(self.kernel.shape[0])

    @property
    def in_channels(self) -> int:
        """Number of input channels over all groups."""
        return int(self.kernel.shape[1]) * self.groups

    @property
    def taps(self) -> tuple[int, ...]:
        """Stored taps per axis, zeros between them included."""
        return self.kernel.shape[2:]

    @property
    def rank(self) -> int:
        """Number of spatial axes; 0 for a plain matrix."""
        return self.kernel.ndim - 2

    @property
    def last(self) -> tuple[int, ...]:
        """Per axis, the index t of the last stored tap."""
        return tuple(first + n - 1 for first, n in zip(self.origin, self.taps, strict=True))

    @property
    def has_bias(self) -> bool:
        """Whether any constant is not zero."""
        return bool(self.bias.any())

    @property
    def is_pointwise(self) -> bool:
        """Whether every output position reads the input at the same position alone."""
        return (
            all(n == 1 for n in self.taps)
            and all(t == 0 for t in self.origin)
            and all(u == s == 1 for u, s in zip(self.up, self.stride, strict=True))
        )

    def with_bias(self, bias: npt.ArrayLike) -> "ConvMap":
        """The same taps with another constant, shape (out_channels,)."""
        constant = np.asarray(bias, np.float64)
        return ConvMap(self.kernel, constant, self.groups, self.origin, self.up, self.stride)

    def without_bias(self) -> "ConvMap":
        """The linear part alone."""
        return self.with_bias(np.zeros(self.out_channels))


def reduced_map(
    kernel: Array,
    bias: Array,
    groups: int,
    origin: Sequence[int],
    up: Sequence[int],
    stride: Sequence[int],
) -> ConvMap:
    """Build a map whose rates may share a factor: drop the taps never read, then trim zeros.

    With g = gcd(u, s), only t = u·i − s·o that g divides occur, so `K'[t] = K[g·t]` with rates
    u/g and s/g is the same map.
    """
    first = list(origin)
    for axis, (u, s) in enumerate(zip(up, stride, strict=True)):
        factor = math.gcd(u, s)
        skip = -first[axis] % factor
        index = [slice(None)] * kernel.ndim
        index[axis + 2] = slice(skip, None, factor)
        kernel = kernel[tuple(index)]
        first[axis] = (first[axis] + skip) // factor
        if kernel.shape[axis + 2] == 0:
            shape = list(kernel.shape)
            shape[axis + 2] = 1
            kernel = np.zeros(shape)
            first[axis] = 0
    u_reduced = [u // math.gcd(u, s) for u, s in zip(up, stride, strict=True)]
    s_reduced = [s // math.gcd(u, s) for u, s in zip(up, stride, strict=True)]
    whole = ConvMap(kernel, bias, groups, tuple(first), tuple(u_reduced), tuple(s_reduced))
    return trimmed(whole)


def trimmed(conv_map: ConvMap) -> ConvMap:
    """Cut zero taps off both ends of every axis; a zero kernel becomes one tap at 0."""
    corner = conv_map.kernel[0, 0].flat
    if corner[0] and corner[-1]:  # the first and the last tap of every axis at once
        return conv_map
    if is_zero(conv_map):
        shape = conv_map.kernel.shape[:2] + (1,) * conv_map.rank
        return ConvMap(
            np.zeros(shape),
            conv_map.bias,
            conv_map.groups,
            (0,) * conv_map.rank,
            conv_map.up,
            conv_map.stride,
        )
    bounds, used = [], tap_mask(conv_map)
    for axis in range(conv_map.rank):
        positions = np.flatnonzero(used_on_axis(used, axis))
        bounds.append((int(positions[0]), int(positions[-1]) + 1))
    if all(pair == (0, n) for pair, n in zip(bounds, conv_map.taps, strict=True)):
        return conv_map
    index = (slice(None), slice(None), *(slice(start, stop) for start, stop in bounds))
    origin = tuple(t + start for t, (start, _) in zip(conv_map.origin, bounds, strict=True))
    return ConvMap(
        conv_map.kernel[index],
        conv_map.bias,
        conv_map.groups,
        origin,
        conv_map.up,
        conv_map.stride,
    )


def padded(kernel: Array, front: Sequence[int], back: Sequence[int]) -> Array:
    """The kernel with so many zero taps in front of and behind each spatial axis."""
    taps = kernel.shape[2:]
    whole = [a + n + b for a, n, b in zip(front, taps, back, strict=True)]
    found: Array = np.zeros((*kernel.shape[:2], *whole))
    inside = tuple(slice(a, a + n) for a, n in zip(front, taps, strict=True))
    found[(slice(None), slice(None), *inside)] = kernel
    return found


def is_zero(conv_map: ConvMap) -> bool:
    """Whether no input is read at all (the constant may still be there)."""
    return not conv_map.kernel.flat[0] and not np.count_nonzero(conv_map.kernel)


def describe(conv_map: ConvMap) -> str:
    """How people call the kernel: "3x3", "1x1", "5" on one axis, "matrix" on none."""
    if conv_map.rank == 0:
        return "matrix"
    return by_axis(trimmed(conv_map).taps)


def tap_indices(conv_map: ConvMap, axis: int) -> npt.NDArray[np.int64]:
    """The index t of every stored tap on one spatial axis."""
    first = conv_map.origin[axis]
    return np.arange(first, first + conv_map.taps[axis], dtype=np.int64)


def nonzero(array: Array) -> Mask:
    """Which numbers are not zero."""
    return np.asarray(array != 0, np.bool_)


def tap_mask(conv_map: ConvMap) -> Mask:
    """Per stored tap, whether it is nonzero between any two channels; shape (*taps)."""
    # One pair of channels mostly settles it, and large kernels are asked often.
    first = nonzero(conv_map.kernel[0, 0])
    if np.count_nonzero(first) == first.size:
        return first
    return np.asarray(nonzero(conv_map.kernel).any(axis=(0, 1)))


def nonzero_on_axis(conv_map: ConvMap, axis: int) -> Mask:
    """Per stored tap index of one spatial axis, whether any tap with it is not zero."""
    return used_on_axis(tap_mask(conv_map), axis)


def used_on_axis(used: Mask, axis: int) -> Mask:
    """Per tap index of one axis, whether any tap with it is in the mask of used taps."""
    return np.asarray(used.any(axis=tuple(other for other in range(used.ndim) if other != axis)))


def joint_mask(axes: Sequence[Mask]) -> Mask:
    """The outer conjunction of one mask per axis; a scalar True for no axis."""
    if not axes:
        return np.asarray(True)
    return np.asarray(np.logical_and.reduce(np.meshgrid(*axes, indexing="ij")))


def _read_only(array: Array) -> Array:
    view = np.asarray(array, np.float64).view()
    view.setflags(write=False)
    return view


def _check(conv_map: ConvMap) -> None:
    kernel, rank = conv_map.kernel, conv_map.kernel.ndim - 2
    if rank < 0:
        raise AlgebraError(f"a kernel has output and input channels, not shape {kernel.shape}")
    if 0 in kernel.shape:
        raise AlgebraError(f"a kernel has at least one of everything, not shape {kernel.shape}")
    if conv_map.bias.shape != kernel.shape[:1]:
        raise AlgebraError(f"bias of shape {conv_map.bias.shape} for {kernel.shape[0]} channels")
    if conv_map.groups < 1 or kernel.shape[0] % conv_map.groups:
        raise AlgebraError(f"{kernel.shape[0]} output channels in {conv_map.groups} groups")
    if not len(conv_map.origin) == len(conv_map.up) == len(conv_map.stride) == rank:
        raise AlgebraError(f"origin, up and stride need {rank} entries, one per spatial axis")
    for u, s in zip(conv_map.up, conv_map.stride, strict=True):
        if u < 1 or s < 1 or math.gcd(u, s) != 1:
            raise AlgebraError(f"rates {u} and {s} must be positive and coprime")
