"""Draw every parameter of a network so that folding is not trivial and activations stay of order 1.

A network fresh from its constructor has BN layers that do nothing (mean 0, variance 1, gamma 1,
beta 0), biases of zero and layer scales of 1e-6: a wrong fold would go unnoticed. Here all of them
are drawn. One forward pass then fixes the scales layer by layer: each convolution or linear weight
is divided by the root mean square of its output, and each running variance is drawn around the
mean square of what its layer receives.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)
_LINEAR = (nn.modules.conv._ConvNd, nn.Linear)
_SCALE_NAMES = ("layer_scale", "gamma", "scale")
_NEGATIVE_SHARE = 0.08


def randomise(model: nn.Module, image: Tensor, seed: int) -> None:
    """Draw the parameters and BN statistics of ``model`` in place.

    Args:
        model: Network in evaluation mode.
        image: Input used to fix the scales.
        seed: Seed of every draw.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        _draw_parameters(model, generator)
        _fix_scales(model, image, generator)


def _uniform(like: Tensor, low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(like.shape, generator=generator)


def _draw_parameters(model: nn.Module, generator: torch.Generator) -> None:
    done: set[int] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in done or not parameter.requires_grad:
                continue
            done.add(id(parameter))
            parameter.copy_(_drawn(module, name, parameter, generator))


def _drawn(module: nn.Module, name: str, parameter: Tensor, generator: torch.Generator) -> Tensor:
    if isinstance(module, _NORMS) and name == "weight":
        gain = _uniform(parameter, 0.5, 1.5, generator)
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            flips = torch.rand(parameter.shape, generator=generator) < _NEGATIVE_SHARE
            gain = torch.where(flips, -gain, gain)
        return gain
    if isinstance(module, _LINEAR) and name == "weight":
        return _uniform(parameter, -1.0, 1.0, generator)
    if any(part in name for part in _SCALE_NAMES):
        return _uniform(parameter, 0.1, 1.0, generator)
    return _uniform(parameter, -0.2, 0.2, generator)


def _fix_scales(model: nn.Module, image: Tensor, generator: torch.Generator) -> None:
    fixed: set[nn.Module] = set()

    def before_norm(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if module in fixed or module.running_var is None:
            return
        fixed.add(module)
        power = float(inputs[0].square().mean().clamp_min(1e-4))
        module.running_var.copy_(power * _uniform(module.running_var, 0.5, 1.5, generator))
        module.running_mean.copy_(power**0.5 * _uniform(module.running_mean, -0.3, 0.3, generator))

    def after_linear(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Any:
        if module in fixed or not module.weight.requires_grad:
            return None
        fixed.add(module)
        module.weight.div_(output.square().mean().sqrt().clamp_min(1e-4))
        return module.forward(*inputs)

    handles = []
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            handles.append(module.register_forward_pre_hook(before_norm))
        elif isinstance(module, _LINEAR):
            handles.append(module.register_forward_hook(after_linear))
    model(image)
    for handle in handles:
        handle.remove()
