"""The committed demonstration network and its scenes are what examples/demo/README.md says."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from examples.demo.evaluate import (
    MODEL,
    SCENE_FOLDER,
    Scene,
    class_iou,
    draw_scenes,
    load_scenes,
    mean_iou,
)
from examples.demo.scenes import (
    CALIBRATION_SEEDS,
    COMMITTED_SEEDS,
    FRESH_SEEDS,
    TRAINING_SEEDS,
    VALIDATION_SEEDS,
    draw_scene,
)
from examples.demo.street import CLASSES

REQUIRED_IOU = 0.85
MAX_BYTES = 3_000_000
# The first conv, one that a folded skip passes by, the decoder's ConvTranspose, the classifier.
ZEROED = (
    "stem.0.0.weight",
    "encode_quarter.0.branches.0.0.weight",
    "to_eighth.0.weight",
    "classifier.weight",
)


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return onnx.load(MODEL)


@pytest.fixture(scope="module")
def fresh_scenes() -> list[Scene]:
    return list(draw_scenes(FRESH_SEEDS[:60]))


def test_seed_ranges_do_not_overlap() -> None:
    ranges = (TRAINING_SEEDS, VALIDATION_SEEDS, COMMITTED_SEEDS, CALIBRATION_SEEDS, FRESH_SEEDS)
    assert len({seed for seeds in ranges for seed in seeds}) == sum(map(len, ranges))


def test_model_is_valid_and_small(model: onnx.ModelProto) -> None:
    onnx.checker.check_model(model, full_check=True)
    assert MODEL.stat().st_size <= MAX_BYTES


def test_signature(model: onnx.ModelProto) -> None:
    def signature(value: onnx.ValueInfoProto) -> tuple[str, int, list[str | int]]:
        kind = value.type.tensor_type
        return value.name, kind.elem_type, [d.dim_param or d.dim_value for d in kind.shape.dim]

    assert [signature(v) for v in model.graph.input] == [
        ("image", onnx.TensorProto.FLOAT, ["N", 3, 128, 128])
    ]
    assert [signature(v) for v in model.graph.output] == [
        ("logits", onnx.TensorProto.FLOAT, ["N", len(CLASSES), 128, 128])
    ]


def test_what_a_compiler_folds_is_all_there(model: onnx.ModelProto) -> None:
    nodes = list(model.graph.node)
    counts = Counter(node.op_type for node in nodes)
    assert counts["BatchNormalization"] >= 40
    assert counts["ConvTranspose"] == 1
    assert counts["Sub"] == counts["Div"] == 1
    modes = {a.s for n in nodes if n.op_type == "Resize" for a in n.attribute if a.name == "mode"}
    assert modes == {b"nearest", b"linear"}
    producer = {name: node for node in nodes for name in node.output}
    folding = next(node for node in nodes if node.op_type == "Transpose")
    (before,) = [producer[name] for name in folding.input]
    (after,) = [node for node in nodes if folding.output[0] in node.input]
    (conv,) = [node for node in nodes if after.output[0] in node.input]
    assert (before.op_type, after.op_type, conv.op_type) == ("Reshape", "Reshape", "Conv")
    groups = [a.i for n in nodes if n.op_type == "Conv" for a in n.attribute if a.name == "group"]
    assert max(groups) > 1
    linear_adds = [
        node
        for node in nodes
        if node.op_type == "Add"
        and {producer[name].op_type for name in node.input} <= {"Add", "BatchNormalization"}
    ]
    assert len(linear_adds) >= 20


def test_batch_statistics_are_trained(model: onnx.ModelProto) -> None:
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    norms = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    for norm in norms:
        mean, variance = (arrays[name] for name in norm.input[3:5])
        assert np.ptp(mean) > 0.0
        assert np.ptp(variance) > 0.0
        assert variance.min() > 0.0
        assert np.isfinite(variance).all()


def test_accuracy_on_fresh_scenes(fresh_scenes: list[Scene]) -> None:
    assert mean_iou(MODEL, fresh_scenes) >= REQUIRED_IOU


def test_accuracy_on_committed_scenes() -> None:
    assert mean_iou(MODEL, load_scenes(SCENE_FOLDER)) >= REQUIRED_IOU


@pytest.mark.parametrize("weight", ZEROED)
def test_accuracy_falls_without_one_weight(
    model: onnx.ModelProto, fresh_scenes: list[Scene], weight: str
) -> None:
    broken = onnx.ModelProto()
    broken.CopyFrom(model)
    (tensor,) = [t for t in broken.graph.initializer if t.name == weight]
    tensor.CopyFrom(
        numpy_helper.from_array(np.zeros_like(numpy_helper.to_array(tensor)), tensor.name)
    )
    scenes = fresh_scenes[:16]
    assert mean_iou(broken.SerializeToString(), scenes) < mean_iou(MODEL, scenes) - 0.05


def test_committed_scenes_equal_redrawn_ones() -> None:
    committed = list(load_scenes(SCENE_FOLDER))
    assert len(committed) == len(COMMITTED_SEEDS) == 8
    for seed, (image, labels) in zip(COMMITTED_SEEDS, committed, strict=True):
        drawn_image, drawn_labels = draw_scene(seed, 128, 128)
        np.testing.assert_array_equal(image, drawn_image)
        np.testing.assert_array_equal(labels, drawn_labels)


def test_every_class_is_committed() -> None:
    present = {int(label) for _, labels in load_scenes(SCENE_FOLDER) for label in np.unique(labels)}
    assert present == set(range(len(CLASSES)))


@pytest.mark.parametrize(("height", "width"), [(96, 96), (128, 256), (130, 70)])
def test_a_scene_can_be_drawn_at_any_size(height: int, width: int) -> None:
    image, labels = draw_scene(1, height, width)
    assert image.shape == (height, width, 3)
    assert labels.shape == (height, width)
    assert image.dtype == labels.dtype == np.uint8


def test_different_seeds_draw_different_scenes() -> None:
    first, second = draw_scene(1, 64, 64), draw_scene(2, 64, 64)
    assert (first[0] != second[0]).any()
    assert (first[1] != second[1]).any()


def test_iou_by_hand() -> None:
    # Class 0: 3 hits of 3 + 1 (missed) + 0; class 1: 2 hits of 2 + 0 + 1 (wrongly found); class 2
    # never occurs.
    counts = np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]], dtype=np.int64)
    np.testing.assert_allclose(class_iou(counts), [3 / 4, 2 / 3, np.nan])


def test_a_folder_without_pictures_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no \*-image\.png"):
        list(load_scenes(tmp_path))
