"""Mean intersection over union of an ONNX model on the demonstration's scenes.

    python -m examples.demo.evaluate                             the committed scenes
    python -m examples.demo.evaluate model.onnx --fresh 200      scenes drawn now

As a library: `mean_iou("model.onnx", load_scenes(SCENE_FOLDER))`. Needs numpy, Pillow and
ONNX Runtime.
"""

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from PIL import Image

from examples.demo.scenes import FRESH_SEEDS, draw_scene
from examples.demo.street import CLASSES

Scene: TypeAlias = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]

HERE = Path(__file__).resolve().parent
MODEL = HERE / "demo.onnx"
SCENE_FOLDER = HERE / "pictures"
SIZE = 128


def draw_scenes(seeds: Iterable[int]) -> Iterator[Scene]:
    """Yield the scenes of these seeds at the network's input size."""
    return (draw_scene(seed, SIZE, SIZE) for seed in seeds)


def load_scenes(folder: Path) -> Iterator[Scene]:
    """Yield (image, labels) of every `*-image.png` and `*-labels.png` pair, by name.

    Raises:
        FileNotFoundError: The folder holds no pictures, or one lacks its labels.
    """
    pictures = sorted(folder.glob("*-image.png"))
    if not pictures:
        raise FileNotFoundError(f"no *-image.png in {folder}")
    for picture in pictures:
        labels = picture.with_name(picture.name.replace("-image", "-labels"))
        with Image.open(picture) as image, Image.open(labels) as indices:
            yield np.asarray(image, dtype=np.uint8), np.asarray(indices, dtype=np.uint8)


def image_to_input(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return uint8 [H, W, 3] as the network takes it: float32 [1, 3, H, W], still 0 to 255."""
    return np.ascontiguousarray(image.transpose(2, 0, 1)[None], dtype=np.float32)


def confusion(
    model: Path | str | bytes, scenes: Iterable[Scene], threads: int = 1
) -> npt.NDArray[np.int64]:
    """Return counts of pixels, [true class, predicted class].

    Args:
        model: An ONNX file, or its bytes, with one image input and logits as its first output.
        scenes: Pairs of picture and labels.
        threads: Threads that ONNX Runtime may use.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    source = str(model) if isinstance(model, Path) else model
    session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    counts = np.zeros(len(CLASSES) ** 2, dtype=np.int64)
    for image, labels in scenes:
        logits = np.asarray(session.run(None, {name: image_to_input(image)})[0])
        pairs = labels.astype(np.int64) * len(CLASSES) + logits[0].argmax(axis=0)
        counts += np.bincount(pairs.ravel(), minlength=counts.size)
    return counts.reshape(len(CLASSES), len(CLASSES))


def class_iou(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return intersection over union of each class, NaN where a class neither is nor is predicted.

    Args:
        counts: What `confusion` returns.
    """
    hits = counts.diagonal().astype(np.float64)
    union = counts.sum(axis=0) + counts.sum(axis=1) - hits
    scores = np.full_like(hits, np.nan)
    np.divide(hits, union, out=scores, where=union > 0)
    return scores


def mean_iou(model: Path | str | bytes, scenes: Iterable[Scene]) -> float:
    """Return the mean over classes of intersection over union, each over all scenes together."""
    return float(np.nanmean(class_iou(confusion(model, scenes))))


def main() -> None:
    """Print the intersection over union of each class and their mean."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", nargs="?", type=Path, default=MODEL, help="an ONNX file")
    parser.add_argument("--scenes", type=Path, default=SCENE_FOLDER, help="folder of PNG pairs")
    parser.add_argument("--fresh", type=int, metavar="N", help="draw N scenes instead")
    parser.add_argument("--threads", type=int, default=1, help="threads of ONNX Runtime")
    options = parser.parse_args()
    if options.fresh is not None and not 1 <= options.fresh <= len(FRESH_SEEDS):
        parser.error(f"--fresh takes 1 to {len(FRESH_SEEDS)}")
    if not options.model.is_file():
        parser.error(f"no such file: {options.model}")
    fresh = options.fresh is not None
    try:
        scenes = draw_scenes(FRESH_SEEDS[: options.fresh]) if fresh else load_scenes(options.scenes)
        counts = confusion(options.model, scenes, options.threads)
    except FileNotFoundError as error:
        parser.error(str(error))
    scores = class_iou(counts)
    for name, score in zip(CLASSES, scores, strict=True):
        print(f"{name:<11}{score:.4f}")
    print(f"{'pixels':<11}{counts.diagonal().sum() / counts.sum():.4f}")
    print(f"{'mean IoU':<11}{np.nanmean(scores):.4f}  ({counts.sum() // SIZE**2} scenes)")


if __name__ == "__main__":
    main()
