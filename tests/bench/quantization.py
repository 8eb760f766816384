"""INT8 beside its peers: how fast, how near to float32, and how much of it really is INT8.

    python examples/zoo/export.py --full EXPORTS --exporter script --size 256 unet_resnet18 …
    python -m venv PEERS && PEERS/bin/pip install nncf onnxruntime onnx openvino
    python -m tests.bench.quantization make FOLDER --exports EXPORTS --peers-python PEERS/bin/python
    python -m tests.bench.quantization accuracy FOLDER --exports EXPORTS
    python -m tests.bench.quantization speed FOLDER
    python -m tests.bench.quantization table FOLDER

Each stage takes names of networks too, and goes on where it was stopped. `make` writes the models
of ours and of the peers, `accuracy` judges them; both may run on a busy machine. `speed` must not.
Without exports the zoo's own small ones are taken.

Nine topologies of the zoo, whose weights are drawn, and the trained demonstration network. All are
folded first, and peers quantize the folded model too. Everything is calibrated with the same drawn
scenes and judged by others, float32 on the same runtime being right. Models are timed in rounds in
which each runs once, in an order drawn anew; speeds are ratios within rounds.

With drawn weights one channel may win everywhere, and a constant offset may hold most of the energy
of an output. For those networks the mean of each channel over all inputs is taken off before labels
are compared, and the signal to noise ratio is given with it and without it.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

from onnxfold.bench.machine import core_count
from tests.bench.quantization_accuracy import judge
from tests.bench.quantization_make import Maker, Shelf
from tests.bench.quantization_networks import NETWORKS, TARGETS, Network
from tests.bench.quantization_speed import time_models
from tests.bench.quantization_table import document

STAGES = ("make", "accuracy", "speed", "table")


def main() -> None:
    """Run one stage."""
    options = _options()
    if options.stage == "table":
        print(document(options.folder), end="")
        return
    for name in options.names or NETWORKS:
        _run(name, options)


def _run(name: str, options: argparse.Namespace) -> None:
    network = Network(name, options.exports, options.size)
    shelf, say = Shelf(options.folder / name), partial(_say, name)
    if options.stage == "make":
        maker = Maker(
            network, shelf, options.calibration, options.threads, options.peers_python, say
        )
        maker.prepare()
        if options.of != "peers":
            maker.ours(again=options.again, unmerged=options.of != "merged")
        if options.of in (None, "peers"):
            maker.theirs()
        return
    for runtime in options.runtime:
        if options.stage == "accuracy":
            judge(network, shelf, runtime, options.unseen, options.threads, say)
        else:
            time_models(name, shelf, runtime, options.seconds, options.threads, say)


def _say(name: str, text: str) -> None:
    print(f"{name}: {text}", file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("folder", type=Path, help="where the models and the figures are")
    parser.add_argument("names", nargs="*", help=f"of {', '.join(NETWORKS)} (default: all)")
    parser.add_argument("--exports", type=Path, help="what examples/zoo/export.py --full wrote")
    parser.add_argument("--size", type=int, default=256, help="edges where a network allows any")
    parser.add_argument("--threads", type=int, default=core_count(), help="of the runtimes")
    making = parser.add_argument_group("make")
    making.add_argument("--peers-python", type=Path, help="Python of an environment with NNCF")
    making.add_argument("--calibration", type=int, default=64, help="inputs to calibrate with")
    making.add_argument("--of", choices=("ours", "merged", "peers"), help="only those models")
    making.add_argument("--again", action="store_true", help="ours also where they are there")
    judging = parser.add_argument_group("accuracy and speed")
    judging.add_argument("--runtime", type=_listed, default=list(TARGETS), help="ort,openvino")
    judging.add_argument("--unseen", type=int, default=32, help="inputs to judge by")
    judging.add_argument("--seconds", type=float, default=40.0, help="of each network and runtime")
    options = parser.parse_intermixed_args()
    unknown = [name for name in options.names if name not in NETWORKS]
    if unknown:
        parser.error(f"there is no network {unknown[0]}")
    return options


def _listed(text: str) -> list[str]:
    return text.split(",")


if __name__ == "__main__":
    main()
