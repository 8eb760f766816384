"""From a calibration to the ranges and grids of a plan."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from onnxfold.calibrate.ranges import Method, select_range
from onnxfold.calibrate.scheme import Quantization, Range, quantization_of
from onnxfold.calibrate.statistics import Calibration
from onnxfold.errors import BadOptionError
from onnxfold.quantize.plan import Plan, Site


def ranges_of(plan: Plan, calibration: Calibration, method: Method) -> dict[str, Range]:
    """The range that `method` chooses for each value that the plan needs and was observed."""
    return {
        value: select_range(calibration.tensors[value], method, scheme)
        for value, scheme in plan.sources().items()
        if value in calibration.tensors
    }


def grids_of(plan: Plan, ranges: Mapping[str, Range]) -> dict[str, Quantization]:
    """Scale and zero point of every group of sites that holds values computed at run time.

    Raises:
        BadOptionError: A range is missing.
    """
    grids: dict[str, Quantization] = {}
    for name, sites in plan.groups().items():
        limits: Range | None = None
        for site in sites:
            if not site.is_source:
                continue
            found = _limits(site, ranges)
            limits = found if limits is None else limits.union(found)
        if limits is not None:
            grids[name] = _inside(quantization_of(limits, sites[0].scheme), sites[0].bounds)
    return grids


def _inside(grid: Quantization, bounds: Range | None) -> Quantization:
    """A grid that does not reach further than the bounds by rounding of its zero point.

    A runtime leaves out a Clip only where the rounded limits of the Clip lie outside the grid.
    """
    if bounds is None or bounds.low == 0.0:
        return grid
    return replace(grid, scale=np.float32(grid.scale * (1.0 - 2.0**-20)))


def _limits(site: Site, ranges: Mapping[str, Range]) -> Range:
    found, bounds = ranges.get(site.value), site.bounds
    if found is None:
        raise BadOptionError(
            f"the calibration says nothing about '{site.value}'",
            "calibrate again, for this model and this target",
        )
    if bounds is None:
        return found
    return Range(max(found.low, bounds.low), min(found.high, bounds.high))
