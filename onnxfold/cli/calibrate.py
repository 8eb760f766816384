"""`onnxfold calibrate`."""

import importlib
import os
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import click

from onnxfold.calibrate import Calibration
from onnxfold.calibrate.calibrate import calibrate
from onnxfold.calibrate.samples import Samples
from onnxfold.calibrate.store import save
from onnxfold.cli import options as shared
from onnxfold.cli.image_options import SampleRequest, sample_options
from onnxfold.cli.output import print_json, print_line
from onnxfold.cli.talk import progress, warn
from onnxfold.errors import BadOptionError, CannotRunError
from onnxfold.model import check_target, load

_PATIENCE = "5s"


@click.command(name="calibrate")
@click.argument("source", metavar="IN.onnx", type=click.Path(readable=False))
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="OUT.npz",
    type=click.Path(readable=False),
    help="Where to write what was found. OUT.npz.partial keeps what is done, and is removed in the "
    "end.",
)
@sample_options("Samples")
@click.option(
    "--workers",
    type=click.IntRange(1),
    help="Processes that run at a time, each with one thread. By default one for each core, or "
    "as many as the cluster has.",
)
@click.option(
    "--dask",
    "cluster",
    metavar="ADDRESS",
    help="Run on the Dask cluster with this scheduler, as tcp://host:8786, instead of here. Its "
    "workers need onnxfold, and the samples under the same paths.",
)
@shared.json_option
def command(
    source: str,
    output: str,
    samples: SampleRequest,
    workers: int | None,
    cluster: str | None,
    as_json: bool,
) -> None:
    """Run IN.onnx on samples, and write what its values are to OUT.npz.

    Every value's exact minimum and maximum, a histogram, and the extremes and mean of its channels.
    A file fits the model that it was made of and no other; `quantize` takes it. An interrupted run
    goes on where it stopped when it is started again, and gives the same file to the bit.

    \b
    Examples:
      onnxfold calibrate in.onnx --data images -o stats.npz
      onnxfold calibrate in.onnx --data images --samples 300 --mean 0.485,0.456,0.406 -o stats.npz
      onnxfold calibrate in.onnx --data feeds.npz --workers 8 -o stats.npz
    """
    if not samples.sources:
        raise BadOptionError("there are no samples to calibrate with", "name them with --data")
    check_target(output)
    shared.refuse_overwriting("--output", output, source, *samples.sources)
    partial = f"{output}.partial"
    model = load(source).model
    with progress() as talk, _place(cluster, workers) as place:
        opened = samples.open(model, lambda done, total: talk(f"reading samples {done}/{total}"))
        for text in opened.warnings:
            warn(text)
        result = calibrate(
            source,
            opened,
            executor=place.executor,
            workers=place.workers,
            checkpoint=partial,
            progress=talk,
        )
        save(result, output)
    with suppress(OSError):
        os.unlink(partial)
    if as_json:
        print_json({"input": source, "output": output, **_report(result, opened)})
        return
    _print(result, opened, output)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where to run: an executor, None for processes of its own, and how many at a time."""

    executor: Executor | None
    workers: int


@contextmanager
def _place(cluster: str | None, workers: int | None) -> Iterator[_Place]:
    """Here, or on a Dask cluster.

    Raises:
        CannotRunError: Dask is not installed, or nobody answers at the address.
    """
    if cluster is None:
        yield _Place(None, workers or os.cpu_count() or 1)
        return
    try:
        distributed: Any = importlib.import_module("distributed")
    except ImportError as error:
        raise CannotRunError("Dask is not installed", "pip install 'onnxfold[dask]'") from error
    try:
        client = distributed.Client(cluster, timeout=_PATIENCE)
    except (OSError, ValueError) as error:
        raise CannotRunError(
            f"no Dask scheduler answers at {cluster}", "start one with `dask scheduler`"
        ) from error
    with client:
        yield _Place(client.get_executor(), workers or sum(client.nthreads().values()) or 1)


def _report(result: Calibration, samples: Samples) -> dict[str, Any]:
    return {
        "graph": result.graph_hash,
        "samples": len(result.samples),
        "skipped": {each.label: each.reason for each in samples.skipped},
        "warnings": list(samples.warnings),
        "notes": list(samples.notes),
        "values": {
            name: {
                "elements": stats.count,
                "minimum": stats.minimum,
                "maximum": stats.maximum,
                "zeros": stats.zeros / stats.histogram.total,
            }
            for name, stats in result.tensors.items()
        },
    }


def _print(result: Calibration, samples: Samples, output: str) -> None:
    for text in samples.notes:
        print_line(f"note: {text}")
    for skipped in samples.skipped:
        print_line(f"skipped: {skipped.label}: {skipped.reason}")
    print_line(f"samples: {len(result.samples):,}")
    print_line(f"values: {len(result.tensors):,}")
    print_line(f"written: {output}")
