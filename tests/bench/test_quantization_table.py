"""What the INT8 comparison says of the figures that it is given."""

from pathlib import Path

import pytest

from tests.bench.quantization_accuracy import Verdict
from tests.bench.quantization_make import Made, Shelf
from tests.bench.quantization_networks import OURS, UNMERGED
from tests.bench.quantization_speed import Pace
from tests.bench.quantization_table import Row, shortfalls


def pace(speed: float, behind: float) -> Pace:
    return Pace(1.0, (speed, speed, speed), (behind, behind, behind), 60)


def row(network: str, ours: Verdict, peer: Verdict, paces: dict[str, Pace]) -> Row:
    return Row(network, "ort", {OURS: ours, "ort-u8s8": peer}, paces, {})


def kinds(found: Row) -> set[str]:
    return {each.kind for each in shortfalls(found)}


GOOD = Verdict(0, sqnr=20.0, agreement=99.0, int8_share=1.0, runtime_weights=0)
PEER = Verdict(0, sqnr=15.0, agreement=98.0, int8_share=1.0)


def test_a_row_that_is_better_in_all_meets_the_goals() -> None:
    paces = {"float32": pace(1.0, 2.0), OURS: pace(2.0, 1.0), "ort-u8s8": pace(1.9, 1.05)}
    assert not shortfalls(row("unet_resnet18", GOOD, PEER, paces))


@pytest.mark.parametrize(
    ("floats", "peer", "missed"),
    [(1.5, 0.97, {"speed"}), (0.99, 1.0, {"above float"}), (1.5, 0.98, set())],
)
def test_speed_is_held_against_the_best_peer_and_float(
    floats: float, peer: float, missed: set[str]
) -> None:
    paces = {"float32": pace(1.0, floats), OURS: pace(floats, 1.0), "ort-u8s8": pace(1.5, peer)}
    assert kinds(row("unet_resnet18", GOOD, PEER, paces)) == missed


def test_networks_on_which_peers_collapse_ask_for_six_decibels() -> None:
    assert kinds(row("unet_mobilenet_v2", GOOD, PEER, {})) == {"SQNR"}
    assert not kinds(row("unet_resnet18", GOOD, PEER, {}))


def test_a_peer_that_is_slower_than_float_is_no_rival_by_being_exact() -> None:
    exact = Verdict(0, sqnr=60.0, agreement=100.0)
    paces = {"float32": pace(1.0, 2.0), OURS: pace(2.0, 1.0), "ort-u8s8": pace(0.9, 2.2)}
    assert not kinds(row("unet_resnet18", GOOD, exact, paces))
    assert kinds(row("unet_resnet18", GOOD, exact, {})) == {"SQNR", "labels"}


def test_a_peer_that_fails_is_no_peer() -> None:
    failed = Verdict(0, sqnr=90.0, agreement=100.0, error="it does not run")
    assert not kinds(row("unet_resnet18", GOOD, failed, {}))


def test_float_layers_runtime_weights_lost_mean_iou_and_merging_are_told() -> None:
    ours = Verdict(0, sqnr=20.0, agreement=99.0, iou_drop=0.4, int8_share=0.9, runtime_weights=2)
    found = row("demo", ours, PEER, {})
    apart = Verdict(0, sqnr=21.5, agreement=99.0, iou_drop=0.1)
    with_apart = Row(found.network, found.runtime, {**found.verdicts, UNMERGED: apart}, {}, {})
    assert kinds(with_apart) == {"INT8", "weights", "mIoU", "merged"}


def test_a_model_that_could_not_be_made_says_why() -> None:
    failed = Verdict(0, error="nothing would run in INT8")
    (shortfall,) = shortfalls(row("demo", failed, PEER, {}))
    assert shortfall.text == "nothing would run in INT8"


def test_a_shelf_knows_what_was_made_and_what_was_tried_in_vain(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    made, failed, gone = shelf.own(OURS, "ort"), shelf.peer("ort-u8s8"), shelf.peer("ort-s8s8")
    made.touch()
    shelf.enter(made, Made(when="then"))
    shelf.enter(failed, Made(error="no such operator"))
    shelf.enter(gone, Made())
    assert set(shelf.models("unet_resnet18", "ort")) == {OURS, "ort-u8s8"}
    assert shelf.error(failed) == "no such operator"
    assert not shelf.models("unet_resnet18", "openvino")
