# SPDX-License-Identifier: AGPL-3.0-or-later
"""The detection trainer: ultralytics' set-up and bookkeeping around our loop."""

from __future__ import annotations

import functools
import os
import tempfile
from copy import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
import ultralytics.engine.trainer as upstream
from torch import nn
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.utils import DEFAULT_CFG, RANK
from ultralytics.utils.torch_utils import get_torch_device_backend, is_qat, unwrap_model

from yolov12 import precision, settings
from yolov12.data.adapter import in_order
from yolov12.data.order import Plan
from yolov12.distributed import agreement, launchers, ranks, world
from yolov12.distributed.pulse import doing
from yolov12.engine import auto_batch, final_evaluation, lost_weights, lr_scale, norms, pipeline, place, results, resume
from yolov12.engine.checkpoint import Checkpoint
from yolov12.engine.last_words import telling_the_others
from yolov12.engine.loop import Loop
from yolov12.engine.no_reducer import SameOnAllRanks
from yolov12.engine.patches import install_patches
from yolov12.engine.run_plots import RunPlots
from yolov12.engine.saving import Previous, Saver, somebody_reads, with_advice
from yolov12.engine.validator import YOLOv12Validator
from yolov12.log import say
from yolov12.memory import segments
from yolov12.memory.card import Card
from yolov12.memory.history import History
from yolov12.seams import Seam, replaced
from yolov12.uncollected import left_alone
from yolov12.wholefile import remove_parts, replacing

SEAMS = (
    Seam("engine/trainer.py", 468, "ultralytics.engine.trainer.BaseTrainer._do_train", "87a635e3bfc4"),
    Seam("engine/trainer.py", 341, "ultralytics.engine.trainer.BaseTrainer._setup_train", "aecd0c111afe"),
    Seam("engine/trainer.py", 236, "ultralytics.engine.trainer.BaseTrainer.train", "b7f76d34d85c"),
    Seam(
        "models/yolo/detect/train.py",
        78,
        "ultralytics.models.yolo.detect.train.DetectionTrainer.get_dataloader",
        "981b10cf054f",
    ),
    Seam("utils/dist.py", 116, "ultralytics.utils.dist.generate_ddp_command", "041c918eecd6"),
    Seam("engine/trainer.py", 281, "ultralytics.engine.trainer.BaseTrainer._setup_ddp", "90798e18affb"),
    Seam("engine/trainer.py", 873, "ultralytics.engine.trainer.BaseTrainer.setup_model", "33c98eece052"),
    Seam("engine/trainer.py", 301, "ultralytics.engine.trainer.BaseTrainer._build_train_pipeline", "07afcc0627f2"),
    Seam(
        "models/yolo/detect/train.py",
        245,
        "ultralytics.models.yolo.detect.train.DetectionTrainer.auto_batch",
        "600d232e7616",
    ),
    Seam("engine/trainer.py", 1147, "ultralytics.engine.trainer.BaseTrainer._close_dataloader_mosaic", "ee5b6df05c41"),
    Seam("engine/trainer.py", 1071, "ultralytics.engine.trainer.BaseTrainer._load_checkpoint_state", "1c4472505c34"),
    Seam("engine/trainer.py", 1088, "ultralytics.engine.trainer.BaseTrainer._handle_nan_recovery", "e465d82576a3"),
    Seam("engine/trainer.py", 1128, "ultralytics.engine.trainer.BaseTrainer.resume_training", "a43cef5955c0"),
    Seam(
        "models/yolo/detect/train.py",
        201,
        "ultralytics.models.yolo.detect.train.DetectionTrainer.get_validator",
        "f470ff2fa66f",
    ),
    Seam(
        "models/yolo/detect/train.py",
        239,
        "ultralytics.models.yolo.detect.train.DetectionTrainer.plot_training_labels",
        "337b8f32e9e4",
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
    has_checkpoint = False
    """Whether this run has written one, or was resumed from one."""

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
        self.drawing = RunPlots(self)
        self.world = world.from_environment()
        self.vote_group: dist.ProcessGroup | None = None
        self.saver = Saver()
        self.more: dict[str, Any] | None = None
        """What the last checkpoint that was read, or is to be saved, has under `checkpoint.KEY`."""
        self.machines = launchers.of_machine() if self.world.is_alone else None
        given = place.with_device(self.world, self.machines, overrides or {})
        count = ranks.of_all_machines(self.world, self.machines, given.get("device"))
        place.check_batch(given.get("batch"), count)
        pipeline.check_arguments(given, count)  # what a file or a checkpoint gives is known later
        super().__init__(cfg, place.with_folder(self.machines, given), _callbacks)
        if self.args.compile:  # what took minutes is there the next time, in a new container too
            os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(settings.cache_dir() / "compiled"))
        # ultralytics counts the ids in the device string (engine/trainer.py:190), which knows one machine and no CPU ranks
        if not self.world.is_alone:
            self.world_size, self.ddp = self.world.size, False
        elif self.machines:
            self.world_size = ranks.of_this_machine(self.world, self.machines, self.args.device)
            self.ddp = self.world_size > 1
        place.check_batch(self.args.batch, ranks.of_all_machines(self.world, self.machines, self.args.device))

    @property
    def ddp(self) -> bool:
        """Whether this process starts the ranks and trains nothing itself. On one machine of several it does, also with one rank."""
        return self._ddp

    @ddp.setter
    def ddp(self, several: bool) -> None:  # by ultralytics, in the middle of its __init__
        self._ddp = several or (self.machines is not None and self.machines.count > 1)

    @functools.cached_property
    def previous(self) -> Previous:
        """Keeps the last.pt before the last one; made when the run's folder is known."""
        return Previous(self.last)

    def train(self) -> None:
        """Train here, or start one process for each GPU of `device` on this machine and wait for them."""

        def run(command: list[str], check: bool) -> None:
            from yolov12.engine import launch  # here, since most runs need no launcher

            launch.start(command[-1], self.world_size, self.machines)

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

    def get_dataloader(self, dataset_path: str, batch_size: int = 16, rank: int = 0, mode: str = "train") -> Any:
        """As ultralytics' (models/yolo/detect/train.py:78), or ours for training where YOLOV12_DATA_PIPELINE asks for it.

        Either way training samples come in the order of data/order.py.
        """
        if mode != "train":
            return super().get_dataloader(dataset_path, batch_size, rank, mode)
        if self.world.size > 1 and self.args.rect:  # its pictures have the shapes of another cut of the data
            upstream.LOGGER.warning("'rect=True' is incompatible with several ranks, setting 'rect=False'")
            self.args.rect = False

        def upstreams() -> Any:
            with in_order(lambda samples, shuffle: self.plan(samples, batch_size, shuffle)):
                return super(YOLOv12Trainer, self).get_dataloader(dataset_path, batch_size, rank, mode)

        self.upstreams_loader = upstreams
        return pipeline.train_loader(self, dataset_path, batch_size, upstreams)

    def plan(self, samples: int, batch_of_rank: int, shuffle: bool = True) -> Plan:
        """How this rank goes through `samples` pictures, `batch_of_rank` at a time or its share of the batch of all ranks."""
        here = self.world
        batch = batch_of_rank if here.size == 1 else int(self.batch_size)
        return Plan(samples, batch, self.args.seed, here.rank, here.size, shuffle, drop_last=bool(self.args.compile))

    def build_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """As ultralytics' (engine/trainer.py:1155); its learning rate follows the batch where the user asks for that."""
        return lr_scale.scale_if_asked(super().build_optimizer(*args, **kwargs), self)

    def _build_train_pipeline(self) -> None:
        if self.batch_size < 1:  # ultralytics asks only a process that trains alone (engine/trainer.py:451)
            self.args.batch = self.batch_size = self.auto_batch()
        super()._build_train_pipeline()

    def _close_dataloader_mosaic(self) -> None:
        super()._close_dataloader_mosaic()
        if hasattr(
            self.train_loader, "close_mosaic"
        ):  # ours does not use the data set's transforms, which that changed
            self.train_loader.close_mosaic()

    def _setup_ddp(self) -> None:
        """Join the other ranks: ours names a CPU group for votes, has a timeout in minutes, and works on the CPU."""
        if self.device.type == "cuda":
            index = place.gpu_of_rank(self.args.device, self.world)
            self.device = torch.device("cuda", index)
            self.accelerator = get_torch_device_backend(self.device)
            torch.cuda.set_device(index)
            say(f"cores: rank {RANK} {place.bind(index, self.args.device, self.world.local_size)}")
        place.choose_network(self.args.device, self.world)
        current = settings.current()
        self.vote_group = world.join(self.world, self.device, current.dist_timeout_s, current.rdzv_timeout_s)
        facts = place.in_common(vars(self.args), self.data, self.device)
        agreement.check(facts, self.vote_group, only_warn=[place.GPU] if current.mixed_gpus else [])
        # Only rank 0 counts a run's name up (cfg/__init__.py:568); the others take over its folder.
        self.save_dir = Path(world.from_first(str(self.save_dir)))
        self.args.save_dir = str(self.save_dir)
        self.wdir = self.save_dir / "weights"
        self.last, self.best, self.csv = self.wdir / "last.pt", self.wdir / "best.pt", self.save_dir / "results.csv"

    def setup_model(self) -> Any:
        """As ultralytics' (engine/trainer.py:873). Who fails in it, or downloads, does so before the others stand in a collective of the GPUs."""
        checkpoint = super().setup_model()
        world.meet()
        return checkpoint

    def _setup_train(self) -> None:
        self.amp_dtype, reason = precision.choose(self.device, AMP_REQUEST.get(self.args.amp, self.args.amp))
        say(f"precision: {reason}")
        if RANK in {-1, 0}:
            remove_parts(self.wdir)
        # ultralytics would wrap the model in DDP (engine/trainer.py:443). The format that was chosen for this device is told to it for the
        # set-up only: checkpoints keep what was asked for, so that a run resumed on another device chooses anew.
        no_reducer = replaced(nn.parallel, DistributedDataParallel=SameOnAllRanks)
        with no_reducer, replaced(self.args, amp=precision.ARGUMENT[self.amp_dtype]):
            super()._setup_train()
        # It made its own and, for a resumed run, loaded the checkpoint's state into it.
        self.scaler = precision.YoloAMPScaler.in_place_of(self.scaler)
        self.norms_are_synchronised = norms.synchronise_if_asked(unwrap_model(self.model), self.world_size)

    def _do_train(self) -> None:
        failed = True
        segments.grow(self.device)
        try:
            with self.drawing, left_alone(), pipeline.closed(self), telling_the_others():
                self.drawing.begin(bool(self.args.plots))
                if not self.world.is_alone:
                    self._setup_ddp()
                with doing("setting up"):
                    self._setup_train()
                self._run()
            failed = False
        finally:
            world.leave(failed)

    def _run(self) -> None:
        """What is done once everything is set up."""
        Loop(self).run()

    def plot_training_labels(self) -> None:
        """Begin with labels.jpg, for which the first epoch need not wait (models/yolo/detect/train.py:239)."""
        self.drawing.labels()

    def read_results_csv(self) -> dict[str, Any]:
        known = results.columns(self.csv)
        return super().read_results_csv() if known is None else known

    def plot_metrics(self) -> None:
        if not self.drawing.results_are_begun:
            super().plot_metrics()

    def run_callbacks(self, event: str) -> None:
        """As ultralytics', once the plots are there that one of them may look for."""
        self.drawing.wait_for(self.callbacks.get(event, ()))
        super().run_callbacks(event)

    def save_model(self) -> bool:
        """Begin to write last.pt, and best.pt and epochN.pt when due; a thread finishes it (saving.py).

        Returns:
            False where nothing is written: the weights are not finite, and those of an earlier epoch are on disk, from which the next epoch recovers.

        Raises:
            RetryableError: the disk was full for the save before; the checkpoints of earlier epochs are intact.
        """
        # A poisoned average alone is healed (checkpoint.py), and before the first checkpoint there is nothing better to keep.
        if self.has_checkpoint and not lost_weights.are_finite(self.model):
            return False
        self.has_checkpoint = True
        is_best = self.best_fitness == self.fitness
        named = [self.best] if is_best else []
        if self.save_period > 0 and self.epoch % self.save_period == 0:
            self.saver.wait()  # no newer state takes the place of this file, and many would fill the memory
            named.append(self.wdir / f"epoch{self.epoch}.pt")
        if is_qat(self.ema.ema):
            self._save_packed([self.last, *named])
            return True
        checkpoint, self.more = Checkpoint(self, self.more), None
        self.saver.offer(self.last.name, functools.partial(self._replace_last, checkpoint))
        for path in named:
            self.saver.offer(path.name, functools.partial(with_advice, self.last, checkpoint.write_as_stock, path))
        if somebody_reads(self.callbacks, uploads=bool(getattr(self, "platform", None))):
            self.saver.wait()
        return True

    def save_last(self, more: dict[str, Any]) -> bool:
        """Begin to write last.pt in the middle of an epoch; a thread finishes it.

        Args:
            more: what goes under `checkpoint.KEY`.

        Returns:
            False where there is nothing worth saving: the weights are not finite.

        Raises:
            RetryableError: the disk was full for the save before; the last.pt that was there is intact.
        """
        if not lost_weights.are_finite(self.model, self.ema.ema):
            return False
        # Stock can go on with whole epochs only, and takes a number below 0 for a finished run.
        checkpoint = Checkpoint(self, more, epoch=max(self.epoch - 1, 0))
        self.saver.offer(self.last.name, functools.partial(self._replace_last, checkpoint))
        self.has_checkpoint = True
        return True

    def _replace_last(self, checkpoint: Checkpoint) -> None:
        self.wdir.mkdir(parents=True, exist_ok=True)
        with_advice(self.last, self.previous.keep)
        with_advice(self.last, checkpoint.write_in_full, self.last)
        self.previous.is_replaced()

    def _save_packed(self, paths: list[Path]) -> None:
        content = self._packed_by_ultralytics()
        self.wdir.mkdir(parents=True, exist_ok=True)
        for path in paths:
            with replacing(path) as part:
                part.write_bytes(content)

    def _packed_by_ultralytics(self) -> bytes:
        """The bytes of last.pt for a model in quantisation-aware training, whose layers are classes made at run time."""
        with tempfile.TemporaryDirectory() as scratch:
            aside = {
                name: Path(scratch) / file for name, file in (("wdir", ""), ("last", "last.pt"), ("best", "best.pt"))
            }
            with replaced(self, **aside):
                super().save_model()
            return (Path(scratch) / "last.pt").read_bytes()

    def resume_training(self, ckpt: dict[str, Any] | None) -> None:
        """As ultralytics' for a checkpoint of stock's; one of ours goes on where it ends, also in the middle of an epoch."""
        self.more = resume.found_in(ckpt) if self.resume else None
        if ckpt is None or self.more is None:
            super().resume_training(ckpt)
        else:
            resume.load(self, ckpt, self.more)
        if ckpt is not None and self.resume:
            self.has_checkpoint = True
            lr_scale.go_on_as_begun(self)

    def _handle_nan_recovery(self, epoch: int) -> bool:
        return lost_weights.recover(self, epoch, by_upstream=super()._handle_nan_recovery)

    def get_validator(self) -> YOLOv12Validator:
        """Our validator, as ultralytics makes its own."""
        made = {"save_dir": self.save_dir, "args": copy(self.args), "_callbacks": self.callbacks}
        validator = YOLOv12Validator(self.test_loader, **made)
        validator.drawing = self.drawing
        return validator

    def final_eval(self) -> None:
        """Strip the optimizer from the checkpoints and evaluate the best one, all ranks together.

        Only rank 0 has it on its disk for certain, so the others get its bytes.
        """
        if RANK in {-1, 0}:
            final_evaluation.strip(self.last, self.best)
            self.previous.forget()
        if not world.from_first(self.best.exists()):
            return
        with final_evaluation.on_every_rank(self.best, self.device) as weights:
            self._evaluate_best(weights)

    def _evaluate_best(self, weights: Path) -> None:
        upstream.LOGGER.info(f"\nValidating {self.best}...")
        self.validator.args.plots = self.args.plots
        self.validator.args.compile = False
        self.metrics = self.validator(model=weights)
        self.metrics.pop("fitness", None)
        self.epoch += 1  # loggers get the best metrics one step after the last epoch's (engine/trainer.py:1020)
        self.run_callbacks("on_fit_epoch_end")
        self.epoch -= 1
