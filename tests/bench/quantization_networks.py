"""What `tests.bench.quantization` compares: ten networks, their inputs, and who quantizes them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from examples.demo.evaluate import MODEL, SIZE
from examples.demo.scenes import CALIBRATION_SEEDS, FRESH_SEEDS, draw_scene
from tests import zoo

Array = npt.NDArray[Any]

TRAINED = "demo"
NETWORKS: Mapping[str, str] = {
    TRAINED: "demonstration (trained)",
    "repvgg_a0": "RepVGG-A0",
    "mobileone_s0": "MobileOne-S0",
    "deeplabv3plus_resnet18": "DeepLabV3+ R18",
    "unet_resnet18": "U-Net R18",
    "fpn_resnet18": "FPN R18",
    "unet_mobilenet_v2": "U-Net MobileNetV2",
    "deeplabv3plus_mobilenet_v2": "DeepLabV3+ MobileNetV2",
    "segformer_b0": "SegFormer-B0",
    "fastvit_sa12_fpn": "FastViT-SA12 + FPN",
}
"""What is measured, and what it is called in tables."""

TARGETS: Mapping[str, str] = {"ort": "ort-cpu", "openvino": "openvino"}
FLOAT, BFLOAT = "float32", "bfloat16"
OURS, UNMERGED = "onnxfold", "onnxfold-unmerged"

_PEERS: Mapping[str, tuple[str, ...]] = {
    "ort": ("ort-u8s8", "ort-s8s8", "nncf-performance", "nncf-mixed"),
    "openvino": ("nncf-performance", "nncf-mixed", "nncf-ir-performance", "nncf-ir-mixed"),
}
_FOR_TRANSFORMERS: Mapping[str, tuple[str, ...]] = {
    "ort": ("nncf-transformer", "nncf-transformer-plain"),
    "openvino": ("nncf-transformer", "nncf-transformer-plain", "nncf-ir-transformer"),
}
_CLASSIFIERS = ("repvgg_a0", "mobileone_s0")
_TRANSFORMERS = ("segformer_b0", "fastvit_sa12_fpn")

_MEAN, _DEVIATION = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))


def peers(network: str, runtime: str) -> tuple[str, ...]:
    """The recipes of `quantization_peers` whose models of a network run on a runtime."""
    more = _FOR_TRANSFORMERS[runtime] if network in _TRANSFORMERS else ()
    return (*_PEERS[runtime], *more)


def suffix(recipe: str) -> str:
    """Of the file that a recipe makes."""
    return ".xml" if recipe.startswith("nncf-ir") else ".onnx"


@dataclass(frozen=True, slots=True)
class Inputs:
    """Pictures for a network, and what they show.

    Attributes:
        images: float32, [samples, 3, height, width].
        truth: True labels [samples, height, width], where the network was trained on them.
    """

    images: Array
    truth: Array | None


@dataclass(frozen=True)
class Network:
    """A float model with the inputs that it is calibrated with and judged by.

    Attributes:
        name: As in `NETWORKS`.
        exports: Folder with exports of the zoo's networks at another size; those that are not
            there are the zoo's own.
        size: Height and width where a model leaves them open.
    """

    name: str
    exports: Path | None = None
    size: int = 256

    @property
    def is_trained(self) -> bool:
        """Whether its weights are trained; they are drawn otherwise."""
        return self.name == TRAINED

    @property
    def is_classifier(self) -> bool:
        """Whether it gives one label for a whole picture."""
        return self.name in _CLASSIFIERS

    @cached_property
    def source(self) -> onnx.ModelProto:
        """The model as it was exported."""
        if self.is_trained:
            return onnx.load(MODEL)
        file = None if self.exports is None else self.exports / f"{self.name}.script.onnx"
        return onnx.load(file) if file is not None and file.exists() else self._from_zoo()

    def _from_zoo(self) -> onnx.ModelProto:
        return zoo.load(f"{self.name}.script")

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Of its only input."""
        if self.is_trained:
            return (1, 3, SIZE, SIZE)
        dims = self.source.graph.input[0].type.tensor_type.shape.dim
        edges = tuple(dim.dim_value or self.size for dim in dims[2:])
        return (1, 3, *edges)

    @property
    def input_name(self) -> str:
        """The name of the input."""
        return self.source.graph.input[0].name

    def for_calibration(self, count: int) -> Inputs:
        """Inputs to calibrate with."""
        return self._drawn(CALIBRATION_SEEDS[:count])

    def unseen(self, count: int) -> Inputs:
        """Others to judge by."""
        return self._drawn(FRESH_SEEDS[:count])

    def feeds(self, inputs: Inputs) -> Iterator[dict[str, Array]]:
        """Inputs as a runtime takes them, one by one."""
        return feeds(self.input_name, inputs.images)

    def _drawn(self, seeds: Sequence[int]) -> Inputs:
        scenes = [draw_scene(seed, *self.shape[2:]) for seed in seeds]
        images = np.stack([image for image, _ in scenes]).astype(np.float64)
        if not self.is_trained:  # the demonstration network normalises by itself
            images = (images / 255.0 - _MEAN) / _DEVIATION
        truth = np.stack([labels for _, labels in scenes]) if self.is_trained else None
        return Inputs(images.transpose(0, 3, 1, 2).astype(np.float32), truth)


def feeds(name: str, images: Array) -> Iterator[dict[str, Array]]:
    """Each image alone, for the input called `name`."""
    return ({name: np.ascontiguousarray(each[None])} for each in images)
