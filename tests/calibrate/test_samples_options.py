"""The options of the commands that take samples."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from onnxfold.calibrate.images import ChannelOrder, ImageOptions, Layout
from onnxfold.cli.image_options import SampleRequest, sample_options
from onnxfold.errors import BadOptionError
from tests.calibrate.pictures import folder_of, plain, refused


def request(*words: str) -> SampleRequest:
    """What a command is called with."""
    found: list[tuple[SampleRequest, str, bool]] = []

    @click.command()
    @click.argument("model")
    @sample_options("Samples")
    @click.option("--json", "as_json", is_flag=True)
    def command(samples: SampleRequest, model: str, as_json: bool) -> None:
        found.append((samples, model, as_json))

    CliRunner().invoke(command, ["in.onnx", *words], catch_exceptions=False)
    ((samples, model, as_json),) = found
    assert (model, as_json) == ("in.onnx", "--json" in words)
    return samples


def test_nothing_is_given() -> None:
    assert request() == SampleRequest((), ImageOptions(), strict=False, limit=None)


def test_everything_is_given() -> None:
    words = "--data a --data b.npz --samples 300 --strict --json --mean 0.485,0.456,0.406 --std 2"
    words += " --scale 0.5 --resize 256x512 --crop 224x448 --channel-order bgr --layout nhwc"
    assert request(*words.split(), "--input", "image") == SampleRequest(
        ("a", "b.npz"),
        ImageOptions(
            mean=(0.485, 0.456, 0.406),
            std=(2.0,),
            scale=0.5,
            resize=(256, 512),
            crop=(224, 448),
            channel_order=ChannelOrder.BGR,
            layout=Layout.NHWC,
            input="image",
        ),
        strict=True,
        limit=300,
    )


def test_sizes_of_one_number() -> None:
    options = request("--resize", "256", "--crop", "224").options
    assert (options.resize, options.crop) == (256, (224, 224))
    assert request("--pad", "--resize", "64X32").options == ImageOptions(resize=(64, 32), pad=True)


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (("--mean", "a,b"), "'a,b' is no list of numbers for --mean", "--mean 0.485"),
        (("--std", ""), "'' is no list of numbers for --std", "--std 0.485"),
        (("--std", "-1"), "std -1 is not above zero", "divided by"),
        (("--resize", "1x2x3"), "'1x2x3' is no size for --resize", "512x1024"),
        (("--resize", "big"), "'big' is no size for --resize", "512x1024"),
        (("--crop", "-5"), "'-5' is no size for --crop", "--crop 512"),
        (("--crop", "0"), "an image cannot be made smaller than one pixel", ""),
        (("--pad", "--crop", "5"), "either padded to its size or cropped to it", "--resize"),
    ],
)
def test_what_cannot_be_read(words: tuple[str, ...], message: str, hint: str) -> None:
    with pytest.raises(BadOptionError) as error:
        request(*words)
    refused(error, message, hint)


def test_the_request_opens_the_samples(tmp_path: Path) -> None:
    folder_of(tmp_path, 5)
    samples = request("--data", str(tmp_path), "--samples", "3").open(plain())
    assert len(samples) == 3
    with pytest.raises(BadOptionError):
        request("--data", str(tmp_path / "gone")).open(plain())
