"""Models of old operator sets, and in float16, are brought to what INT8 needs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from onnxfold.errors import BadModelError
from onnxfold.ir.graph import opset_version
from onnxfold.model import load, to_proto
from onnxfold.quantization import QuantizeOptions, quantize
from onnxfold.quantization.adapted import refuse_changed, with_new_opset
from onnxfold.quantization.floats import read
from onnxfold.targets.layers import quantized_node
from tests.toolkit import parse, run_ort
from tests.verify.networks import conv_net

OPTIONS = QuantizeOptions(threads=1, seconds=0.01, force=True, max_drop=None)


def half_net(body: str, weight: NDArray[np.float16]) -> onnx.ModelProto:
    text = f"g (float16[1, 16, 8, 8] image) => (float16[1, 16, 8, 8] scores) {{ {body} }}"
    return parse(text, {"w": weight}, opset=17)


def half_weight() -> NDArray[np.float16]:
    return np.random.default_rng(0).normal(size=(16, 16, 3, 3)).astype(np.float16)


def pictures(dtype: type[np.generic], count: int = 4) -> list[dict[str, NDArray[np.generic]]]:
    draw = np.random.default_rng(1)
    return [{"image": draw.normal(size=(1, 16, 8, 8)).astype(dtype)} for _ in range(count)]


def test_an_old_operator_set_is_converted() -> None:
    model = parse(
        """
        g (float[1, 16, 8, 8] image) => (float[1, 16] scores) {
            made = Conv <pads = [1, 1, 1, 1]> (image, w)
            active = Relu (made)
            mean = GlobalAveragePool (active)
            scores = Squeeze <axes = [2, 3]> (mean)
        }
        """,
        {"w": half_weight().astype(np.float32)},
        opset=11,
        ir_version=6,
    )
    found = read(model, QuantizeOptions())
    assert opset_version(found.model) == 13
    assert found.notes == ("converted from operator set 11 to 13, and proven equal",)
    result = quantize(model, None, pictures(np.float32), target="ort-cpu", options=OPTIONS)
    assert found.notes[0] in result.report.notes
    assert quantized_node(load(result.model).model.graph) is not None
    feed = pictures(np.float32)[0]
    np.testing.assert_allclose(run_ort(result.model, feed)[0], run_ort(model, feed)[0], atol=0.1)


def test_what_needs_no_conversion_is_left_alone() -> None:
    found = read(conv_net(2, 8), QuantizeOptions())
    assert found.as_it_came is None
    assert not found.notes


def test_what_cannot_be_converted(tmp_path: Path) -> None:
    model = load(conv_net(1, 4)).model
    model.opset_imports[""] = 12
    model.graph[0].op_type = "Unheard"
    with pytest.raises(BadModelError, match=r"operator set 12, INT8 needs 13 or later"):
        with_new_opset(model)


@pytest.mark.parametrize("target", ["ort-cpu", "openvino", "tensorrt"])
def test_float16_keeps_its_inputs_and_outputs(target: str) -> None:
    model = half_net(
        "made = Conv <pads = [1, 1, 1, 1]> (image, w) scores = Relu (made)", half_weight()
    )
    result = quantize(model, None, pictures(np.float16), target=target, options=OPTIONS)
    assert result.report.int8_share == 1
    assert "converted from float16 to float32, but for inputs and outputs" in result.report.notes
    half = onnx.TensorProto.FLOAT16
    for value in (*result.model.graph.input, *result.model.graph.output):
        assert value.type.tensor_type.elem_type == half
    feed = pictures(np.float16)[0]
    before, after = run_ort(model, feed)[0], run_ort(result.model, feed)[0]
    assert after.dtype == np.float16
    assert np.abs(before.astype(np.float32) - after).max() < 0.05 * np.abs(before).max()


def test_everything_inside_becomes_float32() -> None:
    model = half_net(
        """
        made = Conv <pads = [1, 1, 1, 1]> (image, w)
                long = Cast <to = 1> (made)
        short = Cast <to = 10> (long)
        size = Shape (short)
        fill = ConstantOfShape (size)
        less = Cast <to = 10> (fill)
        sum = Add (short, less)
        scores = Mul (sum, sum)
        """,
        half_weight(),
    )
    found = read(model, QuantizeOptions())
    after = to_proto(found.model)
    onnx.checker.check_model(after, full_check=True)
    inner = [node for node in found.model.graph if node.name not in ("image.float32", "scores")]
    halves = [
        output.name
        for node in inner
        for output in node.outputs
        if output.dtype is ir.DataType.FLOAT16
    ]
    assert halves == []
    assert found.as_it_came is not None
    refuse_changed(found.as_it_came, after, 1)


def test_an_input_that_is_an_output_too() -> None:
    model = half_net("scores = Conv <pads = [1, 1, 1, 1]> (image, w)", half_weight())
    model.graph.output.append(model.graph.input[0])
    found = read(model, QuantizeOptions())
    assert [value.name for value in found.model.graph.outputs] == ["scores", "image"]
    assert found.as_it_came is not None
    refuse_changed(found.as_it_came, to_proto(found.model), 1)


def test_a_conversion_that_changes_the_model_is_refused() -> None:
    before, after = conv_net(2, 8), conv_net(2, 8)
    weight = onnx.numpy_helper.to_array(after.graph.initializer[0])
    after.graph.initializer[0].CopyFrom(
        onnx.numpy_helper.from_array(weight * 2, after.graph.initializer[0].name)
    )
    with pytest.raises(BadModelError, match="not the same in float32 and operator set 13"):
        refuse_changed(before, after, 1)
