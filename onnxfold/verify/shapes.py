"""Which sizes to feed a model whose axes are dynamic.

A symbol that two inputs share gets one size. What a symbol means is guessed from where it first
stands (batch, channel, height, width, length), and the guess is only ever tried: the reference
says whether it can run that size.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from itertools import product
from typing import TypeAlias

from onnxfold.errors import BadOptionError
from onnxfold.verify.interface import Dim, Port

Shape: TypeAlias = tuple[int, ...]
Symbol: TypeAlias = str | tuple[str, int]


class Role(Enum):
    """What an axis most likely is."""

    BATCH = auto()
    CHANNEL = auto()
    HEIGHT = auto()
    WIDTH = auto()
    LENGTH = auto()


@dataclass(frozen=True, slots=True)
class Sizes:
    """One choice of a size for every role."""

    batch: int
    height: int
    width: int
    length: int
    channel: int = 3

    def of(self, role: Role) -> int:
        """The size chosen for a role."""
        match role:
            case Role.BATCH:
                return self.batch
            case Role.CHANNEL:
                return self.channel
            case Role.HEIGHT:
                return self.height
            case Role.WIDTH:
                return self.width
            case Role.LENGTH:
                return self.length


#: Square sizes, likeliest first: small multiples of 32, then what fixed position embeddings and
#: fixed reshapes were trained at, then the very small.
SQUARE = (64, 96, 128, 224, 256, 320, 384, 512, 640, 518, 1024, 32, 28, 16, 8, 4, 2, 1)
#: Lengths of sequences and vectors, tried beside them.
LENGTHS = (16, 64, 128, 8, 32, 77, 256, 512, 4, 3, 2, 1)
#: Odd sizes and unequal ones. The second kind are multiples of 32. Squares for what needs them.
ODD = ((75, 101), (65, 97), (33, 49), (225, 257), (75, 75))
WIDE = ((96, 160), (64, 96), (128, 192), (224, 256), (256, 320), (512, 640), (96, 96))
CHANNELS = (3, 1, 4, 2, 16, 32, 64)
#: Ranks to try where none is stated.
RANKS = (4, 2, 3, 1, 0)


@dataclass(frozen=True, slots=True)
class Plan:
    """The shapes that inputs can be given.

    Attributes:
        ports: The inputs, each with a stated rank.
        fixed: Sizes of symbols that the user has fixed.
    """

    ports: tuple[Port, ...]
    fixed: Mapping[Symbol, int]

    def roles(self) -> dict[Symbol, Role]:
        """The free symbols and their guessed roles."""
        found: dict[Symbol, Role] = {}
        for port in self.ports:
            for axis, dim in enumerate(port.dims or ()):
                if not isinstance(dim, int):
                    symbol = symbol_of(port, axis)
                    if symbol not in self.fixed:
                        found.setdefault(symbol, _role(port.dims or (), axis))
        return found

    def shapes(self, sizes: Sizes) -> dict[str, Shape]:
        """Every input's shape under one choice of sizes."""
        roles = self.roles()
        return {
            port.name: tuple(
                dim if isinstance(dim, int) else self._size(symbol_of(port, axis), roles, sizes)
                for axis, dim in enumerate(port.dims or ())
            )
            for port in self.ports
        }

    def _size(self, symbol: Symbol, roles: Mapping[Symbol, Role], sizes: Sizes) -> int:
        return self.fixed[symbol] if symbol in self.fixed else sizes.of(roles[symbol])

    def first_sizes(self) -> Iterator[Sizes]:
        """Choices for the first feed, likeliest first."""
        free = set(self.roles().values())
        channels = CHANNELS if Role.CHANNEL in free else (3,)
        squares = SQUARE if free & {Role.HEIGHT, Role.WIDTH} else (64,)
        lengths = LENGTHS if Role.LENGTH in free else (16,)
        if len(squares) > 1 and len(lengths) > 1:
            pairs = [(s, n) for n in lengths[:4] for s in squares]
        else:
            pairs = list(product(squares, lengths))
        for channel in channels:
            for square, length in pairs:
                yield Sizes(1, square, square, length, channel)

    def odd_sizes(self, base: Sizes) -> Iterator[Sizes]:
        """Odd sizes, given those of the first feed."""
        for height, width in ODD:
            yield Sizes(1, height, width, 2 * (base.length // 2) + 7, base.channel)

    def wide_sizes(self, base: Sizes, batch: int) -> Iterator[Sizes]:
        """Unequal even sizes, and a batch."""
        for height, width in WIDE:
            yield Sizes(batch, height, width, base.length + 8, base.channel)
        if batch > 1:
            yield Sizes(batch, base.height, base.width, base.length, base.channel)


def symbol_of(port: Port, axis: int) -> Symbol:
    """The axis's symbol: its name if it has one to itself in this input, else its own place.

    Who names every open axis "?" does not say that they are equal; a model that needs them to be
    refuses other sizes.
    """
    dims = port.dims or ()
    dim = dims[axis]
    return dim if isinstance(dim, str) and dims.count(dim) == 1 else (port.name, axis)


def channels_last(dims: Sequence[Dim]) -> bool:
    """Whether a shape of rank 4 or 5 looks like N, spatial…, C."""
    if len(dims) < 4:
        return False
    first, last = dims[1], dims[-1]
    return isinstance(last, int) and last <= 4 and not (isinstance(first, int) and first <= 4)


def spatial_axes(dims: Sequence[Dim]) -> range:
    """The axes that are space: none below rank 3."""
    if len(dims) < 3:
        return range(0)
    return range(1, len(dims) - 1) if channels_last(dims) else range(2, len(dims))


def _role(dims: Sequence[Dim], axis: int) -> Role:
    rank = len(dims)
    if axis == 0 and rank >= 2:
        return Role.BATCH
    if rank < 4:
        return Role.LENGTH
    space = spatial_axes(dims)
    if axis not in space:
        return Role.CHANNEL
    return Role.WIDTH if axis == space[-1] else Role.HEIGHT


def plans(ports: Sequence[Port], input_shapes: Mapping[str, Shape]) -> Iterator[Plan]:
    """The plans worth trying: one, or one per rank where an input states none.

    Args:
        ports: The inputs that must be fed.
        input_shapes: Shapes that the user fixed, by input name.

    Raises:
        BadOptionError: A fixed shape does not fit the model.
    """
    by_name = {port.name: port for port in ports}
    fixed: dict[Symbol, int] = {}
    for name, shape in input_shapes.items():
        port = by_name.get(name)
        if port is None:
            raise BadOptionError(f"the model has no input {name}", near(name, list(by_name)))
        check_shape(port, shape, "the shape given for")
        for axis, dim in enumerate(port.dims or ()):
            if not isinstance(dim, int):
                _fix(fixed, symbol_of(port, axis), shape[axis])
    ranks = (None,) if all(p.dims is not None or p.name in input_shapes for p in ports) else RANKS
    for rank in ranks:
        yield Plan(tuple(_ranked(port, input_shapes.get(port.name), rank) for port in ports), fixed)


def _ranked(port: Port, given: Shape | None, rank: int | None) -> Port:
    if port.dims is not None:
        return port
    dims = given if given is not None else (None,) * (rank or 0)
    return Port(port.name, port.kind, port.element, dims)


def _fix(fixed: dict[Symbol, int], symbol: Symbol, size: int) -> None:
    if fixed.setdefault(symbol, size) != size:
        raise BadOptionError(
            f"the axis {symbol} would have to be {fixed[symbol]} and {size} at once",
            "inputs that share a symbolic axis need the same size there",
        )


def check_shape(port: Port, shape: Shape, what: str) -> None:
    """Check a shape against what an input declares.

    Raises:
        BadOptionError: The rank or a fixed size is another.
    """
    wanted = port.dims
    if wanted is None:
        return
    fits = len(wanted) == len(shape) and all(
        not isinstance(dim, int) or dim == size for dim, size in zip(wanted, shape, strict=False)
    )
    if not fits:
        declared = "x".join("?" if dim is None else str(dim) for dim in wanted) or "scalar"
        got = "x".join(str(size) for size in shape) or "scalar"
        raise BadOptionError(
            f"{what} input {port.name} is {got}, but the model declares {declared}",
            f"give {len(wanted)} sizes that agree with {declared}",
        )


def near(name: str, names: Sequence[str]) -> str:
    """A hint that names the nearest input."""
    lowered = {known.lower(): known for known in names}
    close = difflib.get_close_matches(name.lower(), list(lowered), n=1)
    if close:
        return f"did you mean {lowered[close[0]]}"
    return f"its inputs are {', '.join(names)}" if names else "it has no inputs"
