"""The networks that timm has in their training form, with its own re-parameterization.

Small exports of the same networks are in `examples/zoo`.
"""

from __future__ import annotations

from collections.abc import Callable

from examples.zoo import torchvision_schemas  # isort: skip  # noqa: F401  before timm
import timm
import torch
from timm.utils.model import reparameterize_model
from torch import nn

from examples.seeds.semantic_fpn import SemanticFpn


def packaged(name: str) -> Callable[[], nn.Module]:
    """Makes timm's model of this name, with random weights."""
    return lambda: timm.create_model(name, pretrained=False, num_classes=10)


def mobileclip_mci0() -> nn.Module:
    """The image tower of MobileCLIP-S0 as a backbone: its four feature maps."""
    return timm.create_model("fastvit_mci0", pretrained=False, features_only=True)


def fastvit_sa12_fpn() -> nn.Module:
    """FastViT-SA12 under a semantic FPN decoder."""
    backbone = timm.create_model("fastvit_sa12", pretrained=False, features_only=True)
    return SemanticFpn(backbone, backbone.feature_info.channels())


def reparameterize_packaged(model: nn.Module) -> nn.Module:
    """A copy of ``model`` as timm re-parameterizes it."""
    before = torch.get_default_dtype()
    # Some of timm's blocks make their merged layer in the default dtype, whatever theirs is.
    torch.set_default_dtype(next(model.parameters()).dtype)
    try:
        return reparameterize_model(model).eval()
    finally:
        torch.set_default_dtype(before)
