"""`onnxfold bench`."""

from collections.abc import Sequence

import click

from onnxfold.bench import Measurement, measure
from onnxfold.bench.machine import core_count, cpu_name
from onnxfold.bench.runners import Precision, open_runtime
from onnxfold.bench.sittings import TIME_LIMIT
from onnxfold.cli import options as shared
from onnxfold.cli.image_options import SampleRequest, sample_options
from onnxfold.cli.output import print_json
from onnxfold.cli.render_bench import print_measurement
from onnxfold.cli.talk import quiet_progress
from onnxfold.errors import BadOptionError
from onnxfold.model import load


@click.command(name="bench")
@click.argument("sources", metavar="A.onnx B.onnx ...", nargs=-1, type=click.Path(readable=False))
@click.option(
    "--runtime",
    "runtimes",
    default="ort",
    show_default=True,
    metavar="ort,openvino",
    help="On which runtimes, one after the other.",
)
@click.option("--threads", type=click.IntRange(1), help="Threads; the runtime's choice if absent.")
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    help=f"Stop after so long on each runtime even if intervals are still wider than 2 %; "
    f"{TIME_LIMIT:g} if absent.",
)
@click.option("--rounds", type=click.IntRange(1), metavar="N", help="Run exactly N rounds instead.")
@click.option(
    "--warm-up",
    type=click.IntRange(0),
    default=3,
    show_default=True,
    metavar="N",
    help="Rounds that do not count, each time the models were loaded.",
)
@shared.shape_option
@sample_options("Run on the first of these instead of on made-up inputs")
@click.option(
    "--precision",
    type=click.Choice(["f32", "default"]),
    default="f32",
    show_default=True,
    help="Of OpenVINO: f32, or what it likes best, which may be bfloat16.",
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Of orders and inputs."
)
@shared.json_option
def command(
    sources: tuple[str, ...],
    runtimes: str,
    threads: int | None,
    seconds: float | None,
    rounds: int | None,
    warm_up: int,
    shapes: tuple[str, ...],
    samples: SampleRequest,
    precision: Precision,
    seed: int,
    as_json: bool,
) -> None:
    """Time models beside each other; the first is what the others are compared with.

    All run in one process, in an order drawn anew for every round, and are loaded anew several
    times. The speed-up is the ratio within a round, with an interval that covers its median with
    95 % probability. Peak memory is measured in a process for each model.

    \b
    Examples:
      onnxfold bench in.onnx out.onnx
      onnxfold bench in.onnx out.onnx other.onnx --runtime ort,openvino --threads 2
      onnxfold bench in.onnx out.onnx --input-shape image:1x3x512x512 --json > bench.json
    """
    if not sources:
        raise BadOptionError("no model was given", "name one or more .onnx files")
    if rounds is not None and seconds is not None:
        raise BadOptionError(
            "--rounds and --seconds were both given", "rounds are run however long they take"
        )
    for source in sources:
        load(source)
    names = [name.strip() for name in runtimes.split(",")]
    for name in names:
        open_runtime(name)
    given = samples.feeds(sources[0], shared.input_shapes(shapes), 1)
    feed = None if given is None else given[0]
    models = _labelled(sources)
    measurements: list[Measurement] = []
    with quiet_progress() as talk:
        for name in names:
            measured = measure(
                models,
                name,
                rounds=rounds,
                seconds=seconds or TIME_LIMIT,
                warm_up=warm_up,
                threads=threads,
                feed=feed,
                input_shapes=shared.input_shapes(shapes),
                precision=precision,
                seed=seed,
                memory=True,
                progress=talk,
            )
            measurements.append(measured)
            feed = dict(measured.feed)  # the same on every runtime
            if not as_json:
                print_measurement(measured)
    if as_json:
        print_json(
            {
                "models": models,
                "cpu": cpu_name(),
                "cores": core_count(),
                "measurements": [measured.to_dict() for measured in measurements],
            }
        )


def _labelled(sources: Sequence[str]) -> dict[str, str]:
    """The paths by what they are called: a path that was given twice gets a number."""
    models: dict[str, str] = {}
    for source in sources:
        label, number = source, 1
        while label in models:
            number += 1
            label = f"{source} ({number})"
        models[label] = source
    return models
