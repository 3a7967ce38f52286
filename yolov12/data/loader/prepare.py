# SPDX-License-Identifier: AGPL-3.0-or-later
"""One batch from the indices of its samples: pictures gathered, partners drawn, augmented, and labels in ultralytics' form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from yolov12.data.loader.gather import Gatherer
from yolov12.data.loader.labels import Boxes
from yolov12.data.loader.recent import Recent
from yolov12.errors import RetryableError
from yolov12.log import warn

NAMED_FAILURES = 10
"""Pictures that can not be read are named up to here, and then counted."""


class Place(NamedTuple):
    """Which batch it is: what its random choices follow from, together with the seed and the rank."""

    epoch: int
    number: int
    """In the epoch, from 0."""


class Preparer:
    """Makes batches one after the other. What it makes depends on the seed, the rank, the place and the epoch's order, and on nothing else."""

    def __init__(
        self, gatherer: Gatherer, boxes: Boxes, recent: Recent, hyperparameters: Any, seed: int, rank: int
    ) -> None:
        """`hyperparameters` are the augmentation's (yolov12.data.augment.Hyperparameters)."""
        self.gatherer, self.boxes, self.recent = gatherer, boxes, recent
        self.hyperparameters = hyperparameters
        self.seed, self.rank = seed, rank
        self.unreadable: dict[int, str] = {}
        """Reasons by index of all pictures that could not be read; each is named once."""
        self.replaced = 0
        """Samples that another picture stood in for."""

    def begin_epoch(self, before: Sequence[int]) -> None:
        """Forget the partners of the last epoch; `before` are the samples of this one that were trained on already, in order."""
        self.recent.clear()
        if len(before):
            last = list(before)[-self.recent.length :]
            failed = self._bring(last)
            self.recent.add(index for index in last if index not in failed)

    def make(self, place: Place, indices: Sequence[int]) -> dict[str, Any]:
        """The batch of these samples, with the keys of ultralytics' loaders.

        `img` is uint8 (batch, 3, imgsz, imgsz) RGB on the store's device; `cls` (m, 1), `bboxes` (m, 4) normalised centre and size, and
        `batch_idx` (m,) are float32 on the CPU. Another picture stands in for one that can not be read.

        Raises:
            RetryableError: no picture of the batch can be read, and there is no other.
        """
        from yolov12.data.augment import Pictures, draw, render

        failed = self._bring(indices)
        self.recent.add(index for index in indices if index not in failed)
        samples = self._with_stand_ins(indices, failed, place)
        store, original = self.gatherer.store, self.gatherer.original
        recipe = draw(self._rng(place), np.array(samples, np.int64), self.hyperparameters, self.recent.pick)
        needed = recipe.needed()
        images = [store[index] for index in needed.tolist()]
        sizes = np.array([(image.shape[1], image.shape[0]) for image in images])
        rendered = render(recipe, Pictures(images, *self.boxes.of(needed, sizes)), store.block.device)
        on_gpu = store.block.is_cuda
        labels = {name: getattr(rendered, name) for name in ("cls", "bboxes", "batch_idx")}
        return {
            "img": rendered.img,
            # Pinned, so that the copy to the GPU, which the trainer asks for, does not wait.
            **{name: tensor.pin_memory() if on_gpu else tensor for name, tensor in labels.items()},
            "im_file": tuple(self.gatherer.files[index] for index in samples),
            "ori_shape": tuple(original[index] for index in samples),
            "resized_shape": (tuple(rendered.img.shape[-2:]),) * len(samples),
        }

    def _rng(self, place: Place, purpose: int = 0) -> np.random.Generator:
        return np.random.default_rng([self.seed, *place, self.rank, purpose])

    def _bring(self, indices: Sequence[int]) -> dict[int, str]:
        failed = self.gatherer.bring(indices)
        for index, reason in failed.items():
            if index not in self.unreadable and len(self.unreadable) < NAMED_FAILURES:
                warn(f"loader: {self.gatherer.files[index]}: {reason}; another picture stands in for it")
            self.unreadable[index] = reason
        return failed

    def _with_stand_ins(self, indices: Sequence[int], failed: dict[int, str], place: Place) -> list[int]:
        """A batch keeps its size, so that ranks and accumulation stay in step."""
        missing = sum(index in failed for index in indices)
        if not missing:
            return list(indices)
        if not len(self.recent):
            index, reason = next(iter(failed.items()))
            raise RetryableError(
                f"no picture of a batch of {len(indices)} can be read, first {self.gatherer.files[index]}: {reason}; "
                "see whether the data set is still there, and run the same command again"
            )
        stand_ins = iter(self.recent.pick(self._rng(place, purpose=1), missing).tolist())
        self.replaced += missing
        return [next(stand_ins) if index in failed else index for index in indices]
