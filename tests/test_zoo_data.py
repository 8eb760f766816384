"""The stored networks themselves: they load, they run, and what the index says of them holds."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from tests import zoo

_LARGEST_OUTPUT = 1e3
_LARGEST_FOLDER = 2_500_000


def _session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _outputs(
    session: ort.InferenceSession, feeds: dict[str, npt.NDArray[np.float32]]
) -> list[npt.NDArray[np.float32]]:
    outputs = session.run(None, feeds)
    arrays = [each for each in outputs if isinstance(each, np.ndarray)]
    assert len(arrays) == len(outputs)
    return arrays


def test_the_zoo_holds_the_networks_the_project_is_about() -> None:
    networks = {zoo.entry(name).network for name in zoo.names()}
    wanted = {
        "deeplabv3plus_mobilenet_v2",
        "fastvit_sa12_fpn",
        "fpn_resnet18",
        "lraspp_mobilenet_v3_large",
        "mobileone_s0",
        "pspnet_resnet18",
        "repvgg_a0",
        "repvit_m0_9",
        "segformer_b0",
        "shufflenet_v2_x0_5",
        "unet_resnet18",
        "yolov8n_seg",
    }
    assert wanted <= networks
    assert len(networks) >= 26
    for exporter, least in (("script", 24), ("dynamo", 24), ("dynamo_opt", 8)):
        assert len(zoo.names(exporter)) >= least
    assert sum(bool(zoo.entry(name).dynamic) for name in zoo.names("dynamo")) >= 4


def test_the_folder_holds_what_the_index_names_and_stays_small() -> None:
    folder = zoo._FOLDER
    stored = {path.name.removesuffix(zoo._SUFFIX) for path in folder.glob(f"*{zoo._SUFFIX}")}
    assert stored == set(zoo.names())
    assert sum(path.stat().st_size for path in folder.iterdir()) < _LARGEST_FOLDER


def test_a_skeleton_holds_no_weights() -> None:
    skeleton = zoo.load_skeleton("repvgg_a0.script")
    missing = [
        tensor
        for tensor in skeleton.graph.initializer
        if tensor.data_location == onnx.TensorProto.EXTERNAL
    ]
    assert len(missing) > 100
    assert not any(tensor.raw_data or tensor.float_data for tensor in missing)


def test_weights_in_constant_nodes_are_left_out_and_drawn() -> None:
    name = "mobilenetv3_small_100.script_frozen"
    missing = [
        attribute.t
        for node in zoo.load_skeleton(name).graph.node
        for attribute in node.attribute
        if attribute.t.data_location == onnx.TensorProto.EXTERNAL
    ]
    assert len(missing) > 100
    drawn = zoo.load(name)
    assert len(drawn.graph.initializer) == 0
    assert drawn.ByteSize() > 1_000_000


@pytest.mark.parametrize("name", zoo.names())
def test_model_is_valid_and_runs(name: str) -> None:
    model = zoo.load(name)
    onnx.checker.check_model(model, full_check=True)
    known = zoo.entry(name)
    counts = Counter(node.op_type for node in model.graph.node)
    assert counts == known.nodes
    assert counts["BatchNormalization"] == known.batch_norms
    session = _session(model)
    for shape in range(len(known.shapes)):
        for output in _outputs(session, zoo.feeds(name, shape)):
            assert np.isfinite(output).all()
            assert np.abs(output).max() < _LARGEST_OUTPUT
            assert np.ptp(output) > 1e-3


@pytest.mark.parametrize("name", zoo.names("script"))
def test_same_bytes_twice(name: str) -> None:
    first, second = (zoo.load(name).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second


def test_same_bytes_on_every_machine() -> None:
    weights = hashlib.sha256()
    for tensor in zoo.load("shufflenet_v2_x0_5.script").graph.initializer:
        weights.update(tensor.raw_data)
    assert weights.hexdigest() == (
        "ce5f5dc8b8c75755c1fee677039c10121b6069da5ee81e587c70cab5a7dd17e3"
    )


@pytest.mark.parametrize("name", [name for name in zoo.names() if zoo.entry(name).batch_norms])
def test_batch_norms_are_not_trivial(name: str) -> None:
    model = zoo.load(name)
    held = {value: numpy_helper.to_array(each) for value, each in zoo._tensors(model.graph)}
    for node in model.graph.node:
        if node.op_type == "Identity" and node.input[0] in held:
            held[node.output[0]] = held[node.input[0]]
    for node in model.graph.node:
        if node.op_type != "BatchNormalization":
            continue
        gamma, beta, mean, variance = (held[value] for value in node.input[1:5])
        assert (gamma != 1).any()
        assert beta.any()
        assert mean.any()
        assert variance.min() > 0
        assert (variance != 1).any()


def test_some_gammas_are_negative() -> None:
    model = zoo.load("repvgg_a0.script")
    held = dict(zoo._tensors(model.graph))
    gammas = np.concatenate(
        [
            numpy_helper.to_array(held[node.input[1]])
            for node in model.graph.node
            if node.op_type == "BatchNormalization"
        ]
    )
    assert 0.04 < (gammas < 0).mean() < 0.12
