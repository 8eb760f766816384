"""What `onnxfold bench` prints."""

from rich.text import Text

from onnxfold.bench import Measurement, Timing
from onnxfold.bench.machine import core_count, cpu_name
from onnxfold.cli.figures import interval, milliseconds
from onnxfold.cli.output import show, table_of


def print_measurement(measurement: Measurement) -> None:
    """Print the table of one runtime, and below it what a reader should know."""
    table = table_of(
        "model", "median ms", "quartiles", "speed-up", "95 % interval", "load ms", "peak MB"
    )
    for timing in measurement.timings:
        table.add_row(Text(timing.name), *_row(timing))
    lines = [
        f"{measurement.rounds:,} rounds in {len(measurement.sittings)} sittings: "
        f"{measurement.stopped}",
        *(f"note: {note}" for note in measurement.notes),
    ]
    show(Text(_title(measurement)), table, "", *(Text(line) for line in lines), "")


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
        milliseconds(timing.run_ms.median),
        " to ".join(map(milliseconds, timing.run_ms.quartiles)),
        "1" if speed is None else f"{speed.median:.3f}",
        "" if speed is None else interval(speed),
        f"{timing.load_ms:,.0f}",
        "not known" if peak is None else f"{peak / 1e6:,.1f}",
    )
