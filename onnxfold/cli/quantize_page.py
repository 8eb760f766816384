"""The page that `onnxfold quantize --report` writes."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from onnxfold.bench.measurement import Measurement
from onnxfold.cli.figures import agreement, decibels, interval, milliseconds
from onnxfold.cli.page import Page
from onnxfold.cli.provenance import Provenance
from onnxfold.quantization.latency import FLOAT, INT8
from onnxfold.quantization.report import Accuracy, LayerReport, QuantizationReport
from onnxfold.targets.proof import Precision

_UNKNOWN = "not known"


def quantization_page(report: QuantizationReport, made: Provenance, source: str) -> bytes:
    """All that a quantization has to say, as one HTML file that needs nothing else.

    Args:
        report: Of the quantization.
        made: From what and with what.
        source: The path of the float model.
    """
    page = Page(f"{Path(source).name} in INT8 for {report.target}")
    page.paragraph(_summary(report))
    _speed(page, report)
    _accuracy(page, report)
    _ranges(page, report)
    _layers(page, report)
    _samples(page, report)
    _passes(page, report)
    _findings(page, report)
    page.heading("Notes")
    page.items(report.notes)
    _made(page, made)
    return page.to_bytes()


def _summary(report: QuantizationReport) -> str:
    share = _UNKNOWN if report.int8_share is None else f"{report.int8_share:.1%}"
    parts = [f"multiply-adds in INT8: {share}"]
    if report.accuracy:
        found = report.accuracy[0].comparison
        parts.append(f"SQNR: {decibels(found.sqnr)}")
        if found.agreement is not None:
            parts.append(f"labels unchanged: {agreement(found.agreement / 100)}")
    parts += [
        f"times as fast on {_place(measured)}: {speed.median:.2f}"
        for measured in report.latencies
        if (speed := measured[INT8].speed_up) is not None
    ]
    return "; ".join(parts)


def _place(measured: Measurement) -> str:
    precision = f", {measured.precision}" if measured.precision else ""
    return f"{measured.title} {measured.version}{precision}"


def _speed(page: Page, report: QuantizationReport) -> None:
    page.heading("Speed")
    if not report.latencies:
        page.paragraph("Not measured: this target does not run here. To build and time it:")
        page.items(report.commands)
        return
    headings = ("on", "threads", "float ms", "INT8 ms", "times as fast", "95 % interval", "rounds")
    rows = [_speed_row(measured) for measured in report.latencies]
    page.table("speed", headings, rows, numbers=frozenset(headings[1:]))
    page.paragraph("The float model is folded as well. Medians over rounds in random order.")
    page.items(note for measured in report.latencies for note in measured.notes)


def _speed_row(measured: Measurement) -> tuple[str, ...]:
    before, after = measured[FLOAT], measured[INT8]
    speed = after.speed_up
    return (
        _place(measured),
        "its own choice" if measured.threads is None else str(measured.threads),
        milliseconds(before.run_ms.median),
        milliseconds(after.run_ms.median),
        _UNKNOWN if speed is None else f"{speed.median:.3f}",
        _UNKNOWN if speed is None else interval(speed),
        f"{measured.rounds:,}",
    )


def _accuracy(page: Page, report: QuantizationReport) -> None:
    page.heading("Accuracy")
    headings = ("on", "samples", "output", "SQNR", "labels unchanged", "mean IoU: float", "INT8")
    rows = [row for accuracy in report.accuracy for row in _accuracy_rows(accuracy)]
    page.table("accuracy", headings, rows, numbers=frozenset(headings[3:]))


def _accuracy_rows(accuracy: Accuracy) -> Iterator[tuple[str, ...]]:
    found = accuracy.comparison
    kept = "held out" if accuracy.held_out else "calibrated with"
    at = (accuracy.where, f"{found.samples:,}, {kept}")
    before, after = ("", "") if found.mean_iou is None else map(_percent, found.mean_iou)
    yield *at, "all", decibels(found.sqnr), _labels(found.agreement), before, after
    for name, each in found.outputs.items():
        labels = None if each.agreement is None else each.agreement.percent
        yield *at, name, decibels(each.distortion.decibels), _labels(labels), "", ""


def _labels(percent: float | None) -> str:
    return "" if percent is None else agreement(percent / 100)


def _percent(number: float) -> str:
    return f"{number:.2f} %"


def _ranges(page: Page, report: QuantizationReport) -> None:
    page.heading("Ranges of activations")
    headings = ("method", "SQNR", "labels unchanged", "taken")
    rows = [
        (name, decibels(sqnr), _labels(labels), "yes" if name == report.method else "")
        for name, (sqnr, labels) in report.methods.items()
    ]
    page.table("methods", headings, rows, numbers=frozenset(headings[1:3]))


def _layers(page: Page, report: QuantizationReport) -> None:
    page.heading("Layers")
    page.paragraph(
        "In the order of the model, by the name of their first output. SQNR is that of the output, "
        "with the error of all layers before it."
    )
    headings = ("layer", "operator", "multiply-adds", "runs as", "kernel", "SQNR", "why not INT8")
    floats = set(report.float_layers)
    page.table(
        "layers",
        headings,
        [_layer_row(layer) for layer in report.layers],
        numbers=frozenset(("multiply-adds", "SQNR")),
        marked=frozenset(i for i, layer in enumerate(report.layers) if layer in floats),
    )


def _layer_row(layer: LayerReport) -> tuple[str, ...]:
    found = layer.precision
    return (
        found.layer,
        found.op_type,
        _UNKNOWN if found.multiply_adds is None else f"{found.multiply_adds:,}",
        found.precision.value,
        found.kernel,
        "" if layer.sqnr is None else decibels(layer.sqnr),
        "" if found.precision is Precision.INT8 else found.reason or _UNKNOWN,
    )


def _samples(page: Page, report: QuantizationReport) -> None:
    page.heading("Samples")
    every, used = report.samples
    page.paragraph(f"{every:,} samples, of which {used:,} were calibrated with")
    page.items(f"warning: {text}" for text in report.warnings)
    page.items(f"skipped: {each.label}: {each.reason}" for each in report.skipped)


def _passes(page: Page, report: QuantizationReport) -> None:
    page.heading("What passes did to the float model before")
    rows = [
        (name, f"{count:,}")
        for each in report.passes
        for name, count in each.rewrites_by_pass().items()
    ]
    page.table("passes", ("pass", "rewrites"), rows, numbers=frozenset(("rewrites",)))
    page.items(
        f"taken back: {entry.rewrite.key}, because {entry.reason}"
        for each in report.passes
        for entry in each.rolled_back
    )


def _findings(page: Page, report: QuantizationReport) -> None:
    if not report.findings:
        return
    page.heading("Findings of the target")
    headings = ("severity", "rule", "layer", "finding", "what to do")
    rows = [
        (each.severity.value, each.rule, each.layer, each.message, each.hint)
        for each in report.findings
    ]
    page.table("findings", headings, rows)


def _made(page: Page, made: Provenance) -> None:
    page.heading("Files")
    headings = ("file", "path", "bytes", "SHA-256")
    rows = [(each.role, each.path, f"{each.size:,}", each.sha256) for each in made.files]
    page.table("files", headings, rows, numbers=frozenset(("bytes",)))
    page.heading("Versions")
    page.table("versions", ("package", "version"), list(made.versions.items()))
    page.paragraph(f"{made.machine}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC")
