"""Options that several commands share."""

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from onnxfold.errors import BadOptionError

Command = TypeVar("Command", bound=Callable[..., Any])


def input_shapes(values: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """Read `name:1x3x512x512` as often as it was given.

    Raises:
        BadOptionError: A value is not of that form.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for text in values:
        name, colon, extents = text.rpartition(":")
        parts = extents.split("x") if extents else []
        if not colon or not name or not all(part.isdigit() and int(part) > 0 for part in parts):
            raise BadOptionError(f"'{text}' is no input shape", "write it as name:1x3x512x512")
        shapes[name] = tuple(int(part) for part in parts)
    return shapes


def refuse_overwriting(option: str, path: str, *others: str | None) -> None:
    """See that a file is none of the others that a command reads or writes.

    Args:
        option: That names it.
        path: Where it is or is to be.
        others: The other files, as far as they are given.

    Raises:
        BadOptionError: It is one of them.
    """
    place = os.path.realpath(path)
    if any(other is not None and os.path.realpath(other) == place for other in others):
        raise BadOptionError(f"{option} would overwrite {path}", "give it a file of its own")


def _stack(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


shape_option = click.option(
    "--input-shape",
    "shapes",
    multiple=True,
    metavar="NAME:1x3x512x512",
    help="Pin an input to this shape; may be given once for each input.",
)
tolerance_options = _stack(
    click.option(
        "--rtol",
        type=float,
        help="Allowed error relative to an output's largest value, instead of the tolerance that "
        "is measured from the model's own rounding noise.",
    ),
    click.option("--atol", type=float, help="Allowed absolute error, likewise."),
    click.option("--threads", type=click.IntRange(1), help="Threads of the runtime."),
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print the report as JSON on stdout."
)
plugin_option = click.option(
    "--plugin",
    "plugins",
    multiple=True,
    type=click.Path(readable=False),
    metavar="FILE.py",
    help="Load passes from a Python file; may be repeated.",
)
