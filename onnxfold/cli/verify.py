"""`onnxfold verify`."""

import click

from onnxfold.cli import options as shared
from onnxfold.cli.image_options import SampleRequest, sample_options
from onnxfold.cli.output import print_json
from onnxfold.cli.render import print_verdict
from onnxfold.cli.talk import progress
from onnxfold.errors import NotEqualError
from onnxfold.model import load
from onnxfold.verify import Verifier, VerifyOptions
from onnxfold.verify.feeds import MAX_DATA


@click.command(name="verify")
@click.argument("reference", metavar="A.onnx", type=click.Path(readable=False))
@click.argument("candidate", metavar="B.onnx", type=click.Path(readable=False))
@shared.shape_option
@shared.tolerance_options
@sample_options(f"Compare on these too, {MAX_DATA} at most")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the feeds.")
@shared.json_option
def command(
    reference: str,
    candidate: str,
    shapes: tuple[str, ...],
    rtol: float | None,
    atol: float | None,
    threads: int | None,
    samples: SampleRequest,
    seed: int,
    as_json: bool,
) -> None:
    """Compare B.onnx with A.onnx: same interface, and the same outputs up to rounding.

    Both run on ONNX Runtime with all optimizations off, on signed, zero, large and border-heavy
    inputs, and on several sizes where axes are dynamic. How much rounding may differ is measured on
    A.onnx. Exit code 0: equal; 1: not equal.

    \b
    Examples:
      onnxfold verify in.onnx out.onnx
      onnxfold verify in.onnx out.onnx --data images --mean 0.485,0.456,0.406
      onnxfold verify in.onnx out.onnx --rtol 1e-3 --json
    """
    for path in (reference, candidate):
        load(path)
    options = VerifyOptions(
        rtol=rtol,
        atol=atol,
        seed=seed,
        input_shapes=shared.input_shapes(shapes),
        threads=threads,
    )
    with progress() as talk:
        verifier = Verifier(
            reference,
            options,
            samples.feeds(
                reference,
                options.input_shapes,
                MAX_DATA,
                lambda done, total: talk(f"reading samples {done}/{total}"),
            ),
            lambda what, done, total: talk(f"{what} {done}/{total}" if total else what),
        )
        verdict = verifier.check(candidate, stop_early=False)
    if as_json:
        print_json({"reference": reference, "candidate": candidate, **verdict.to_dict()})
    else:
        print_verdict(verdict)
    if not verdict.equal:
        raise NotEqualError("the models do not compute the same", verdict.reason)
