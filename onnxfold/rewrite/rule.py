"""The contract of a rewrite rule: a pure `match` and a pure `rewrite`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, TypeVar

import onnx_ir as ir

from onnxfold.rewrite.builder import Builder

Found = TypeVar("Found")


class Exactness(StrEnum):
    """How the output of a rewrite compares with what it replaces."""

    EXACT = "exact"
    """Equal to the bit."""
    REASSOCIATED = "reassociated"
    """Equal in real arithmetic; rounding happens elsewhere."""
    LOSSY = "lossy"
    """Not equal; runs only when it is asked for by name."""


@dataclass(frozen=True, slots=True)
class Reject:
    """A near miss: the pattern is there, and this is why it must not be rewritten.

    Attributes:
        reason: One clause a user can act on, without a full stop.
        node: The node that stands in the way.
    """

    reason: str
    node: ir.Node


Replacement = ir.Value | Sequence[ir.Value | None]
"""The values that replace the outputs of the matched node, in order; None for an unused one."""


@dataclass(frozen=True, slots=True)
class Rule(Generic[Found]):
    """A rewrite of one pattern, rooted at the last node of the pattern.

    Attributes:
        name: Short snake_case name, unique within its pass.
        roots: The default-domain operators that `match` may accept.
        match: Looks at a node. None: not this pattern. `Reject`: nearly. Otherwise a typed record
            of what was found. Must not change anything.
        rewrite: Records the replacement with a `Builder` and returns the values that replace the
            outputs of the matched node. `Reject` when the numbers do not allow it (overflow, say).
            Must not change anything either.
        exactness: What the rewrite promises.
    """

    name: str
    roots: frozenset[str]
    match: Callable[[ir.Node], Found | Reject | None]
    rewrite: Callable[[Found, Builder], Replacement | Reject]
    exactness: Exactness = Exactness.REASSOCIATED


AnyRule = Rule[Any]
