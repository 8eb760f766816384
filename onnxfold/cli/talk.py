"""What commands say on stderr while they work: stdout is data."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import Protocol

from rich.console import Console
from rich.text import Text

_QUIET_SECONDS = 2.0


class Talk(Protocol):
    """Says on stderr what is being done."""

    def __call__(self, text: str) -> None: ...  # noqa: D102


@contextmanager
def stdout_kept_clean() -> Iterator[None]:
    """Send what passes print to stderr: stdout is data."""
    with redirect_stdout(sys.stderr):
        yield


@contextmanager
def progress() -> Iterator[Talk]:
    """Show what is being done: a spinner on a terminal, lines after two seconds elsewhere."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal or console.is_dumb_terminal:
        with quiet_progress() as talk:
            yield talk
        return
    with console.status("") as status:
        yield lambda text: status.update(Text(text, no_wrap=True, overflow="ellipsis"))


@contextmanager
def quiet_progress() -> Iterator[Talk]:
    """Say what is being done, if that takes over two seconds, and only when told to.

    A spinner would turn in this very process while models are timed.
    """
    started = time.monotonic()
    in_place = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    said = ""

    def say(text: str) -> None:
        nonlocal said
        elapsed = time.monotonic() - started
        about = text if in_place else text.rstrip("0123456789/ ")  # not one line for each count
        if elapsed <= _QUIET_SECONDS or about == said:
            return
        said = about
        _say(f"\r\033[K{elapsed:.0f} s: {text}" if in_place else f"{elapsed:.0f} s: {text}\n")

    try:
        yield say
    finally:
        if in_place and said:
            _say("\r\033[K")


def warn(text: str) -> None:
    """Say something that does not stop the command."""
    _say(f"warning: {text}\n")


def _say(text: str) -> None:
    with suppress(OSError):  # stderr may be closed
        sys.stderr.write(text)
        sys.stderr.flush()
