# SPDX-License-Identifier: AGPL-3.0-or-later
"""The detection trainer: ultralytics' set-up and bookkeeping around our loop."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
import ultralytics.engine.trainer as upstream
import ultralytics.engine.validator as upstream_validator
import ultralytics.models.yolo.detect.val as upstream_detection_validator
import ultralytics.utils.torch_utils as upstream_torch_utils
from torch import nn
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.utils import DEFAULT_CFG, LOCAL_RANK, RANK
from ultralytics.utils.torch_utils import get_torch_device_backend, is_qat, strip_optimizer, unwrap_model

from yolov12 import precision, settings
from yolov12.distributed import devices, world
from yolov12.distributed.pulse import doing
from yolov12.distributed.reduce import broadcast_from_first
from yolov12.distributed.sync_bn import synchronise
from yolov12.engine import auto_batch
from yolov12.engine.checkpoint import packed
from yolov12.engine.last_words import telling_the_others
from yolov12.engine.loop import Loop
from yolov12.engine.patches import install_patches
from yolov12.errors import UserError
from yolov12.log import say
from yolov12.memory.card import Card
from yolov12.memory.history import History
from yolov12.seams import Seam, replaced
from yolov12.wholefile import remove_parts, replacing

SEAMS = (
    Seam("engine/trainer.py", 468, "ultralytics.engine.trainer.BaseTrainer._do_train", "87a635e3bfc4"),
    Seam("engine/trainer.py", 341, "ultralytics.engine.trainer.BaseTrainer._setup_train", "aecd0c111afe"),
    Seam("engine/trainer.py", 236, "ultralytics.engine.trainer.BaseTrainer.train", "b7f76d34d85c"),
    Seam("utils/dist.py", 116, "ultralytics.utils.dist.generate_ddp_command", "041c918eecd6"),
    Seam("engine/trainer.py", 281, "ultralytics.engine.trainer.BaseTrainer._setup_ddp", "90798e18affb"),
    Seam("engine/trainer.py", 301, "ultralytics.engine.trainer.BaseTrainer._build_train_pipeline", "07afcc0627f2"),
    Seam(
        "models/yolo/detect/train.py",
        245,
        "ultralytics.models.yolo.detect.train.DetectionTrainer.auto_batch",
        "600d232e7616",
    ),
    Seam("engine/trainer.py", 1005, "ultralytics.engine.trainer.BaseTrainer.final_eval", "398e74e935f3"),
)

AMP_REQUEST = {True: "1", False: "0", "fp32": "0"}


class YOLOv12Trainer(DetectionTrainer):
    """Trains any detection model of ultralytics: same arguments, callbacks, files and logs.

    The name contains "Trainer" because ultralytics attaches its loggers only to classes whose name does (utils/callbacks/base.py:197).
    """

    # Set by ultralytics; declared because mypy sees only our assignments.
    device: torch.device
    save_dir: Path
    scaler: precision.YoloAMPScaler
    batch_size: float

    def __init__(
        self,
        cfg: Any = DEFAULT_CFG,
        overrides: dict[str, Any] | None = None,
        _callbacks: dict | None = None,
        card: Card | None = None,
    ) -> None:
        """As ultralytics' trainers; `card` is what the run takes for its device's memory instead of asking the device."""
        install_patches()
        self.card = card
        self.history = History()
        self.world = world.from_environment()
        self.vote_group: dist.ProcessGroup | None = None
        super().__init__(cfg, _with_devices_of(self.world, overrides or {}), _callbacks)
        if not self.world.is_alone:
            # ultralytics counts the ids in the device string (engine/trainer.py:190), which knows one machine and no CPU ranks
            self.world_size, self.ddp = self.world.size, False

    def train(self) -> None:
        """Train here, or start one process for each GPU of `device` on this machine and wait for them."""

        def run(command: list[str], check: bool) -> None:
            from yolov12.engine import launch  # here, since most runs need no launcher

            launch.start(command[-1], self.world_size)

        # ultralytics would run torchrun, and refuse to let several ranks find out their batch.
        asked, command = self.args.batch, upstream.generate_ddp_command

        def command_as_asked(trainer: Any) -> Any:
            with replaced(trainer.args, batch=asked):
                return command(trainer)

        batch = {"batch": 1} if self.ddp and asked < 1 else {}
        launched = replaced(upstream, subprocess=SimpleNamespace(run=run), generate_ddp_command=command_as_asked)
        with launched, replaced(self.args, **batch):
            super().train()

    def auto_batch(self) -> int:
        """The batch for `batch=-1` or a share of the GPU's memory; stands in for ultralytics' (models/yolo/detect/train.py:245)."""
        return auto_batch.batch_of(self, measured_by_upstream=super().auto_batch)

    def _build_train_pipeline(self) -> None:
        if self.batch_size < 1:  # ultralytics asks only a process that trains alone (engine/trainer.py:451)
            self.args.batch = self.batch_size = self.auto_batch()
        super()._build_train_pipeline()

    def _setup_ddp(self) -> None:
        """Join the other ranks: ours names a CPU group for votes, has a timeout in minutes, and works on the CPU."""
        if self.device.type == "cuda":
            ids = self.args.device.split(",")
            if len(ids) <= LOCAL_RANK:
                raise UserError(
                    f"device={self.args.device} names {len(ids)} GPU(s) for {self.world.local_size} ranks on this machine; "
                    "leave device out, or start one rank for each GPU"
                )
            index = int(ids[LOCAL_RANK])
            self.device = torch.device("cuda", index)
            self.accelerator = get_torch_device_backend(self.device)
            torch.cuda.set_device(index)
        current = settings.current()
        self.vote_group = world.join(self.world, self.device, current.dist_timeout_s, current.rdzv_timeout_s)
        # Only rank 0 counts a run's name up (cfg/__init__.py:568); the others take over its folder.
        self.save_dir = Path(world.from_first(str(self.save_dir)))
        self.args.save_dir = str(self.save_dir)
        self.wdir = self.save_dir / "weights"
        self.last, self.best, self.csv = self.wdir / "last.pt", self.wdir / "best.pt", self.save_dir / "results.csv"

    def _setup_train(self) -> None:
        self.amp_dtype, reason = precision.choose(self.device, AMP_REQUEST.get(self.args.amp, self.args.amp))
        say(f"precision: {reason}")
        if RANK in {-1, 0}:
            remove_parts(self.wdir)
        # ultralytics would wrap the model in DDP (engine/trainer.py:443). The format that was chosen for this device is told to it for the
        # set-up only: checkpoints keep what was asked for, so that a run resumed on another device chooses anew.
        no_reducer = replaced(nn.parallel, DistributedDataParallel=_SameOnAllRanks)
        with no_reducer, replaced(self.args, amp=precision.ARGUMENT[self.amp_dtype]):
            super()._setup_train()
        # It made its own and, for a resumed run, loaded the checkpoint's state into it.
        self.scaler = precision.YoloAMPScaler.in_place_of(self.scaler)
        self.norms_are_synchronised = self._synchronise_norms()

    def _synchronise_norms(self) -> bool:
        """Take batch norm's statistics over all ranks, if the user asks for it. The average of the weights keeps upstream's modules."""
        if not settings.current().sync_bn:
            return False
        if self.world_size < 2:
            say("sync_bn: there is one process, whose batch norm sees the whole batch anyway")
            return False
        say(
            f"sync_bn: {synchronise(unwrap_model(self.model))} batch norms take their statistics over {self.world_size} ranks; they run as "
            "upstream's modules, without the fused operation, the memory plan and a CUDA graph, and out of memory ends the run"
        )
        return True

    def _do_train(self) -> None:
        if not self.world.is_alone:
            self._setup_ddp()
        failed = True
        try:
            with telling_the_others():
                with doing("setting up"):
                    self._setup_train()
                Loop(self).run()
            failed = False
        finally:
            world.leave(failed)

    def save_model(self) -> bool:
        """Write last.pt, and best.pt and epochN.pt when due, so that a reader never sees half a file.

        Raises:
            RetryableError: the disk is full; the checkpoints of earlier epochs are intact.
        """
        content = self._packed_by_ultralytics() if is_qat(self.ema.ema) else packed(self)
        due = {self.last: True, self.best: self.best_fitness == self.fitness}
        due[self.wdir / f"epoch{self.epoch}.pt"] = self.save_period > 0 and self.epoch % self.save_period == 0
        self.wdir.mkdir(parents=True, exist_ok=True)
        for path in (path for path, is_due in due.items() if is_due):
            with replacing(path) as part:
                part.write_bytes(content)
        return True

    def _packed_by_ultralytics(self) -> bytes:
        """The bytes of last.pt for a model in quantisation-aware training, whose layers are classes made at run time."""
        with tempfile.TemporaryDirectory() as scratch:
            aside = {
                name: Path(scratch) / file for name, file in (("wdir", ""), ("last", "last.pt"), ("best", "best.pt"))
            }
            with replaced(self, **aside):
                super().save_model()
            return (Path(scratch) / "last.pt").read_bytes()

    def final_eval(self) -> None:
        """Strip the optimizer from the checkpoints and evaluate the best one.

        The validator of ultralytics asks CUDA for the rank's device (engine/validator.py:193), so on the CPU rank 0 evaluates alone.
        """
        if RANK in {-1, 0}:
            self._strip_checkpoints()
        if not world.from_first(self.best.exists()):
            return
        if self.world.is_alone or self.device.type == "cuda":
            self._evaluate_best()
        elif RANK == 0:
            alone = {"RANK": -1, "LOCAL_RANK": -1}
            # Its loader holds this rank's share of the images; the next one is made for all of them.
            self.validator.dataloader = None
            with replaced(upstream_validator, **alone), replaced(upstream_detection_validator, **alone):
                self._evaluate_best()

    def _strip_checkpoints(self) -> None:
        results = None
        for checkpoint in (self.last, self.best):
            if checkpoint.exists():
                # its own log line would name the part file
                with replacing(checkpoint) as part, replaced(upstream_torch_utils, LOGGER=logging.getLogger(__name__)):
                    updates = {"train_results": results} if results is not None else None
                    stripped = strip_optimizer(checkpoint, s=str(part), updates=updates)
                results = stripped.get("train_results") if checkpoint == self.last else results
                upstream.LOGGER.info(f"Optimizer stripped from {checkpoint}, {checkpoint.stat().st_size / 1e6:.1f} MB")

    def _evaluate_best(self) -> None:
        upstream.LOGGER.info(f"\nValidating {self.best}...")
        self.validator.args.plots = self.args.plots
        self.validator.args.compile = False
        self.metrics = self.validator(model=self.best)
        self.metrics.pop("fitness", None)
        self.epoch += 1  # loggers get the best metrics one step after the last epoch's (engine/trainer.py:1020)
        self.run_callbacks("on_fit_epoch_end")
        self.epoch -= 1


def _with_devices_of(here: world.World, overrides: dict[str, Any]) -> dict[str, Any]:
    """Under a launcher that gives no device argument, name this machine's GPUs, one per local rank."""
    if not here.is_alone and overrides.get("device") in (None, "", "auto"):
        device, reason = devices.auto(devices.visible_gpus(), here.local_size)
        say(f"device: {device} ({reason})")
        return {**overrides, "device": device}
    return overrides


class _SameOnAllRanks(nn.parallel.DistributedDataParallel):
    """Stands in for DDP while ultralytics sets up: makes the weights equal on all ranks and hands back the bare model."""

    def __new__(cls, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        broadcast_from_first([tensor.data for tensor in (*module.parameters(), *module.buffers())])
        return module
