"""What commands print on stdout: lines, tables, JSON."""

import errno
import io
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

import click
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from onnxfold.errors import CannotWriteError

JSON_PRINTED = "onnxfold.json_printed"
"""Key in the `meta` of a click context under which is kept that stdout has its JSON already."""

_NARROWEST = 64
_UNLIMITED = 10_000


def print_json(data: dict[str, Any]) -> None:
    """Print a report for machines."""
    print_line(json.dumps(data, indent=2, allow_nan=False, default=str))
    context = click.get_current_context(silent=True)
    if context is not None:
        context.meta[JSON_PRINTED] = True


def print_line(text: str) -> None:
    """Print one piece of data as it is."""
    _write(text + "\n")


def _write(text: str) -> None:
    """Print on stdout at once.

    Raises:
        CannotWriteError: The other end took nothing more, and not because it had seen enough.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        # Nothing more can be written, not even what is still buffered at the end of the process.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno != errno.EPIPE:
            raise CannotWriteError(
                f"the report cannot be printed: {(error.strerror or str(error)).lower()}",
                "the command did its work; only the report is lost",
            ) from error


def show(*renderables: RenderableType) -> None:
    """Print what rich lays out: as wide as a terminal, and never cut off where there is none."""
    stdout = Console()
    console = Console(
        file=io.StringIO(),
        force_terminal=stdout.is_terminal,
        width=max(_NARROWEST, stdout.width) if stdout.is_terminal else _UNLIMITED,
        highlight=False,
        emoji=False,
        markup=False,
    )
    with console.capture() as capture:
        console.print(*renderables, sep="\n")
    _write("".join(f"{line.rstrip()}\n" for line in capture.get().splitlines()))


def table_of(*headings: str) -> Table:
    """A plain table: the first column may be folded, the others are shown whole."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, heading in enumerate(headings):
        table.add_column(heading, no_wrap=index > 0, overflow="fold", justify=_side(index))
    return table


def _side(column: int) -> Any:
    return "right" if column else "left"


def print_rows(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table of text, whose last column may be folded."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, no_wrap=heading != headings[-1])
    for row in rows:
        table.add_row(*map(Text, row))
    show(table)
