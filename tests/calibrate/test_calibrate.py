"""A calibration has the same bits whoever did the work, and in whatever pieces."""

import random
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import replace
from functools import cache, partial, reduce
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxfold.calibrate import Calibration
from onnxfold.calibrate.calibrate import calibrate, fingerprint
from onnxfold.calibrate.chunks import Chunk, HeldSamples, observe_remotely
from onnxfold.calibrate.collect import Observer
from onnxfold.calibrate.identity import graph_hash
from onnxfold.calibrate.instrument import instrument
from onnxfold.calibrate.samples import open_samples
from onnxfold.calibrate.store import load as load_calibration
from onnxfold.calibrate.store import save, to_bytes
from onnxfold.errors import BadModelError, BadOptionError, CannotWriteError, OnnxfoldError
from onnxfold.model import load
from tests.calibrate.networks import CONV_NET_VALUES, DrawnSamples, conv_net, drawn, feeds
from tests.cli.commands import ROOT, surroundings
from tests.toolkit import parse

COUNT = 37
NET = conv_net()
SAMPLES = DrawnSamples(COUNT)


@cache
def expected() -> bytes:
    return to_bytes(calibrate(NET, SAMPLES))


def test_everything_is_observed() -> None:
    found = calibrate(NET, SAMPLES)
    assert found.graph_hash == graph_hash(NET)
    assert found.samples == tuple(range(COUNT))
    assert list(found.tensors) == CONV_NET_VALUES
    assert found.tensors["image"].count == COUNT * 3 * 24 * 20
    assert found.tensors["r1"].minimum == 0.0
    channels = found.tensors["logits"].channels
    assert channels is not None
    assert channels.sums.terms == COUNT


@pytest.mark.parametrize("size", [1, 2, 5, COUNT])
def test_any_chunks_in_any_order(size: int) -> None:
    observer = Observer(instrument(load(NET)))
    places = list(range(0, COUNT, size))
    random.Random(size).shuffle(places)
    parts = []
    for place in places:
        indices = list(range(place, min(place + size, COUNT)))
        random.Random(place).shuffle(indices)
        tensors = observer.observe((index, SAMPLES.feed(index)) for index in indices)
        parts.append(
            Calibration(graph_hash(NET), fingerprint(SAMPLES), tuple(sorted(indices)), tensors)
        )
    assert to_bytes(reduce(Calibration.merged, parts)) == expected()


def test_samples_in_memory() -> None:
    held = [SAMPLES.feed(index) for index in range(COUNT)]
    assert to_bytes(calibrate(NET, held)) == expected()
    assert to_bytes(calibrate(NET.SerializeToString(), iter(held))) == expected()


def test_samples_that_were_opened(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(NET, path)
    opened = open_samples((SAMPLES.feed(index) for index in range(COUNT)), load(path).model)
    assert to_bytes(calibrate(path, opened)) == expected()


def test_an_executor_that_completes_out_of_order() -> None:
    with ThreadPoolExecutor(3) as executor:
        assert to_bytes(calibrate(NET, SAMPLES, executor=executor, workers=3)) == expected()
        assert executor.submit(int, "1").result() == 1


class Elsewhere(Executor):
    """Another machine: files of this one are not there, and the last chunk is done first."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Future[Any], Callable[..., Any], Chunk]] = []
        self.sent: list[type] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        (chunk,) = args
        self.sent.append(type(chunk.model.source))
        if isinstance(chunk.model.source, Path):
            chunk = replace(chunk, model=replace(chunk.model, source=Path("not here")))
        future: Future[Any] = Future()
        self.waiting.append((future, fn, chunk))
        if len(self.waiting) == 2 or chunk.indices[-1] == COUNT - 1:
            for each, function, work in reversed(self.waiting):
                each.set_result(function(work))
            self.waiting.clear()
        return future


def test_workers_that_cannot_read_the_model_are_sent_it() -> None:
    executor = Elsewhere()
    assert to_bytes(calibrate(NET, SAMPLES, executor=executor, workers=2)) == expected()
    assert bytes in executor.sent
    # Once sent, it is kept there.
    assert issubclass(executor.sent[-1], Path)


def test_samples_in_memory_are_sent_in_parts() -> None:
    sent: list[Chunk] = []

    class Here(Executor):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            sent.append(args[0])
            future: Future[Any] = Future()
            future.set_result(fn(*args))
            return future

    held = [SAMPLES.feed(index) for index in range(COUNT)]
    assert to_bytes(calibrate(NET, held, executor=Here(), workers=2)) == expected()
    parts = [chunk.samples for chunk in sent]
    assert all(isinstance(part, HeldSamples) for part in parts)
    assert sum(len(part.feeds) for part in parts if isinstance(part, HeldSamples)) == COUNT


class StopError(Exception):
    pass


@pytest.mark.parametrize("after", [1, 3, 5])
def test_interrupted_and_resumed(tmp_path: Path, after: int) -> None:
    checkpoint = tmp_path / "part.npz"
    said: list[str] = []

    def stop(text: str) -> None:
        said.append(text)
        if len(said) == after:
            raise StopError

    with pytest.raises(StopError):
        calibrate(NET, SAMPLES, checkpoint=checkpoint, progress=stop)
    begun = load_calibration(checkpoint)
    assert len(begun.samples) == min(8 * after, COUNT)
    assert said[0] == f"calibrating: sample 8/{COUNT}"
    texts: list[str] = []
    resumed = calibrate(NET, SAMPLES, checkpoint=checkpoint, progress=texts.append)
    assert to_bytes(resumed) == expected() == checkpoint.read_bytes()
    assert len(texts) == 5 - after
    assert [each.name for each in tmp_path.iterdir()] == ["part.npz"]
    assert to_bytes(calibrate(NET, SAMPLES, checkpoint=checkpoint)) == expected()


KILLED = """
import sys
from pathlib import Path
from onnxfold.calibrate.calibrate import calibrate
from tests.calibrate.networks import DeadlySamples, DrawnSamples, conv_net
samples = DeadlySamples(DrawnSamples(37), 20, Path(sys.argv[2]))
calibrate(conv_net(), samples, checkpoint=sys.argv[1])
"""


def test_killed_and_resumed(tmp_path: Path) -> None:
    checkpoint, lives = tmp_path / "part.npz", tmp_path / "lives"
    lives.write_text("x")
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(checkpoint), str(lives)],
        env=surroundings(),
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert load_calibration(checkpoint).samples[:8] == tuple(range(8))
    assert to_bytes(calibrate(NET, SAMPLES, checkpoint=checkpoint)) == expected()


def refused(message: str, kind: type[OnnxfoldError], run: Callable[[], object]) -> None:
    with pytest.raises(kind) as caught:
        run()
    assert message in caught.value.message
    assert caught.value.hint
    assert not caught.value.message.endswith(".")


def test_checkpoints_of_something_else(tmp_path: Path) -> None:
    checkpoint = tmp_path / "part.npz"

    def resumed(model: onnx.ModelProto, samples: Any, values: Any = None) -> Callable[[], object]:
        return lambda: calibrate(model, samples, values, checkpoint=checkpoint)

    calibrate(NET, SAMPLES, checkpoint=checkpoint)
    before = checkpoint.read_bytes()
    refused("belongs to another model", BadOptionError, resumed(conv_net(18), SAMPLES))
    refused("with other samples", BadOptionError, resumed(NET, DrawnSamples(COUNT - 1)))
    refused("with other samples", BadOptionError, resumed(NET, feeds(COUNT, seed=5)))
    refused("of other values", BadOptionError, resumed(NET, SAMPLES, ["r1"]))
    assert checkpoint.read_bytes() == before
    checkpoint.write_bytes(before[:1000])
    refused("is damaged or cut off", BadOptionError, resumed(NET, SAMPLES))
    checkpoint.write_text("hello")
    refused("is not a calibration file", BadOptionError, resumed(NET, SAMPLES))


def test_a_checkpoint_with_fewer_samples_is_taken_up(tmp_path: Path) -> None:
    whole = calibrate(NET, SAMPLES)
    checkpoint = tmp_path / "part.npz"
    observer = Observer(instrument(load(NET)))
    some = observer.observe((index, SAMPLES.feed(index)) for index in (36, 2, 9))
    save(replace(whole, samples=(2, 9, 36), tensors=some), checkpoint)
    assert to_bytes(calibrate(NET, SAMPLES, checkpoint=checkpoint)) == expected()


def test_nothing_to_do_it_with(tmp_path: Path) -> None:
    refused("there are no samples", BadOptionError, lambda: calibrate(NET, []))
    refused("0 workers", BadOptionError, lambda: calibrate(NET, SAMPLES, workers=0))
    refused(
        "there is no folder",
        CannotWriteError,
        lambda: calibrate(NET, SAMPLES, checkpoint=tmp_path / "no" / "c.npz"),
    )
    refused("does not exist", BadModelError, lambda: calibrate(tmp_path / "no.onnx", SAMPLES))


def test_samples_that_do_not_fit() -> None:
    good = feeds(10)
    missing = [*good, {}]
    refused("sample 10 has no array for the input", BadOptionError, lambda: calibrate(NET, missing))
    wrong = [*good, {"image": drawn(1, 1, 3, 8, 8)}]
    refused("the shape 1x3x8x8", BadOptionError, lambda: calibrate(NET, wrong))
    with ThreadPoolExecutor(2) as executor:
        refused(
            "the shape 1x3x8x8",
            BadOptionError,
            lambda: calibrate(NET, wrong, executor=executor, workers=2),
        )


def test_what_was_done_before_a_bad_sample_is_kept(tmp_path: Path) -> None:
    checkpoint = tmp_path / "part.npz"
    wrong = [*feeds(20), {}]
    refused("sample 20", BadOptionError, lambda: calibrate(NET, wrong, checkpoint=checkpoint))
    assert load_calibration(checkpoint).samples == tuple(range(16))


ROOTED = """net (float[1, 3, 6, 6] x) => (float[] y) {
    c = Conv (x, w)
    safe = Abs (c)
    r = Sqrt (c)
    s = Add (r, safe)
    y = Conv (s, v)
}"""


def test_the_layer_that_gives_nan_is_named(tmp_path: Path) -> None:
    weights = {"w": np.ones((2, 3, 1, 1), np.float32), "v": drawn(1, 2, 2, 3, 3)}
    model = parse(ROOTED, weights)
    model.graph.node[2].name = "root"
    samples = [{"x": np.abs(drawn(seed, 1, 3, 6, 6))} for seed in range(12)]
    assert len(calibrate(model, samples, ["c", "y"]).samples) == 12
    samples[9] = {"x": -samples[9]["x"]}
    message = "the layer Sqrt 'root' gives NaN or infinity on sample 9"
    for values in (["y"], ["c", "y"], None):
        refused(message, BadModelError, partial(calibrate, model, samples, values))
    with ThreadPoolExecutor(2) as executor:
        refused(
            message,
            BadModelError,
            lambda: calibrate(model, samples, executor=executor, workers=2),
        )
    weights["w"][1] = np.inf
    infinite = parse(ROOTED, weights)
    refused("the layer Conv of 'c' gives", BadModelError, lambda: calibrate(infinite, samples))


def test_a_sample_that_is_not_finite_is_named(tmp_path: Path) -> None:
    samples = feeds(12)
    samples[5]["image"][0, 0, 0, 0] = np.nan
    refused(
        "sample 5 holds NaN or infinity in image", BadOptionError, lambda: calibrate(NET, samples)
    )
    folder = tmp_path / "data"
    folder.mkdir()
    for index, feed in enumerate(feeds(3)):
        np.savez(folder / f"{index}.npz", image=feed["image"])
    opened = open_samples(folder, load(NET).model)
    broken = feeds(2)[1]["image"]
    broken[0, 0, 0, 0] = np.inf
    np.savez(folder / "1.npz", image=broken)
    refused("1.npz", BadOptionError, lambda: calibrate(NET, opened))


def test_data_are_told_apart() -> None:
    assert fingerprint(SAMPLES) == fingerprint(DrawnSamples(COUNT))
    held = [SAMPLES.feed(index) for index in range(COUNT)]
    assert fingerprint(HeldSamples.of(held)) == fingerprint(SAMPLES)
    assert fingerprint(DrawnSamples(COUNT - 1)) != fingerprint(SAMPLES)
    held[-1] = {"image": held[-1]["image"] + np.float32(1e-3)}
    assert fingerprint(HeldSamples.of(held)) != fingerprint(SAMPLES)


def test_a_worker_without_the_model_says_so(tmp_path: Path) -> None:
    model = replace(instrument(load(NET)), source=tmp_path / "gone.onnx")
    assert observe_remotely(Chunk(model, SAMPLES, (0,))) is None


MEMORY = """
import resource, sys
import numpy as np
from onnxfold.calibrate.calibrate import calibrate
from tests.calibrate.networks import DrawnSamples, drawn
from tests.toolkit import parse
layers = "".join(f"t{i + 1} = Conv (t{i}, w) r{i} = Sigmoid (t{i + 1}) " for i in range(12))
body = f"net (float[1, 3, 192, 192] image) => (float[] t12) {{ t0 = Conv (image, v) {layers} }}"
model = parse(body, {"v": drawn(1, 16, 3, 1, 1), "w": drawn(2, 16, 16, 1, 1, scale=0.3)})
values = [name for i in range(12) for name in (f"t{i + 1}",)]
calibrate(model, DrawnSamples(2, 192, 192), values)
first = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
calibrate(model, DrawnSamples(40, 192, 192), values)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - first)
"""


def test_memory_does_not_grow_with_the_samples() -> None:
    """All values of 40 samples would be 1.1 GB, and those of a chunk 220 MB."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY],
        env=surroundings(),
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    assert int(done.stdout) < 60_000  # kB
