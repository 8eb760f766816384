"""What a model must be fed, and which of its inputs is an image."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxfold.calibrate.images import Layout
from onnxfold.errors import BadOptionError
from onnxfold.ir.graph import input_at, int_attribute, ints_attribute, is_op
from onnxfold.ir.shapes import static_shape

Extent = int | str | None

_IMAGE_CHANNELS = (1, 3)
_FLOATS = (np.dtype(np.float32), np.dtype(np.float16), np.dtype(np.float64))
_PASSED = ("Identity", "Cast", "Sub", "Add", "Mul", "Div", "Clip", "Pad", "Resize")
"""Operators that leave every channel where it is."""


@dataclass(frozen=True, slots=True)
class FedInput:
    """An input that a caller must give.

    Attributes:
        name: Its name.
        dtype: numpy's type for it; None where it is no tensor of numbers.
        dims: Declared extents: a number, a symbol, or None; None as a whole without a rank.
    """

    name: str
    dtype: np.dtype[Any] | None
    dims: tuple[Extent, ...] | None

    @property
    def declared(self) -> str:
        """The declared shape in words."""
        if self.dims is None:
            return "of any shape"
        return "x".join("?" if dim is None else str(dim) for dim in self.dims) or "scalar"


@dataclass(frozen=True, slots=True)
class ImageInput:
    """The input that takes images.

    Attributes:
        name: Its name.
        dtype: numpy's type for it.
        layout: Where its channels are.
        batch: Images in one feed; 1 where the axis is open.
        channels: 1 or 3.
        size: Height and width; None where they are open.
    """

    name: str
    dtype: np.dtype[Any]
    layout: Layout
    batch: int
    channels: int
    size: tuple[int | None, int | None]

    @property
    def takes_pixels(self) -> bool:
        """Whether its type is an integer, so that pixels are fed as they are."""
        return self.dtype.kind in "iu"

    @property
    def channel_axis(self) -> int:
        """The axis of the channels."""
        return 1 if self.layout is Layout.NCHW else 3

    def dims(self, declared: tuple[Extent, ...] | None) -> tuple[Extent, ...]:
        """The declared extents, with the channels filled in."""
        dims = list(declared or (None,) * 4)
        dims[self.channel_axis] = self.channels
        return tuple(dims)


def fed_inputs(model: ir.Model, image: ImageInput | None) -> tuple[FedInput, ...]:
    """The inputs without a default, in order; what is known of the image's channels counts."""
    inputs = (
        FedInput(value.name or "", _dtype(value), _dims(value))
        for value in model.graph.inputs
        if not value.is_initializer()
    )
    return tuple(
        replace(each, dims=image.dims(each.dims)) if image and each.name == image.name else each
        for each in inputs
    )


def find_image_input(model: ir.Model, wanted: str | None) -> ImageInput | None:
    """The input that takes images: rank 4, with one or three channels, of a type for pixels.

    Args:
        model: The model.
        wanted: Its name, where the model has several.

    Returns:
        None when the model has none.

    Raises:
        BadOptionError: There is no input called `wanted`, it takes no images, or several inputs
            do and none is named.
    """
    values = {value.name or "": value for value in model.graph.inputs if not value.is_initializer()}
    if wanted is not None and wanted not in values:
        raise BadOptionError(
            f"the model has no input {wanted}", f"its inputs are {', '.join(values)}"
        )
    chosen = [values[wanted]] if wanted is not None else list(values.values())
    found = [image for image in map(_as_image, chosen) if image is not None]
    if len(found) > 1:
        names = ", ".join(image.name for image in found)
        raise BadOptionError(
            f"{len(found)} inputs of the model take images: {names}",
            "name the one that the samples are for with --input",
        )
    if wanted is not None and not found:
        (fed,) = (each for each in fed_inputs(model, None) if each.name == wanted)
        raise BadOptionError(
            f"input {wanted} takes no images: it is {fed.dtype} {fed.declared}",
            "an image input has 4 axes, and 1 or 3 channels; give other data as .npy or .npz",
        )
    return found[0] if found else None


def _dtype(value: ir.Value) -> np.dtype[Any] | None:
    if value.dtype is None or not isinstance(value.type, ir.TensorType):
        return None
    if value.dtype in (ir.DataType.STRING, ir.DataType.UNDEFINED):
        return None
    return np.dtype(value.dtype.numpy())


def _dims(value: ir.Value) -> tuple[Extent, ...] | None:
    if value.shape is None:
        return None
    return tuple(dim if isinstance(dim, int) else dim.value for dim in value.shape)


def _as_image(value: ir.Value) -> ImageInput | None:
    dtype, dims = _dtype(value), _dims(value)
    if dtype is None or not _holds_pixels(dtype) or (dims is not None and len(dims) != 4):
        return None
    axis, channels = _channels(value, dims or (None,) * 4)
    if channels not in _IMAGE_CHANNELS:
        return None
    layout = Layout.NCHW if axis == 1 else Layout.NHWC
    extents = [dim if isinstance(dim, int) else None for dim in dims or (None,) * 4]
    height, width = extents[2:] if layout is Layout.NCHW else extents[1:3]
    return ImageInput(value.name or "", dtype, layout, extents[0] or 1, channels, (height, width))


def _holds_pixels(dtype: np.dtype[Any]) -> bool:
    return dtype in _FLOATS or (dtype.kind in "iu" and int(np.iinfo(dtype).max) >= 255)


def _channels(value: ir.Value, dims: tuple[Extent, ...]) -> tuple[int, int | None]:
    """The channel axis and its extent; None where neither shape nor convolution tells."""
    for axis in (1, 3):
        extent = dims[axis]
        if isinstance(extent, int) and extent in _IMAGE_CHANNELS:
            return axis, extent
    axis, channels = _of_first_convolution(value)
    fits = dims[axis] is None or isinstance(dims[axis], str) or dims[axis] == channels
    return axis, channels if fits else None


def _of_first_convolution(value: ir.Value) -> tuple[int, int | None]:
    """The input's axis that the first convolution takes for channels, and how many it takes."""
    axes = (0, 1, 2, 3)
    while (node := next_node(value)) is not None:
        if is_op(node, "Conv"):
            weight = static_shape(input_at(node, 1))
            if weight is None or len(weight) != 4 or node.inputs[0] is not value:
                break
            return axes[1], weight[1] * int_attribute(node, "group", 1)
        if is_op(node, "Transpose"):
            order = ints_attribute(node, "perm", (3, 2, 1, 0))
            if len(order) != 4:
                break
            axes = (axes[order[0]], axes[order[1]], axes[order[2]], axes[order[3]])
        elif not is_op(node, *_PASSED):
            break
        value = node.outputs[0]
    return 1, None


def next_node(value: ir.Value) -> ir.Node | None:
    """The one node that reads the numbers of `value`; None when there are several or none.

    Exporters let the last Resize ask for the shape of the input: that reads no numbers.
    """
    if value.is_graph_output():
        return None
    readers = {reader for reader, _ in value.uses() if not is_op(reader, "Shape", "Size")}
    if len(readers) != 1:
        return None
    (reader,) = readers
    return reader if reader.graph is value.graph and reader.outputs else None
