"""fold_upsample: nearest upsampling goes into the kernel behind it where that is cheaper."""

import numpy as np
import onnx
import pytest

from tests.toolkit import folds, integers, parse, rewritten, run_ort, unchanged

SCALES = np.array([1, 1, 2, 2], np.float32)
FLOOR = 'mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"'


def upsampled(
    resize: str = f"Resize<{FLOOR}>(x, , scales)", conv: str = "Conv<pads=[1,1,1,1]>(u, w, b)",
    channels: int = 256, extents: str = "16,16", scales: np.ndarray = SCALES,
    outputs: str = "float[] y",
) -> onnx.ModelProto:  # fmt: skip
    weights = {
        "scales": scales,
        "w": integers("w", 64, channels, 3, 3),
        "b": integers("b", 64),
    }
    body = f"u = {resize} y = {conv}"
    return parse(f"g (float[N,{channels},{extents}] x) => ({outputs}) {{ {body} }}", weights)


@pytest.mark.parametrize("mode", [
    FLOOR,
    'mode="nearest", coordinate_transformation_mode="half_pixel", nearest_mode="round_prefer_ceil"',
    'mode="nearest", coordinate_transformation_mode="half_pixel"',
    FLOOR.replace('nearest_mode="floor"', 'nearest_mode="round_prefer_floor"'),
])  # fmt: skip
def test_with_many_channels(mode: str) -> None:
    folds(upsampled(f"Resize<{mode}>(x, , scales)"), "fold_upsample", ops={"ConvTranspose": 1})


@pytest.mark.parametrize(("factors", "conv"), [
    ((3, 2), "Conv<pads=[1,1,1,1]>(u, w, b)"),
    ((2, 2), "Conv<pads=[0,2,1,0]>(u, w, b)"),
    ((4, 4), "Conv<pads=[2,2,2,2], dilations=[2,2]>(u, w, b)"),
])  # fmt: skip
def test_any_factor_and_any_pads(factors: tuple[int, int], conv: str) -> None:
    scales = np.array([1, 1, *factors], np.float32)
    folds(upsampled(conv=conv, scales=scales), "fold_upsample", ops={"ConvTranspose": 1})


def test_dynamic_extents() -> None:
    model = upsampled(extents="H,W")
    after, _ = rewritten(model, ["fold_upsample"])
    assert [node.op_type for node in after.graph.node] == ["ConvTranspose"]
    for size in ((3, 4), (1, 1), (5, 2)):
        feed = {"x": integers("x", 2, 256, *size)}
        np.testing.assert_array_equal(run_ort(after, feed)[0], run_ort(model, feed)[0])


def test_a_concat_with_a_skip_is_split() -> None:
    """A stage of a U-Net: both halves are convolved alone and added up."""
    model = parse(
        "g (float[N,512,16,16] x, float[N,256,32,32] s) => (float[] y)"
        f" {{ u = Resize<{FLOOR}>(x, , scales) c = Concat<axis=1>(u, s)"
        " y = Conv<pads=[1,1,1,1]>(c, w, b) }",
        {"scales": SCALES, "w": integers("w", 256, 768, 3, 3), "b": integers("b", 256)},
    )
    folds(model, "fold_upsample", ops={"ConvTranspose": 1, "Conv": 1, "Add": 1}, reference=False)


@pytest.mark.parametrize(("model", "reason"), [
    (
        upsampled(channels=4, extents="64,64"),
        "merging it with what it reads would cost more than it saves",
    ),
    (
        upsampled(scales=np.array([1, 1, 1.5, 1.5], np.float32)),
        "it does not repeat every pixel the same number of times",
    ),
    (
        upsampled('Resize<mode="nearest", nearest_mode="floor">(x, , scales)'),
        "it does not repeat every pixel the same number of times",
    ),
])  # fmt: skip
def test_refusals(model: onnx.ModelProto, reason: str) -> None:
    unchanged(model, "fold_upsample", reason=reason)


def test_an_upsampled_image_that_others_read_stays_for_them() -> None:
    model = upsampled(outputs="float[] y, float[] u")
    folds(model, "fold_upsample", ops={"ConvTranspose": 1, "Resize": 1})


def test_linear_interpolation_is_no_nearest() -> None:
    unchanged(upsampled('Resize<mode="linear">(x, , scales)'), "fold_upsample")
