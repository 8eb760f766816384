"""`onnxfold quantize`."""

import os

import click

from onnxfold.calibrate.ranges import Method
from onnxfold.cli import options as shared
from onnxfold.cli.image_options import SampleRequest, sample_options
from onnxfold.cli.output import print_json
from onnxfold.cli.provenance import FileRecord, model_files, provenance
from onnxfold.cli.quantize_page import quantization_page
from onnxfold.cli.render_quantize import print_quantization
from onnxfold.cli.talk import quiet_progress, stdout_kept_clean, warn
from onnxfold.errors import BadOptionError
from onnxfold.model import check_target
from onnxfold.model.target import write_whole
from onnxfold.quantization import QuantizeOptions, quantize
from onnxfold.quantization.floats import read
from onnxfold.quantize.adaptive_rounding import Rounding
from onnxfold.targets.target import TARGETS, target_named

_AUTO = "auto"


@click.command(name="quantize")
@click.argument("source", metavar="IN.onnx", type=click.Path(readable=False))
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="OUT.onnx",
    type=click.Path(readable=False),
    help="Where to write the result. OUT.onnx.*.partial keep what an interrupted run has done.",
)
@click.option(
    "--target",
    required=True,
    metavar="|".join(TARGETS),
    help="What the result will run on; no INT8 model suits them all.",
)
@sample_options("Samples")
@click.option(
    "--max-drop",
    type=float,
    metavar="POINTS",
    help="Percent of the labels that may change; layers are left in float until no more do. "
    "Without it, any number may: it is reported.",
)
@click.option(
    "--method",
    type=click.Choice([_AUTO, *(method.value for method in Method)]),
    default=_AUTO,
    show_default=True,
    help="How ranges of activations are chosen; auto takes what measures best.",
)
@click.option(
    "--rounding",
    type=click.Choice([rounding.value for rounding in Rounding]),
    default=Rounding.ADAPTIVE.value,
    show_default=True,
    help="How weights become integers: so that layers keep their outputs, or each to the nearest.",
)
@click.option(
    "--exclude",
    multiple=True,
    metavar="LAYER",
    help="Leave this layer in float; layers are called as the first output of their node. May be "
    "repeated.",
)
@click.option(
    "--calibration",
    metavar="FILE.npz",
    type=click.Path(readable=False),
    help="Keep the calibration here: it is read if it is there, else written.",
)
@click.option("--workers", type=click.IntRange(1), help="Processes that calibrate; all cores.")
@click.option("--threads", type=click.IntRange(1), help="Threads of the runtimes; all cores.")
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    default=20.0,
    show_default=True,
    help="How long models are timed beside each other.",
)
@shared.shape_option
@click.option("--no-optimize", is_flag=True, help="Do not fold the float model first.")
@click.option("--no-equalize", is_flag=True, help="Do not scale channels between layers.")
@click.option("--no-bias-correction", is_flag=True, help="Leave biases as they are.")
@click.option("--fp16", is_flag=True, help="For TensorRT: float16 for what stays float.")
@click.option(
    "--force",
    is_flag=True,
    help="Write the result even if it is slower than the float model or loses over --max-drop.",
)
@click.option(
    "--report",
    "page",
    metavar="FILE.html",
    type=click.Path(readable=False),
    help="Write all there is to say about the result, layer by layer, to a page that needs no "
    "other file.",
)
@shared.json_option
def command(
    source: str,
    output: str,
    target: str,
    samples: SampleRequest,
    max_drop: float | None,
    method: str,
    rounding: str,
    exclude: tuple[str, ...],
    calibration: str | None,
    workers: int | None,
    threads: int | None,
    seconds: float,
    shapes: tuple[str, ...],
    no_optimize: bool,
    no_equalize: bool,
    no_bias_correction: bool,
    fp16: bool,
    force: bool,
    page: str | None,
    as_json: bool,
) -> None:
    """Make an INT8 model of IN.onnx that its target really runs in INT8, and write it to OUT.onnx.

    The model is folded, calibrated on your samples and compiled by its target; what does not run in
    INT8 there, or would be slower in it or, with --max-drop, too inexact, stays float. Nothing is
    written unless the result is faster than the float model.

    \b
    Examples:
      onnxfold quantize in.onnx -o out.onnx --data images --target ort-cpu
      onnxfold quantize in.onnx -o out.onnx --data images --target openvino --max-drop 1
      onnxfold quantize in.onnx -o out.onnx --data images --target ort-cpu --report report.html
      onnxfold quantize in.onnx -o out.onnx --data feeds.npz --target tensorrt --fp16 --json
    """
    if not samples.sources:
        raise BadOptionError("there are no samples to quantize with", "name them with --data")
    target_named(target)
    check_target(output)
    if calibration is not None:
        shared.refuse_overwriting("--calibration", calibration, source, output, *samples.sources)
    if page is not None:
        check_target(page)
        others = (source, output, calibration, *samples.sources)
        shared.refuse_overwriting("--report", page, *others)
    options = QuantizeOptions(
        method=None if method == _AUTO else Method(method),
        max_drop=max_drop,
        exclude=exclude,
        input_shapes=shared.input_shapes(shapes),
        optimize=not no_optimize,
        equalize=not no_equalize,
        rounding=Rounding(rounding),
        correct_biases=not no_bias_correction,
        force=force,
        fp16=fp16,
        calibration=calibration,
        workers=workers or os.cpu_count() or 1,
        threads=threads,
        seconds=seconds,
    )
    with stdout_kept_clean(), quiet_progress() as talk:
        opened = samples.open(
            read(source, options).model,
            lambda done, total: talk(f"reading samples {done}/{total}"),
        )
        for text in opened.warnings:
            warn(text)
        talk("hashing the model")
        files = model_files("model", source)  # now, since the result may take its place
        result = quantize(source, output, opened, target=target, options=options, progress=talk)
        talk("hashing the result")
        made = provenance((*files, *_written(output, calibration)))
    if page is not None:
        write_whole(quantization_page(result.report, made, source), page)
    if as_json:
        print_json({"input": source, "output": output, **made.to_dict(), **result.report.to_dict()})
        return
    print_quantization(result.report, (output, *([] if page is None else [page])))


def _written(output: str, calibration: str | None) -> tuple[FileRecord, ...]:
    kept = () if calibration is None else (FileRecord.of("calibration", calibration),)
    return *kept, *model_files("result", output)
