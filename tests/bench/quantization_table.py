"""The tables of `tests.bench.quantization`: what every variant showed, and what that says."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tests.bench import quantization_peers

NETWORKS = {
    "deeplabv3plus_resnet18": "DeepLabV3+ R18",
    "unet_resnet18": "U-Net R18",
    "fpn_resnet18": "FPN R18",
    "unet_mobilenet_v2": "U-Net MobileNetV2",
    "deeplabv3plus_mobilenet_v2": "DeepLabV3+ MobileNetV2",
    "segformer_b0": "SegFormer-B0",
    "fastvit_sa12_fpn": "FastViT-SA12 + FPN",
    "mobileone_s0": "MobileOne-S0",
    "repvgg_a0": "RepVGG-A0",
    "demo": "demonstration (trained)",
}
"""What is measured, and what it is called in tables."""

TARGETS = {"ort": "ort-cpu", "openvino": "openvino"}
FLOAT, BFLOAT = "float32", "bfloat16"
OURS, UNMERGED = "onnxfold", "onnxfold, unmerged"


@dataclass(slots=True)
class Row:
    """What one variant of a network showed on one runtime.

    Attributes:
        network: As in `NETWORKS`.
        runtime: As in `TARGETS`.
        variant: What made the model.
        milliseconds: Median of a run.
        speed: How many times faster than float32: the median, and where it lies with 95 %.
        beaten_by: How many times faster our model is, round by round.
        sqnr: Signal to noise ratio of the output, in dB.
        varying: The same without the mean of each channel.
        agreement: Equal labels in percent.
        iou_drop: Points of mean IoU lost, where the labels are known.
        int8_share: Share of the multiply-adds that run in INT8.
        floats: The layers with multiply-adds that do not, with the reason.
        error: Why there are no figures; empty if there are.
    """

    network: str
    runtime: str
    variant: str
    milliseconds: float | None = None
    speed: tuple[float, float, float] | None = None
    beaten_by: float | None = None
    sqnr: float | None = None
    varying: float | None = None
    agreement: float | None = None
    iou_drop: float | None = None
    int8_share: float | None = None
    floats: dict[str, str] = field(default_factory=dict)
    error: str = ""


HEAD = (
    "| network | runtime | variant | ms | speed over float32 | SQNR dB | of what varies | labels % "
    "| mIoU lost | INT8 % |",
    "|" + "---|" * 10,
)


def line(row: Row) -> str:
    """A row of the table."""
    cells = [NETWORKS[row.network], row.runtime, row.variant]
    if row.error:
        return "| " + " | ".join([*cells, f"failed: {row.error}", *[""] * 6]) + " |"
    median, low, high = row.speed or (float("nan"),) * 3
    cells += [
        _number(row.milliseconds, 2),
        f"{median:.2f} ({low:.2f}–{high:.2f})",
        _number(row.sqnr, 1),
        _number(row.varying, 1),
        _number(row.agreement, 2),
        _number(row.iou_drop, 2),
        _percent(row.int8_share),
    ]
    return "| " + " | ".join(cells) + " |"


def _percent(share: float | None) -> str:
    return _number(None if share is None else 100 * share, 1)


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


GOALS = (
    "| network | runtime | speed: ours / best peer | SQNR: ours − best peer | INT8 % | verdict |",
    "|" + "---|" * 6,
)
_LEAST_SPEED, _LEAST_SHARE, _MOST_DROP, _COLLAPSED = 0.98, 0.98, 0.3, 6.0
_COLLAPSING = (
    "unet_mobilenet_v2",
    "deeplabv3plus_mobilenet_v2",
    "fastvit_sa12_fpn",
    "mobileone_s0",
)


def goal(rows: Sequence[Row]) -> str:
    """What the rows of one network on one runtime say about the goals."""
    by_name = {row.variant: row for row in rows}
    first, ours = rows[0], by_name.get(OURS)
    cells = [NETWORKS[first.network], first.runtime]
    peers = [row for name, row in by_name.items() if name in quantization_peers.RECIPES]
    running = [row for row in peers if not row.error]
    if ours is None or ours.error or not running:
        return "| " + " | ".join([*cells, "–", "–", "–", ours.error if ours else "no peer"]) + " |"
    speed = min(row.beaten_by or 0.0 for row in running)
    gain = (ours.sqnr or 0.0) - max(row.sqnr or 0.0 for row in running)
    cells += [f"{speed:.2f}", f"{gain:+.1f}", _percent(ours.int8_share)]
    return "| " + " | ".join([*cells, "; ".join(_shortfalls(ours, by_name, speed, gain))]) + " |"


def _shortfalls(ours: Row, by_name: Mapping[str, Row], speed: float, gain: float) -> Iterator[str]:
    floats = by_name.get(BFLOAT, by_name[FLOAT])
    least = _COLLAPSED if ours.network in _COLLAPSING else 0.0
    checks = {
        "slower than the best peer": speed < _LEAST_SPEED,
        "slower than float": (floats.beaten_by or 0.0) < 1.0,
        f"SQNR not {least:g} dB above the best peer": gain <= least,
        "too little in INT8": ours.int8_share is not None and ours.int8_share < _LEAST_SHARE,
        "too much mIoU lost": (ours.iou_drop or 0.0) > _MOST_DROP,
    }
    if (unmerged := by_name.get(UNMERGED)) is not None and not unmerged.error:
        is_as_whole = (unmerged.int8_share or 0.0) >= _LEAST_SHARE
        cost = (unmerged.sqnr or 0.0) - (ours.sqnr or 0.0)
        checks["more than 1 dB below the unmerged graph"] = is_as_whole and cost > 1.0
    found = [text for text, is_short in checks.items() if is_short]
    yield from found or ["met"]


def float_layers(rows: Iterable[Row]) -> Iterator[str]:
    """The layers that our models leave in float, with the reason."""
    for row in rows:
        if row.variant == OURS:
            for layer, reason in row.floats.items():
                yield f"{row.network}, {row.runtime}, {layer}: {reason}"
