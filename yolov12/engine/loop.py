# SPDX-License-Identifier: AGPL-3.0-or-later
"""The epochs of a run, in ultralytics' order and with its callbacks (engine/trainer.py:468), around our own step.

What differs: the step (step.py), out of memory repeats a step instead of halving the batch, and the progress line shows the losses a few
times a second instead of every step, and a step or two late, because reading them at once waits for the GPU (progress_line.py).
"""

from __future__ import annotations

import math
import random
import time
import warnings
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from ultralytics.utils import LOGGER, RANK, TQDM, colorstr
from ultralytics.utils.torch_utils import autocast, unwrap_model

from yolov12 import settings
from yolov12.data.order import GHOST
from yolov12.distributed.pulse import doing
from yolov12.distributed.vote import Wish, vote
from yolov12.distributed.world import from_first, meet
from yolov12.engine import ending, rank_norms, resume, run_memory
from yolov12.engine.cost import Cost
from yolov12.engine.data_wait import DataWait
from yolov12.engine.graph import StepGraph
from yolov12.engine.health import Health
from yolov12.engine.mean_losses import running_means
from yolov12.engine.memory_report import MemoryReport
from yolov12.engine.pipeline import Watch, undisturbed
from yolov12.engine.progress_line import InFlight, ProgressLine, Words
from yolov12.engine.results import drop_rows_after
from yolov12.engine.step import Step
from yolov12.engine.termination import Termination
from yolov12.engine.update import Update
from yolov12.engine.validation_memory import ValidationLeft, surviving
from yolov12.errors import RetryableError
from yolov12.log import say, warn
from yolov12.memory.failure import again
from yolov12.memory.peaks import Peaks
from yolov12.memory.smaller_images import SmallerImages

if TYPE_CHECKING:
    from yolov12.engine.trainer import YOLOv12Trainer

IS_FIRST = RANK in {-1, 0}
EMA_ATTRIBUTES = ["yaml", "nc", "args", "names", "stride", "class_weights"]


class Loop:
    """Drives a trainer whose `_setup_train` has run."""

    def __init__(self, trainer: YOLOv12Trainer) -> None:
        self.trainer = trainer
        self.batches_per_epoch = len(trainer.train_loader)
        self.warmup_iterations = trainer._get_warmup_iterations(self.batches_per_epoch)
        self.nominal_accumulate = trainer.accumulate
        self.last_update = -1
        self.place = (trainer.start_epoch, 0)
        """(epoch, samples of all ranks seen in it) where the run begins."""
        self.seen_before = 0
        """What of the epoch that runs was seen before this process began with it."""
        self.mean_losses: dict[str, Tensor] | None = None
        """Of the part of an epoch that was trained before a resume."""
        self.mosaic_is_closed = not trainer.args.close_mosaic
        self.all_stop = False
        """With several ranks: whether they agreed to stop. A callback that asks for it on one rank is heard at the next step's vote."""
        self.termination = Termination()
        self.history = trainer.history
        self.update = Update(trainer, self.history)
        self.step = Step(
            model=unwrap_model(trainer.model),
            forward_loss=self._forward_loss,
            autocast=self._autocast,
            scale_loss=lambda loss: trainer.scaler.scale(loss),
            vote_group=trainer.vote_group,
            recomputation=run_memory.recomputation_of(trainer),
            history=self.history,
            smaller_images=SmallerImages(trainer.args.imgsz, int(trainer.stride))
            if settings.current().mas_data
            else None,
            explain_failure=lambda: run_memory.explain_failure(trainer, self.step.recomputation),
            graph=self._graph(),
            compresses=settings.current().grad_compress == "bf16",
            rank_norms=rank_norms.if_asked(
                list(unwrap_model(trainer.model).parameters()), 1 if trainer.vote_group is None else trainer.world.size
            ),
        )
        if trainer.card is not None:
            self.step.peaks = Peaks(trainer.card)
        self.health = Health(self.step, trainer.optimizer, f"go on from the last checkpoint with resume={trainer.last}")
        self.save_steps = settings.current().save_steps
        self.cost = Cost(trainer.device)
        self.memory_report = MemoryReport(self.step, trainer.save_dir, trainer.vote_group)
        self.data_wait = DataWait()
        self.pipeline = Watch(trainer, self.data_wait)
        self.in_flight = InFlight(trainer.device, self.health.own_time.waiting_for_the_gpu)
        self.progress_line = ProgressLine(self.health.own_time.waiting_for_the_gpu)

    def _graph(self) -> StepGraph | None:
        """None under torch.compile, which makes its own."""
        t = self.trainer
        if t.args.compile:
            return None
        return StepGraph(unwrap_model(t.model), settings.current().compile, lambda: undisturbed(t.train_loader))

    def run(self) -> None:
        """Train until the last epoch, early stopping, the time limit or a callback ends the run, then evaluate the best weights.

        Raises:
            UserError: not even one image fits into memory.
            SystemExit: SIGTERM or SIGUSR1 came; the step that ran then was finished (termination.py).
        """
        with run_memory.explained(self.trainer, self.step):
            try:
                run_memory.refuse_what_can_not_fit(trainer=self.trainer, step=self.step)
                with self.termination, self.trainer.saver.done_at_a_failure():
                    self._train()
            finally:
                if self.step.recomputation is not None:
                    self.step.recomputation.close()
            self._finish()

    def _train(self) -> None:
        t = self.trainer
        t.epoch_time = None
        t.epoch_time_start = t.train_time_start = time.time()
        t.run_callbacks("on_train_start")
        self._announce()
        if IS_FIRST and drop_rows_after(t.csv, t.start_epoch):
            say(f"{t.csv}: removed what stood there after epoch {t.start_epoch}, which is done again")
        self.memory_report.begin(t.start_epoch)
        if t.args.close_mosaic:
            first_plain = (t.epochs - t.args.close_mosaic) * self.batches_per_epoch
            t.plot_idx.extend([first_plain, first_plain + 1, first_plain + 2])
        t.optimizer.zero_grad()
        t.epoch = t.start_epoch
        if t.more is not None:
            resume.go_on(self, t.more)
            t.more = None
        while True:
            self._train_epoch()
            if not self.health.lost:
                if not self._stops() and vote(None, t.vote_group, self._wish()).wish is Wish.TERMINATE:
                    ending.in_epoch(self, self.batches_per_epoch)
                try:
                    with doing("validating"):
                        self._validate()
                except ValidationLeft:
                    ending.in_epoch(self, self.batches_per_epoch)
            meet()
            if t._handle_nan_recovery(t.epoch):
                self.step.forget()
                self.health.forget()
                self.last_update = -1
                continue
            if self.health.lost:
                raise RetryableError(f"{self.health.lost}; {self.health.resume}, or use a smaller lr0")
            t.nan_recovery_attempts = 0
            more = resume.saved_by(self, t.epoch + 1, seen=0, batches=0)
            with doing("saving the checkpoint"):
                is_saved = self._save_epoch(more)
            self.memory_report.after_epoch(t.epoch + 1)
            self._prepare_next_epoch()
            if t.stop:
                break
            if vote(None, t.vote_group, self._wish()).wish is Wish.TERMINATE:
                ending.after_epoch(self, f"after epoch {t.epoch + 1}", is_saved=is_saved)
            t.epoch += 1

    def _announce(self) -> None:
        t = self.trainer
        length = f"{t.args.time} hours..." if t.args.time else f"{t.epochs} epochs..."
        LOGGER.info(
            f"Using {len(t.train_loader.dataset)} train, {len(t.test_loader.dataset)} val images for fraction={t.args.fraction} "
            f"at imgsz={t.args.imgsz}\nUsing {t.train_loader.num_workers * max(t.world_size, 1)} dataloader workers\n"
            f"Logging results to {colorstr('bold', t.save_dir)}\nStarting training for {length}"
        )

    def _train_epoch(self) -> None:
        t = self.trainer
        t.run_callbacks("on_train_epoch_start")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch wants optimizer.step() before the first scheduler.step()
            t.scheduler.step()
        t._model_train()
        self.pipeline.at_epoch_start()
        if self.step.graph is not None:
            self.step.graph.look()
        self.seen_before = self.place[1] if self.place[0] == t.epoch else 0
        t.train_loader.set_epoch(t.epoch, self.seen_before)
        first = self.batches_per_epoch - t.train_loader.order.plan.batches(self.seen_before)
        if not self.mosaic_is_closed and t.epoch >= t.epochs - t.args.close_mosaic:
            self.mosaic_is_closed = True
            t._close_dataloader_mosaic()
            t.train_loader.reset()
        batches: Any = enumerate(self.data_wait.watched(t.train_loader), start=first)
        if IS_FIRST:
            if t.loss_names:
                LOGGER.info(t.progress_string())
            batches = TQDM(batches, total=self.batches_per_epoch, initial=first)
        t.tloss, self.mean_losses = self.mean_losses, None
        self.progress_line.begin_epoch()
        for i, batch in batches:
            self._train_batch(i, batch, batches)
            if self._stops() or self.health.lost:
                break
        criterion: Any = getattr(unwrap_model(t.model), "criterion", None)
        if hasattr(criterion, "update"):
            criterion.update()
        t.drawing.wait()
        t.lr = {f"lr/pg{i}": group["lr"] for i, group in enumerate(t.optimizer.param_groups)}
        t.run_callbacks("on_train_epoch_end")

    def _train_batch(self, i: int, batch: dict[str, Any], progress: Any) -> None:
        t = self.trainer
        self.health.begin_step()
        t.run_callbacks("on_train_batch_start")
        t.saver.look()  # without room for checkpoints, each further step would be lost
        iteration = i + self.batches_per_epoch * t.epoch
        self._warm_up(iteration)
        batch = self._on_device(batch)
        with doing("compiling and measuring in its first step") if self.health.steps == 1 else nullcontext():
            result = self.step.run(batch, self._wish())
        self.health.after_step(result)
        if t.vote_group is not None:
            t.stop = self.all_stop = result.wish is Wish.STOP
        t.loss, t.loss_items = result.loss, result.items
        self._note_losses(i, result.items)
        if iteration - self.last_update >= t.accumulate:
            with self.memory_report.phase("update"):
                self.step.take_gradients()
                self.update.run()
            self.last_update = iteration
            if t.args.time:
                is_over = time.time() - t.train_time_start > t.args.time * 3600
                t.stop = self.all_stop = from_first(bool(t.stop or is_over))
        self.in_flight.after_step()
        self.memory_report.after_step()
        self.cost.after_step(0 if GHOST in batch else len(batch["img"]))
        if result.wish is Wish.TERMINATE:
            if IS_FIRST:
                progress.close()  # or the bar is printed below the last line
            ending.in_epoch(self, i + 1)
        if self.save_steps and (i + 1) % self.save_steps == 0:
            ending.save(self, i + 1)
        if IS_FIRST and not t.stop:
            self._show_progress(i, batch, progress)
            if t.args.plots and iteration in t.plot_idx:
                t.plot_training_samples(batch, iteration)
        t.run_callbacks("on_train_batch_end")

    def _on_device(self, batch: dict[str, Any]) -> dict[str, Any]:
        """What ultralytics does to a batch before the step; again, if there is no memory for the images at this moment."""
        before = random.getstate()  # multi-scale draws a size

        def preprocess() -> dict[str, Any]:
            random.setstate(before)
            return self.trainer.preprocess_batch(dict(batch))

        return again(preprocess, warn)

    def _forward_loss(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        model, card, recomputation = self.trainer.model, self.trainer.card, self.step.recomputation
        if card is not None and recomputation is not None and recomputation.plan is not None:
            card.use(recomputation.plan.peak_bytes)
        if self.trainer.args.compile:
            return unwrap_model(model).loss(batch, model(batch["img"]))
        return model(batch)

    def _autocast(self) -> Any:
        t = self.trainer
        return autocast(torch.bfloat16 if t.amp_dtype is torch.bfloat16 else t.amp, device=t.device.type)

    def _warm_up(self, iteration: int) -> None:
        """Ramp accumulation, learning rates and momentum over the first iterations (engine/trainer.py:524)."""
        t, last = self.trainer, self.warmup_iterations
        if not last or iteration > last:
            return

        def ramp(start: float, end: float) -> float:
            return float(np.interp(iteration, [0, last], [start, end]))

        t.accumulate = max(1, round(ramp(1, self.nominal_accumulate)))
        for group in t.optimizer.param_groups:
            start = t.args.warmup_bias_lr if group.get("param_group") == "bias" else 0.0
            group["lr"] = ramp(start, group["initial_lr"] * t.lf(t.epoch))
            if "momentum" in group:
                group["momentum"] = ramp(t.args.warmup_momentum, t.args.momentum)

    def name_losses(self, items: dict[str, Tensor]) -> None:
        """The criterion names its losses in its first answer."""
        t = self.trainer
        if not t.loss_names:
            t.loss_names = tuple(items)
            if IS_FIRST:
                LOGGER.info(t.progress_string())
                t.metrics.update(dict.fromkeys(t.label_loss_items(prefix="val"), 0.0))

    def _note_losses(self, i: int, items: dict[str, Tensor]) -> None:
        t = self.trainer
        self.name_losses(items)
        t.tloss = items if t.tloss is None else running_means(t.tloss, i, items)

    def _show_progress(self, i: int, batch: dict[str, Any], progress: Any) -> None:
        t = self.trainer

        def words() -> Words:
            objects, imgsz = batch.get("cls", batch["img"]).shape[0], batch["img"].shape[-1]
            return Words(f"{t.epoch + 1}/{t.epochs}", f"{t._get_memory():.3g}G", objects, imgsz)

        self.progress_line.after_batch(progress, t.tloss.values(), words, is_last=i + 1 >= self.batches_per_epoch)

    def _validate(self) -> None:
        t = self.trainer
        if IS_FIRST:
            t.ema.update_attr(t.model, include=EMA_ATTRIBUTES)
        is_last = t.epoch + 1 >= t.epochs
        # Only rank 0 watches the fitness, and validation has collectives that all must enter.
        if from_first(bool(t.args.val or is_last or t.stopper.possible_stop or self._stops())):
            t._clear_memory(0.5)
            survives = surviving(t.validator, self.history, t.vote_group, self._may_leave_validation)
            with self.memory_report.phase("validation"), survives:
                t.metrics, t.fitness = t.validate()

    def _may_leave_validation(self) -> bool:
        """Whether a signal to end came, and what was done of the epoch can be saved without it: all of it was."""
        return bool(self.termination.requested) and not self._stops()

    def _save_epoch(self, more: dict[str, Any]) -> bool:
        """Whether a checkpoint of it will be there, as far as this rank knows: rank 0 saves."""
        t = self.trainer
        if not IS_FIRST:
            return bool(t.args.save)
        is_last = t.epoch + 1 >= t.epochs
        t.save_metrics(metrics={**t.label_loss_items(t.tloss), **t.metrics, **t.lr})
        t.stop |= t.stopper(t.epoch + 1, t.fitness) or is_last
        if t.args.time:
            t.stop |= time.time() - t.train_time_start > t.args.time * 3600
        t.more = more
        is_saved = bool(t.args.save or is_last) and t.save_model()
        if is_saved:
            t.run_callbacks("on_model_save")
        return is_saved

    def _prepare_next_epoch(self) -> None:
        t, now_s = self.trainer, time.time()
        t.epoch_time, t.epoch_time_start = now_s - t.epoch_time_start, now_s
        if t.args.time:  # a time limit estimates the number of epochs anew after each
            mean_epoch_s = from_first((now_s - t.train_time_start) / (t.epoch - t.start_epoch + 1))  # one clock for all
            t.epochs = t.args.epochs = math.ceil(t.args.time * 3600 / mean_epoch_s)
            self.warmup_iterations = t._get_warmup_iterations(self.batches_per_epoch)
            t._setup_scheduler()
            t.scheduler.last_epoch = t.epoch
            t.stop |= t.epoch >= t.epochs
        with doing("running the callbacks of an epoch's end"):
            t.run_callbacks("on_fit_epoch_end")
        t._clear_memory(0.5)
        t.stop = from_first(t.stop)

    def _wish(self) -> Wish:
        """This rank's; a signal to end is stronger than a callback's `trainer.stop`."""
        return Wish.TERMINATE if self.termination.requested else Wish.STOP if self.trainer.stop else Wish.GO_ON

    def _stops(self) -> bool:
        """Whether the run stops, as all ranks know it."""
        return self.trainer.stop if self.trainer.vote_group is None else self.all_stop

    def _finish(self) -> None:
        t = self.trainer
        with doing("saving the checkpoint"):
            t.saver.wait()
        hours = (time.time() - t.train_time_start) / 3600
        LOGGER.info(f"\n{t.epoch - t.start_epoch + 1} epochs completed in {hours:.3f} hours.")
        if t.args.plots:
            t.drawing.results()
        with surviving(t.validator, self.history, t.vote_group), doing("evaluating the best weights"):
            t.final_eval()
        self.memory_report.finish(plots=t.args.plots, draw_plot=t.drawing.memory)
        ending.tell_cost(self)
        if IS_FIRST:
            if t.args.plots:
                t.plot_metrics()
            t.drawing.wait()
            t.run_callbacks("on_train_end")
        t._clear_memory()
