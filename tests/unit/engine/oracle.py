# SPDX-License-Identifier: AGPL-3.0-or-later
"""A model that knows the labels: for tests of validators, which need predictions that are neither all right nor all wrong."""

from __future__ import annotations

import shutil
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

BCCD = Path(__file__).parents[2] / "data/bccd-mini"
NAMES = {0: "rbc", 1: "wbc", 2: "platelets"}


class Oracle(nn.Module):
    """Takes the place of AutoBackend: raw predictions around the labels of the batch that is being validated, the same for both sides."""

    def __init__(self, crowd: int = 20) -> None:
        super().__init__()
        self.device, self.fp16, self.stride, self.format, self.names = torch.device("cpu"), False, 32, "pt", NAMES
        self.base_model, self.model, self.crowd = True, SimpleNamespace(), crowd
        self.images = 0

    def warmup(self, imgsz: tuple[int, ...]) -> None: ...

    def watch(self, validator: Any) -> None:
        """See each batch of this validator before the model does."""
        preprocess = validator.preprocess

        def spy(batch: dict[str, Any]) -> dict[str, Any]:
            self.batch = preprocess(batch)
            self.images = 0
            return self.batch

        validator.preprocess = spy

    def forward(self, img: Tensor, augment: bool = False) -> tuple[Tensor, None]:
        """(images, 4 + classes, anchors) for the next images of the batch."""
        predictions = [self.one(img.shape[2:], self.images + i) for i in range(len(img))]
        self.images += len(img)
        return torch.stack(predictions), None

    def one(self, size: torch.Size, i: int) -> Tensor:
        """Each label about `crowd` times, moved a little, one in ten of another class; nothing for every fifth image. Follows from its name."""
        seed = zlib.crc32(Path(self.batch["im_file"][i]).name.encode())
        g = torch.Generator().manual_seed(seed)
        mine = self.batch["batch_idx"] == i
        boxes = self.batch["bboxes"][mine] * torch.tensor([*size[::-1], *size[::-1]])
        anchors = 40 * self.crowd
        out = torch.zeros(4 + len(NAMES), anchors)
        if seed % 5 == 3 or not len(boxes):
            return out
        which = torch.randint(0, len(boxes), (anchors,), generator=g)
        out[:4] = (boxes[which] + torch.randn(anchors, 4, generator=g) * boxes[which, 2:].repeat(1, 2) * 0.1).T
        label = self.batch["cls"][mine, 0].long()[which]
        wrong = torch.rand(anchors, generator=g) < 0.1
        label = torch.where(wrong, torch.randint(0, len(NAMES), (anchors,), generator=g), label)
        out[4 + label, torch.arange(anchors)] = torch.rand(anchors, generator=g) ** 2
        return out


def copy_of_bccd(folder: Path) -> str:
    """The data yaml of a copy of the BCCD slice, all of it to validate on; one picture of it has no objects, one no label file."""
    for path in BCCD.rglob("*"):
        if path.is_file() and path.suffix in {".jpg", ".txt", ".yaml"}:
            target = folder / path.relative_to(BCCD)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    first, second, *_ = sorted((folder / "labels/train").glob("*.txt"))
    first.write_text("")
    second.unlink()
    description = folder / "data.yaml"
    description.write_text(description.read_text().replace("val: images/val", "val: [images/train, images/val]"))
    return str(description)
