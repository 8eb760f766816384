"""What a model does to its image by itself, and how samples are fed because of it."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from PIL import Image

from examples.demo.evaluate import MODEL as DEMO
from examples.demo.evaluate import SCENE_FOLDER, image_to_input, load_scenes
from onnxfold.calibrate.images import ChannelOrder, ImageOptions
from onnxfold.calibrate.samples import Samples, open_samples
from onnxfold.calibrate.samples_model import find_image_input
from onnxfold.calibrate.samples_stem import Stem, Takes, read_stem
from onnxfold.model import load
from tests import zoo
from tests.calibrate.pictures import colours, folder_of, model_of, one, per_channel, plain, stemmed

IMAGENET = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)


def stem_of(model: ir.Model) -> Stem:
    image = find_image_input(model, None)
    assert image is not None
    return read_stem(model, image)


def array(*numbers: float) -> NDArray[np.float32]:
    return np.asarray(numbers, np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return folder_of(tmp_path / "images", 33)


CASES: list[tuple[str, dict[str, NDArray[Any]], Takes | None]] = [
    ("x = Relu (image)", {}, None),
    ("x = Div (image, a)", {"a": array(255)}, Takes.PIXELS),
    ("x = Mul (image, a)", {"a": np.float32(1 / 255) * np.ones((1, 1, 1, 1))}, Takes.PIXELS),
    ("x = Mul (a, image)", {"a": per_channel(0.017, 0.018, 0.017)}, Takes.PIXELS),
    ("x = Sub (image, a)", {"a": per_channel(123.7, 116.3, 103.5)}, Takes.PIXELS),
    ("x = Add (a, image)", {"a": per_channel(-123.7, -116.3, -103.5)}, Takes.PIXELS),
    ("x = Sub (a, image)", {"a": array(127.5)}, Takes.PIXELS),
    (
        "c = Cast <to: int = 1> (image) d = Div (c, a) e = Identity (d) x = Sub (e, b)",
        {"a": array(127.5), "b": array(1)},
        Takes.PIXELS,
    ),
    (
        "d = Div (image, a) e = Sub (d, b) x = Div (e, c)",
        {"a": array(255), "b": per_channel(*IMAGENET), "c": per_channel(*DEVIATION)},
        Takes.PIXELS,
    ),
    (
        "d = Sub (image, b) x = Div (d, c)",
        {"b": per_channel(*IMAGENET), "c": per_channel(*DEVIATION)},
        Takes.UNIT,
    ),
    ("d = Mul (image, a) x = Sub (d, b)", {"a": array(2), "b": array(1)}, Takes.UNIT),
    ("x = Sub (image, b)", {"b": per_channel(*IMAGENET)}, Takes.UNIT),
    ("x = Mul (image, a)", {"a": array(255)}, Takes.UNIT),
    ("x = Mul (image, a)", {"a": array(2)}, None),
    ("d = Div (image, a) x = Sub (d, b)", {"a": array(255), "b": array(0.001)}, None),
    ("x = Mul (image, a)", {"a": array(0)}, None),
    ("x = Div (a, image)", {"a": array(255)}, None),
    ("x = Div (image, a)", {"a": array(*range(1, 49)) * 1000}, None),
    ("x = Div (image, image)", {}, None),
    ("x = Sub (image, b)", {"b": array(np.inf)}, None),
    ("d = Div (image, a) z = Relu (image) x = Add (d, z)", {"a": array(255)}, None),
]


@pytest.mark.parametrize(("nodes", "weights", "takes"), CASES)
def test_what_is_shown(
    folder: Path, nodes: str, weights: dict[str, NDArray[Any]], takes: Takes | None
) -> None:
    model = stemmed(nodes, {k: np.asarray(v, np.float32) for k, v in weights.items()})
    assert stem_of(model).takes == takes
    samples = open_samples(folder, model, limit=32)
    high = max(float(feed["image"].max()) for feed in samples)
    assert (high > 200.0) == (takes is Takes.PIXELS)
    assert samples.warnings == ()


def test_it_is_said_why_pixels_are_fed(folder: Path) -> None:
    model = stemmed(
        "d = Div (image, a) x = Sub (d, b)", {"a": array(255), "b": per_channel(*IMAGENET)}
    )
    notes = open_samples(folder, model).notes
    assert notes[1] == (
        "the model normalises its input itself (Div of 'd', Sub of 'x'), "
        "around 123.7, 116.3, 103.5, so white is 255 before --mean and --std"
    )
    (_, note) = open_samples(folder, plain()).notes
    assert note == "pixels become 0 to 1; if the model wants it otherwise, say --mean, --std"
    (_, note) = open_samples(folder, stemmed("x = Mul (image, a)", {"a": array(2)})).notes
    assert note.startswith("the model normalises its input itself (Mul of 'x')")


def test_channels_last_and_transposed(folder: Path) -> None:
    weights = {"b": array(123.7, 116.3, 103.5), "c": per_channel(1 / 58, 1 / 57, 1 / 57)}
    nodes = "s = Sub (image, b) t = Transpose <perm: ints = [0,3,1,2]> (s) x = Mul (t, c)"
    stem = stem_of(stemmed(nodes, weights, "1,32,48,3"))
    assert stem.takes is Takes.PIXELS
    np.testing.assert_allclose(stem.centre, [123.7, 116.3, 103.5], rtol=1e-5)
    np.testing.assert_allclose(stem.factor, [1 / 58, 1 / 57, 1 / 57], rtol=1e-5)


def test_shape_of_the_input_is_no_reader_of_it() -> None:
    body = """agraph (float[N,3,H,W] image) => (float[] y, int64[4] s)
    { s = Shape(image) d = Div(image, a) y = Relu(d) }"""
    assert stem_of(model_of(body, {"a": array(255)})).takes is Takes.PIXELS


def test_the_demonstration_network_takes_pixels() -> None:
    samples = open_samples(f"{SCENE_FOLDER}/*-image.png", load(DEMO).model)
    assert len(samples) == 8
    assert [text for text in samples.warnings if "only 8 samples" not in text] == []
    assert "around 112" in samples.notes[1]
    for feed, (image, _) in zip(samples, load_scenes(SCENE_FOLDER), strict=True):
        np.testing.assert_array_equal(feed["image"], image_to_input(image))


@pytest.mark.parametrize("name", ["unet_resnet18.script", "mobilenetv3_small_100.script"])
def test_networks_whose_statistics_are_those_of_normal_values(name: str) -> None:
    model = load(zoo.load(name)).model
    source = f"{SCENE_FOLDER}/*-image.png"
    assert len(open_samples(source, model, NORMALISED).warnings) == 1
    text = one(open_samples(source, model).warnings, "was trained on")
    assert text.endswith(" would fit better")


# Warnings


def test_normalising_twice(folder: Path) -> None:
    model = stemmed("x = Div (image, a)", {"a": array(255)})
    options = ImageOptions(mean=(0.5,), std=(0.5,))
    warning = one(open_samples(folder, model, options).warnings, "normalise twice")
    assert warning.startswith("the model normalises its input itself (Div of 'x'), so that --mean")


def test_values_that_the_stem_is_not_made_for(folder: Path) -> None:
    for_pixels = stemmed("x = Div (image, a)", {"a": array(255)})
    for_unit = stemmed("x = Sub (image, b)", {"b": per_channel(*IMAGENET)})
    (warning,) = open_samples(folder, for_pixels, ImageOptions(scale=1 / 255)).warnings
    assert warning.startswith("the samples reach only 0.98")
    assert " but the model normalises its input itself (Div of 'x'), by a factor of " in warning
    assert warning.endswith(": leave out --scale")
    (warning,) = open_samples(folder, for_unit, ImageOptions(scale=1.0)).warnings
    assert warning.startswith("the samples reach 25")
    assert ", but the model normalises its input itself (Sub of 'x'), around 0.485" in warning
    unit = [np.random.default_rng(i).random((3, 32, 48)) for i in range(33)]
    (warning,) = open_samples(unit, for_pixels).warnings
    assert warning.endswith(": --scale 255 fits")
    assert open_samples(unit, for_pixels, ImageOptions(scale=255.0)).warnings == ()
    (warning,) = open_samples([each * 255 for each in unit], for_unit).warnings
    assert warning.endswith(": --scale 0.0039216 fits")


def test_a_mean_that_cannot_be_one(folder: Path) -> None:
    options = ImageOptions(mean=(123.675, 116.28, 103.53), std=(58.4, 57.1, 57.4))
    warning = one(open_samples(folder, plain(), options).warnings, "lies outside")
    assert warning == (
        "--mean 123.675,116.28,103.53 lies outside of 0 to 1, the values that pixels have after "
        "--scale 0.0039216"
    )
    right = ImageOptions(mean=options.mean, std=options.std, scale=1.0)
    assert open_samples(folder, plain(), right).warnings == ()


def test_a_mean_in_the_other_channel_order(folder: Path) -> None:
    options = ImageOptions(mean=IMAGENET[::-1])
    warning = one(open_samples(folder, plain(), options).warnings, "ImageNet")
    assert warning == (
        "--mean 0.406,0.456,0.485 is ImageNet's mean in the order bgr, but the channel order is rgb"
    )
    turned = ImageOptions(mean=IMAGENET[::-1], channel_order=ChannelOrder.BGR)
    assert open_samples(folder, plain(), turned).warnings == ()
    model = stemmed("x = Sub (image, b)", {"b": per_channel(103.53, 116.28, 123.675)})
    (warning,) = open_samples(folder, model).warnings
    assert warning == (
        "the model subtracts ImageNet's mean in the order bgr, but the channel order is rgb: "
        "--channel-order bgr fits"
    )
    turned = ImageOptions(channel_order=ChannelOrder.BGR)
    assert open_samples(folder, model, turned).warnings == ()


# The first BatchNormalization


def trained(
    scale: float, mean: tuple[float, ...], std: tuple[float, ...], shape: str = "1,3,32,48"
) -> ir.Model:
    """A network whose first normalisation has seen the test images, normalised like this."""
    rng = np.random.default_rng(5)
    weight = rng.standard_normal((16, 3, 3, 3)) * 0.2
    bias = rng.standard_normal(16)
    outputs = []
    for seed in range(33):
        image = Image.fromarray(colours(seed)).resize((48, 32), Image.Resampling.BILINEAR)
        pixels = (np.asarray(image) * scale - mean) / std
        windows = np.lib.stride_tricks.sliding_window_view(pixels, (3, 3), axis=(0, 1))
        outputs.append(np.einsum("hwcij,ocij->ohw", windows, weight).reshape(16, -1))
    found = np.concatenate(outputs, axis=1)
    weights = {
        "w": weight,
        "k": bias,
        "g": rng.random(16) + 0.5,
        "b": rng.standard_normal(16),
        "m": found.mean(axis=1) + bias,
        "v": found.var(axis=1),
    }
    first = "t = Identity (image)"
    if shape.endswith("3"):
        first = "t = Transpose <perm: ints = [0,3,1,2]> (image)"
    nodes = f"{first} c = Conv <kernel_shape: ints = [3,3]> (t, w, k)"
    nodes += " x = BatchNormalization (c, g, b, m, v)"
    return stemmed(nodes, {name: np.asarray(v, np.float32) for name, v in weights.items()}, shape)


ZERO, ONE = (0.0,) * 3, (1.0,) * 3
NORMALISED = ImageOptions(mean=IMAGENET, std=DEVIATION)


def warned(samples: Samples) -> str:
    return " ".join(samples.warnings)


def test_pixels_are_fed_where_the_statistics_allow_nothing_else(folder: Path) -> None:
    samples = open_samples(folder, trained(1.0, ZERO, ONE))
    assert samples.warnings == ()
    assert samples.feed(0)["image"].max() > 200
    assert samples.notes[1] == (
        "BatchNormalization of 'x' was trained on values that only pixels 0 to 255 give, so white "
        "is 255 before --mean and --std"
    )
    (warning,) = open_samples(folder, trained(1.0, ZERO, ONE), NORMALISED).warnings
    assert "reach 255" not in warning


def test_samples_like_those_that_were_trained_on(folder: Path) -> None:
    assert open_samples(folder, trained(1 / 255, ZERO, ONE)).warnings == ()
    model = trained(1 / 255, IMAGENET, DEVIATION)
    assert open_samples(folder, model, NORMALISED).warnings == ()
    assert open_samples(folder, trained(1 / 255, ZERO, ONE, "1,32,48,3")).warnings == ()


@pytest.mark.parametrize("shape", ["1,3,32,48", "1,32,48,3"])
def test_samples_unlike_those_that_were_trained_on(folder: Path, shape: str) -> None:
    model = trained(1 / 255, IMAGENET, DEVIATION, shape)
    text = one(open_samples(folder, model).warnings, "was trained on")
    assert text.startswith("the samples vary ")
    assert " times less than those that the model's BatchNormalization of 'x' was" in text
    assert text.endswith(": --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 would fit better")
    text = one(open_samples(folder, model, ImageOptions(scale=1.0)).warnings, "was trained on")
    assert " times more than those" in text
    given = [feed["image"] for feed in open_samples(folder, model)]
    text = one(open_samples(given, model).warnings, "was trained on")
    assert text.endswith("was trained on")


def test_a_normalisation_of_the_image_itself(folder: Path) -> None:
    def model(mean: float, variance: float) -> ir.Model:
        weights = {"g": ONE, "b": ZERO, "m": (mean,) * 3, "v": (variance,) * 3}
        nodes = "x = BatchNormalization (image, g, b, m, v)"
        return stemmed(nodes, {name: array(*numbers) for name, numbers in weights.items()})

    assert stem_of(model(115.0, 3600.0)).takes is Takes.PIXELS
    samples = open_samples(folder, model(115.0, 3600.0))
    assert samples.feed(0)["image"].max() > 200
    assert samples.warnings == ()
    assert stem_of(model(1.0, 3600.0)).takes is Takes.PIXELS
    assert stem_of(model(0.0, 9.0)).takes is None
    assert open_samples(folder, model(0.45, 0.055)).warnings == ()
    text = one(open_samples(folder, model(0.0, 1.0)).warnings, "was trained on")
    assert text.endswith("would fit better")
    assert open_samples(folder, model(0.0, 1.0), NORMALISED).warnings == ()


def test_statistics_that_are_computed_or_do_not_fit(folder: Path) -> None:
    weights = {"w": np.ones((4, 3, 1, 1)), "d": np.ones((3, 1, 1, 1)), "g": np.ones(4)}
    weights |= {"h": np.ones(3)}
    conv = "c = Conv <kernel_shape: ints = [1,1]>"
    norm = "x = BatchNormalization"
    for nodes in (
        f"k = Relu (w) {conv} (image, k) {norm} (c, g, g, g, g)",
        f"k = Relu (g) {conv} (image, w, k) {norm} (c, g, g, g, g)",
        f"k = Relu (g) {conv} (image, w) {norm} (c, g, g, k, g)",
        f"c = Conv <kernel_shape: ints = [1,1], group: int = 3> (image, d) {norm} (c, h, h, h, h)",
        f"{conv} (image, w) x = BatchNormalization <training_mode: int = 1> (c, g, g, g, g)",
    ):
        model = stemmed(nodes, {name: np.asarray(v, np.float32) for name, v in weights.items()})
        assert stem_of(model).norm is None


def test_images_smaller_than_the_kernel(tmp_path: Path) -> None:
    folder_of(tmp_path, 2)
    model = trained(1 / 255, ZERO, ONE, "1,3,2,2")
    assert "was trained on" not in warned(open_samples(tmp_path, model))


def test_one_colour_alone_says_nothing_about_the_variance(tmp_path: Path) -> None:
    Image.new("RGB", (60, 60), (100, 7, 9)).save(tmp_path / "a.png")
    assert "was trained on" not in warned(open_samples(tmp_path, trained(1 / 255, ZERO, ONE)))
