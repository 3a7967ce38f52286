# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whether the suggestion of lr-find is worth following: trainings on BCCD with it and with lr0=0.01, for several seeds, on two networks.

plain   yolov12n as it is, for which 0.01 is a fair choice: the suggestion must be no worse
steep   the same with every gradient ten times as large, behind the clipping: SGD at 0.01 is there what it is at 0.1 on the plain one. The suggestion
        must be better. lr-find is not told of it

lr-find runs once for each network, with seed 0. All runs are ours, one process each, side by side, as many seeds as the machine's GPUs have room
for, so nothing here is a timing. On a machine that is lent for minutes LR_FIND_RUNS=FILE makes each call run only as many seeds, and keeps what is
finished in that file.

Worse and better mean, and this was written down before the first measurement: by more than 0.01 mAP50-95, and by more than two standard errors of
the mean with 0.01. A training on the steep network whose weights are no numbers any more with 0.01 counts as mAP 0, and the note says so.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from benchmarks import child, kept_runs, record, sides, system, training
from benchmarks.child import Run
from benchmarks.harness import Benchmark, Job, Measured, Row
from benchmarks.kept_runs import Key
from benchmarks.noise import noise_of, require_seeds

if TYPE_CHECKING:
    from torch.optim import Optimizer

PROGRAM = "benchmarks.programs.lr_find"
DEFAULT = 0.01
SEED_GIB = 26
"""GPU memory that the four trainings of a seed take at most: one has kept 5.1 GiB (bccd_wall)."""
NETWORKS = {"plain": 1.0, "steep": 10.0}
"""How much larger gradients are than they would be."""
DIVERGED = re.compile("not finite either|NaN persisted|corrupted with NaN")
"""How a training ends whose weights are no numbers any more: yolov12/engine/health.py, and ultralytics' recovery (engine/trainer.py:1088)."""

ROWS = tuple(
    row
    for network in NETWORKS
    for row in (
        Row(f"lr_find_{network}", "mAP", "higher", f"{network} network: mean mAP50-95 with the suggestion minus that with lr0={DEFAULT}"),
        Row(f"lr_find_{network}_suggested", "mAP", "higher", f"{network} network: mean mAP50-95 with the suggestion of lr-find"),
        Row(f"lr_find_{network}_default", "mAP", "higher", f"{network} network: mean mAP50-95 with lr0={DEFAULT}"),
    )
)  # fmt: skip


def run_side(job: Job) -> Measured:
    """The range tests, then the trainings of as many seeds as the GPU has room for, and so on; only the first of these where runs are kept."""
    require_seeds(job.parameters["seeds"])
    kept = str(job.parameters["kept"])
    networks = [network for network in NETWORKS if any(row.startswith(f"lr_find_{network}") for row in job.rows)]
    tests = {(f"test-{network}", 0): _asked(job, network, 0, "test") for network in networks}
    found = kept_runs.run_all(PROGRAM, tests, kept, job.scratch)
    trainings = {
        (f"{network}-{name}", seed): _asked(job, network, seed, "train", lr0=lr0)
        for seed in range(job.parameters["seeds"])
        for network in networks
        for name, lr0 in (("suggested", _suggestion(found[f"test-{network}", 0])), ("default", DEFAULT))
        if lr0 is not None
    }
    found |= kept_runs.run_all(PROGRAM, trainings, kept, job.scratch, kept_runs.seeds_that_fit(SEED_GIB))
    measured = Measured(declared=_declared(found))
    for network in networks:
        compare(network, found, job.parameters["seeds"], measured)
    return measured


def _asked(job: Job, network: str, seed: int, do: str, **more: Any) -> dict[str, Any]:
    return {**job.parameters, "side": "ours", "do": do, "steepness": NETWORKS[network], "seed": seed, **more}


def _suggestion(test: Run) -> float | None:
    return None if test.failure else float(test.result[0])


def _declared(found: dict[Key, Run]) -> dict[str, Any]:
    trained = (run for (kind, _), run in found.items() if not kind.startswith("test-") and not run.failure)
    return next((run.result[1] for run in trained), dict.fromkeys(record.DECLARED))


def compare(network: str, found: dict[Key, Run], count: int, measured: Measured) -> None:
    """Fill in the rows of one network, or why they have no value."""
    row, test = f"lr_find_{network}", found[f"test-{network}", 0]
    maps: dict[str, list[float]] = {}
    for name in ("suggested", "default"):
        if name == "suggested" and test.failure:
            measured.failed[f"{row}_{name}"] = f"lr-find: {test.failure}"
            continue
        runs = {seed: found[f"{network}-{name}", seed] for seed in range(count)}
        counts_as_zero = network == "steep" and name == "default"
        scores = {seed: _score(run, counts_as_zero) for seed, run in runs.items()}
        if wrong := [f"seed {seed}: {score}" for seed, score in scores.items() if isinstance(score, str)]:
            measured.failed[f"{row}_{name}"] = "; ".join(wrong)
            continue
        maps[name] = [float(score) for score in scores.values()]
        measured.values[f"{row}_{name}"] = mean(maps[name])
        measured.notes[f"{row}_{name}"] = "; ".join(_described(seed, runs[seed], scores[seed]) for seed in runs)
    if len(maps) < 2:
        reasons = [measured.failed[name] for name in (f"{row}_suggested", f"{row}_default") if name in measured.failed]
        measured.failed[row] = "; ".join(reasons)
        return
    difference, noise = mean(maps["suggested"]) - mean(maps["default"]), noise_of(maps["default"])
    measured.values[row] = difference
    lr, low, high, reason = test.result
    verdict = verdict_of(network, difference, noise)
    measured.notes[row] = (
        f"{verdict} (noise {noise:.4f}); lr-find suggested {lr:g}, from {low:.2g} to {high:.2g}: {reason}"
    )


def verdict_of(network: str, difference: float, noise: float) -> str:
    """What was asked for: no worse on the plain network, better on the steep one."""
    if network == "plain":
        return "no worse" if difference >= -noise else "WORSE"
    return "better" if difference > noise else "NOT BETTER"


def _score(run: Run, counts_as_zero: bool) -> float | str:
    """mAP50-95, or why there is none."""
    if counts_as_zero and DIVERGED.search(run.failure):
        return 0.0
    return run.failure or float(run.result[0])


def _described(seed: int, run: Run, score: float | str) -> str:
    ended = f" ({run.failure})" if run.failure else ""
    return f"seed {seed}: {score:.4f}{ended}"


def steep(trainer: type, factor: float) -> type:
    """This class of trainers, whose optimizer gets each gradient times `factor`, after it was clipped."""

    def multiply(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        import torch

        del args, kwargs
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        torch._foreach_mul_(gradients, factor)

    class SteepTrainer(trainer):  # type: ignore[misc,valid-type]
        def build_optimizer(self, *args: Any, **kwargs: Any) -> Any:
            optimizer = super().build_optimizer(*args, **kwargs)
            if factor != 1.0:
                optimizer.register_step_pre_hook(multiply)
            return optimizer

    return SteepTrainer


def _arguments(asked: dict[str, Any]) -> dict[str, Any]:
    """Of ultralytics and ours, for both kinds of runs."""
    folder, on_gpu = Path(asked["folder"]), asked["device"] != "cpu"
    names = ("seed", "epochs", "batch", "imgsz", "workers", "device", "data_pipeline")
    return {
        "data": training.data_yaml(folder),
        "project": str(folder / "runs"),
        "optimizer": "SGD",
        "plots": False,
        "amp": asked["amp"] if on_gpu else False,
        **{name: asked[name] for name in names},
    }


def test(asked: dict[str, Any]) -> list[Any]:
    """A range test in this process: [learning rate, from, to, reason].

    Raises:
        UserError: it suggests nothing.
    """
    from yolov12 import settings
    from yolov12.tools import lr_curve, lr_find

    os.environ[lr_find.REQUEST] = json.dumps({"range": {"steps": asked["steps"]}})
    arguments = settings.apply_script_arguments({**_arguments(asked), "val": False, "save": False})
    overrides = {**arguments, "model": asked["model"], "mode": "train"}
    trainer = steep(lr_find.LrFindTrainer, asked["steepness"])(overrides=overrides)
    trainer.train()
    curve = trainer.curve
    found = lr_curve.suggest(curve.lrs, curve.losses)
    assert found is not None, "report has ended the run then"
    return [found.lr, found.low, found.high, found.reason]


def train(asked: dict[str, Any]) -> list[Any]:
    """A training in this process: [mAP50-95, what it declares]."""
    from yolov12.engine.trainer import YOLOv12Trainer

    watch = training.Watch(Job("ours", asked, (), Path(asked["folder"]), time.monotonic()))
    yolo = training.yolo_class("ours")(asked["model"])
    watch.attach(yolo)
    trainer = steep(YOLOv12Trainer, asked["steepness"])
    box = yolo.train(trainer=trainer, lr0=asked["lr0"], **_arguments(asked)).box
    return [float(box.map), watch.declared]


BENCHMARK = Benchmark(
    name="lr_find",
    claim=f"yolov12n from scratch on BCCD: the learning rate that lr-find suggests against {DEFAULT}, also where that is ten times too large",
    rows=ROWS,
    needs="cuda",
    run_side=run_side,
    sides=("ours",),
    parameters=training.RECIPE
    | {
        "epochs": 60,
        "steps": 100,
        "workers": max(1, system.cores() // 6),
        "data_pipeline": "gpu",  # all at once, ultralytics' loader would take the cores of a larger machine
        "seeds": 3,
        "kept": os.environ.get("LR_FIND_RUNS", ""),
    },
    repeats=1,
    prepare=training.require_dataset,
    timeout_s=540,
)


def _one_run(asked: dict[str, Any]) -> list[Any]:
    result = (test if asked["do"] == "test" else train)(asked)
    sides.check("ours", sys.modules, sys.meta_path)
    return result


if __name__ == "__main__":
    child.answer(_one_run)
