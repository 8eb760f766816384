"""Image files of every kind, and what is done to them."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from onnxfold.calibrate.images import (
    ChannelOrder,
    ImageOptions,
    Layout,
    Recipe,
    UnreadableError,
    Values,
)
from onnxfold.errors import BadOptionError
from tests.calibrate.pictures import colours, refused, truncated

ROOT = Path(__file__).parents[2]
HALVES = np.zeros((8, 8, 3), np.uint8)
HALVES[:, :4] = (255, 0, 0)
HALVES[:, 4:] = (0, 0, 255)


def recipe(**changed: Any) -> Recipe:
    """What a model with an open size does: pixels as they are, channels last."""
    settings: dict[str, Any] = {
        "size": (None, None),
        "resize": None,
        "crop": None,
        "pad": False,
        "fill": (0, 0, 0),
        "channels": 3,
        "channel_order": ChannelOrder.RGB,
        "values": None,
        "layout": Layout.NHWC,
        "dtype": np.dtype(np.uint8),
    }
    return Recipe(**(settings | changed))


def raw(path: Path, height: int = 8, width: int = 8, **changed: Any) -> NDArray[Any]:
    """The pixels of a file at this size."""
    return recipe(size=(height, width), **changed).read(str(path))


def saved(path: Path, pixels: NDArray[Any], mode: str | None = None, **how: Any) -> Path:
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(path, **how)
    return path


KINDS: list[tuple[str, str | None, dict[str, Any], int]] = [
    ("a.png", None, {}, 0),
    ("a.bmp", None, {}, 0),
    ("a.gif", None, {}, 0),
    ("a.tiff", None, {"compression": "tiff_lzw"}, 0),
    ("a.webp", None, {"lossless": True}, 0),
    ("a.png", "P", {}, 0),
    ("a.png", "RGBA", {}, 0),
    ("a.jpg", None, {"quality": 100, "subsampling": 0}, 3),
    ("a.jpg", "CMYK", {"quality": 100}, 3),
]


@pytest.mark.parametrize(("name", "mode", "how", "off"), KINDS)
def test_colours_of_every_kind_of_file(
    tmp_path: Path, name: str, mode: str | None, how: dict[str, Any], off: int
) -> None:
    path = saved(tmp_path / name, HALVES, mode, **how)
    found = raw(path)
    assert found.dtype == np.uint8
    assert found.shape == (8, 8, 3)
    assert np.abs(found.astype(int) - HALVES).max() <= off


def test_gray_images_become_three_equal_channels(tmp_path: Path) -> None:
    gray = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    found = raw(saved(tmp_path / "gray.png", gray))
    np.testing.assert_array_equal(found, np.stack([gray] * 3, axis=-1))
    bits = raw(saved(tmp_path / "bits.png", np.asarray(gray > 100)))
    assert set(np.unique(bits)) == {0, 255}


@pytest.mark.parametrize("name", ["deep.png", "deep.tiff"])
def test_sixteen_bits_are_scaled_and_not_cut_off(tmp_path: Path, name: str) -> None:
    deep = np.zeros((8, 8), np.uint16)
    deep[:, 1], deep[:, 2], deep[:, 3] = 257, 32768, 65535
    found = raw(saved(tmp_path / name, deep))
    np.testing.assert_array_equal(found[0, :4, 0], [0, 1, 128, 255])


def test_transparency_does_not_disturb(tmp_path: Path) -> None:
    image = Image.fromarray(HALVES).convert("P")
    image.save(tmp_path / "a.png", transparency=bytes([128] * 4))
    np.testing.assert_array_equal(raw(tmp_path / "a.png"), HALVES)
    layered = np.dstack([HALVES, np.full((8, 8), 17, np.uint8)])
    np.testing.assert_array_equal(raw(saved(tmp_path / "b.png", layered)), HALVES)


def test_the_camera_says_which_side_is_up(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the top of the picture is at the right
    saved(tmp_path / "a.png", colours(1, 8, 12), exif=exif)
    np.testing.assert_array_equal(raw(tmp_path / "a.png", 12, 8), np.rot90(colours(1, 8, 12), -1))


@pytest.mark.parametrize("name", ["cut.png", "cut.jpg", "cut.tiff"])
def test_a_truncated_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnreadableError, match=r"^\w"):
        raw(truncated(tmp_path / name))


def _text(path: Path) -> None:
    path.write_text("hello\n")


def _nothing(path: Path) -> None:
    path.write_bytes(b"")


def _float(path: Path) -> None:
    Image.fromarray(np.ones((4, 4), np.float32)).save(path, format="tiff")


def _wide(path: Path) -> None:
    Image.fromarray(np.ones((4, 4), np.int32)).save(path, format="tiff")


def _folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_text, "it is no image that Pillow knows"),
        (_nothing, "it is no image that Pillow knows"),
        (_float, "nothing says which of its 32-bit values is white"),
        (_wide, "nothing says which of its 32-bit values is white"),
        (_folder, "is a directory"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, make: Callable[[Path], None], reason: str) -> None:
    make(tmp_path / "a.png")
    with pytest.raises(UnreadableError, match=reason):
        raw(tmp_path / "a.png")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match="no such file"):
        raw(tmp_path / "gone.png")


SIZES: list[tuple[dict[str, Any], tuple[int, int], tuple[int, int], tuple[int, int]]] = [
    ({"size": (32, 48)}, (100, 200), (32, 48), (32, 48)),
    ({}, (100, 200), (96, 192), (96, 192)),
    ({}, (112, 80), (128, 96), (128, 96)),
    ({}, (5, 5), (32, 32), (32, 32)),
    ({"size": (64, None)}, (100, 200), (64, 192), (64, 192)),
    ({"resize": (50, 60)}, (100, 200), (50, 60), (50, 60)),
    ({"resize": 50}, (100, 200), (50, 100), (50, 96)),
    ({"resize": 50}, (200, 100), (100, 50), (96, 50)),
    ({"resize": 50}, (100, 230), (56, 128), (50, 128)),
    ({"size": (40, 40), "resize": 50}, (100, 200), (50, 100), (40, 40)),
    ({"size": (64, 128), "resize": 64}, (100, 100), (128, 128), (64, 128)),
    ({"resize": 256, "crop": (224, 224)}, (500, 375), (341, 256), (224, 224)),
    ({"resize": (50, 60), "crop": (40, 40)}, (100, 200), (50, 60), (40, 40)),
    ({"crop": (40, 40)}, (100, 200), (100, 200), (40, 40)),
    ({"crop": (40, 40)}, (20, 30), (40, 60), (40, 40)),
    ({"size": (64, 64), "pad": True}, (100, 200), (32, 64), (64, 64)),
    ({"resize": (64, 64), "pad": True}, (10, 1000), (1, 64), (64, 64)),
]


@pytest.mark.parametrize(("settings", "own", "scaled", "goal"), SIZES)
def test_sizes(
    tmp_path: Path,
    settings: dict[str, Any],
    own: tuple[int, int],
    scaled: tuple[int, int],
    goal: tuple[int, int],
) -> None:
    found_scaled, found_goal = recipe(**settings).sizes(own)
    assert (found_scaled, found_goal) == (scaled, goal)
    path = saved(tmp_path / "a.png", colours(3, *own))
    assert recipe(**settings).read(str(path)).shape == (*goal, 3)


def test_resizing_is_bilinear(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", colours(3))
    expected = Image.fromarray(colours(3)).resize((20, 16), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(raw(path, 16, 20), np.asarray(expected))


def test_the_crop_is_the_middle(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", colours(3, 40, 56))
    found = recipe(crop=(20, 30)).read(str(path))
    np.testing.assert_array_equal(found, colours(3, 40, 56)[10:30, 13:43])


def test_padding_goes_round_the_image(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", np.full((10, 20, 3), 200, np.uint8))
    found = recipe(size=(20, 20), pad=True, fill=(1, 2, 3)).read(str(path))
    np.testing.assert_array_equal(found[5:15], 200)
    np.testing.assert_array_equal(found[:5], np.broadcast_to([1, 2, 3], (5, 20, 3)))
    np.testing.assert_array_equal(found[15:], np.broadcast_to([1, 2, 3], (5, 20, 3)))


def test_channel_orders(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", colours(3))
    rgb = raw(path, 40, 56)
    np.testing.assert_array_equal(raw(path, 40, 56, channel_order=ChannelOrder.BGR), rgb[..., ::-1])
    gray = raw(path, 40, 56, channel_order=ChannelOrder.GRAY, channels=1)
    np.testing.assert_array_equal(gray[..., 0], np.asarray(Image.open(path).convert("L")))
    three = raw(path, 40, 56, channel_order=ChannelOrder.GRAY)
    np.testing.assert_array_equal(three, np.repeat(gray, 3, axis=2))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_values_layout_and_type(tmp_path: Path, dtype: type[np.floating[Any]]) -> None:
    path = saved(tmp_path / "a.png", colours(3))
    values = Values(1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    found = raw(path, 40, 56, values=values, layout=Layout.NCHW, dtype=np.dtype(dtype))
    assert found.dtype == dtype
    assert found.shape == (3, 40, 56)
    wide = (colours(3) / 255.0 - values.mean) / values.std
    tolerance = 2e-3 if dtype is np.float16 else 1e-6
    np.testing.assert_allclose(found, wide.transpose(2, 0, 1), atol=tolerance)
    pixels = values.undone(found.transpose(1, 2, 0))
    np.testing.assert_allclose(pixels, colours(3), atol=0.3 if dtype is np.float16 else 1e-4)


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"mean": ()}, "mean () is no list of numbers", "0.5,0.5,0.5"),
        ({"mean": (float("nan"),)}, "mean (nan,) is no list of numbers", ""),
        ({"std": (0.2, 0.0, 0.2)}, "std 0 is not above zero", "divided by"),
        ({"scale": 0.0}, "scale 0 is not above zero", "0.0039216"),
        ({"scale": float("inf")}, "scale inf is not above zero", ""),
        ({"resize": 0}, "smaller than one pixel", "512x512"),
        ({"resize": (32, 0)}, "smaller than one pixel", ""),
        ({"crop": (0, 5)}, "smaller than one pixel", ""),
        ({"pad": True, "crop": (5, 5)}, "either padded to its size or cropped", "--resize"),
        ({"pad": True, "resize": 5}, "either padded to its size or cropped", "--resize"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(BadOptionError) as error:
        ImageOptions(**options)
    refused(error, message, hint)


WITHOUT_PILLOW = """
import sys
sys.modules["PIL"] = None  # as if it were not installed
import onnx.parser
from onnxfold.calibrate.samples import open_samples
from onnxfold.errors import OnnxfoldError
from onnxfold.model import load
model = onnx.parser.parse_model(sys.argv[2])
try:
    print(len(open_samples(sys.argv[1], load(model).model)))
except OnnxfoldError as error:
    print(error.message, "|", error.hint)
    sys.exit(error.exit_code)
"""
TINY = """<ir_version: 9, opset_import: ["" : 18]>
g (float[1,3,8,8] x) => (float[1,3,8,8] y) { y = Identity(x) }"""


def without_pillow(source: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_PILLOW, str(source), TINY],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_without_pillow_it_says_what_to_install(tmp_path: Path) -> None:
    saved(tmp_path / "a.png", HALVES)
    done = without_pillow(tmp_path)
    assert done.returncode == 3, done.stderr
    assert done.stdout.startswith("images cannot be read because Pillow is not installed | pip ")
    assert "onnxfold[images]" in done.stdout
    assert without_pillow(tmp_path / "a.png").returncode == 3


def test_without_pillow_arrays_are_read(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((5, 3, 8, 8), np.float32))
    (tmp_path / "notes.txt").write_text("hello")
    done = without_pillow(tmp_path)
    assert (done.returncode, done.stdout) == (0, "5\n"), done.stderr
