# SPDX-License-Identifier: AGPL-3.0-or-later
"""One training step on the GPU: forward, loss, backward, clip, optimizer, EMA, on a batch that already lies there.

Stock is ultralytics' own modules in a bare loop, so the loader and the bookkeeping between steps are out of the picture. `tuned` is the
same without determinism and with cuDNN's autotuner, which ultralytics never switches on. Ours is the engine's step in front of the same update,
with our attention, convolutions and loss installed, the memory plan that a training run makes, and a CUDA graph where the engine keeps one.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Mapping
from functools import partial
from statistics import median
from typing import Any, NamedTuple

from benchmarks import timing, training
from benchmarks.harness import Benchmark, Job, Measured, Row


class Case(NamedTuple):
    """What distinguishes a row."""

    size: str
    batch: int
    imgsz: int = 640

    def as_run(self, parameters: Mapping[str, Any]) -> Case:
        """With the batch and the pixels of a run, which may be smaller than the claim's."""
        return self._replace(
            batch=self.batch // parameters["batch_divisor"], imgsz=self.imgsz * parameters["imgsz"] // 640
        )


CASES = {
    "train_step_n_b64": Case("n", 64),
    "train_step_n_b256": Case("n", 256),
    "train_step_l_b64": Case("l", 64),
    "train_step_x_b32": Case("x", 32),
    "train_step_s_1280_b32": Case("s", 32, 1280),
}


def _note(case: Case, parameters: Mapping[str, Any]) -> str:
    size, batch, imgsz = case.as_run(parameters)
    return f"yolov12{size}, batch {batch}, {imgsz} px"


ROWS = tuple(Row(name, "ms", "lower", partial(_note, case)) for name, case in CASES.items())
BOXES_PER_IMAGE = 7  # COCO's mean


def run_side(job: Job) -> Measured:
    """Median step time of each case."""
    import torch

    if job.side == "ours":
        from yolov12.engine.patches import install_patches

        install_patches()
    set_determinism(on=job.side == "stock")
    device = torch.device(job.parameters["device"])
    measured = Measured(declared=declare(job))
    for name in job.rows:
        try:
            spent_ms, peak = _measure(CASES[name], device, job)
        except torch.OutOfMemoryError as error:
            measured.failed[name] = f"out of memory: {str(error).splitlines()[0]}"
        else:
            measured.values[name] = spent_ms
            measured.notes[name] = peak.words()
        job.tell(measured)
    return measured


def set_determinism(on: bool) -> None:
    """What ultralytics' trainer sets by default (utils/torch_utils.py:793), or its opposite with cuDNN's autotuner."""
    import torch

    if on:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.use_deterministic_algorithms(on, warn_only=True)
    torch.backends.cudnn.deterministic = on
    torch.backends.cudnn.benchmark = not on
    torch.utils.deterministic.fill_uninitialized_memory = not on
    torch.manual_seed(0)


def _measure(case: Case, device: Any, job: Job) -> tuple[float, training.Peak]:
    """(median ms per step, peak) after a warm-up in which kernels are chosen and the allocator has settled."""
    import torch

    if device.type == "cuda":
        gc.collect()  # the model of the case before is full of cycles
        torch.cuda.empty_cache()
    case = case.as_run(job.parameters)
    data = synthetic_batch(case.batch, case.imgsz, device)
    with training.kept_peak() as peak:
        model, step = trainee(case.size, data, device)
        if job.side == "ours":
            step = with_our_step(model, step, data, device)
        timing.warm(step, device.type, least_calls=job.parameters["warmup_steps"])
        return median(timing.times_ms(step, device.type, job.parameters["steps"])), peak


def plan_memory(model: Any, device: Any) -> Any:
    """What our trainer makes before a run: it chooses what each convolution keeps, by the memory that is free."""
    import torch

    from yolov12 import settings
    from yolov12.engine.recompute import Recomputation

    return Recomputation(model, device, torch.bfloat16, settings.current())


def with_our_step(model: Any, step: TrainingStep, batch: dict[str, Any], device: Any) -> Callable[[], None]:
    """The engine's step in front of the same update."""
    ours = engine_step(model, device)

    def run() -> None:
        ours.run(batch)
        ours.take_gradients()
        step.update()

    return run


def engine_step(model: Any, device: Any, vote_group: Any = None) -> Any:
    """The engine's step: its memory plan, and a CUDA graph where that is faster; with a group, its vote and its sum over ranks, too."""
    import torch

    from yolov12.engine.graph import StepGraph
    from yolov12.engine.step import Step

    return Step(
        model=model,
        forward_loss=model,
        autocast=lambda: torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"),
        scale_loss=lambda loss: loss,
        vote_group=vote_group,
        recomputation=plan_memory(model, device),
        graph=StepGraph(model),
    )


def trainee(size: str, batch: dict[str, Any], device: Any) -> tuple[Any, TrainingStep]:
    """A model, and a training step of it."""
    return trainee_of(f"yolo12{size}.yaml", batch, device)


def trainee_of(config: str | dict[str, Any], batch: dict[str, Any], device: Any) -> tuple[Any, TrainingStep]:
    """The same of any detection model, by the name or the content of its yaml."""
    import torch
    from ultralytics.cfg import get_cfg
    from ultralytics.models.yolo.detect import DetectionTrainer
    from ultralytics.nn.tasks import DetectionModel
    from ultralytics.utils.torch_utils import ModelEMA

    # As in ultralytics, channels_last and autocast are for GPUs (engine/trainer.py:345).
    layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format
    model = DetectionModel(config, verbose=False).to(device, memory_format=layout).train()
    model.args = get_cfg()  # the loss reads its gains from there
    optimizer = DetectionTrainer.build_optimizer(None, model, name="SGD", lr=1e-4, momentum=0.937, decay=5e-4)
    ema = ModelEMA(model)

    return model, TrainingStep(model, batch, optimizer, ema)


class TrainingStep:
    """Forward, loss, backward and update of a model on one batch, as ultralytics' loop does it (engine/trainer.py:541-556 and 909)."""

    ranks = 1
    """By which it multiplies the loss, where DDP is to divide the gradients by it."""

    def __init__(self, model: Any, batch: dict[str, Any], optimizer: Any, ema: Any) -> None:
        self.model, self.batch, self.optimizer, self.ema = model, batch, optimizer, ema

    def __call__(self) -> None:
        """The whole step."""
        import torch

        device = self.batch["img"].device.type
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            loss, _ = self.model(self.batch)
        (loss.sum() * self.ranks).backward()
        self.update()

    def update(self) -> None:
        """Clip, optimizer and EMA, from the gradients that are there."""
        import torch

        torch.nn.utils.clip_grad_norm_(self.model.parameters(), max_norm=10.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.update(self.model)


def synthetic_batch(images: int, imgsz: int, device: Any) -> dict[str, Any]:
    """Random pixels and boxes in the form that `preprocess_batch` hands on (models/yolo/detect/train.py:107)."""
    import torch

    generator = torch.Generator().manual_seed(0)
    boxes = images * BOXES_PER_IMAGE
    centres = 0.1 + 0.8 * torch.rand(boxes, 2, generator=generator)
    sides = 0.02 + 0.3 * torch.rand(boxes, 2, generator=generator) ** 2
    pixels = torch.rand(images, 3, imgsz, imgsz, generator=generator)
    return {
        "img": pixels.to(device),
        "cls": torch.randint(80, (boxes, 1), generator=generator).float().to(device),
        "bboxes": torch.cat([centres, sides], dim=1).to(device),
        "batch_idx": torch.arange(images).repeat_interleave(BOXES_PER_IMAGE).float().to(device),
    }


def declare(job: Job) -> dict[str, Any]:
    """What a side of a step benchmark ran with."""
    import torch

    return {
        "dtype": "autocast bf16" if job.parameters["device"] == "cuda" else "fp32",
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "optimizer": "SGD",
        "workers": None,
        "cache": None,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "imgsz": job.parameters["imgsz"],
    }


BENCHMARK = Benchmark(
    name="train_step",
    claim="one whole training step on a synthetic GPU batch, bf16 autocast, SGD",
    rows=ROWS,
    needs="cuda",
    run_side=run_side,
    sides=("stock", "tuned", "ours"),
    parameters={"device": "cuda", "imgsz": 640, "batch_divisor": 1, "warmup_steps": 20, "steps": 20},
)
