"""Everything that commands print: tables, verdicts, progress. The only user of rich."""

import errno
import io
import json
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any, Protocol

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from onnxfold.cost.summary import ModelSummary
from onnxfold.errors import CannotWriteError
from onnxfold.pipeline.report import Loss, OptimizationReport
from onnxfold.rewrite.ledger import Rejection
from onnxfold.verify.verdict import Verdict

_SHOWN_REASONS = 12
_QUIET_SECONDS = 2.0
_NARROWEST = 64
_UNLIMITED = 10_000


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
    started = time.monotonic()
    if console.is_terminal and not console.is_dumb_terminal:
        with console.status("") as status:
            yield lambda text: status.update(Text(text, no_wrap=True, overflow="ellipsis"))
        return
    said = ""

    def say(text: str) -> None:
        nonlocal said
        elapsed = time.monotonic() - started
        about = text.rstrip("0123456789/ ")
        if elapsed > _QUIET_SECONDS and about != said:  # one line for a step, not for each count
            said = about
            print(f"{elapsed:.0f} s: {text}", file=sys.stderr, flush=True)  # noqa: T201

    yield say


def print_json(data: dict[str, Any]) -> None:
    """Print a report for machines."""
    print_line(json.dumps(data, indent=2, allow_nan=False, default=str))


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


def _print(*renderables: RenderableType) -> None:
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


def _table(*headings: str) -> Table:
    """A plain table: the first column may be folded, the others are shown whole."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, heading in enumerate(headings):
        table.add_column(heading, no_wrap=index > 0, overflow="fold", justify=_side(index))
    return table


def _side(column: int) -> Any:
    return "right" if column else "left"


def print_report(report: OptimizationReport, written: str) -> None:
    """Print the table of an optimization, and below it what a user should know."""
    lines = [f"rewrites: {_rewrites(report)}"]
    lines += [f"taken back: {e.rewrite.key}, because {e.reason}" for e in report.rolled_back]
    for failure in report.failures:
        what = "/".join(filter(None, (failure.pass_name, failure.rule)))
        where = f" at {failure.node}" if failure.node else ""
        lines.append(f"skipped: {what}{where}, because of {failure.error}")
    lines += _left_alone(report.rejections)
    lines += [f"note: {note}" for note in report.notes]
    if report.loss is not None:
        lines += [f"note: {note}" for note in report.loss.notes]
    lines.append(f"written: {written}")
    _print(_comparison(report), "", *(Text(line) for line in lines))


def _rewrites(report: OptimizationReport) -> str:
    counts = report.rewrites_by_pass()
    shares = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    return f"{counts.total():,} ({shares})" if shares else "none"


def _comparison(report: OptimizationReport) -> Table:
    table = _table("", "before", "after")
    before, after = report.before, report.after
    for op_type in sorted({*before.nodes, *after.nodes}):
        table.add_row(op_type, *_pair(before.nodes[op_type], after.nodes[op_type]))
    table.add_row()
    table.add_row("nodes", *_pair(before.nodes.total(), after.nodes.total()))
    table.add_row("parameters", *_pair(before.parameters, after.parameters))
    table.add_row("weight bytes", *_pair(before.weight_bytes, after.weight_bytes))
    table.add_row(f"multiply-adds{_at(after)}", *_pair(before.multiply_adds, after.multiply_adds))
    table.add_row()
    rows = _verdict_rows(report.verdict)
    if report.loss is not None:
        rows = [(f"{label} before {report.loss.passes[0]}", value) for label, value in rows]
        rows += _loss_rows(report.loss)
    for label, value in rows:
        table.add_row(label, "", value)
    return table


def _loss_rows(loss: Loss) -> list[tuple[str, str]]:
    where = ", ".join(loss.feeds)
    rows = [(f"lossy: {', '.join(loss.passes)}", "not proven equal")]
    if loss.sqnr is not None:
        text = "no error" if math.isinf(loss.sqnr) else f"{loss.sqnr:.1f} dB"
        rows.append((f"SQNR on {where}", text))
    if loss.agreement is not None:
        rows.append(("label agreement", _agreement(loss.agreement / 100)))
    return rows


def _pair(before: int | None, after: int | None) -> tuple[str, str]:
    return _number(before), _number(after)


def _number(value: int | None) -> str:
    return "not known" if value is None else f"{value:,}"


def _at(summary: ModelSummary) -> str:
    shapes = ["x".join(map(str, shape)) for shape in summary.at_shapes.values()]
    return f" at {', '.join(shapes)}" if any(shapes) else ""


def _verdict_rows(verdict: Verdict | None) -> list[tuple[str, str]]:
    if verdict is None:
        return [("verified", "no")]
    rows = [("verified", f"equal on {len(verdict.feeds)} feeds" if verdict.equal else "NOT EQUAL")]
    errors = [o for o in verdict.outputs if o.relative_error is not None]
    if errors:
        worst = max(errors, key=lambda record: record.used)
        rows.append(("largest relative error", f"{worst.relative_error:.2e}"))
        rows.append(("share of the tolerance used", f"{worst.used:.0%}"))
    agreements = [o.label_agreement for o in verdict.outputs if o.label_agreement is not None]
    if agreements:
        rows.append(("label agreement", _agreement(min(agreements))))
    return rows


def _agreement(share: float) -> str:
    """A share that is not shown as 100 % unless it is."""
    text = f"{share:.4%}"
    return "above 99.9999%" if share < 1 and text == "100.0000%" else text


def _left_alone(rejections: Sequence[Rejection]) -> list[str]:
    """Near misses, counted by reason; the node in parentheses stands for its like."""
    counts: Counter[tuple[str, str, str]] = Counter()
    example: dict[tuple[str, str, str], Rejection] = {}
    for rejection in rejections:
        key = (rejection.pass_name, rejection.op_type, rejection.reason.split(" (", 1)[0])
        counts[key] += 1
        example.setdefault(key, rejection)
    lines = []
    for key, count in counts.most_common(_SHOWN_REASONS):
        first = example[key]
        others = f" and {count - 1:,} more" if count > 1 else ""
        lines.append(f"left alone by {first.pass_name}: {first.node}{others}: {first.reason}")
    if len(counts) > _SHOWN_REASONS:
        lines.append(f"and {len(counts) - _SHOWN_REASONS} more reasons; --json has all of them")
    return lines


def print_verdict(verdict: Verdict) -> None:
    """Print how two models compare, output by output."""
    table = _table("output", "max abs error", "relative", "tolerance", "labels", "equal")
    for record in verdict.outputs:
        table.add_row(
            record.name,
            _figure(record.max_abs_error),
            _figure(record.relative_error),
            _figure(record.tolerance),
            "" if record.label_agreement is None else _agreement(record.label_agreement),
            "yes" if record.mismatch is None else "NO",
        )
    origins = dict.fromkeys(o.tolerance_origin for o in verdict.outputs if o.tolerance_origin)
    lines = [f"tolerance: {origin}" for origin in origins]
    lines += [f"note: {note}" for note in verdict.notes]
    lines.append(f"{'equal' if verdict.equal else 'not equal'}: {verdict.reason}")
    head: list[RenderableType] = [table, ""] if verdict.outputs else []
    _print(*head, *(Text(line) for line in lines))


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.2e}"


def print_rows(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table of text, whose last column may be folded."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, no_wrap=heading != headings[-1])
    for row in rows:
        table.add_row(*map(Text, row))
    _print(table)


def warn(text: str) -> None:
    """Say something on stderr that does not stop the command."""
    print(f"warning: {text}", file=sys.stderr)  # noqa: T201
