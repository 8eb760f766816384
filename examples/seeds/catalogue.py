"""The list of seeds: how each network is built, and how its authors merge it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from examples.seeds.acnet import acnet_resnet18
from examples.seeds.diverse_branch import (
    BlockStack,
    NormThenConcatPad,
    NormThenShiftedPad,
    dbb_mobilenet,
    dbb_resnet18,
)
from examples.seeds.ecbsr import EcbSr
from examples.seeds.edgesegnet import EdgeSegNet
from examples.seeds.espnet import EspNet
from examples.seeds.expandnet import ExpandNet
from examples.seeds.focus import FocusOrders, FocusTrunk
from examples.seeds.l3unet import L3UNet
from examples.seeds.merging import reparameterize
from examples.seeds.packaged import (
    fastvit_sa12_fpn,
    mobileclip_mci0,
    packaged,
    reparameterize_packaged,
)
from examples.seeds.qarepvgg import Yolov6Trunk
from examples.seeds.replknet import RepLKNet
from examples.seeds.sesr import Sesr
from examples.seeds.squeeze_unet import SqueezeUNet
from examples.seeds.swiftnet import MobileNetTaps, ResNetTaps, SwiftNet, SwiftNetPyramid
from examples.seeds.unireplknet import UniRepLKNet

_STREET = (1, 3, 256, 512)
_SMALL = (1, 3, 64, 64)


@dataclass(frozen=True, slots=True)
class Small:
    """How a network becomes a skeleton for the tests.

    Attributes:
        shape: Input shape, [N, C, H, W].
        build: Makes a narrower or shallower one; None for the network itself.
        forms: Which forms are stored. The half-folded form of a network that fills borders holds
            them as numbers which must fit the weights, so it makes no skeleton.
    """

    shape: tuple[int, ...] = (1, 3, 64, 64)
    build: Callable[[], nn.Module] | None = None
    forms: tuple[str, ...] = ("raw", "half", "twin", "dynamo")


@dataclass(frozen=True, slots=True)
class Seed:
    """One network.

    Attributes:
        name: File name stem.
        build: Makes the module in its training form, with random weights.
        merge: Copies a module into the form that its authors run; None where they have none.
        shape: Input shape, [N, C, H, W].
        small: How it becomes a skeleton; None where the tests need none.
    """

    name: str
    build: Callable[[], nn.Module]
    merge: Callable[[nn.Module], nn.Module] | None = None
    shape: tuple[int, ...] = (1, 3, 224, 224)
    small: Small | None = None


_BORDERS = ("raw", "twin", "dynamo")

SEEDS = (
    Seed("mobileone_s0", packaged("mobileone_s0"), reparameterize_packaged),
    Seed("dbb_mobilenet", dbb_mobilenet, reparameterize),
    Seed("dbb_resnet18", dbb_resnet18, reparameterize),
    Seed(
        "acnet_resnet18",
        acnet_resnet18,
        reparameterize,
        small=Small(build=lambda: acnet_resnet18(8)),
    ),
    Seed("qarepvgg_yolov6n", Yolov6Trunk, reparameterize, small=Small()),
    Seed("repvgg_a0", packaged("repvgg_a0"), reparameterize_packaged),
    Seed("repghostnet_100", packaged("repghostnet_100"), reparameterize_packaged),
    Seed("repvit_m0_9", packaged("repvit_m0_9"), reparameterize_packaged),
    Seed("mobileclip_mci0", mobileclip_mci0, reparameterize_packaged),
    Seed(
        "unireplknet_a",
        UniRepLKNet,
        reparameterize,
        small=Small(build=lambda: UniRepLKNet((8, 16, 32, 64), (1, 1, 2, 1))),
    ),
    Seed(
        "replknet", RepLKNet, reparameterize, small=Small(build=lambda: RepLKNet((8, 16, 32, 64)))
    ),
    Seed("fastvit_sa12_fpn", fastvit_sa12_fpn, reparameterize_packaged, _STREET),
    Seed("dbb_blocks", BlockStack, reparameterize, _SMALL, small=Small(forms=_BORDERS)),
    Seed(
        "dbb_blocks_shifted",
        lambda: BlockStack(NormThenShiftedPad),
        reparameterize,
        _SMALL,
        small=Small(forms=_BORDERS),
    ),
    Seed(
        "dbb_blocks_joined",
        lambda: BlockStack(NormThenConcatPad),
        reparameterize,
        _SMALL,
        small=Small(forms=_BORDERS),
    ),
    Seed("expandnet", ExpandNet, reparameterize, _STREET, small=Small()),
    Seed(
        "ecbsr",
        EcbSr,
        reparameterize,
        (1, 1, 128, 128),
        small=Small((1, 1, 16, 16), lambda: EcbSr(depth=1, width=8), _BORDERS),
    ),
    Seed("sesr", Sesr, reparameterize, (1, 1, 128, 128), small=Small((1, 1, 32, 32))),
    Seed("focus", FocusTrunk, reparameterize, small=Small()),
    Seed("focus_orders", FocusOrders, reparameterize, _SMALL, small=Small()),
    Seed("l3unet_2", lambda: L3UNet(2, stem=3), reparameterize, small=Small()),
    Seed("l3unet_4", lambda: L3UNet(4), reparameterize, small=Small()),
    Seed("l3unet_8", lambda: L3UNet(8), reparameterize, (1, 3, 256, 256), small=Small()),
    Seed("espnet", EspNet, shape=_STREET, small=Small()),
    Seed("edgesegnet", EdgeSegNet, shape=_STREET, small=Small()),
    Seed("squeeze_unet", SqueezeUNet, shape=_STREET, small=Small()),
    Seed("swiftnet_resnet18", lambda: SwiftNet(ResNetTaps()), shape=_STREET),
    Seed("swiftnet_mobilenet_v2", lambda: SwiftNet(MobileNetTaps()), shape=_STREET),
    Seed("swiftnet_pyramid", SwiftNetPyramid, shape=_STREET),
)
"""All seeds, those with a merged form first."""
