"""Two small networks that take the same image, one four times the work of the other."""

import numpy as np
import onnx
import onnx.parser
from numpy.typing import NDArray

from tests.verify.networks import conv_net, folded

NET = conv_net(2, 8, dims=("N", 3, "H", "W"))
FOLDED = folded(NET)
DEEP = conv_net(8, 8, dims=("N", 3, "H", "W"))
FEED: dict[str, NDArray[np.float32]] = {
    "x": np.random.default_rng(0).standard_normal((1, 3, 24, 24)).astype(np.float32)
}


def parsed(body: str, opset: int = 17) -> onnx.ModelProto:
    """A model from ONNX text without its header."""
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> g {body}')
