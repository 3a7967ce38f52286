# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is profiled: the engine's step with its update, and where its batches come from.

Without a data set the batch is drawn and lies on the device. With one, our trainer sets everything up as for a training, and its loop's own parts
are called in the loop's order; nothing is validated or saved.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, repeat
from typing import Any

import torch

from benchmarks.programs import train_step
from benchmarks.step import trace
from benchmarks.step.phases import beside
from yolov12 import precision, settings
from yolov12.data.loader import PictureLoader
from yolov12.engine.graph import StepGraph
from yolov12.engine.loop import Loop
from yolov12.engine.patches import install_patches
from yolov12.engine.recompute import Recomputation
from yolov12.engine.step import Step
from yolov12.engine.trainer import YOLOv12Trainer
from yolov12.errors import UserError

Batch = dict[str, Any]


@dataclass
class Subject:
    """A training step in its parts."""

    step: Step
    graph: StepGraph | None
    """What the step may use; it has none until it is given this."""
    batches: Iterator[Batch]
    """Without an end."""
    upload: Callable[[Batch], Batch]
    update: Callable[[], None]
    """Clip, optimizer, EMA, from the gradients in the parameters."""
    device: torch.device
    images: int
    """In a batch."""
    dtype: torch.dtype
    """That convolutions compute in."""
    words: str
    """Where batches come from, for the report."""
    is_drawn: bool
    """Whether there are no phases of data."""

    def one_step(self, mark: Callable[[str], None] = lambda phase: None) -> None:
        """Train on a batch.

        Args:
            mark: is told where phases begin that the engine's step does not know of.
        """
        mark(trace.DATA)
        batch = next(self.batches)
        mark(trace.UPLOAD)
        batch = self.upload(batch)
        mark(trace.BEFORE)
        self.step.run(batch)
        mark(trace.UPDATE)
        self.step.take_gradients()
        self.update()


def on_drawn_batch(config: dict[str, Any], images: int, imgsz: int, device: torch.device) -> Subject:
    """A model of this architecture, with weights as they begin, and one batch that stays on the device."""
    install_patches()
    train_step.set_determinism(on=False)
    current = settings.current()
    dtype, _ = precision.choose(device, current.amp)
    batch = train_step.synthetic_batch(images, imgsz, device)
    batch["cls"].remainder_(config["nc"])  # drawn from COCO's 80
    model, whole = train_step.trainee_of(config, batch, device)
    computes_in = dtype or torch.float32
    step = Step(
        model=model,
        forward_loss=model,
        autocast=lambda: torch.autocast(device.type, dtype, enabled=dtype is not None),
        scale_loss=lambda loss: loss,
        recomputation=Recomputation(model, device, computes_in, current),
    )
    return Subject(
        step=step,
        graph=StepGraph(model, current.compile),
        batches=repeat(batch),
        upload=lambda same: same,
        update=whole.update,
        device=device,
        images=images,
        dtype=computes_in,
        words="one drawn batch, which lies on the device",
        is_drawn=True,
    )


def on_data(arguments: dict[str, Any], look: Callable[[Subject], None]) -> None:
    """Set up a training as `yolov12 train` does, and call `look` instead of training.

    Args:
        arguments: ultralytics', `model` and `data` among them.
        look: is called once.
    """
    with tempfile.TemporaryDirectory() as scratch:
        trainer = _Watched(look, {**arguments, "project": scratch, "plots": False, "val": False, "save": False})
        trainer.train()


class _Watched(YOLOv12Trainer):
    """A trainer that hands its loop's parts over instead of training."""

    def __init__(self, look: Callable[[Subject], None], overrides: dict[str, Any]) -> None:
        super().__init__(overrides=overrides)
        if self.ddp or not self.world.is_alone:
            raise UserError("bench step looks at one process: name one GPU (device=0), or cpu")
        self.look = look

    def _run(self) -> None:
        loop = Loop(self)
        step, graph = loop.step, loop.step.graph
        step.graph = None
        self.epoch = self.start_epoch
        self._model_train()
        self.optimizer.zero_grad()
        is_ours = isinstance(self.train_loader, PictureLoader)
        if is_ours:
            _mark_what_is_made(self.train_loader)
        where = "in a thread beside the step" if is_ours else "in other processes, which the profiler does not see"
        subject = Subject(
            step=step,
            graph=graph,
            batches=_endless(self.train_loader),
            upload=loop._on_device,
            update=loop.update.run,
            device=self.device,
            images=int(self.batch_size),
            dtype=self.amp_dtype or torch.float32,
            words=f"{self.args.data}; pictures are decoded and augmented {where}",
            is_drawn=False,
        )
        try:
            self.look(subject)
        finally:
            subject.batches.close()
            if step.recomputation is not None:
                step.recomputation.close()


def _endless(loader: Any) -> Iterator[Batch]:
    """Epoch after epoch."""
    for epoch in count():
        loader.set_epoch(epoch, 0)
        yield from loader


def _mark_what_is_made(loader: PictureLoader) -> None:
    make = loader.preparer.make

    def marked(*arguments: Any) -> Batch:
        with beside(trace.AUGMENT):
            return make(*arguments)

    loader.preparer.make = marked
