"""Samples from .npy and .npz files, and from Python."""

import gc
import os
import pickle
import sys
import zipfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxfold.calibrate.images import ChannelOrder, ImageOptions, Layout
from onnxfold.calibrate.samples import Samples, open_samples
from onnxfold.errors import BadOptionError, CannotWriteError
from tests.calibrate.pictures import colours, model_of, one, plain, refused, truncated

SHAPE = (3, 8, 10)
MODEL = "1,3,8,10"
RNG = np.random.default_rng(0)


def drawn(*front: int) -> NDArray[np.float32]:
    return RNG.standard_normal((*front, *SHAPE)).astype(np.float32)


def stored(path: Path, array: NDArray[Any]) -> Path:
    np.save(path, array)
    return path


def refusal(*arguments: Any, message: str, hint: str = "", **named: Any) -> None:
    with pytest.raises(BadOptionError) as error:
        open_samples(*arguments, **named)
    refused(error, message, hint)


def images_of(samples: Samples) -> list[NDArray[Any]]:
    return [feed["image"] for feed in samples]


@pytest.mark.parametrize(
    ("shape", "front", "batch", "count"),
    [
        (MODEL, (), 1, 1),  # one image without a batch axis
        (MODEL, (1,), 1, 1),
        (MODEL, (6,), 1, 6),
        (MODEL, (6, 1), 1, 6),  # whole inputs, one after another
        ("N,3,8,10", (6,), 1, 6),
        ("N,3,8,10", (), 1, 1),
        ("N,3,8,10", (6, 2), 2, 6),
        ("2,3,8,10", (2,), 2, 1),
        ("2,3,8,10", (6,), 2, 3),
        ("2,3,8,10", (6, 2), 2, 6),
    ],
)
def test_an_axis_in_front_counts_samples(
    tmp_path: Path, shape: str, front: tuple[int, ...], batch: int, count: int
) -> None:
    array = drawn(*front)
    for source in (
        stored(tmp_path / "a.npy", array),
        _archive(tmp_path / "a.npz", image=array),
        _archive(tmp_path / "b.npz", array),
    ):
        samples = open_samples(source, plain(shape))
        found = images_of(samples)
        assert [each.shape for each in found] == [(batch, *SHAPE)] * count
        np.testing.assert_array_equal(np.concatenate(found), array.reshape(-1, *SHAPE))
        last = f"{source}[{count - 1}]" if count > 1 else str(source)
        assert samples.label(count - 1) == last


def _archive(path: Path, *arrays: NDArray[Any], **named: Any) -> Path:
    np.savez_compressed(path, *arrays, **named)
    return path


@pytest.mark.parametrize("count", [3, 5])
def test_a_list_of_points_is_one_sample(tmp_path: Path, count: int) -> None:
    points = np.ones((count, 3), np.float32)
    samples = open_samples(stored(tmp_path / "a.npy", points), plain("N,3", name="points"))
    (feed,) = samples
    np.testing.assert_array_equal(feed["points"], points)
    stack = np.ones((4, count, 3), np.float32)
    assert len(open_samples(stored(tmp_path / "b.npy", stack), plain("N,3", name="points"))) == 4


TWO = """agraph (float[N,3,8,10] image, float[N,2] factor, float bias)
=> (float[] y, float[] z, float[] b) { y = Relu(image) z = Relu(factor) b = Relu(bias) }"""


def test_several_inputs_are_cut_together(tmp_path: Path) -> None:
    images, factors = drawn(5), np.arange(10, dtype=np.float32).reshape(5, 2)
    source = _archive(tmp_path / "a.npz", image=images, factor=factors, bias=np.float32(7))
    samples = open_samples(source, model_of(TWO))
    assert len(samples) == 5
    for index, feed in enumerate(samples):
        np.testing.assert_array_equal(feed["image"], images[index : index + 1])
        np.testing.assert_array_equal(feed["factor"], factors[index : index + 1])
        assert feed["bias"].shape == ()
        assert feed["bias"] == 7.0


def test_different_numbers_of_samples(tmp_path: Path) -> None:
    model = model_of(
        "agraph (float[1,3] a, float[1,4] b) => (float[] y, float[] z) { y = Relu(a) z = Relu(b) }"
    )
    source = _archive(
        tmp_path / "a.npz", a=np.ones((4, 3), np.float32), b=np.ones((6, 4), np.float32)
    )
    refusal(source, model, message="different numbers of samples: a 4x3, b 6x4", hint="as many")


def test_a_folder_of_arrays(tmp_path: Path) -> None:
    arrays = drawn(3)
    for index, array in enumerate(arrays):
        stored(tmp_path / f"{index}.npy", array)
    _archive(tmp_path / "x.npz", image=arrays[:2])
    (tmp_path / "notes.txt").write_text("hello")
    found = images_of(open_samples(tmp_path, plain(MODEL)))
    np.testing.assert_array_equal(np.concatenate(found), [*arrays, *arrays[:2]])
    limited = open_samples(tmp_path, plain(MODEL), limit=2)
    np.testing.assert_array_equal(np.concatenate(images_of(limited)), arrays[[0, 2]])


def _sum_of(samples: Samples, index: int) -> float:
    return float(samples.feed(index)["image"].sum())


@pytest.mark.parametrize("source", ["npy", "npz", "python"])
def test_another_process_reads_the_files_itself(tmp_path: Path, source: str) -> None:
    arrays = drawn(40)
    given: Any = arrays
    if source == "npy":
        given = stored(tmp_path / "a.npy", arrays)
    elif source == "npz":
        given = _archive(tmp_path / "a.npz", image=arrays)
    samples = open_samples(given, plain(MODEL))
    assert len(pickle.dumps(samples)) < 10_000
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        sums = list(pool.map(_sum_of, [samples] * 2, (0, 39)))
    assert sums == [_sum_of(samples, 0), _sum_of(samples, 39)]
    np.testing.assert_array_equal(samples.feed(39)["image"], arrays[39:])


@pytest.mark.parametrize("compressed", [True, False])
def test_many_threads_read_at_once(tmp_path: Path, compressed: bool) -> None:
    arrays = drawn(64)
    for index, array in enumerate(arrays):
        path = tmp_path / f"{index:02}"
        np.savez_compressed(path, image=array) if compressed else np.save(path, array)
    samples = open_samples(tmp_path, plain(MODEL))
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda index: samples.feed(index % 64)["image"], range(1024)))
    np.testing.assert_array_equal(np.concatenate(found[-64:]), arrays)


def test_arrays_in_the_order_of_fortran(tmp_path: Path) -> None:
    arrays = drawn(4)
    turned = np.asfortranarray(arrays)
    for source in (
        stored(tmp_path / "a.npy", turned),
        _archive(tmp_path / "a.npz", image=turned),
        [turned],
        [_archive(tmp_path / f"{i}.npz", image=np.asfortranarray(arrays[i])) for i in range(4)],
    ):
        found = images_of(open_samples(source, plain(MODEL)))
        np.testing.assert_array_equal(np.concatenate(found), arrays)


def test_no_boxes_in_an_image(tmp_path: Path) -> None:
    model = model_of(
        "agraph (float[1,3,8,10] image, float[K,4] boxes) => (float[] y, float[] z) "
        "{ y = Relu(image) z = Relu(boxes) }"
    )
    feed = {"image": drawn(1), "boxes": np.empty((0, 4), np.float32)}
    for source in (_archive(tmp_path / "a.npz", **feed), [feed]):
        (found,) = open_samples(source, model)
        assert found["boxes"].shape == (0, 4)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_the_scratch_folder_goes_with_its_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    samples = open_samples(list(drawn(3)), plain(MODEL))
    assert len(os.listdir(tmp_path)) == 1
    copy = pickle.loads(pickle.dumps(samples))
    del copy
    child = os.fork()
    if child == 0:
        del samples
        gc.collect()
        os._exit(0)
    os.waitpid(child, 0)
    assert len(images_of(samples)) == 3
    del samples
    gc.collect()
    assert os.listdir(tmp_path) == []


# What Python gives


def test_feeds_from_python(tmp_path: Path) -> None:
    arrays = drawn(4)
    model = plain(MODEL)
    generator: Iterator[NDArray[Any]] = iter(arrays)
    for given in (
        list(arrays),
        arrays,
        generator,
        [{"image": array} for array in arrays],
        ({"image": array[None]} for array in arrays),
        [arrays[:1], arrays[1:]],
        [array.astype(np.float64) for array in arrays],
    ):
        found = np.concatenate(images_of(open_samples(given, model)))
        np.testing.assert_array_equal(found, arrays)
    samples = open_samples((array for array in arrays), model, limit=2)
    assert [samples.label(0), samples.label(1)] == ["sample 0", "sample 1"]


def test_an_endless_iterable_is_cut_at_the_limit() -> None:
    def endless() -> Iterator[NDArray[Any]]:
        while True:
            yield drawn()

    assert len(open_samples(endless(), plain(MODEL), limit=3)) == 3


@pytest.mark.parametrize(
    ("given", "message", "hint"),
    [
        ({"image": drawn(1)}, "the samples are a dict, not a list of feeds", "list of dicts"),
        (b"abc", "the samples are a bytes, not a list of feeds", "a path"),
        (7, "the samples are a int, not a list of feeds", "a path"),
        ([(drawn(), 1)], "sample 0 is a tuple, not an array or a dict of arrays", "with image"),
        ([drawn(), "a"], "sample 1 is a str, not an array or a dict", "with image"),
        ([None], "sample 0 is of type object, not an array of numbers", "numpy"),
        ([{"image": object()}], "sample 0 is of type object, not an array of numbers", "numpy"),
        ([{"image": [[1.0], [1.0, 2.0]]}], "sample 0 cannot be read as an array", "numpy"),
        ([np.array(["a"])], "sample 0 is of type <U1, not an array of numbers", "numpy"),
        ([{"img": drawn()}], "sample 0 lacks input image", "inputs are image"),
        ([{"image": drawn(), "b": drawn()}], "sample 0 has b, which is no input", "are image"),
        ([np.ones((3, 9, 10), np.float32)], "sample 0 is 3x9x10, but input image is 1x3x8x10", ""),
        (iter(()), "there are no samples", "at least one"),
    ],
)
def test_what_python_may_not_give(given: Any, message: str, hint: str) -> None:
    refusal(given, plain(MODEL), message=message, hint=hint)


def test_an_error_of_the_iterable_is_its_own() -> None:
    def broken() -> Iterator[NDArray[Any]]:
        yield drawn()
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        open_samples(broken(), plain(MODEL))


def test_no_room_for_what_python_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(CannotWriteError) as error:
        open_samples([drawn()], plain(MODEL))
    assert "gone: no such file or directory" in error.value.message
    assert "TMPDIR" in error.value.hint


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
@pytest.mark.parametrize("source", ["python", "npz"])
def test_a_disk_that_is_full(tmp_path: Path, source: str) -> None:
    import resource

    arrays = drawn(500)
    given: Any = [arrays] if source == "python" else _archive(tmp_path / "a.npz", image=arrays)
    model = plain(MODEL)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(CannotWriteError) as error:
            open_samples(given, model)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert error.value.message.endswith("file too large")
    assert "TMPDIR" in error.value.hint


# Files that are refused


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (ran,))

    trap = np.array([Trap(), Trap()], dtype=object)
    np.save(tmp_path / "a.npy", trap, allow_pickle=True)
    np.savez(tmp_path / "b.npz", image=trap)
    (tmp_path / "c.npy").write_bytes(pickle.dumps(Trap()))
    sentence = "holds Python objects, which are not read because unpickling runs code"
    refusal(tmp_path / "a.npy", plain(MODEL), message=f"a.npy {sentence}", hint="numpy.save")
    refusal(tmp_path / "b.npz", plain(MODEL), message=f"image in {tmp_path / 'b.npz'} {sentence}")
    refusal(tmp_path / "c.npy", plain(MODEL), message="the sample cannot be read: ")
    assert not ran.exists()


def _cut(path: Path) -> None:
    truncated(path, path)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _text(path: Path) -> None:
    path.write_text("hello\n")


def _header_only(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:128])


@pytest.mark.parametrize("suffix", ["npy", "npz"])
@pytest.mark.parametrize("damage", [_cut, _empty, _text, _header_only])
def test_damaged_files_are_left_out(tmp_path: Path, suffix: str, damage: Any) -> None:
    for index in range(3):
        path = tmp_path / f"{index}.{suffix}"
        with path.open("wb") as stream:
            if suffix == "npy":
                np.save(stream, drawn())
            else:
                np.savez(stream, image=drawn(2))
    damage(tmp_path / f"1.{suffix}")
    samples = open_samples(tmp_path, plain(MODEL))
    assert len(samples) == (2 if suffix == "npy" else 4)
    assert [Path(each.label).name for each in samples.skipped] == [f"1.{suffix}"]
    assert "1 of" in one(samples.warnings, "cannot be read and are left out")
    refusal(tmp_path, plain(MODEL), strict=True, message=f"1.{suffix} cannot be read: ")
    refusal(
        tmp_path / f"1.{suffix}", plain(MODEL), message="the sample cannot be read: ", hint="check"
    )


@pytest.mark.parametrize("count", [1, 4])
def test_an_archive_with_wrong_bytes(tmp_path: Path, count: int) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, image=np.zeros((count, *SHAPE), np.float32))
    content = bytearray(path.read_bytes())
    content[600] ^= 0xFF  # among the numbers
    path.write_bytes(content)
    refusal(path, plain(MODEL), message="the sample cannot be read: ", hint="check the data")
    good = _archive(tmp_path / "b.npz", image=drawn(1))
    (skipped,) = open_samples([path, good], plain(MODEL)).skipped
    assert skipped.reason.startswith("bad CRC-32")


def test_archives_that_hold_something_else(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    refusal(tmp_path / "a.npz", plain(MODEL), message="a.npz is an archive without arrays")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite(tmp_path: Path, value: float) -> None:
    arrays = drawn(3)
    arrays[1, 0, 0, 0] = value
    source = stored(tmp_path / "a.npy", arrays)
    samples = open_samples(source, plain(MODEL))
    assert len(samples) == 2
    (skipped,) = samples.skipped
    assert skipped.label == f"{source}[1]"
    assert "NaN, infinite" in skipped.reason
    refusal(source, plain(MODEL), strict=True, message="a.npy[1] cannot be read: it has values")


def test_values_beyond_half_precision(tmp_path: Path) -> None:
    source = stored(tmp_path / "a.npy", drawn(1) * 1e6)
    refusal(source, plain(MODEL, "float16"), message="too large for float16")


@pytest.mark.parametrize(
    ("array", "kind", "message", "hint"),
    [
        (np.ones((1, 3, 8, 9), np.float32), "float", "is 1x3x8x9, but input image is 1x3x8x10", ""),
        (np.ones((8, 10), np.float32), "float", "is 8x10, but input image is", "shape 1x3x8x10"),
        (np.ones((0, *SHAPE), np.float32), "float", "holds no sample", "empty"),
        (np.ones((8, 10, 3), np.float32), "float", "channels seem to come last", "--layout nhwc"),
        (np.float32(1), "float", "is a scalar, but input image is 1x3x8x10", ""),
        (drawn(1), "uint8", "is float32, but input image takes uint8", ".astype('uint8')"),
        (drawn(1) > 0, "float", "is bool, but input image takes float32", ""),
        (np.full((1, *SHAPE), "a"), "float", "is <U1, but input image takes float32", ""),
        (drawn(1) * 1j, "float", "is complex64, but input image takes float32", ""),
    ],
)
def test_arrays_that_do_not_fit(
    tmp_path: Path, array: NDArray[Any], kind: str, message: str, hint: str
) -> None:
    source = stored(tmp_path / "a.npy", array)
    refusal(source, plain(MODEL, kind), message=message, hint=hint)


def test_names_that_do_not_fit(tmp_path: Path) -> None:
    model = model_of(TWO)
    refusal(
        stored(tmp_path / "a.npy", drawn(1)),
        model,
        message="a.npy holds one array, but the model has 3 inputs",
        hint="image, factor, bias",
    )
    refusal(
        _archive(tmp_path / "a.npz", img=drawn(1)),
        plain(MODEL),
        message="lacks input image",
        hint="inputs are image",
    )


def test_wider_types_are_narrowed(tmp_path: Path) -> None:
    for array in (drawn(1).astype(np.float64), np.ones((1, *SHAPE), np.int64)):
        (found,) = images_of(open_samples(stored(tmp_path / "a.npy", array), plain(MODEL)))
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, array.astype(np.float32))


def test_models_that_take_no_samples(tmp_path: Path) -> None:
    source = stored(tmp_path / "a.npy", drawn(1))
    none = model_of("agraph () => (float[1] y) { y = Constant <value_floats = [1.0]> () }")
    refusal(source, none, message="the model has no inputs")
    text = model_of("agraph (string[1] s) => (string[1] y) { y = Identity(s) }")
    refusal(source, text, message="input s of the model takes no numbers")


# Layout and values


def test_the_layout_of_arrays(tmp_path: Path) -> None:
    first = drawn(4)
    last = first.transpose(0, 2, 3, 1)
    to_last, to_first = stored(tmp_path / "last.npy", last), stored(tmp_path / "first.npy", first)
    refusal(
        to_last,
        plain(MODEL),
        message="last.npy is 4x8x10x3, but input image is 1x3x8x10: its channels seem to come last",
        hint="say so with --layout nhwc",
    )
    refusal(
        to_first,
        plain("1,8,10,3"),
        message="its channels seem to come before height and width",
        hint="say so with --layout nchw",
    )
    options = ImageOptions(layout=Layout.NHWC)
    found = images_of(open_samples(to_last, plain(MODEL), options))
    np.testing.assert_array_equal(np.concatenate(found), first)
    found = images_of(open_samples([last[0]], plain("N,3,8,10"), options))
    np.testing.assert_array_equal(found[0][0], first[0])
    options = ImageOptions(layout=Layout.NCHW)
    found = images_of(open_samples(to_first, plain("1,8,10,3"), options))
    np.testing.assert_array_equal(np.concatenate(found), last)
    assert len(open_samples(to_first, plain(MODEL), options)) == 4


def test_pixels_in_arrays_become_what_images_become(tmp_path: Path) -> None:
    pixels = np.stack([colours(seed, 8, 10) for seed in range(3)])
    options = ImageOptions(layout=Layout.NHWC, mean=(0.5,), std=(0.25,))
    samples = open_samples(stored(tmp_path / "a.npy", pixels), plain(MODEL), options)
    expected = (pixels.transpose(0, 3, 1, 2) / 255.0 - 0.5) / 0.25
    np.testing.assert_allclose(np.concatenate(images_of(samples)), expected, atol=1e-5)
    raw = open_samples(tmp_path / "a.npy", plain("1,8,10,3", "uint8"))
    np.testing.assert_array_equal(np.concatenate(images_of(raw)), pixels)
    last = open_samples(tmp_path / "a.npy", plain("1,8,10,3"))
    np.testing.assert_allclose(np.concatenate(images_of(last)), pixels / 255.0, atol=1e-6)
    assert last.notes[0].startswith("pixels become 0 to 1")


def test_floats_are_normalised_only_if_that_is_asked_for(tmp_path: Path) -> None:
    array = RNG.random((2, *SHAPE)).astype(np.float32)
    source = stored(tmp_path / "a.npy", array)
    options = ImageOptions(mean=(0.5, 0.4, 0.3), std=(0.25,))
    samples = open_samples(source, plain(MODEL), options)
    expected = (array - np.reshape([0.5, 0.4, 0.3], (3, 1, 1))) / 0.25
    np.testing.assert_allclose(np.concatenate(images_of(samples)), expected, atol=1e-5)
    assert len(samples.warnings) == 1
    again = stored(tmp_path / "b.npy", expected.astype(np.float32))
    warning = one(open_samples(again, plain(MODEL), options).warnings, "reach down")
    assert "below -2, which is what --mean and --std make of zero: they seem" in warning
    pixels = stored(tmp_path / "c.npy", array * 255)
    warning = one(open_samples(pixels, plain(MODEL), options).warnings, "reach up")
    assert "above 2.8, which is what --mean and --std make of white: pixels 0 to 255" in warning
    scaled = ImageOptions(scale=1 / 255, mean=options.mean, std=options.std)
    assert len(open_samples(pixels, plain(MODEL), scaled).warnings) == 1
    caffe = ImageOptions(mean=(123.0, 116.0, 104.0))
    assert len(open_samples(pixels, plain(MODEL), caffe).warnings) == 1
    beyond = stored(tmp_path / "d.npy", array * 500)
    warning = one(open_samples(beyond, plain(MODEL), caffe).warnings, "reach up")
    assert warning.endswith("make of white")


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"resize": 32}, "resize"),
        ({"crop": (8, 8)}, "crop"),
        ({"pad": True}, "pad"),
        ({"channel_order": ChannelOrder.BGR}, "channel-order"),
    ],
)
def test_options_that_are_for_images(options: dict[str, Any], name: str) -> None:
    refusal(
        [drawn()],
        plain(MODEL),
        ImageOptions(**options),
        message=f"--{name} is for image files, and the samples are arrays",
        hint="leave it out",
    )


@pytest.mark.parametrize("options", [{"mean": (0.5,)}, {"layout": Layout.NHWC}])
def test_options_for_an_image_input_that_there_is_not(options: dict[str, Any]) -> None:
    refusal(
        [np.ones((1, 16), np.float32)],
        plain("1,16"),
        ImageOptions(**options),
        message="no input of the model takes images: image (float32 1x16)",
    )


def test_constant_and_equal_arrays() -> None:
    samples = open_samples([np.ones(SHAPE, np.float32)] * 33, plain(MODEL))
    assert one(samples.warnings, "one single colour").startswith("33 of 33 samples have")
    assert "all 33 samples are the same" in samples.warnings
    points = open_samples([np.ones((1, 16), np.float32)] * 33, plain("1,16"))
    assert points.warnings == ("all 33 samples are the same",)
