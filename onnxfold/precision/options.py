"""What a user can say about a conversion to float16."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import onnx_ir as ir

from onnxfold.errors import BadOptionError
from onnxfold.precision.weights import HALF_MAX

MAX_ACTIVATION = 2e4
"""A third of what float16 holds: data that were not seen may be larger than those that were."""


@dataclass(frozen=True, slots=True)
class Float16Options:
    """How to convert.

    Attributes:
        keep_io: Inputs and outputs of the model stay float32, with a Cast each.
        max_activation: Values of a larger magnitude stay in float32.
        keep: What stays in float32: names of nodes, names of values they compute, or operator
            types, with `*` and `?` as in file names.

    Raises:
        BadOptionError: `max_activation` is not between 0 and the largest float16.
    """

    keep_io: bool = True
    max_activation: float = MAX_ACTIVATION
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse limits that float16 cannot hold."""
        if not 0.0 < self.max_activation <= HALF_MAX:
            raise BadOptionError(
                f"max_activation cannot be {self.max_activation:g}",
                f"float16 holds numbers up to {HALF_MAX:g}",
            )


def kept_nodes(nodes: Sequence[ir.Node], keep: Sequence[str]) -> set[ir.Node]:
    """The nodes that the patterns name.

    Raises:
        BadOptionError: A pattern names nothing.
    """
    found: set[ir.Node] = set()
    for pattern in keep:
        named = {node for node in nodes if any(_fits(name, pattern) for name in _names(node))}
        if not named:
            raise BadOptionError(
                f"nothing in the model is called '{pattern}'",
                "give names of nodes, of values that they compute, or operator types",
            )
        found |= named
    return found


def _names(node: ir.Node) -> list[str]:
    outputs = [output.name for output in node.outputs]
    return [name for name in (node.op_type, node.name, *outputs) if name]


def _fits(name: str, pattern: str) -> bool:
    return name == pattern or fnmatchcase(name, pattern)
