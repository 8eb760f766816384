"""Samples from folders of images."""

import os
import pickle
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from PIL import Image

from onnxfold.calibrate.images import ChannelOrder, ImageOptions, Layout
from onnxfold.calibrate.samples import Samples, open_samples
from onnxfold.errors import BadOptionError
from onnxfold.model import load
from tests.calibrate.pictures import (
    colours,
    folder_of,
    model_of,
    one,
    per_channel,
    plain,
    refused,
    stemmed,
    truncated,
)
from tests.toolkit import parse


def labels(samples: Samples) -> list[str]:
    return [Path(samples.label(index)).name for index in range(len(samples))]


def refusal(*arguments: Any, message: str, hint: str = "", **named: Any) -> None:
    with pytest.raises(BadOptionError) as error:
        open_samples(*arguments, **named)
    refused(error, message, hint)


ONE = plain()


@pytest.fixture
def three(tmp_path: Path) -> Path:
    return folder_of(tmp_path / "three", 3)


def test_a_folder_of_images(three: Path) -> None:
    samples = open_samples(three, plain())
    assert len(samples) == 3
    feeds = list(samples)
    assert [list(feed) for feed in feeds] == [["image"]] * 3
    for index, feed in enumerate(feeds):
        array = feed["image"]
        assert array.shape == (1, 3, 32, 48)
        assert array.dtype == np.float32
        image = Image.fromarray(colours(index)).resize((48, 32), Image.Resampling.BILINEAR)
        expected = np.asarray(image).transpose(2, 0, 1) / 255.0
        np.testing.assert_allclose(array[0], expected, atol=1e-6)
    assert samples.skipped == ()


def test_the_order_is_that_of_the_names_and_everything_below_counts(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "sub/deep/z.png", "sub/c.bmp", ".hidden.png", ".git/x.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(colours(len(name))).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "labels.json").write_text("{}")
    (tmp_path / "sub" / "up").symlink_to(tmp_path, target_is_directory=True)
    samples = open_samples(str(tmp_path), plain())
    assert labels(samples) == ["a.JPG", "b.png", "c.bmp", "z.png"]
    assert samples.label(3) == str(tmp_path / "sub" / "deep" / "z.png")


def test_several_sources_and_patterns(tmp_path: Path) -> None:
    folder_of(tmp_path / "x", 3)
    folder_of(tmp_path / "y", 2, suffix="jpg")
    last = tmp_path / "x" / "002.png"
    samples = open_samples([last, tmp_path / "x", str(tmp_path / "*" / "*1.jpg")], plain())
    assert labels(samples) == ["002.png", "000.png", "001.png", "001.jpg"]


def test_a_file_with_another_suffix_counts_when_it_is_named(tmp_path: Path) -> None:
    Image.fromarray(colours(1)).save(tmp_path / "image.raw", format="png")
    assert len(open_samples(tmp_path / "image.raw", plain())) == 1
    refusal(tmp_path, plain(), message="holds no images and no .npy or .npz", hint="a folder")


def test_a_limit_takes_samples_from_everywhere(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "x", 10)
    samples = open_samples(folder, plain(), limit=4)
    assert labels(samples) == ["000.png", "002.png", "005.png", "007.png"]
    assert len(open_samples(folder, plain(), limit=99)) == 10
    refusal(folder, plain(), limit=0, message="a limit of 0 leaves no samples", hint="above")


def test_progress_is_told(three: Path) -> None:
    told: list[tuple[int, int]] = []
    open_samples(three, plain(), progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_what_is_not_there(tmp_path: Path) -> None:
    refusal(tmp_path / "gone", plain(), message="gone does not exist", hint="check the path")
    refusal(tmp_path / "*.png", plain(), message="nothing matches", hint="check the pattern")
    refusal(tmp_path, plain(), message="holds no images and no .npy or .npz files")
    refusal([], plain(), message="there are no samples", hint="at least one")


@pytest.mark.skipif(os.name == "nt", reason="rights of POSIX")
def test_a_folder_that_cannot_be_listed() -> None:
    root = os.geteuid() == 0
    with tempfile.TemporaryDirectory(prefix="onnxfold-test-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "locked").mkdir(mode=0o000)
        model = plain()
        if root:
            os.seteuid(65534)
        try:
            refusal(folder, model, message="locked cannot be listed: permission denied")
        finally:
            if root:
                os.seteuid(0)


def test_unreadable_images_are_left_out_and_named(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "x", 4)
    truncated(folder / "001.png")
    (folder / "zz.png").write_text("hello")
    samples = open_samples(folder, plain())
    assert labels(samples) == ["000.png", "002.png", "003.png"]
    assert [Path(each.label).name for each in samples.skipped] == ["001.png", "zz.png"]
    assert [each.reason for each in samples.skipped] == [
        "the file is cut off",
        "it is no image that Pillow knows",
    ]
    warning = one(samples.warnings, "cannot be read")
    assert warning.startswith("2 of 5 samples cannot be read and are left out (")
    assert "001.png: the file is cut off; " in warning


def test_strict_refuses_unreadable_images(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "x", 3)
    truncated(folder / "001.png")
    refusal(
        folder,
        plain(),
        strict=True,
        message="001.png cannot be read: the file is cut off",
        hint="without --strict",
    )


def test_nothing_readable(tmp_path: Path) -> None:
    truncated(tmp_path / "a.jpg")
    refusal(tmp_path, plain(), message="the sample cannot be read: ", hint="check the data")
    (tmp_path / "b.png").write_text("hello")
    refusal(tmp_path, plain(), message="none of the 2 samples can be read: ")


def _sum_of(samples: Samples, index: int) -> float:
    return float(samples.feed(index)["image"].sum())


def test_another_process_opens_the_files_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder_of(tmp_path / "x", 40)
    monkeypatch.chdir(tmp_path)
    samples = open_samples("x", plain())
    monkeypatch.chdir("/")
    assert len(pickle.dumps(samples)) < 8_000
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        sums = list(pool.map(_sum_of, [samples] * 3, range(3)))
    assert sums == [_sum_of(samples, index) for index in range(3)]


def test_the_fingerprint_is_that_of_the_feeds(three: Path, tmp_path: Path) -> None:
    def fingerprint(model: ir.Model = ONE, **options: Any) -> str:
        return open_samples(three, model, ImageOptions(**options)).fingerprint

    again = folder_of(tmp_path / "again", 3)
    assert open_samples(again, ONE).fingerprint == fingerprint()
    changed = [
        fingerprint(scale=0.5),
        fingerprint(mean=(0.5,)),
        fingerprint(channel_order=ChannelOrder.BGR),
        fingerprint(plain("2,3,32,48")),
        fingerprint(plain(name="other")),
        open_samples(three, ONE, limit=2).fingerprint,
    ]
    assert len({fingerprint(), *changed}) == 7
    others = tmp_path / "others.npz"
    seen = set()
    for value in (1.0, 2.0):
        np.savez(others, factor=np.full((1, 2), value, np.float32))
        seen.add(open_samples([three, others], model_of(TWO)).fingerprint)
    assert len(seen) == 2


def test_a_file_that_changes_during_the_run(three: Path) -> None:
    samples = open_samples(three, plain())
    truncated(three / "001.png")
    with pytest.raises(BadOptionError) as error:
        samples.feed(1)
    refused(error, "001.png could be read before and cannot be now: ", "leave the data")
    with pytest.raises(IndexError, match="there are 3 samples"):
        samples.feed(3)
    with pytest.raises(IndexError, match="there are 3 samples"):
        samples.feed(-1)


# How the image input is found and fed


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("1,3,32,48", (1, 3, 32, 48)),
        ("N,3,H,W", (1, 3, 32, 64)),
        ("1,3,64,W", (1, 3, 64, 64)),
        ("1,32,48,3", (1, 32, 48, 3)),
        ("N,H,W,3", (1, 32, 64, 3)),
        ("1,1,32,48", (1, 1, 32, 48)),
        ("1,32,48,1", (1, 32, 48, 1)),
        ("2,3,32,48", (2, 3, 32, 48)),
    ],
)
def test_shapes(three: Path, shape: str, expected: tuple[int, ...]) -> None:
    assert open_samples(three, plain(shape)).feed(0)["image"].shape == expected


def test_channels_last_holds_the_same_numbers(three: Path) -> None:
    first = open_samples(three, plain("1,3,32,48")).feed(0)["image"]
    last = open_samples(three, plain("1,32,48,3")).feed(0)["image"]
    np.testing.assert_array_equal(first, last.transpose(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("nodes", "shape"),
    [
        ("x = Conv <kernel_shape: ints = [1,1]> (image, w)", (1, 3, 32, 64)),
        (
            "t = Transpose <perm: ints = [0,3,1,2]> (image)"
            "s = Sub (t, t0) x = Conv <kernel_shape: ints = [1,1]> (s, w)",
            (1, 32, 64, 3),
        ),
    ],
)
def test_the_first_convolution_tells_where_open_channels_are(
    three: Path, nodes: str, shape: tuple[int, ...]
) -> None:
    weights = {"w": np.ones((4, 3, 1, 1), np.float32), "t0": np.full(1, 0.5, np.float32)}
    model = stemmed(nodes.replace("(image)", "(image)\n"), weights, "N,C,H,W")
    assert open_samples(three, model).feed(0)["image"].shape == shape


@pytest.mark.parametrize(
    "nodes",
    [
        "x = Conv <kernel_shape: ints = [1,1]> (image, image)",
        "x = Conv <kernel_shape: ints = [1,1]> (w, image)",
        "t = Transpose <perm: ints = [1,0]> (image) x = Relu (t)",
        "x = MatMul (image, w)",
    ],
)
def test_open_channels_of_which_nothing_is_known(three: Path, nodes: str) -> None:
    model = stemmed(nodes, {"w": np.ones((4, 3, 1, 1), np.float32)}, "N,C,H,W")
    refusal(three, model, message="no input of the model takes images: image (float32 NxCxHxW)")


def test_an_input_of_any_shape(three: Path) -> None:
    body = "agraph (float image) => (float y) { y = Conv <kernel_shape: ints = [1,1]> (image, w) }"
    proto = parse(body, {"w": np.ones((4, 3, 1, 1), np.float32)})
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    model = load(proto).model
    assert open_samples(three, model).feed(0)["image"].shape == (1, 3, 32, 64)
    assert len(open_samples([np.ones((5, 3, 8, 8), np.float32)], model)) == 5
    refusal([np.ones((1, 4, 8, 8), np.float32)], model, message="but input image is ?x3x?x?")
    proto.graph.node[0].CopyFrom(onnx.helper.make_node("Identity", ["image"], ["y"]))
    anything = load(proto).model
    refusal(three, anything, message="image (float32 of any shape)")
    (feed,) = open_samples([np.ones((4, 8, 8), np.float32)], anything)
    assert feed["image"].shape == (4, 8, 8)


def test_images_of_several_sizes(tmp_path: Path) -> None:
    folder_of(tmp_path / "a", 1, height=40, width=100)
    folder_of(tmp_path / "b", 1, height=100, width=40)
    samples = open_samples(tmp_path, plain("N,3,H,W"))
    assert [feed["image"].shape[2:] for feed in samples] == [(32, 96), (96, 32)]
    assert "keep their size, open sides rounded to multiples of 32" in samples.notes[0]
    resized = open_samples(tmp_path, plain("N,3,H,W"), ImageOptions(resize=(50, 70)))
    assert [feed["image"].shape[2:] for feed in resized] == [(50, 70)] * 2
    assert "stretched to 50x70" in resized.notes[0]
    shorter = open_samples(tmp_path, plain("N,3,H,W"), ImageOptions(resize=64))
    assert [feed["image"].shape[2:] for feed in shorter] == [(64, 160), (160, 64)]
    assert "scaled to 64 on the shorter side" in shorter.notes[0]
    cropped = open_samples(tmp_path, plain(), ImageOptions(resize=64))
    assert {feed["image"].shape[2:] for feed in cropped} == {(32, 48)}
    assert "scaled and cropped to 32x48" in cropped.notes[0]
    refusal(
        tmp_path,
        plain("4,3,H,W"),
        message="input image takes 4 images of one size, and leaves it open",
        hint="--resize",
    )
    refusal(tmp_path, plain("N,3,H,W"), ImageOptions(pad=True), message="nothing to pad to")
    for options in (ImageOptions(resize=(64, 64)), ImageOptions(crop=(64, 64))):
        refusal(
            tmp_path,
            plain(),
            options,
            message="images would become 64x64, but input image takes 32x48",
            hint="leave out --resize",
        )


def test_the_last_batch_is_filled_up_from_the_beginning(three: Path) -> None:
    single = [feed["image"][0] for feed in open_samples(three, plain())]
    samples = open_samples(three, plain("2,3,32,48"))
    assert len(samples) == 2
    np.testing.assert_array_equal(samples.feed(1)["image"], [single[2], single[0]])
    assert one(samples.warnings, "only").startswith("only 3 samples:")


@pytest.mark.parametrize("kind", ["uint8", "int32", "uint16"])
def test_integers_are_fed_pixels(three: Path, kind: str) -> None:
    samples = open_samples(three, plain("1,40,56,3", kind))
    array = samples.feed(1)["image"]
    assert array.dtype == kind
    np.testing.assert_array_equal(array[0], colours(1))
    assert samples.notes[1] == f"input image takes {kind}: pixels as they are"
    refusal(
        three,
        plain("1,40,56,3", kind),
        ImageOptions(mean=(0.5,)),
        message=f"input image takes {kind}, so pixels are fed as they are",
        hint="leave out --mean",
    )


@pytest.mark.parametrize("kind", ["float16", "double"])
def test_other_floats(three: Path, kind: str) -> None:
    array = open_samples(three, plain(kind=kind)).feed(0)["image"]
    assert array.dtype == (np.float16 if kind == "float16" else np.float64)
    assert array.max() <= 1.0


def test_mean_std_and_order(three: Path) -> None:
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 0.125)
    options = ImageOptions(mean=mean, std=std, channel_order=ChannelOrder.BGR)
    array = open_samples(three, plain("1,3,40,56"), options).feed(2)["image"][0]
    expected = (colours(2)[..., ::-1] / 255.0 - mean) / std
    np.testing.assert_allclose(array, expected.transpose(2, 0, 1), atol=1e-5)
    alike = open_samples(three, plain("1,3,40,56"), ImageOptions(mean=(0.5,), std=(0.5,)))
    np.testing.assert_allclose(
        alike.feed(2)["image"][0].transpose(1, 2, 0), colours(2) / 127.5 - 1.0, atol=1e-5
    )


def test_padding_becomes_zero(tmp_path: Path) -> None:
    Image.fromarray(np.full((32, 16, 3), 10, np.uint8)).save(tmp_path / "a.png")
    model = plain("1,3,32,32")
    options = ImageOptions(mean=(0.2, 0.4, 0.6), pad=True)
    array = open_samples(tmp_path, model, options).feed(0)["image"]
    np.testing.assert_allclose(array[..., :8], 0.0, atol=1e-6)
    assert np.abs(array[..., 8:24]).min() > 0.1
    weights = {"m": per_channel(51.0, 102.0, 153.0)}
    own = stemmed("x = Sub (image, m)", weights, "1,3,32,32")
    array = open_samples(tmp_path, own, ImageOptions(pad=True)).feed(0)["image"]
    np.testing.assert_array_equal(array[0, :, 0, 0], [51.0, 102.0, 153.0])


def test_options_that_do_not_fit_the_model(three: Path) -> None:
    refusal(
        three,
        plain(),
        ImageOptions(mean=(0.5, 0.5)),
        message="--mean has 2 numbers, but input image has 3 channels",
        hint="one for each channel",
    )
    refusal(
        three,
        plain("1,1,32,48"),
        ImageOptions(std=(1, 1, 1)),
        message="--std has 3 numbers, but input image has 1 channel",
    )
    refusal(
        three,
        plain("1,1,32,48"),
        ImageOptions(channel_order=ChannelOrder.BGR),
        message="the channel order is bgr, but input image has one channel",
        hint="--channel-order",
    )
    refusal(three, plain(), ImageOptions(layout=Layout.NHWC), message="--layout is for arrays")


@pytest.mark.parametrize(
    ("shape", "kind"),
    [("1,16", "float"), ("1,4,32,48", "float"), ("1,3,32,48", "int8"), ("1,3,4,32,48", "float")],
)
def test_a_model_without_an_image_input(three: Path, shape: str, kind: str) -> None:
    text = shape.replace(",", "x")
    refusal(
        three,
        plain(shape, kind),
        message=f"no input of the model takes images: image ({kind.replace('float', 'float32')} "
        f"{text})",
        hint=".npy",
    )
    refusal(
        three,
        plain(shape, kind),
        ImageOptions(input="image"),
        message="input image takes no images: it is",
        hint="1 or 3 channels",
    )


TWO = """agraph (float[1,3,32,48] image, float[1,2] factor) => (float[] y, float[] z)
{ y = Relu(image) z = Relu(factor) }"""
BOTH = """agraph (float[1,3,32,48] left, float[1,3,32,48] right) => (float[] y, float[] z)
{ y = Relu(left) z = Relu(right) }"""


def test_other_inputs_come_from_one_archive(three: Path, tmp_path: Path) -> None:
    model = model_of(TWO)
    refusal(
        three, model, message="images cannot give what else the model needs: factor", hint=".npz"
    )
    others = tmp_path / "others.npz"
    np.savez(others, factor=np.array([[2.0, 3.0]], np.float32))
    samples = open_samples([three, others], model)
    assert len(samples) == 3
    for feed in samples:
        assert feed["image"].shape == (1, 3, 32, 48)
        np.testing.assert_array_equal(feed["factor"], [[2.0, 3.0]])
    np.savez(others, factor=np.ones((5, 2), np.float32))
    refusal([three, others], model, message="holds 5 samples, but goes with every image")
    np.savez(others, wrong=np.ones((1, 2), np.float32))
    refusal([three, others], model, message="lacks input factor", hint="inputs are factor")
    truncated(others, others)
    refusal([three, others], model, message="others.npz cannot be read: ", hint="check the file")


def test_images_and_arrays_do_not_mix(three: Path, tmp_path: Path) -> None:
    np.save(three / "labels.npy", np.ones((1, 3, 32, 48), np.float32))
    for model in (plain(), model_of(TWO)):
        refusal(three, model, message="there are both images and arrays, as ", hint="*.png")
    assert len(open_samples(str(three / "*.png"), plain())) == 3


def test_several_image_inputs(three: Path, tmp_path: Path) -> None:
    model = model_of(BOTH)
    refusal(three, model, message="2 inputs of the model take images: left, right", hint="--input")
    refusal(
        three,
        model,
        ImageOptions(input="middle"),
        message="the model has no input middle",
        hint="its inputs are left, right",
    )
    others = tmp_path / "others.npz"
    np.savez(others, right=np.zeros((1, 3, 32, 48), np.float32))
    samples = open_samples([others, three], model, ImageOptions(input="left"))
    feed = samples.feed(0)
    assert feed["left"].max() > 0.0
    assert feed["right"].max() == 0.0


# What is suspicious about a set of images


def test_few_samples(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "x", 32)
    assert open_samples(folder, plain()).warnings == ()
    (warning,) = open_samples(folder, plain(), limit=31).warnings
    assert warning == "only 31 samples: with fewer than 32, ranges depend on which they are"
    (warning,) = open_samples(folder, plain(), limit=1).warnings
    assert warning.startswith("only 1 sample: ")


def test_images_of_one_colour(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "x", 32)
    for index in range(5):
        Image.new("RGB", (60, 60), (index, 7, 9)).save(folder / f"{index:03}.png")
    (warning,) = open_samples(folder, plain()).warnings
    assert warning.startswith("5 of 32 samples have one single colour (")
    assert warning.endswith("002.png and 2 more)")
    last = open_samples(folder, plain("1,32,48,3")).warnings
    assert last == (warning,)


def test_images_that_are_all_the_same(tmp_path: Path) -> None:
    for index in range(33):
        Image.fromarray(colours(1)).save(tmp_path / f"{index}.png")
    assert open_samples(tmp_path, plain()).warnings == ("all 33 samples are the same",)
    Image.fromarray(colours(2)).save(tmp_path / "other.png")
    (warning,) = open_samples(tmp_path, plain()).warnings
    assert warning == "only 2 of 34 samples differ from each other"
