"""Models run on ONNX Runtime as it runs them, and without its fusions where these break them."""

import onnxruntime as ort

from onnxfold.quantize.evaluation import RuntimeModel
from tests.targets.emitted import emitted, feeds, normal, run, sqnr
from tests.toolkit import parse


def test_a_fusion_that_breaks_signed_integers_is_left_out() -> None:
    """A product with an addition behind it becomes a Gemm between Q/DQ of its own."""
    model = parse(
        "g (float[1,20,32] x) => (float[1,20,16] y) { r = Relu(x) m = MatMul(r, w) y = Add(m, b) }",
        {"w": normal("w", 32, 16, scale=0.2), "b": normal("b", 16)},
        opset=21,
        ir_version=10,
    )
    _, quantized = emitted(model, "tensorrt")
    loaded = RuntimeModel(quantized)
    assert isinstance(loaded.session, ort.InferenceSession)
    for feed in feeds(model):
        assert sqnr(run(model, feed)[0], loaded.run(feed)["y"]) > 25
