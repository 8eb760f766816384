"""Finds the layer in which NaN or infinity first appears."""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from onnxfold.calibrate.collect import Feed, NonFiniteError, Observer
from onnxfold.calibrate.instrument import instrument
from onnxfold.errors import BadModelError, BadOptionError, OnnxfoldError
from onnxfold.ir.graph import describe
from onnxfold.model import LoadedModel


def explained(error: NonFiniteError, loaded: LoadedModel, feed: Feed, sample: str) -> OnnxfoldError:
    """What to tell the user: the sample is at fault, or the first layer in topological order.

    Args:
        error: Where it was noticed.
        loaded: The model.
        feed: The sample.
        sample: What the sample is called.
    """
    broken = _broken_input(feed)
    if broken is not None:
        return BadOptionError(
            f"{sample} holds NaN or infinity in {broken}", "leave it out, or prepare it otherwise"
        )
    # Fused layers are not there to be blamed, so the graph runs as it is written.
    everything = Observer(instrument(loaded), optimized=False)
    try:
        everything.observe([(error.index, feed)])
        name = error.value
    except NonFiniteError as first:
        name = first.value
    return BadModelError(
        f"{_layer(loaded, name)} gives NaN or infinity on {sample}",
        "no integers can stand for it: check the weights there, or how samples are prepared",
    )


def _broken_input(feed: Mapping[str, np.ndarray]) -> str | None:
    return next(
        (
            name
            for name, array in feed.items()
            if np.asarray(array).dtype.kind == "f" and not np.isfinite(array).all()
        ),
        None,
    )


def _layer(loaded: LoadedModel, name: str) -> str:
    producing = {output.name: node for node in loaded.model.graph for output in node.outputs}
    node: ir.Node | None = producing.get(name)
    return f"the input {name}" if node is None else f"the layer {describe(node)}"
