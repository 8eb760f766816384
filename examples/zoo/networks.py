"""The networks of the zoo: how each is built, and what is asked of its exports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torchvision_schemas  # isort: skip  # noqa: F401  before anything that imports torchvision
import segmentation_models_pytorch as smp
import timm
import torchvision
import transformers
from heads import LargeKernelNet, Picked, SemanticFpn, standardise_in_graph
from torch import nn
from ultralytics.nn.tasks import SegmentationModel, SemanticSegmentationModel

SCRIPT = "script"
SCRIPT_FROZEN = "script_frozen"
DYNAMO = "dynamo"
DYNAMO_OPT = "dynamo_opt"
BOTH = (SCRIPT, DYNAMO)
ALL = (SCRIPT, DYNAMO, DYNAMO_OPT)
EXPORTERS = (SCRIPT, SCRIPT_FROZEN, DYNAMO, DYNAMO_OPT)


@dataclass(frozen=True, slots=True)
class Network:
    """One network of the zoo.

    Attributes:
        name: File name stem.
        source: Package the network comes from; ``own`` for those of `heads`.
        family: What it is: ``classification``, ``segmentation`` or ``instance``.
        build: Makes the module, with random weights.
        shape: Input shape, [N, C, H, W], or [N, C, D, H, W] for video.
        exporters: Which exports to make.
        script_opset: Opset of the TorchScript exporter.
        dynamo_opset: Opset of the newer exporter.
        dynamic: Axes of the input left open: axis number and name.
        second_shape: For dynamic networks, another shape that the model must take.
    """

    name: str
    source: str
    family: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...] = (1, 3, 64, 64)
    exporters: tuple[str, ...] = BOTH
    script_opset: int = 17
    dynamo_opset: int = 18
    dynamic: tuple[tuple[int, str], ...] = ()
    second_shape: tuple[int, ...] | None = None


def _timm(model: str, **options: object) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(model, pretrained=False, num_classes=10, **options)


def _fastvit_fpn() -> nn.Module:
    backbone = timm.create_model("fastvit_sa12", pretrained=False, features_only=True)
    return SemanticFpn(backbone, backbone.feature_info.channels())


def _smp(decoder: str, encoder: str, **options: object) -> Callable[[], nn.Module]:
    return lambda: getattr(smp, decoder)(
        encoder_name=encoder, encoder_weights=None, classes=5, **options
    )


def _torchvision(model: str, **options: object) -> Callable[[], nn.Module]:
    return lambda: torchvision.models.get_model(model, weights=None, num_classes=10, **options)


def _torchvision_segmenter(model: str, auxiliary: bool | None = None) -> Callable[[], nn.Module]:
    return lambda: Picked(
        torchvision.models.get_model(
            model, weights=None, weights_backbone=None, num_classes=8, aux_loss=auxiliary
        ),
        "out",
    )


def _lraspp() -> nn.Module:
    model = torchvision.models.get_model(
        "lraspp_mobilenet_v3_large", weights=None, weights_backbone=None, num_classes=8
    )
    return Picked(model, "out")


def _segformer() -> nn.Module:
    config = transformers.SegformerConfig(num_labels=19)
    return Picked(transformers.SegformerForSemanticSegmentation(config), "logits")


def _mobilevit() -> nn.Module:
    config = transformers.MobileViTConfig(num_labels=21, hidden_sizes=[64, 80, 96])
    return Picked(transformers.MobileViTForSemanticSegmentation(config), "logits")


def _yolo(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        model = SegmentationModel(f"{name}.yaml", ch=3, nc=6, verbose=False)
        head = model.model[-1]
        head.export = True
        head.format = "onnx"
        return model

    return build


def _yolo_semantic() -> nn.Module:
    model = SemanticSegmentationModel("yolo26n-sem.yaml", ch=3, nc=6, verbose=False)
    head = model.model[-1]
    head.export = True
    head.format = "onnx"
    return model


_BATCH = (0, "batch")
_FREE = (_BATCH, (2, "height"), (3, "width"))

NETWORKS = (
    Network("repvgg_a0", "timm", "classification", _timm("repvgg_a0"), exporters=ALL),
    Network("mobileone_s0", "timm", "classification", _timm("mobileone_s0"), exporters=ALL),
    Network("fastvit_sa12_fpn", "timm", "segmentation", _fastvit_fpn, exporters=ALL),
    Network("segformer_b0", "transformers", "segmentation", _segformer),
    Network(
        "unet_resnet18",
        "segmentation_models_pytorch",
        "segmentation",
        _smp("Unet", "resnet18"),
        exporters=ALL,
        dynamic=_FREE,
        second_shape=(2, 3, 96, 128),
    ),
    Network(
        "deeplabv3plus_mobilenet_v2",
        "segmentation_models_pytorch",
        "segmentation",
        _smp("DeepLabV3Plus", "mobilenet_v2"),
        exporters=ALL,
    ),
    Network(
        "shufflenet_v2_x0_5",
        "torchvision",
        "classification",
        _torchvision("shufflenet_v2_x0_5"),
        exporters=ALL,
        script_opset=13,
    ),
    Network("yolov8n_seg", "ultralytics", "instance", _yolo("yolov8n-seg")),
    Network("lraspp_mobilenet_v3_large", "torchvision", "segmentation", _lraspp, script_opset=11),
    Network("repvit_m0_9", "timm", "classification", _timm("repvit_m0_9"), exporters=ALL),
    Network("repghostnet_050", "timm", "classification", _timm("repghostnet_050")),
    Network("fastvit_mci0", "timm", "classification", _timm("fastvit_mci0")),
    Network("ghostnet_100", "timm", "classification", _timm("ghostnet_100")),
    Network(
        "densenet121",
        "torchvision",
        "classification",
        _torchvision("densenet121"),
        exporters=ALL,
    ),
    Network("convnext_atto", "timm", "classification", _timm("convnext_atto")),
    Network(
        "mobilenetv3_small_100",
        "timm",
        "classification",
        _timm("mobilenetv3_small_100"),
        exporters=(SCRIPT, SCRIPT_FROZEN, DYNAMO),
    ),
    Network(
        "efficientnet_b0",
        "timm",
        "classification",
        _timm("efficientnet_b0"),
        exporters=ALL,
        dynamic=(_BATCH,),
        second_shape=(3, 3, 64, 64),
    ),
    Network("resnetv2_18", "timm", "classification", _timm("resnetv2_18")),
    Network(
        "resnetv2_50x1_bit",
        "timm",
        "classification",
        lambda: standardise_in_graph(_timm("resnetv2_50x1_bit")()),
    ),
    Network(
        "googlenet",
        "torchvision",
        "classification",
        _torchvision("googlenet", aux_logits=False, init_weights=False),
        shape=(1, 3, 96, 96),
    ),
    Network("inception_v3", "timm", "classification", _timm("inception_v3"), shape=(1, 3, 96, 96)),
    Network("hrnet_w18_small", "timm", "classification", _timm("hrnet_w18_small")),
    Network("efficientvit_b0", "timm", "classification", _timm("efficientvit_b0")),
    Network(
        "efficientformerv2_s0", "timm", "classification", _timm("efficientformerv2_s0", img_size=64)
    ),
    Network(
        "mobilenetv4_conv_small_050", "timm", "classification", _timm("mobilenetv4_conv_small_050")
    ),
    Network(
        "unet_mobilenet_v2",
        "segmentation_models_pytorch",
        "segmentation",
        _smp("Unet", "mobilenet_v2"),
        dynamic=_FREE,
        second_shape=(1, 3, 128, 64),
    ),
    Network(
        "unetplusplus_resnet18",
        "segmentation_models_pytorch",
        "segmentation",
        _smp("UnetPlusPlus", "resnet18"),
    ),
    Network(
        "unet_scse_resnet18",
        "segmentation_models_pytorch",
        "segmentation",
        _smp("Unet", "resnet18", decoder_attention_type="scse"),
    ),
    Network(
        "deeplabv3plus_resnet18",
        "segmentation_models_pytorch",
        "segmentation",
        _smp("DeepLabV3Plus", "resnet18"),
        dynamic=_FREE,
        second_shape=(2, 3, 128, 96),
    ),
    Network(
        "pspnet_resnet18",
        "segmentation_models_pytorch",
        "segmentation",
        _smp("PSPNet", "resnet18"),
        shape=(1, 3, 96, 96),
        exporters=ALL,
    ),
    Network(
        "fpn_resnet18",
        "segmentation_models_pytorch",
        "segmentation",
        _smp("FPN", "resnet18"),
        dynamic=_FREE,
        second_shape=(1, 3, 96, 64),
    ),
    Network(
        "linknet_mobilenet_v2",
        "segmentation_models_pytorch",
        "segmentation",
        _smp("Linknet", "mobilenet_v2"),
        exporters=ALL,
    ),
    Network(
        "manet_resnet18", "segmentation_models_pytorch", "segmentation", _smp("MAnet", "resnet18")
    ),
    Network(
        "pan_resnet18",
        "segmentation_models_pytorch",
        "segmentation",
        _smp("PAN", "resnet18"),
        shape=(1, 3, 128, 128),
    ),
    Network(
        "upernet_resnet18",
        "segmentation_models_pytorch",
        "segmentation",
        _smp("UPerNet", "resnet18"),
        shape=(1, 3, 192, 192),
    ),
    Network(
        "deeplabv3_mobilenet_v3_large",
        "torchvision",
        "segmentation",
        _torchvision_segmenter("deeplabv3_mobilenet_v3_large"),
    ),
    Network("fcn_resnet50", "torchvision", "segmentation", _torchvision_segmenter("fcn_resnet50")),
    Network("mobilevit_deeplab", "transformers", "segmentation", _mobilevit),
    Network("yolo26n_sem", "ultralytics", "segmentation", _yolo_semantic),
    Network(
        "levit_128s", "timm", "classification", _timm("levit_128s", img_size=64), exporters=ALL
    ),
    Network("efficientvit_m0", "timm", "classification", _timm("efficientvit_m0", img_size=64)),
    Network(
        "r2plus1d_18",
        "torchvision",
        "classification",
        _torchvision("r2plus1d_18"),
        shape=(1, 3, 4, 32, 32),
        # Unoptimised, the newer exporter (torch 2.13) gives a 3-D convolution a bias of rank 2,
        # which ONNX Runtime rejects.
        exporters=(SCRIPT, DYNAMO_OPT),
    ),
    Network("yolo11n_seg", "ultralytics", "instance", _yolo("yolo11n-seg")),
    Network("large_kernel_net", "own", "segmentation", LargeKernelNet, exporters=ALL),
)
