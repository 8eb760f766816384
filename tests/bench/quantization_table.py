"""The tables of `tests.bench.quantization`: what every model showed, and what that says."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.quantization_accuracy import Verdict, verdicts
from tests.bench.quantization_make import Made, Shelf
from tests.bench.quantization_networks import (
    BFLOAT,
    FLOAT,
    NETWORKS,
    OURS,
    TARGETS,
    UNMERGED,
    peers,
)
from tests.bench.quantization_speed import Pace, paces

_TITLES = {"ort": "ONNX Runtime", "openvino": "OpenVINO"}
_LEAST_SPEED, _LEAST_SHARE, _MOST_DROP, _COLLAPSED, _MERGED = 0.98, 0.98, 0.3, 6.0, 1.0
_COLLAPSING = (
    "unet_mobilenet_v2",
    "deeplabv3plus_mobilenet_v2",
    "fastvit_sa12_fpn",
    "mobileone_s0",
)
_WORST = 5
"""How many shortfalls of a kind are named."""


@dataclass(frozen=True, slots=True)
class Row:
    """All that is known about the models of one network on one runtime, by variant.

    Attributes:
        network: As in `NETWORKS`.
        runtime: As in `TARGETS`.
        verdicts: How near they are to float32.
        paces: How fast they are; empty before the stage `speed`.
        made: When and how ours were made.
    """

    network: str
    runtime: str
    verdicts: Mapping[str, Verdict]
    paces: Mapping[str, Pace]
    made: Mapping[str, Made]

    @property
    def peers(self) -> list[str]:
        """The peers whose models run."""
        named = peers(self.network, self.runtime)
        return [name for name in named if name in self.verdicts and not self.verdicts[name].error]

    @property
    def ours(self) -> Verdict | None:
        """Of our model; None where there is none."""
        verdict = self.verdicts.get(OURS)
        return None if verdict is None or verdict.error else verdict


@dataclass(frozen=True, slots=True)
class Shortfall:
    """A goal that one row misses.

    Attributes:
        kind: Which goal.
        by: How far, in a unit of its own; larger is worse.
        text: What a reader should know.
    """

    kind: str
    by: float
    text: str


def document(folder: Path) -> str:
    """Everything as Markdown: the comparison, the goals, what is missed, and the details."""
    rows = [row for name in NETWORKS for row in _rows(folder / name, name)]
    parts = [_summary(rows), *(_comparison(rows, runtime) for runtime in TARGETS)]
    parts += [_merged(rows), _missed(rows), _details(rows), _float_layers(rows)]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def _rows(folder: Path, name: str) -> Iterator[Row]:
    shelf = Shelf(folder)
    contents = shelf.contents()
    for runtime in TARGETS:
        if judged := verdicts(shelf, runtime):
            yield Row(name, runtime, judged, paces(shelf, runtime), contents)


def _summary(rows: Sequence[Row]) -> list[str]:
    """Ours beside the fastest peer, and beside the most exact one that is faster than float32."""
    timed = {(row.network, row.runtime): row for row in rows if OURS in row.paces}
    if not timed:
        return []
    head, lines = ["network"], list[str]()
    for runtime in TARGETS:
        floats = ["bfloat16"] if runtime == "openvino" else []
        head += [_TITLES[runtime], *floats, "fastest peer", "most exact peer"]
    for network in dict.fromkeys(network for network, _ in timed):
        cells = [NETWORKS[network]]
        for runtime in TARGETS:
            row = timed.get((network, runtime))
            floats = [BFLOAT] if runtime == "openvino" else []
            if row is None:
                cells += ["–"] * (3 + len(floats))
                continue
            cells += [_cell(row, name) for name in (OURS, *floats)]
            cells += [_rival(row, name) for name in _rivals(row)]
        lines.append(_line(cells))
    title = "### Speed over float32 · SQNR dB · labels %"
    return [title, "", _line(head), "|" + "---|" * len(head), *lines]


def _rivals(row: Row) -> tuple[str, str]:
    """The fastest peer and the most exact one; empty names where none is faster than float32."""
    useful = [name for name in row.peers if name in row.paces and _is_of_use(row, name)]
    fastest = max(useful, key=lambda name: row.paces[name].speed[0], default="")
    return fastest, max(useful, key=lambda name: row.verdicts[name].sqnr or -math.inf, default="")


def _rival(row: Row, name: str) -> str:
    return f"{_cell(row, name)} ({name})" if name else "none is faster than float32"


def _comparison(rows: Iterable[Row], runtime: str) -> list[str]:
    """One line for each network, its peers in columns."""
    listed = [row for row in rows if row.runtime == runtime]
    if not listed:
        return []
    columns = list(dict.fromkeys(name for row in listed for name in peers(row.network, runtime)))
    floats = (BFLOAT,) if runtime == "openvino" else ()
    head = ["network", "float32 ms", *floats, "onnxfold", "in INT8 %", *columns, "goals"]
    lines = [f"### {_TITLES[runtime]}: speed over float32 · SQNR dB · labels %", ""]
    lines += [_line(head), "|" + "---|" * len(head)]
    for row in listed:
        ours = row.ours
        share = "–" if ours is None else _percent(ours.int8_share)
        shown = [_cell(row, name) for name in (*floats, OURS)]
        found = "; ".join(each.text for each in shortfalls(row)) or "yes"
        goals = found if OURS in row.paces else f"{found}; speed not measured"
        cells = [NETWORKS[row.network], _milliseconds(row), *shown, share]
        lines.append(_line([*cells, *(_cell(row, name) for name in columns), goals]))
    return lines


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _milliseconds(row: Row) -> str:
    return f"{row.paces[FLOAT].milliseconds:.1f}" if FLOAT in row.paces else "–"


def _cell(row: Row, name: str) -> str:
    verdict = row.verdicts.get(name)
    if verdict is None:
        return "–"
    if verdict.error:
        return "fails"
    pace = row.paces.get(name)
    speed = "–" if pace is None else f"{pace.speed[0]:.2f}"
    drop = "" if verdict.iou_drop is None else f" · {-verdict.iou_drop:+.2f} mIoU"
    return f"{speed} · {_number(verdict.sqnr, 1)} · {_number(verdict.agreement, 1)}{drop}"


def shortfalls(row: Row) -> list[Shortfall]:
    """Which goals the models of ours miss."""
    ours = row.ours
    if ours is None:
        verdict = row.verdicts.get(OURS)
        return [Shortfall("made", math.inf, verdict.error if verdict else "not made")]
    return [*_slow(row), *_noisy(row, ours), *_partly_float(row, ours), *_drops(row, ours)]


def _slow(row: Row) -> Iterator[Shortfall]:
    if OURS not in row.paces:
        return
    behind = {name: pace.behind[0] for name, pace in row.paces.items() if pace.behind is not None}
    for name in (FLOAT, BFLOAT):
        if name in behind and behind[name] <= 1:
            text = f"{behind[name]:.2f} × {name}, so it is not written"
            yield Shortfall("above float", 1 - behind[name], text)
    best = min((name for name in row.peers if name in behind), key=behind.__getitem__, default="")
    if best and behind[best] < _LEAST_SPEED:
        text = f"{behind[best]:.2f} × the speed of {best}"
        yield Shortfall("speed", _LEAST_SPEED - behind[best], text)


def _is_of_use(row: Row, peer: str) -> bool:
    """Whether a peer's model is faster than float32: else it is no rival by being exact."""
    pace = row.paces.get(peer)
    return pace is None or pace.speed[0] > 1


def _noisy(row: Row, ours: Verdict) -> Iterator[Shortfall]:
    running = {name: row.verdicts[name] for name in row.peers if _is_of_use(row, name)}
    if not running:
        return
    best = max(running, key=lambda name: running[name].sqnr or -math.inf)
    gain = (ours.sqnr or -math.inf) - (running[best].sqnr or -math.inf)
    least = _COLLAPSED if row.network in _COLLAPSING else 0.0
    if gain <= least:
        wanted = f", {least:.0f} wanted" if least else ""
        yield Shortfall("SQNR", least - gain, f"SQNR {gain:+.1f} dB to {best}{wanted}")
    best = max(running, key=lambda name: running[name].agreement or 0.0)
    gain = (ours.agreement or 0.0) - (running[best].agreement or 0.0)
    if gain < 0:
        yield Shortfall("labels", -gain, f"labels {gain:+.1f} points to {best}")


def _partly_float(row: Row, ours: Verdict) -> Iterator[Shortfall]:
    share = ours.int8_share
    if share is not None and share < _LEAST_SHARE:
        yield Shortfall("INT8", _LEAST_SHARE - share, f"{_percent(share)} % in INT8")
    if ours.runtime_weights:
        text = f"{ours.runtime_weights} weights dequantized in every run"
        yield Shortfall("weights", ours.runtime_weights, text)


def _drops(row: Row, ours: Verdict) -> Iterator[Shortfall]:
    for name in (OURS, UNMERGED):
        verdict = row.verdicts.get(name)
        drop = 0.0 if verdict is None else verdict.iou_drop or 0.0
        if drop > _MOST_DROP:
            yield Shortfall("mIoU", drop - _MOST_DROP, f"{drop:.2f} points of mIoU lost by {name}")
    unmerged = row.verdicts.get(UNMERGED)
    if unmerged is not None and not unmerged.error:
        cost = (unmerged.sqnr or 0.0) - (ours.sqnr or 0.0)
        if cost > _MERGED:
            text = f"{cost:.1f} dB below the unmerged graph"
            yield Shortfall("merged", cost - _MERGED, text)


def _merged(rows: Sequence[Row]) -> list[str]:
    """Merged graphs beside the same with their branches apart."""
    lines = ["### Merged and unmerged: SQNR dB · labels % · MACs in INT8 %", ""]
    lines += [_line(["network", "runtime", "merged", "unmerged", "cost dB"]), "|" + "---|" * 5]
    for row in rows:
        ours, apart = row.ours, row.verdicts.get(UNMERGED)
        if ours is None or apart is None:
            continue
        cost = "–" if apart.error else f"{(apart.sqnr or 0.0) - (ours.sqnr or 0.0):.1f}"
        cells = [NETWORKS[row.network], _TITLES[row.runtime], _accuracy(ours), _accuracy(apart)]
        lines.append(_line([*cells, cost]))
    return lines


def _accuracy(verdict: Verdict) -> str:
    if verdict.error:
        return verdict.error
    share = _percent(verdict.int8_share)
    return f"{_number(verdict.sqnr, 1)} · {_number(verdict.agreement, 1)} · {share}"


def _missed(rows: Sequence[Row]) -> list[str]:
    """The worst shortfalls of every kind."""
    kinds: dict[str, list[tuple[Shortfall, Row]]] = {}
    for row in rows:
        for each in shortfalls(row):
            kinds.setdefault(each.kind, []).append((each, row))
    lines = ["### Missed goals, the worst first", ""]
    for kind, found in kinds.items():
        worst = sorted(found, key=lambda pair: -pair[0].by)[:_WORST]
        told = [f"{NETWORKS[r.network]} on {_TITLES[r.runtime]}: {each.text}" for each, r in worst]
        lines.append(f"- {kind} ({len(found)} of {len(rows)}): {'; '.join(told)}")
    return lines if kinds else ["Every goal is met."]


_HEAD = (
    *("network", "runtime", "model", "ms", "speed over float32", "ours / it", "SQNR dB"),
    *("of what varies", "labels %", "mIoU lost", "INT8 %", "weights dequantized", "made"),
)


def _details(rows: Sequence[Row]) -> list[str]:
    """All figures of all models."""
    lines = ["### All figures", "", _line(_HEAD), "|" + "---|" * len(_HEAD)]
    return lines + [_detail(row, name) for row in rows for name in row.verdicts]


def _detail(row: Row, name: str) -> str:
    verdict, pace = row.verdicts[name], row.paces.get(name)
    cells = [NETWORKS[row.network], row.runtime, name]
    if verdict.error:
        return _line([*cells, f"fails: {verdict.error}", *[""] * (len(_HEAD) - 4)])
    made = row.made.get(name) or row.made.get(f"{name}.{row.runtime}")
    return _line(
        [
            *cells,
            "–" if pace is None else f"{pace.milliseconds:.2f}",
            "–" if pace is None else _interval(pace.speed),
            "–" if pace is None or pace.behind is None else f"{pace.behind[0]:.2f}",
            _number(verdict.sqnr, 1),
            _number(verdict.varying, 1),
            _number(verdict.agreement, 2),
            _number(verdict.iou_drop, 2),
            _percent(verdict.int8_share),
            "–" if verdict.runtime_weights is None else str(verdict.runtime_weights),
            "" if made is None else made.when,
        ]
    )


def _interval(speed: Sequence[float]) -> str:
    median, low, high = speed
    return f"{median:.2f} ({low:.2f}–{high:.2f})"


def _percent(share: float | None) -> str:
    return _number(None if share is None else 100 * share, 1)


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _float_layers(rows: Iterable[Row]) -> list[str]:
    """What our models leave in float, with the reason, as `quantize` says it."""
    lines = []
    for row in rows:
        made = row.made.get(f"{OURS}.{row.runtime}")
        reasons: dict[str, list[str]] = {}
        for layer, reason in (made.floats if made else {}).items():
            reasons.setdefault(reason, []).append(layer)
        for reason, layers in reasons.items():
            named = ", ".join(f"`{layer}`" for layer in layers[:2])
            more = f" and {len(layers) - 2} more" if len(layers) > 2 else ""
            where = f"{NETWORKS[row.network]}, {_TITLES[row.runtime]}"
            lines.append(f"- {where}: {named}{more}: {reason}")
    return ["### Layers that stay float in our models", "", *lines] if lines else []
