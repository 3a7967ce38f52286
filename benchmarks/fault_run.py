# SPDX-License-Identifier: AGPL-3.0-or-later
"""One process of `oom_faults`: `python -m benchmarks.fault_run SESSIONS.json ANSWER.json` trains once for each session, with its failures.

Imports torch when it runs, as a program of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.faults import Fault, Injector

SIMULATED_CARD_BYTES = 10**12


def main(sessions: Path, answer: Path) -> None:
    """Train, and write after each session what became of it."""
    import torch

    asked = json.loads(sessions.read_text())
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // asked["ranks"]))
    if asked["device"] == "cpu":
        _plan_on_the_cpu()
    answers = {}
    for session in asked["sessions"]:
        if "RANK" in os.environ:
            os.environ["MASTER_PORT"] = str(session["port"])
        answers[session["name"]] = _train(asked, session)
        answer.write_text(json.dumps(answers))


def _plan_on_the_cpu() -> None:
    """Let the memory plan work where no memory is measured."""
    from yolov12.engine import recompute, run_memory
    from yolov12.memory.budget import Memory

    class OnACard(recompute.Recomputation):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            self.mode, self.read_memory = "planned", lambda device: Memory(SIMULATED_CARD_BYTES, 0, 0, 10**15)

    run_memory.Recomputation = OnACard  # type: ignore[misc]


def _train(asked: dict[str, Any], session: dict[str, Any]) -> dict[str, Any]:
    import torch

    from yolov12.engine import loop, step, trainer

    rank = int(os.environ.get("RANK", "0"))
    device = torch.device(asked["device"], rank) if asked["device"] == "cuda" else torch.device("cpu")
    injector = Injector([Fault(**fault) for fault in session["faults"]], rank, device)
    samples: list[list[str]] = []
    losses: list[float] = []
    histories: list[Any] = []

    class Watched(step.Step):
        """The engine's step, with failures before its attempts, and a log of what it committed."""

        def run(self, batch: Any, *wish: Any) -> Any:
            result = super().run(batch, *wish)
            samples.append([Path(file).stem for file in batch["im_file"]])
            losses.append(float(result.loss) / len(batch["img"]))
            return result

        def _attempt(self, batch: Any) -> Any:
            if not histories:
                histories.append(self.history)
            call_off = injector.arm(self.model, len(samples))
            try:
                return super()._attempt(batch)
            finally:
                call_off()

    of = trainer.YOLOv12Trainer(
        overrides={
            **asked["arguments"],
            "device": None if asked["device"] == "cuda" else "cpu",
            "project": asked["out"],
            "name": session["name"],
            "deterministic": True,
        }
    )
    digests: list[str] = []
    _watch(of, injector, digests, committed=lambda: len(samples) - 1)
    loop.Step, before = Watched, loop.Step  # type: ignore[misc]
    try:
        of.train()
    finally:
        loop.Step = before  # type: ignore[misc]
    # A plan that cuts the batch is no mere recomputation.
    noted = ["split" if "micro-batches" in event.what else event.kind for event in histories[0].events]
    return {
        "samples": samples,
        "losses": losses,
        "weights": digests[-1],
        "fired": injector.fired,
        "missed": [fault.point for fault in injector.waiting],
        "events": {kind: noted.count(kind) for kind in sorted(set(noted))},
        "metrics": {name: float(value) for name, value in of.metrics.items()} if rank == 0 else {},
    }


def _watch(of: Any, injector: Injector, digests: list[str], committed: Callable[[], int]) -> None:
    """Put failures into updates and validations, and note the weights after each epoch."""
    from ultralytics.utils.torch_utils import unwrap_model

    called_off: list[Callable[[], None]] = []

    def epoch() -> int:
        return of.epoch if of.validator.training else of.epochs

    def start(_: Any) -> None:
        of.optimizer.step = injector.half_of(of.optimizer, of.optimizer.step, committed)
        of.ema.update = injector.after(of.ema.update, "ema", committed)
        of.validator.postprocess = injector.after(of.validator.postprocess, "nms", epoch)

    def arm(validator: Any) -> None:
        if validator.training:
            called_off.append(injector.arm(of.ema.ema, of.epoch, "validation "))

    def end(_: Any) -> None:
        for call in called_off:
            call()
        called_off.clear()

    def digest(_: Any) -> None:
        total = hashlib.sha256()
        for state in (unwrap_model(of.model).state_dict(), of.ema.ema.state_dict()):
            for tensor in state.values():
                total.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        digests.append(total.hexdigest())

    of.add_callback("on_train_start", start)
    of.add_callback("on_train_epoch_end", digest)
    of.add_callback("on_val_batch_start", arm)
    of.add_callback("on_val_batch_end", end)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
