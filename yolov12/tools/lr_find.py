# SPDX-License-Identifier: AGPL-3.0-or-later
"""`yolov12 lr-find`: a learning-rate range test with the very trainer, data, batch and optimizer that a training would use.

Each update is made of as many batches as ultralytics accumulates for it (`nbs`), on all ranks, and gets the next learning rate. Afterwards
weights, optimizer, averages, loss scale and random state are what they were before, to the bit.
"""

from __future__ import annotations

import copy
import json
import math
import os
import random
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from ultralytics.utils import DEFAULT_CFG, RANK, TQDM
from ultralytics.utils.torch_utils import unwrap_model

from yolov12 import settings
from yolov12.data.order import GHOST
from yolov12.declare import as_argument, as_text
from yolov12.distributed.pulse import doing
from yolov12.distributed.world import from_all
from yolov12.engine.loop import Loop
from yolov12.engine.trainer import YOLOv12Trainer
from yolov12.engine.yolo import with_device
from yolov12.errors import UserError
from yolov12.log import program, say
from yolov12.tools.lr_curve import Suggestion, draw, has_exploded, smooth, suggest, write_csv

OPTIONS: dict[str, Any] = {"lr_min": 1e-6, "lr_max": 1.0, "steps": 100}
FEWEST_STEPS = 20
NOT_OF_TRAIN = (*OPTIONS, "name", "exist_ok", "save_dir", "optimizer", "lr0")
"""What was typed for the test alone, or is answered by it."""
REQUEST = "YOLOV12_LR_FIND"
"""Internal: the range and what was typed as JSON, for the processes that a training on several GPUs starts."""


@dataclass(frozen=True)
class Range:
    """From which learning rate to which, in how many updates."""

    lr_min: float = OPTIONS["lr_min"]
    lr_max: float = OPTIONS["lr_max"]
    steps: int = OPTIONS["steps"]

    def __post_init__(self) -> None:
        """Check what was asked for.

        Raises:
            UserError: no rising range of positive learning rates, or too few updates to say anything.
        """
        numbers = (self.lr_min, self.lr_max, self.steps)
        if any(isinstance(n, bool) or not isinstance(n, (int, float)) or not math.isfinite(n) for n in numbers):
            raise UserError(f"lr_min, lr_max and steps are numbers, not {numbers}: type lr_min=1e-6 lr_max=1 steps=100")
        if not 0 < self.lr_min < self.lr_max:
            raise UserError(
                f"lr_min={self.lr_min:g} and lr_max={self.lr_max:g} are no range: type, for example, lr_min=1e-6 lr_max=1"
            )
        if self.steps != int(self.steps) or self.steps < FEWEST_STEPS:
            raise UserError(f"steps={self.steps} is too few to see where the loss falls: type steps=100")

    def lrs(self) -> list[float]:
        """The learning rate of each update; each is the one before times the same factor."""
        return [float(lr) for lr in np.geomspace(self.lr_min, self.lr_max, int(self.steps))]


@dataclass
class Curve:
    """What the test saw, update by update."""

    lrs: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    """Mean loss of an image, over all ranks."""


class LrFindTrainer(YOLOv12Trainer):
    """Sets up as a training does, and runs the range test in place of the epochs."""

    curve: Curve

    def __init__(
        self, cfg: Any = DEFAULT_CFG, overrides: dict[str, Any] | None = None, _callbacks: dict | None = None
    ) -> None:
        """As `YOLOv12Trainer`; the range and what was typed are read from the environment, where `main` has put them."""
        super().__init__(cfg, overrides, _callbacks)
        if RANK in {-1, 0}:
            with suppress(OSError):  # with a training's weights in it, where exist_ok=True names that one's folder
                self.wdir.rmdir()  # nothing is saved
        request = json.loads(os.environ.get(REQUEST, "{}"))
        self.range = Range(**request.get("range", {}))
        self.typed: dict[str, str] = request.get("typed", {})

    def _run(self) -> None:
        loop = Loop(self)
        try:
            with as_before(self):
                self.curve = run(loop, self.range.lrs())
        finally:
            if loop.step.recomputation is not None:
                loop.step.recomputation.close()
        if RANK in {-1, 0}:
            report(self)


def run(loop: Loop, lrs: list[float]) -> Curve:
    """Make one update for each learning rate, or fewer where the loss explodes. All ranks must call it.

    Args:
        loop: of a trainer that is set up.
        lrs: one for each update.
    """
    t, curve = loop.trainer, Curve()
    t._model_train()
    batches = _endless(t)
    steps: Any = TQDM(lrs, desc="lr-find") if RANK in {-1, 0} else lrs
    for lr in steps:
        for group in t.optimizer.param_groups:
            # MuSGD has groups whose rate is a multiple of lr0 (engine/trainer.py:1230).
            group["lr"] = lr * (group["initial_lr"] / t.args.lr0)
            if "momentum" in group:
                group["momentum"] = t.args.momentum
        loss, images = 0.0, 0
        for _ in range(loop.nominal_accumulate):
            batch = loop._on_device(next(batches))
            with doing("compiling and measuring in its first step") if not curve.lrs else nullcontext():
                loss += float(loop.step.run(batch).loss)  # waits for the GPU: some hundred times in all
            images += 0 if GHOST in batch else len(batch["img"])
        loop.step.take_gradients()
        loop.update.run()
        said = from_all((loss, images), t.vote_group)
        curve.lrs.append(lr)
        curve.losses.append(sum(part for part, _ in said) / sum(count for _, count in said))
        if has_exploded(curve.losses):  # on all ranks alike, since all have the same numbers
            break
    return curve


def report(trainer: LrFindTrainer) -> Suggestion:
    """Write the files, and say what was found and what to type.

    Raises:
        UserError: the loss shows no learning rate; the files are there to look at.
    """
    curve = trainer.curve
    smoothed = smooth(curve.lrs, curve.losses)
    found = suggest(curve.lrs, curve.losses)
    folder = Path(trainer.save_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / "lr_find.csv", curve.lrs, curve.losses, smoothed)
    draw(folder / "lr_find.png", curve.lrs, curve.losses, smoothed, found)
    images = int(trainer.args.batch) * trainer.accumulate
    ended = "where the loss exploded" if len(curve.lrs) < trainer.range.steps else "the end of the range"
    say(
        f"lr-find: {len(curve.lrs)} updates of {images} images, learning rates {curve.lrs[0]:.2g} to {curve.lrs[-1]:.2g} ({ended})"
    )
    say(f"lr-find: {folder / 'lr_find.csv'} and lr_find.png hold the curve")
    if found is None:
        raise UserError(
            f"lr-find: the loss never fell clearly between {curve.lrs[0]:.2g} and {curve.lrs[-1]:.2g}, so there is nothing to suggest; "
            "look at lr_find.png, and try a larger batch, more updates (steps=) or another range (lr_min=, lr_max=)"
        )
    say(f"lr-find: suggested lr0={found.lr:g}, from {found.low:.2g} to {found.high:.2g}: {found.reason}")
    say(f"lr-find: next: {program()} train {shlex.join(next_words(trainer.args, trainer.typed, found.lr))}")
    return found


def next_words(args: Any, typed: Mapping[str, str], lr: float) -> list[str]:
    """The training that the test was for, in the user's own words: another `nbs=`, say, would want another learning rate.

    Args:
        args: the trainer's, with what follows from what was typed (`batch=-1`).
        typed: every argument and setting of the command line, as text.
        lr: the suggestion.
    """
    words = {key: typed.get(key, str(getattr(args, key))) for key in ("model", "data")}
    words |= {"batch": str(args.batch), "imgsz": str(args.imgsz)}
    words |= {key: text for key, text in typed.items() if key not in (*words, *NOT_OF_TRAIN)}
    words |= {"optimizer": str(args.optimizer), "lr0": f"{lr:g}"}
    return [f"{key}={text}" for key, text in words.items()]


def as_typed(options: Mapping[str, Any]) -> dict[str, str]:
    """The options of a command line, with the settings that it named, which are in the environment by now."""
    named = {name for name in settings.DECLARED if settings.origin(name) == "command line"}
    said = {key: as_argument(value) for key, value in options.items()}
    return said | {name: as_text(getattr(settings.current(), name)) for name in sorted(named)}


def main(model: Any, options: Mapping[str, Any], typed: Mapping[str, Any]) -> int:
    """The verb.

    Args:
        model: a `YOLO` for detection.
        options: ultralytics' arguments and those of OPTIONS.
        typed: the arguments as the user wrote them: `model=` and `data=` before they were looked up.

    Raises:
        UserError: a range that is none, or a loss that shows no learning rate.
    """
    if model.task != "detect":
        raise UserError(f"lr-find is for detection models, and {model.overrides.get('model')} is one for {model.task}")
    asked = Range(**{key: options[key] for key in OPTIONS if options.get(key) is not None})
    arguments = {key: value for key, value in options.items() if key not in OPTIONS}
    if str(arguments.get("optimizer", "auto")).lower() == "auto":
        say("lr-find: optimizer=SGD, since optimizer=auto ignores lr0")
        arguments["optimizer"] = "SGD"
    for key, value in {"plots": False, "val": False, "save": False}.items():
        arguments[key] = value
    arguments.setdefault("name", "lr-find")
    arguments = with_device(arguments, says_each=True)
    os.environ[REQUEST] = json.dumps({"range": asdict(asked), "typed": as_typed(typed)})
    try:
        trainer = LrFindTrainer(
            overrides={**model.overrides, **arguments, "model": model.overrides["model"], "mode": "train"},
            _callbacks=model.callbacks,
        )
        if model.ckpt:  # as Model.train does (engine/model.py:883)
            trainer.model = trainer.get_model(weights=model.model, cfg=model.model.yaml)
        trainer.train()
    finally:
        del os.environ[REQUEST]
    return 0


@contextmanager
def as_before(trainer: Any) -> Iterator[None]:
    """Whatever updates change is afterwards what it was, to the bit: weights, buffers, optimizer, EMA, loss scale, random state."""
    models = [unwrap_model(trainer.model), trainer.ema.ema]
    tensors = [(tensor, tensor.detach().clone()) for model in models for tensor in _state(model)]
    optimizer = copy.deepcopy(trainer.optimizer.state_dict())
    scaler = copy.deepcopy(trainer.scaler.state_dict())
    updates = trainer.ema.updates
    states = (random.getstate(), np.random.get_state(), torch.get_rng_state())
    on_gpu = trainer.device.type == "cuda"
    gpu_state = torch.cuda.get_rng_state(trainer.device) if on_gpu else None
    try:
        yield
    finally:
        with torch.no_grad():
            for live, kept in tensors:
                live.copy_(kept)
        trainer.optimizer.load_state_dict(optimizer)
        trainer.optimizer.zero_grad()
        if scaler:
            trainer.scaler.load_state_dict(scaler)
        trainer.ema.updates = updates
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if gpu_state is not None:
            torch.cuda.set_rng_state(gpu_state, trainer.device)


def _state(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def _endless(trainer: Any) -> Iterator[dict[str, Any]]:
    """Batches of the training set, epoch after epoch."""
    epoch = 0
    while True:
        trainer.train_loader.set_epoch(epoch)
        yield from trainer.train_loader
        epoch += 1
