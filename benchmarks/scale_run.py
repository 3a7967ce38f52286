# SPDX-License-Identifier: AGPL-3.0-or-later
"""One process of `scale`: `python -m benchmarks.scale_run ORDER.json ANSWER.json` steps alone, if it is the first, and with all others, in turns.

Imports torch when it runs, as a program of its own.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks import sides, training
from benchmarks.harness import Job
from benchmarks.programs import train_step

FAILED = "failed"
"""In an answer, beside the rows: why this rank ended."""
PROFILED_STEPS = 3
TIMEOUT_S = 600
Step = Callable[[], None]


def main(order: Path, answer: Path) -> None:
    """Measure, and write after each case what was found."""
    import torch
    import torch.distributed as dist

    asked = json.loads(order.read_text())
    os.environ["MASTER_PORT"] = str(asked["port"])
    rank = int(os.environ["RANK"])
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // int(os.environ["WORLD_SIZE"])))
    device = torch.device("cpu")
    if asked["device"] == "cuda":
        device = torch.device("cuda", rank)
        torch.cuda.set_device(device)
    if asked["side"] == "ours":
        from yolov12.engine.patches import install_patches

        install_patches()
    train_step.set_determinism(on=asked["side"] == "stock")
    votes = _join(asked["side"], device)
    # Of the clock's own: whoever waits in it leaves the GPUs alone.
    clock = dist.new_group(backend="gloo")
    answers: dict[str, Any] = {}
    for case in asked["cases"]:
        try:
            found = _steps(asked, case, device, votes, clock) if "images" in case else _bytes(case, device)
            sides.check(asked["side"], sys.modules, sys.meta_path)
            answers[case["row"]] = {**found, "declared": _declared(asked)}
        except Exception as error:
            # The others may stand in a collective: this process must end, and leaves word.
            answers[FAILED] = f"rank {rank}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            raise
        finally:
            answer.write_text(json.dumps(answers))
    dist.barrier(group=clock)
    dist.destroy_process_group()


def _join(side: str, device: Any) -> Any:
    """Enter the run's groups, as the side's trainer does; ours has one for votes."""
    import torch.distributed as dist

    if side == "ours":
        from yolov12.distributed import world

        return world.join(world.from_environment(), device, TIMEOUT_S, TIMEOUT_S)
    if device.type == "cuda":
        os.environ["TORCH_NCCL_BLOCKING_WAIT"] = "1"  # engine/trainer.py:290
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return None


def _steps(asked: dict[str, Any], case: dict[str, Any], device: Any, votes: Any, clock: Any) -> dict[str, Any]:
    """Seconds per step of each turn, alone (on the first rank) and together, and how much of it was all-reduce."""
    import torch
    import torch.distributed as dist

    is_first = dist.get_rank() == 0
    gc.collect()  # the models of the case before are full of cycles
    if device.type == "cuda":
        torch.cuda.empty_cache()
    data = train_step.synthetic_batch(case["images"], asked["imgsz"], device)
    make = our_step if asked["side"] == "ours" else stock_step
    found: dict[str, Any] = {"alone_step_s": [], "together_step_s": [], "reduce_s": None}
    with training.kept_peak() as peak:
        alone = make(case["size"], data, device, votes, together=False) if is_first else None
        together = make(case["size"], data, device, votes, together=True)
        for step in filter(None, (alone, together)):
            _timed(step, asked["warmup_steps"], device)
        dist.barrier(group=clock)
        for _ in range(asked["turns"]):
            if alone is not None:
                found["alone_step_s"].append(_timed(alone, asked["steps"], device))
            dist.barrier(group=clock)
            found["together_step_s"].append(_timed(together, asked["steps"], device))
            dist.barrier(group=clock)
        if is_first:
            found["reduce_s"] = _profiled_reduction_s(together, device)
        else:
            _timed(together, PROFILED_STEPS, device)
    return {**found, "peak": peak.words()}


def stock_step(size: str, data: dict[str, Any], device: Any, votes: Any, together: bool) -> Step:
    """ultralytics' modules in a bare loop, under the DDP that its trainer makes."""
    import torch
    from ultralytics.utils.torch_utils import TORCH_2_13

    del votes
    model, step = train_step.trainee(size, data, device)
    if together:
        # engine/trainer.py:443
        buffers = {"forward_sync_buffers" if TORCH_2_13 else "broadcast_buffers": False}
        step.model = torch.nn.parallel.DistributedDataParallel(
            model,
            device_ids=[device.index] if device.type == "cuda" else None,
            static_graph=False,
            find_unused_parameters=True,
            **buffers,
        )
        step.ranks = torch.distributed.get_world_size()
    return step


def our_step(size: str, data: dict[str, Any], device: Any, votes: Any, together: bool) -> Step:
    """The engine's step in front of the same update, with the health checks of a run."""
    from yolov12.distributed.reduce import broadcast_from_first
    from yolov12.engine.health import Health

    model, update = train_step.trainee(size, data, device)
    if together:
        broadcast_from_first([tensor.data for tensor in (*model.parameters(), *model.buffers())])
    engine = train_step.engine_step(model, device, votes if together else None)
    health = Health(engine, update.optimizer, resume="")

    def step() -> None:
        health.begin_step()
        health.after_step(engine.run(data))
        engine.take_gradients()
        update.update()

    return step


def _timed(step: Step, steps: int, device: Any) -> float:
    """Mean seconds of a step over so many, from a GPU that is idle until it is idle again."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize()
    began_s = time.perf_counter()
    for _ in range(steps):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - began_s) / steps


def _profiled_reduction_s(step: Step, device: Any) -> float | None:
    """How long all-reduces ran in a step, on this rank; None if the profiler shows none.

    The profiler slows this rank down, so the others are there first: what is seen is the transfer, and hardly any waiting.
    """
    from torch.profiler import ProfilerActivity, profile

    activity = ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU
    with profile(activities=[activity]) as profiled:
        _timed(step, PROFILED_STEPS, device)
    seconds = reduction_s(profiled.events() or ())
    return seconds / PROFILED_STEPS if seconds else None


def reduction_s(events: Iterable[Any]) -> float:
    """Seconds of NCCL's all-reduce kernels, or of gloo's all-reduces, among a profiler's events."""
    names = ("ncclDevKernel_AllReduce", "ncclKernel_AllReduce", "gloo:all_reduce")
    return sum(event.time_range.elapsed_us() for event in events if event.name.startswith(names)) / 1e6


def _bytes(case: dict[str, Any], device: Any) -> dict[str, Any]:
    """What our reducer counts as sent for one sum of a model's gradients, in full and as bf16."""
    import torch

    from yolov12.distributed.reduce import Reducer

    model, _ = train_step.trainee(case["size"], {}, device)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    found = {}
    for name, compresses in (("bytes", False), ("bytes_bf16", True)):
        reducer = Reducer(trained, compresses)
        reducer.sum([torch.rand_like(parameter) for parameter in trained], torch.ones(2, device=device))
        found[name] = reducer.bytes_sent
    return found


def _declared(asked: dict[str, Any]) -> dict[str, Any]:
    job = Job(asked["side"], asked, (), Path(), 0.0)
    return {**train_step.declare(job), "NCCL_NVLS_ENABLE": os.environ.get("NCCL_NVLS_ENABLE")}


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
