"""What `onnxfold optimize` and `onnxfold verify` print."""

from collections import Counter
from collections.abc import Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from onnxfold.cli.figures import agreement, decibels
from onnxfold.cli.output import show, table_of
from onnxfold.cost.summary import ModelSummary
from onnxfold.pipeline.report import Loss, OptimizationReport
from onnxfold.rewrite.ledger import Rejection
from onnxfold.verify.verdict import Verdict

_SHOWN_REASONS = 12


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
    show(_comparison(report), "", *(Text(line) for line in lines))


def _rewrites(report: OptimizationReport) -> str:
    counts = report.rewrites_by_pass()
    shares = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    return f"{counts.total():,} ({shares})" if shares else "none"


def _comparison(report: OptimizationReport) -> Table:
    table = table_of("", "before", "after")
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
        rows.append((f"SQNR on {where}", decibels(loss.sqnr)))
    if loss.agreement is not None:
        rows.append(("label agreement", agreement(loss.agreement / 100)))
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
        rows.append(("label agreement", agreement(min(agreements))))
    return rows


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
    table = table_of("output", "max abs error", "relative", "tolerance", "labels", "equal")
    for record in verdict.outputs:
        table.add_row(
            record.name,
            _figure(record.max_abs_error),
            _figure(record.relative_error),
            _figure(record.tolerance),
            "" if record.label_agreement is None else agreement(record.label_agreement),
            "yes" if record.mismatch is None else "NO",
        )
    origins = dict.fromkeys(o.tolerance_origin for o in verdict.outputs if o.tolerance_origin)
    lines = [f"tolerance: {origin}" for origin in origins]
    lines += [f"note: {note}" for note in verdict.notes]
    lines.append(f"{'equal' if verdict.equal else 'not equal'}: {verdict.reason}")
    head: list[RenderableType] = [table, ""] if verdict.outputs else []
    show(*head, *(Text(line) for line in lines))


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.2e}"
