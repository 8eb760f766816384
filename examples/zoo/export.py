"""Export the networks of the zoo to ONNX, whole or as skeletons without weights.

python examples/zoo/export.py --full out/                     # every network, with weights
python examples/zoo/export.py --skeletons tests/data/zoo      # what the tests read
python examples/zoo/export.py --full out/ repvgg_a0 yolov8n_seg
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import logging
import lzma
import sys
import traceback
import warnings
from collections import Counter
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import networks
import onnx
import randomise
import skeleton
import torch
from torch import nn

_INPUT = "image"
_INDEX = "index.json"


def main() -> int:
    """Export what the command line names; returns 1 when an export failed."""
    options = _options()
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    failed = 0
    for network in networks.NETWORKS:
        if options.names and network.name not in options.names:
            continue
        for exporter in network.exporters:
            if options.exporter in (None, exporter):
                failed |= not _write(_sized(network, options.size), exporter, options)
    return int(failed)


def _sized(network: networks.Network, size: int | None) -> networks.Network:
    if size is None:
        return network
    return replace(network, shape=(*network.shape[:-2], size, size))


def _write(network: networks.Network, exporter: str, options: argparse.Namespace) -> bool:
    name = f"{network.name}.{exporter}"
    try:
        model = export(network, exporter)
    except Exception:  # an exporter may raise anything; the other exports still run
        traceback.print_exc()
        print(f"{name}: FAILED", flush=True)
        return False
    print(f"{name}: {len(model.graph.node)} nodes", flush=True)
    if options.full:
        options.full.mkdir(parents=True, exist_ok=True)
        onnx.save(model, options.full / f"{name}.onnx")
    if options.skeletons:
        write_skeleton(model, network, exporter, options.skeletons)
    return True


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="networks to export (default: all)")
    parser.add_argument("--exporter", choices=networks.EXPORTERS, help="only this exporter")
    parser.add_argument("--full", type=Path, help="folder for the models with their weights")
    parser.add_argument("--skeletons", type=Path, help="folder for the skeletons")
    parser.add_argument("--size", type=int, help="height and width (default: the small one listed)")
    options = parser.parse_args()
    unknown = set(options.names) - {each.name for each in networks.NETWORKS}
    if unknown:
        parser.error(f"no such network: {', '.join(sorted(unknown))}")
    if not (options.full or options.skeletons):
        parser.error("give --full DIR, --skeletons DIR, or both")
    return options


def export(network: networks.Network, exporter: str) -> onnx.ModelProto:
    """Build ``network`` from its seed and export it.

    Args:
        network: What to build.
        exporter: ``script`` (TorchScript, BN preserved, nothing folded), ``script_frozen`` (the
            same of a frozen trace: the weights are Constant nodes), ``dynamo`` (the newer exporter,
            not optimised) or ``dynamo_opt`` (the newer exporter's default).
    """
    seed = int.from_bytes(hashlib.sha256(network.name.encode()).digest()[:4], "little")
    torch.manual_seed(seed)
    model = network.build().eval()
    image = torch.randn(network.shape)
    randomise.randomise(model, image, seed)
    if exporter == networks.SCRIPT_FROZEN:
        with torch.no_grad():
            trace = torch.jit.trace(model, (image,))
        return _by_script(torch.jit.freeze(trace, optimize_numerics=False), image, network)
    if exporter == networks.SCRIPT:
        return _by_script(model, image, network)
    return _by_dynamo(model, image, network, exporter == networks.DYNAMO_OPT)


def _by_script(model: nn.Module, image: torch.Tensor, network: networks.Network) -> onnx.ModelProto:
    buffer = io.BytesIO()
    torch.onnx.export(
        model,
        (image,),
        buffer,
        dynamo=False,
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
        opset_version=network.script_opset,
        input_names=[_INPUT],
        dynamic_axes={_INPUT: dict(network.dynamic)} if network.dynamic else None,
    )
    return onnx.load_model_from_string(buffer.getvalue())


def _by_dynamo(
    model: nn.Module, image: torch.Tensor, network: networks.Network, optimised: bool
) -> onnx.ModelProto:
    # Tracing with a batch of one would fix the batch: the exporter takes 1 for a constant.
    if network.dynamic:
        image = torch.cat([image, image])
    program = torch.onnx.export(
        model,
        (image,),
        dynamo=True,
        optimize=optimised,
        opset_version=network.dynamo_opset,
        input_names=[_INPUT],
        dynamic_shapes=({axis: torch.export.Dim(name) for axis, name in network.dynamic},)
        if network.dynamic
        else None,
        verbose=False,
    )
    return onnx.load_model_from_string(program.model_proto.SerializeToString())


def write_skeleton(
    model: onnx.ModelProto, network: networks.Network, exporter: str, folder: Path
) -> None:
    """Strip ``model``, write it compressed into ``folder``, and enter it in the index there."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{network.name}.{exporter}"
    skeleton.strip(model)
    packed = lzma.compress(
        model.SerializeToString(deterministic=True), preset=9 | lzma.PRESET_EXTREME
    )
    (folder / f"{name}.onnx.xz").write_bytes(packed)
    index_path = folder / _INDEX
    index = json.loads(index_path.read_text()) if index_path.exists() else {}
    index[name] = _entry(model, network, exporter)
    lines = [f"{json.dumps(key)}: {json.dumps(index[key])}" for key in sorted(index)]
    index_path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def _entry(model: onnx.ModelProto, network: networks.Network, exporter: str) -> dict[str, object]:
    counts = Counter(node.op_type for node in model.graph.node)
    source = "torch" if network.source == "own" else network.source
    shapes = [network.shape, *([network.second_shape] if network.second_shape else [])]
    return {
        "network": network.name,
        "exporter": exporter,
        "family": network.family,
        "source": network.source,
        "versions": {each: version(each) for each in sorted({"torch", source})},
        "opset": next(each.version for each in model.opset_import if not each.domain),
        "shapes": [{_INPUT: list(shape)} for shape in shapes],
        "dynamic": [axis for _, axis in network.dynamic],
        "batch_norms": counts["BatchNormalization"],
        "nodes": dict(sorted(counts.items())),
    }


if __name__ == "__main__":
    sys.exit(main())
