"""The machines: known by name, and what they decide about the same stage of a decoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxfold.cost.machines import ANY, MACHINES, MachineOptions, machine_named
from onnxfold.errors import BadOptionError
from onnxfold.optimization import OptimizeOptions, optimize
from onnxfold.optimization.options import for_target
from onnxfold.passes import presets
from onnxfold.pipeline.registry import Registry
from onnxfold.targets.target import TARGETS
from tests.cli.commands import onnxfold, saved
from tests.toolkit import integers, parse

REGISTRY = Registry(presets.BUILTIN)


def stage(up: int, skip: int, out: int, extent: int) -> onnx.ModelProto:
    """Nearest ×2, joined with an image of the encoder, and a 3×3."""
    return parse(
        f"g (float[1,{up},{extent},{extent}] x, float[1,{skip},{2 * extent},{2 * extent}] s)"
        ' => (float[] y) { u = Resize<mode="nearest", coordinate_transformation_mode="asymmetric",'
        ' nearest_mode="floor">(x, , scales) c = Concat<axis=1>(u, s)'
        " y = Conv<pads=[1,1,1,1]>(c, w) }",
        {
            "scales": np.array([1, 1, 2, 2], np.float32),
            "w": integers("w", out, up + skip, 3, 3),
        },
    )


def made_for(model: onnx.ModelProto, target: str, passes: Sequence[str] = ()) -> list[str]:
    """The operators that are left."""
    found = optimize(
        model,
        passes=REGISTRY.parse(",".join(passes)) if passes else None,
        options=OptimizeOptions(verify=False, target=target),
    )
    return sorted(node.op_type for node in found.model.graph)


AS_IT_CAME, FOLDED = ["Concat", "Conv", "Resize"], ["Add", "Conv", "ConvTranspose"]


@pytest.mark.parametrize(("sizes", "everywhere"), [
    ((512, 256, 256, 16), True),
    ((256, 128, 128, 32), True),
    ((64, 64, 32, 64), False),
    ((128, 64, 64, 64), False),
])  # fmt: skip
def test_a_stage_is_folded_where_it_gains(
    sizes: tuple[int, int, int, int], everywhere: bool
) -> None:
    """As measured: OpenVINO gains from all four, ONNX Runtime from those with many channels."""
    model = stage(*sizes)
    assert made_for(model, "openvino") == FOLDED
    assert made_for(model, "openvino", ["fold_upsample"]) == FOLDED
    for target in (ANY, "ort-cpu", "tensorrt"):
        assert made_for(model, target) == (FOLDED if everywhere else AS_IT_CAME)


def test_what_is_folded_for_one_target_computes_the_same() -> None:
    result = optimize(stage(8, 4, 4, 32), options=OptimizeOptions(target="openvino", threads=1))
    assert result.report.verdict is not None
    assert result.report.verdict.equal
    assert "ConvTranspose" in {node.op_type for node in result.model.graph}


def test_a_pass_may_be_told_alone() -> None:
    model = stage(64, 64, 32, 64)
    assert made_for(model, ANY, ["fold_linear:target=openvino"]) == FOLDED
    assert made_for(model, "ort-cpu", ["fold_linear:target=openvino"]) == FOLDED
    assert made_for(model, ANY, ["fold_linear"]) == AS_IT_CAME


def test_the_target_reaches_every_pass_that_asks_for_one_and_no_other() -> None:
    entries = for_target(REGISTRY.parse("fuse_bn,merge_sequential,insert_qdq"), "openvino")
    assert [getattr(each.options, "target", None) for each in entries] == [
        None,
        "openvino",
        "openvino",
    ]
    assert for_target(presets.DEFAULT, ANY) == for_target(for_target(presets.DEFAULT, ANY), ANY)


def test_every_target_of_int8_is_a_machine() -> None:
    assert set(MACHINES) == {ANY, *TARGETS}
    assert machine_named(ANY) == machine_named("ort-cpu")


@pytest.mark.parametrize("make", [
    lambda: machine_named("cuda"),
    lambda: MachineOptions("cuda"),
    lambda: OptimizeOptions(target="cuda"),
    lambda: REGISTRY.parse("fold_linear:target=cuda"),
])  # fmt: skip
def test_an_unknown_target_is_refused(make: object) -> None:
    assert callable(make)
    with pytest.raises(BadOptionError, match="there is no target 'cuda'"):
        make()


def test_the_command_takes_a_target(tmp_path: Path) -> None:
    source = saved(tmp_path / "in.onnx", stage(64, 64, 32, 64))
    words = ("optimize", source, "-o", tmp_path / "out.onnx", "--no-verify", "--target")
    assert onnxfold(*words, "openvino").code == 0
    model = onnx.load(tmp_path / "out.onnx")
    assert sorted(node.op_type for node in model.graph.node) == FOLDED
    refused = onnxfold(*words, "cuda")
    assert refused.code == 2
    assert "there is no target 'cuda'" in refused.stderr
