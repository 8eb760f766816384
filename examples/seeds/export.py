"""Export the seeds to ONNX, in training form and as their authors merge them.

python -m examples.seeds.export FOLDER                     # every network
python -m examples.seeds.export FOLDER dbb_resnet18 focus
python -m examples.seeds.export tests/data/seeds --skeletons   # small inputs, no weights

Written are ``NAME.raw.onnx`` (every layer a node), ``NAME.half.onnx`` (the TorchScript exporter's
default, which folds a BN into the convolution right before it), ``NAME.twin.onnx`` (the merged
form), ``NAME.dynamo.onnx`` and ``NAME.dynamo_opt.onnx`` (the newer exporter, as it is and with its
default optimisation). Before a twin is written, both forms are compared in float64.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import logging
import lzma
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from examples.seeds.catalogue import SEEDS, Seed
from examples.zoo import skeleton
from examples.zoo.randomise import randomise

FORMS = ("raw", "half", "twin", "dynamo", "dynamo_opt")
_INPUT = "image"
_SCRIPT_OPSET = 17
_DYNAMO_OPSET = 18
_TOLERANCE = 1e-10


class NotEqualError(Exception):
    """The merged form does not compute what the training form does."""


def main() -> int:
    """Export what the command line names; returns 1 when an export failed."""
    options = _options()
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    failed = False
    for seed in _chosen(options):
        try:
            for form, model in exports(seed, _forms(seed, options)):
                write(model, options.folder, f"{seed.name}.{form}", options.skeletons)
                print(f"{seed.name}.{form}: {len(model.graph.node)} nodes", flush=True)
        except Exception:  # an exporter may raise anything; the other networks still run
            traceback.print_exc()
            print(f"{seed.name}: FAILED", flush=True)
            failed = True
    return int(failed)


def _chosen(options: argparse.Namespace) -> Iterator[Seed]:
    for seed in SEEDS:
        if options.names and seed.name not in options.names:
            continue
        if not options.skeletons:
            yield seed
        elif seed.small is not None:
            small = seed.small
            yield replace(seed, build=small.build or seed.build, shape=small.shape)


def _forms(seed: Seed, options: argparse.Namespace) -> Sequence[str]:
    return seed.small.forms if options.skeletons and seed.small else options.forms


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the models go")
    parser.add_argument("names", nargs="*", help="networks to export (default: all)")
    parser.add_argument("--skeletons", action="store_true", help="small, without weights, packed")
    parser.add_argument("--forms", default=",".join(FORMS), help="which forms (default: all)")
    options = parser.parse_intermixed_args()
    options.forms = options.forms.split(",")
    unknown = set(options.names) - {seed.name for seed in SEEDS} | set(options.forms) - set(FORMS)
    if unknown:
        parser.error(f"no such network or form: {', '.join(sorted(unknown))}")
    return options


def write(model: onnx.ModelProto, folder: Path, name: str, as_skeleton: bool) -> None:
    """Save ``model``; as a skeleton it is stripped in place and packed, as in `examples.zoo`."""
    if not as_skeleton:
        onnx.save(model, folder / f"{name}.onnx")
        return
    skeleton.strip(model)
    packed = model.SerializeToString(deterministic=True)
    (folder / f"{name}.onnx.xz").write_bytes(lzma.compress(packed, preset=9 | lzma.PRESET_EXTREME))


def exports(seed: Seed, forms: Sequence[str]) -> Iterator[tuple[str, onnx.ModelProto]]:
    """Build ``seed`` with parameters drawn by its name, and export it.

    Args:
        seed: What to build.
        forms: Which of `FORMS`; a network without a merged form has no twin.

    Yields:
        The form and the model.

    Raises:
        NotEqualError: The merged form computes something else.
    """
    number = int.from_bytes(hashlib.sha256(seed.name.encode()).digest()[:4], "little")
    torch.manual_seed(number)
    model = seed.build().eval()
    image = torch.randn(seed.shape)
    randomise(model, image, number)
    for form in forms:
        if form != "twin":
            yield form, _EXPORTERS[form](model, image)
        elif seed.merge is not None:
            yield form, _raw(merged(seed, model, image), image)


def merged(seed: Seed, model: nn.Module, image: Tensor) -> nn.Module:
    """The merged form of ``model`` in float32, merged and compared in float64.

    Raises:
        NotEqualError: The two forms do not agree on ``image``.
    """
    assert seed.merge is not None
    model.double()
    with torch.no_grad():
        twin = seed.merge(model)
        expected = _outputs(model(image.double()))
        got = _outputs(twin(image.double()))
    model.float()
    for before, after in zip(expected, got, strict=True):
        error = float((before - after).abs().max() / before.abs().max())
        if not error <= _TOLERANCE:
            raise NotEqualError(f"{seed.name}: the forms differ by {error:.1e} of the output")
    return twin.float()


def _outputs(output: Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
    return (output,) if isinstance(output, Tensor) else output


def _output_names(model: nn.Module, image: Tensor) -> list[str]:
    """The same names for every form, so that forms can be compared."""
    with torch.no_grad():
        return [f"output{index}" for index in range(len(_outputs(model(image))))]


def _raw(model: nn.Module, image: Tensor) -> onnx.ModelProto:
    return _by_script(model, image, torch.onnx.TrainingMode.PRESERVE)


def _half(model: nn.Module, image: Tensor) -> onnx.ModelProto:
    return _by_script(model, image, torch.onnx.TrainingMode.EVAL)


def _by_script(model: nn.Module, image: Tensor, mode: torch.onnx.TrainingMode) -> onnx.ModelProto:
    buffer = io.BytesIO()
    torch.onnx.export(
        model,
        (image,),
        buffer,
        dynamo=False,
        training=mode,
        do_constant_folding=mode is torch.onnx.TrainingMode.EVAL,
        opset_version=_SCRIPT_OPSET,
        input_names=[_INPUT],
        output_names=_output_names(model, image),
    )
    return onnx.load_model_from_string(buffer.getvalue())


def _dynamo(model: nn.Module, image: Tensor, optimised: bool = False) -> onnx.ModelProto:
    program = torch.onnx.export(
        model,
        (image,),
        dynamo=True,
        optimize=optimised,
        opset_version=_DYNAMO_OPSET,
        input_names=[_INPUT],
        output_names=_output_names(model, image),
        verbose=False,
    )
    return onnx.load_model_from_string(program.model_proto.SerializeToString())


_EXPORTERS = {
    "raw": _raw,
    "half": _half,
    "dynamo": _dynamo,
    "dynamo_opt": lambda model, image: _dynamo(model, image, True),
}


if __name__ == "__main__":
    sys.exit(main())
