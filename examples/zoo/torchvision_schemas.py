"""Make torchvision importable beside a PyTorch build its C++ extension was not compiled for.

A torchvision wheel from the package index expects the PyTorch of the same index; beside a CPU-only
PyTorch its extension does not load, and the import then stops at the first meta kernel registered
for an operator that nobody declared. The models of the zoo call none of these operators, so their
schemas are enough: import this module before anything that imports torchvision.
"""

from __future__ import annotations

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "roi_align(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height,"
    " SymInt pooled_width, int sampling_ratio, bool aligned) -> Tensor",
    "roi_pool(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height,"
    " SymInt pooled_width) -> (Tensor, Tensor)",
    "deform_conv2d(Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias,"
    " SymInt stride_h, SymInt stride_w, SymInt pad_h, SymInt pad_w, SymInt dilation_h,"
    " SymInt dilation_w, SymInt groups, SymInt offset_groups, bool use_mask) -> Tensor",
)


def declare() -> torch.library.Library | None:
    """Declare the operators that importing torchvision refers to, unless they exist.

    Returns:
        The library that owns the declarations (they live as long as it does), or None when the
        operators were there already.
    """
    if hasattr(torch.ops.torchvision, "nms"):
        return None
    library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        library.define(schema)
    return library


LIBRARY = declare()
