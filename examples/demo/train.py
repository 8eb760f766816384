"""Train the demonstration network on drawn scenes and export it with its BatchNorms left in.

    python -m examples.demo.train            writes demo.onnx and the committed scenes

Needs torch (CPU), numpy, Pillow, onnx and onnxruntime. Seeds are fixed; torch's sums still depend
on its version, the processor and the number of threads, so that another machine's figures differ
in the third digit.
"""

import argparse
import math
import time
from collections.abc import Iterable
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import onnx
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from examples.demo.evaluate import (
    MODEL,
    SCENE_FOLDER,
    SIZE,
    Scene,
    draw_scenes,
    load_scenes,
    mean_iou,
)
from examples.demo.network import DemoNet
from examples.demo.scenes import (
    COMMITTED_SEEDS,
    FRESH_SEEDS,
    TRAINING_SEEDS,
    VALIDATION_SEEDS,
    draw_scene,
)
from examples.demo.street import CLASSES

BATCH = 16
DRAWING_PROCESSES = 2
PEAK_RATE = 4e-3
REQUIRED_IOU = 0.85
_PALETTE = (
    (120, 180, 255),
    (80, 80, 80),
    (220, 180, 200),
    (150, 80, 50),
    (40, 140, 40),
    (20, 20, 200),
    (220, 20, 60),
    (250, 220, 0),
)


def draw(seed: int) -> Scene:
    """Draw one scene; a plain function, as worker processes need."""
    return draw_scene(seed, SIZE, SIZE)


def draw_all(seeds: Iterable[int]) -> tuple[Tensor, Tensor]:
    """Return pictures, uint8 [N, 3, 128, 128], and labels, uint8 [N, 128, 128]."""
    with get_context("spawn").Pool(DRAWING_PROCESSES) as pool:
        scenes = pool.map(draw, seeds, chunksize=50)
    images = torch.from_numpy(np.stack([image for image, _ in scenes]))
    return images.permute(0, 3, 1, 2).contiguous(), torch.from_numpy(
        np.stack([labels for _, labels in scenes])
    )


def class_weights(labels: Tensor) -> Tensor:
    """Return weights that grow with a class's rarity as the fourth root, with mean 1."""
    counts = torch.bincount(labels.flatten().to(torch.int64), minlength=len(CLASSES))
    weights = (counts.sum() / counts.to(torch.float32)) ** 0.25
    return weights / weights.mean()


def train(net: DemoNet, images: Tensor, labels: Tensor, epochs: int) -> None:
    """Train with AdamW on a one-cycle rate, half of every batch mirrored."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=PEAK_RATE, weight_decay=1e-2)
    steps = len(images) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, PEAK_RATE, total_steps=epochs * steps, pct_start=0.15
    )
    weights = class_weights(labels)
    start = time.perf_counter()
    net.train()
    for epoch in range(epochs):
        order = torch.randperm(len(images))
        total = 0.0
        for step in range(steps):
            chosen = order[step * BATCH : (step + 1) * BATCH]
            target = labels[chosen].long()
            picture = images[chosen].float().contiguous(memory_format=torch.channels_last)
            picture[: BATCH // 2] = picture[: BATCH // 2].flip(3)
            target[: BATCH // 2] = target[: BATCH // 2].flip(2)
            loss = functional.cross_entropy(net(picture), target, weight=weights)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            total += loss.item()
            if not math.isfinite(total):
                raise SystemExit("the loss is no longer finite")
            if (step + 1) % 50 == 0:
                print(
                    f"epoch {epoch + 1} step {step + 1}/{steps} loss {total / (step + 1):.4f} "
                    f"{time.perf_counter() - start:.0f} s",
                    flush=True,
                )


def export(net: DemoNet, path: Path) -> None:
    """Write the network as it was trained: BatchNorms and branches kept, nothing folded."""
    # PRESERVE exports the mode the module is in, and inference needs the running statistics.
    net.eval()
    torch.onnx.export(
        net,
        (torch.zeros(2, 3, SIZE, SIZE),),
        str(path),
        dynamo=False,
        opset_version=17,
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "N"}, "logits": {0: "N"}},
    )
    model = onnx.load(path)
    # The exporter does not work out the last Resize's output size and leaves names in its place.
    for axis in (2, 3):
        model.graph.output[0].type.tensor_type.shape.dim[axis].dim_value = SIZE
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def save_scenes(folder: Path, seeds: Iterable[int]) -> None:
    """Write each seed's picture and its labels as PNG, the labels as palette indices."""
    folder.mkdir(exist_ok=True)
    for seed in seeds:
        image, labels = draw(seed)
        Image.fromarray(image).save(folder / f"{seed}-image.png", optimize=True)
        indices = Image.fromarray(labels)
        indices.putpalette([channel for colour in _PALETTE for channel in colour])
        indices.save(folder / f"{seed}-labels.png", optimize=True)


def main() -> None:
    """Draw, train, export and measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=MODEL, help="ONNX file to write")
    parser.add_argument("--epochs", type=int, default=4, help="passes over the training scenes")
    parser.add_argument("--scenes", type=int, default=len(TRAINING_SEEDS), help="how many to draw")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    start = time.perf_counter()
    images, labels = draw_all(TRAINING_SEEDS[: options.scenes])
    print(f"{len(images)} scenes drawn in {time.perf_counter() - start:.0f} s", flush=True)
    # Channels last halves the time of a step on a CPU.
    net = DemoNet(len(CLASSES))
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    print(f"{sum(p.numel() for p in net.parameters())} parameters", flush=True)
    train(net, images, labels, options.epochs)
    export(net, options.output)
    save_scenes(SCENE_FOLDER, COMMITTED_SEEDS)
    print(f"trained and exported in {time.perf_counter() - start:.0f} s altogether")
    print(f"{options.output.stat().st_size} bytes")
    validation = mean_iou(options.output, draw_scenes(VALIDATION_SEEDS))
    print(f"mean IoU, {len(VALIDATION_SEEDS)} validation scenes: {validation:.4f}")
    fresh = mean_iou(options.output, draw_scenes(FRESH_SEEDS[:200]))
    print(f"mean IoU, 200 fresh scenes: {fresh:.4f}")
    print(f"mean IoU, committed scenes: {mean_iou(options.output, load_scenes(SCENE_FOLDER)):.4f}")
    if validation < REQUIRED_IOU:
        raise SystemExit(f"below the required {REQUIRED_IOU}")


if __name__ == "__main__":
    main()
