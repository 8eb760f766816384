"""`onnxfold optimize`."""

import click

from onnxfold.cli import options as shared
from onnxfold.cli.image_options import SampleRequest, sample_options
from onnxfold.cli.output import print_json
from onnxfold.cli.registry import all_passes
from onnxfold.cli.render import print_report
from onnxfold.cli.talk import progress, stdout_kept_clean
from onnxfold.cost.machines import ANY, MACHINES
from onnxfold.errors import CannotRunError, CannotVerifyError
from onnxfold.model import check_target
from onnxfold.optimization import OptimizeOptions, optimize
from onnxfold.verify.feeds import MAX_DATA


@click.command(name="optimize")
@click.argument("source", metavar="IN.onnx", type=click.Path(readable=False))
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="OUT.onnx",
    type=click.Path(readable=False),
    help="Where to write the result; may be IN.onnx itself.",
)
@click.option(
    "--passes",
    "specification",
    metavar="A,B,...",
    help="Passes to run, in this order, instead of the default ones; options as in "
    "fold_constants:max_bytes=4096, values with : or , in double quotes. See `onnxfold passes`.",
)
@click.option(
    "--target",
    default=ANY,
    show_default=True,
    metavar="NAME",
    help=f"What the result is to run on: {', '.join(MACHINES)}. What gains only there is folded "
    "only for it.",
)
@shared.shape_option
@click.option(
    "--verify/--no-verify",
    default=True,
    show_default=True,
    help="Prove on this machine that the result computes the same before it is written.",
)
@shared.tolerance_options
@sample_options(f"Verify with these too, {MAX_DATA} at most")
@shared.plugin_option
@click.option(
    "--rewrite-limit",
    type=click.IntRange(0),
    metavar="N",
    help="Make only the first N rewrites; to find the one that matters.",
)
@click.option(
    "--keep-overridable",
    is_flag=True,
    help="In files of IR version below 4, where every initializer is an input too, take none of "
    "them for a constant.",
)
@shared.json_option
def command(
    source: str,
    output: str,
    specification: str | None,
    target: str,
    shapes: tuple[str, ...],
    verify: bool,
    rtol: float | None,
    atol: float | None,
    threads: int | None,
    samples: SampleRequest,
    plugins: tuple[str, ...],
    rewrite_limit: int | None,
    keep_overridable: bool,
    as_json: bool,
) -> None:
    """Fold what is linear in IN.onnx, prove the result equal, and write it to OUT.onnx.

    Nothing is written unless the result computes the same as the input, within a tolerance measured
    from the rounding noise of the model itself. A rewrite that does not is found, taken back alone,
    and reported.

    \b
    Examples:
      onnxfold optimize in.onnx -o out.onnx
      onnxfold optimize in.onnx -o out.onnx --passes fuse_bn,fuse_pad
      onnxfold optimize in.onnx -o out.onnx --target openvino
      onnxfold optimize in.onnx -o out.onnx --input-shape image:1x3x512x512
      onnxfold optimize in.onnx -o out.onnx --plugin my_pass.py --passes my_pass,fuse_bn
      onnxfold optimize in.onnx -o out.onnx --json > report.json
    """
    registry = all_passes(plugins)
    passes = None if specification is None else registry.parse(specification)
    options = OptimizeOptions(
        input_shapes=shared.input_shapes(shapes),
        verify=verify,
        rtol=rtol,
        atol=atol,
        rewrite_limit=rewrite_limit,
        keep_overridable=keep_overridable,
        threads=threads,
        target=target,
    )
    check_target(output)
    with stdout_kept_clean(), progress() as talk:
        data = samples.feeds(
            source,
            options.input_shapes,
            MAX_DATA,
            lambda done, total: talk(f"reading samples {done}/{total}"),
        )
        try:
            result = optimize(
                source, output, passes=passes, options=options, data=data, progress=talk
            )
        except CannotVerifyError as error:
            wayout = "accept an unverified result with --no-verify"
            hint = f"{error.hint}; or {wayout}" if error.hint else wayout
            raise CannotRunError(error.message, hint) from error
    if as_json:
        print_json({"input": source, "output": output, **result.report.to_dict()})
        return
    print_report(result.report, output)
