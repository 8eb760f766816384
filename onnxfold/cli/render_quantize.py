"""What `onnxfold quantize` prints."""

from collections.abc import Iterator, Sequence

from rich.table import Table
from rich.text import Text

from onnxfold.bench.measurement import Measurement
from onnxfold.cli.figures import agreement, decibels, interval, milliseconds
from onnxfold.cli.output import show, table_of
from onnxfold.quantization.latency import FLOAT, INT8
from onnxfold.quantization.report import Accuracy, LayerReport, QuantizationReport

_SHOWN_LAYERS = 8
_SHOWN_FINDINGS = 8


def print_quantization(report: QuantizationReport, written: Sequence[str]) -> None:
    """Print how near and how fast the result is, its worst layers, and what a user should know."""
    lines = [
        *_about_methods(report),
        *(_float_layer(layer) for layer in report.float_layers),
        *(f"{each.severity.value}: {each.message}" for each in report.findings[:_SHOWN_FINDINGS]),
        *(f"note: {note}" for note in report.notes),
        *(f"skipped: {each.label}: {each.reason}" for each in report.skipped),
        *(f"to build and time it: {command}" for command in report.commands),
        *(f"written: {path}" for path in written),
    ]
    show(_figures(report), "", _layers(report), "", *(Text(line) for line in lines))


def _figures(report: QuantizationReport) -> Table:
    table = table_of("", "float", "int8")
    share = report.int8_share
    table.add_row("multiply-adds in INT8", "", "not known" if share is None else f"{share:.1%}")
    for accuracy in report.accuracy:
        for row in _accuracy_rows(accuracy):
            table.add_row(*row)
    for measured in report.latencies:
        for row in _latency_rows(measured):
            table.add_row(*row)
    if not report.latencies:
        table.add_row("speed", "", "not measured: this target does not run here")
    return table


def _accuracy_rows(accuracy: Accuracy) -> Iterator[tuple[str, str, str]]:
    found = accuracy.comparison
    on = f"on {accuracy.where}, {found.samples:,} samples"
    yield f"SQNR {on}", "", decibels(found.sqnr)
    if found.agreement is not None:
        yield f"labels unchanged {on}", "", agreement(found.agreement / 100)
    if found.mean_iou is not None:
        before, after = found.mean_iou
        yield f"mean IoU {on}", f"{before:.2f} %", f"{after:.2f} %"


def _latency_rows(measured: Measurement) -> Iterator[tuple[str, str, str]]:
    before, after = measured[FLOAT], measured[INT8]
    speed = after.speed_up
    precision = f", {measured.precision}" if measured.precision else ""
    where = f"{measured.title} {measured.version}{precision}"
    yield (
        f"ms on {where}",
        milliseconds(before.run_ms.median),
        milliseconds(after.run_ms.median),
    )
    if speed is not None:
        yield "times as fast (95 % interval)", "1", f"{speed.median:.2f} ({interval(speed, 2)})"


def _layers(report: QuantizationReport) -> Table:
    known = [layer for layer in report.layers if layer.sqnr is not None]
    table = table_of(f"worst of {len(known):,} layers", "SQNR", "runs as")
    for layer in sorted(known, key=lambda each: each.sqnr or 0.0)[:_SHOWN_LAYERS]:
        precision = layer.precision
        kernel = f" ({precision.kernel})" if precision.kernel else ""
        table.add_row(
            Text(f"{precision.op_type} {precision.layer}"),
            decibels(layer.sqnr),
            f"{precision.precision.value}{kernel}",
        )
    return table


def _about_methods(report: QuantizationReport) -> Iterator[str]:
    tried = [
        f"{name} {decibels(sqnr)}" + ("" if agreement is None else f" and {agreement:.2f} %")
        for name, (sqnr, agreement) in report.methods.items()
    ]
    yield f"ranges: {report.method}" + (f" (of {', '.join(tried)})" if len(tried) > 1 else "")
    yield f"samples: {report.samples[0]:,}, of which {report.samples[1]:,} were calibrated with"


def _float_layer(layer: LayerReport) -> str:
    precision = layer.precision
    return f"float: {precision.op_type} {precision.layer}: {precision.reason or 'not known'}"
