"""Feeds that are read when they are asked for, in whichever process asks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxfold.calibrate.images import Recipe
from onnxfold.calibrate.samples_arrays import Scratch
from onnxfold.calibrate.samples_cut import ArrayRules, ArraySample
from onnxfold.calibrate.samples_files import File

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class ImageFeeds:
    """Feeds of image files.

    Attributes:
        files: The images, `batch` to a feed; the last feed is filled up from the beginning.
        recipe: What is done to each.
        name: The image input.
        batch: Images in a feed.
        others: What the model's other inputs are fed, always.
    """

    files: tuple[File, ...]
    recipe: Recipe
    name: str
    batch: int
    others: Mapping[str, Array]

    def __len__(self) -> int:
        return -(-len(self.files) // self.batch)

    def label(self, index: int) -> str:
        """The first image of a feed."""
        return self.files[index * self.batch].label

    def feed(self, index: int) -> dict[str, Array]:
        """Read, prepare and stack the images.

        Raises:
            UnreadableError: One cannot be decoded.
        """
        first = index * self.batch
        files = [self.files[(first + each) % len(self.files)] for each in range(self.batch)]
        images = np.stack([self.recipe.read(file.path) for file in files])
        return {self.name: images, **self.others}


@dataclass(frozen=True, slots=True)
class ArrayFeeds:
    """Feeds of stored arrays.

    Attributes:
        samples: Where the arrays of each feed are.
        rules: How they are fitted to the model.
        scratch: Keeps the files that were made for this.
    """

    samples: tuple[ArraySample, ...]
    rules: ArrayRules
    scratch: Scratch

    def __len__(self) -> int:
        return len(self.samples)

    def label(self, index: int) -> str:
        """The file, and which sample of it."""
        return self.samples[index].label

    def feed(self, index: int) -> dict[str, Array]:
        """Read and fit the arrays.

        Raises:
            UnreadableError: A file is damaged.
        """
        return self.rules.feed(self.samples[index])
