"""What `onnxfold bench` prints."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from rich.text import Text

from onnxfold.bench import Measurement, Summary, Timing
from onnxfold.bench.machine import core_count, cpu_name
from onnxfold.cli.render import Talk, _print, _table

_QUIET_SECONDS = 2.0


@contextmanager
def quiet_progress() -> Iterator[Talk]:
    """Say on stderr what is being done, if that takes over two seconds, and only when told to.

    A spinner would turn in this very process while models are timed.
    """
    started = time.monotonic()
    in_place = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    said = ""

    def say(text: str) -> None:
        nonlocal said
        elapsed = time.monotonic() - started
        about = text if in_place else text.rstrip("0123456789/ ")
        if elapsed <= _QUIET_SECONDS or about == said:
            return
        said = about
        _say(f"\r\033[K{elapsed:.0f} s: {text}" if in_place else f"{elapsed:.0f} s: {text}\n")

    try:
        yield say
    finally:
        if in_place and said:
            _say("\r\033[K")


def _say(text: str) -> None:
    with suppress(OSError):  # stderr may be closed
        sys.stderr.write(text)
        sys.stderr.flush()


def print_measurement(measurement: Measurement) -> None:
    """Print the table of one runtime, and below it what a reader should know."""
    table = _table(
        "model", "median ms", "quartiles", "speed-up", "95 % interval", "load ms", "peak MB"
    )
    for timing in measurement.timings:
        table.add_row(Text(timing.name), *_row(timing))
    lines = [
        f"{measurement.rounds:,} rounds in {len(measurement.sittings)} sittings: "
        f"{measurement.stopped}",
        *(f"note: {note}" for note in measurement.notes),
    ]
    _print(Text(_title(measurement)), table, "", *(Text(line) for line in lines), "")


def _title(measurement: Measurement) -> str:
    shapes = ["x".join(map(str, array.shape)) for array in measurement.feed.values()]
    threads = "its own choice" if measurement.threads is None else str(measurement.threads)
    parts = [
        f"{measurement.title} {measurement.version}",
        f"threads: {threads} of {core_count()} cores",
        *([f"precision: {measurement.precision}"] if measurement.precision else []),
        f"inputs: {', '.join(filter(None, shapes)) or 'none'}",
        *filter(None, [cpu_name()]),
    ]
    return ", ".join(parts)


def _row(timing: Timing) -> tuple[str, ...]:
    speed = timing.speed_up
    peak = timing.peak_bytes
    return (
        _milliseconds(timing.run_ms.median),
        " to ".join(map(_milliseconds, timing.run_ms.quartiles)),
        "1" if speed is None else f"{speed.median:.3f}",
        "" if speed is None else _interval(speed),
        f"{timing.load_ms:,.0f}",
        "not known" if peak is None else f"{peak / 1e6:,.1f}",
    )


def _interval(speed: Summary) -> str:
    if speed.interval is None:
        return "not known"
    return f"{speed.interval[0]:.3f} to {speed.interval[1]:.3f}"


def _milliseconds(value: float) -> str:
    return f"{value:,.1f}" if value >= 100 else f"{value:.3g}"
