# SPDX-License-Identifier: AGPL-3.0-or-later
"""A training run that fails for want of memory again and again, and goes on: 100 failures in 300 steps, some of them the device's own.

Three runs of our trainer on the same drawn pictures: `clean`; `recomputed`, whose failures recomputation alone can answer, and which must end
with the bits of the first; and `faulty`, beside a neighbour that takes and gives back up to half of the card. Without a GPU two processes
on the CPU do the same with failures made up.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks import faults, ranks, training
from benchmarks.harness import Benchmark, Job, Measured, Row

ROW = "oom_faults"
METRIC_TOLERANCE = 0.01
"""Of precision, recall and mAP with equal weights: a part of a batch may be computed by another kernel than the whole."""

NEIGHBOUR = """
import random, sys, threading, torch
keep, rng = int(float(sys.argv[1]) * 2**30), random.Random(0)
over = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
held = []
for i in range(torch.cuda.device_count()):
    torch.zeros(1, device=f"cuda:{i}")
    free, total = torch.cuda.mem_get_info(i)
    held.append(torch.empty(max(0, free - keep) if keep else 0, dtype=torch.uint8, device=f"cuda:{i}"))
print("ready", flush=True)
while not over.wait(rng.uniform(0.05, 0.5)):
    card = rng.randrange(torch.cuda.device_count())
    most = keep or torch.cuda.mem_get_info(card)[1]
    try:
        taken = torch.empty(int(rng.uniform(0.1, 0.5) * most), dtype=torch.uint8, device=f"cuda:{card}")
    except torch.cuda.OutOfMemoryError:
        continue
    over.wait(rng.uniform(0.05, 1.0))
    del taken
    torch.cuda.empty_cache()
"""


def prepare(parameters: Mapping[str, Any], scratch: Path) -> None:
    """A font, which ultralytics would look for on the network."""
    training.prepare_fonts(scratch)


def run_side(job: Job) -> Measured:
    """Run the three, and judge the last two by the first."""
    p, on_gpu = job.parameters, job.parameters["device"] == "cuda"
    count = _ranks(p["device"], p["ranks"])
    steps = p["steps_per_epoch"] * p["epochs"]
    from yolov12.data import synth

    data = synth.write(job.scratch / "faults", p["steps_per_epoch"] * p["batch"], p["val_images"], p["imgsz"])
    asked = {
        "ranks": count,
        "device": p["device"],
        "out": str(job.scratch / "runs"),
        "arguments": {
            "model": p["model"],
            "data": str(data),
            "epochs": p["epochs"],
            "imgsz": p["imgsz"],
            "batch": p["batch"],
            "nbs": p["batch"],  # an update in every step
            "optimizer": p["optimizer"],
            "workers": p["workers"],
            "seed": p["seed"],
            "mosaic": 0.0,
            "close_mosaic": 0,
            "plots": False,
            "verbose": False,
        },
    }
    kinds = faults.kinds_for(p["device"], p["failures"])
    drawn = faults.draw(p["seed"], p["failures"], steps, p["epochs"], count, kinds)
    few = faults.few(count, steps, p["epochs"], sorted(set(kinds)))
    alone: dict[str, list[faults.Fault]] = {"clean": [], "recomputed": few}
    beside: dict[str, list[faults.Fault]] = {"faulty": drawn}
    if on_gpu:
        ended, answers = _launch(asked, alone, job.scratch / "alone", p["limit_s"])
        if not ended:
            with _Neighbour(p["card_gib"]):
                ended, faulty = _launch(asked, beside, job.scratch / "beside", p["limit_s"])
            answers = [{**before, **after} for before, after in zip(answers, faulty, strict=not ended)]
    else:
        ended, answers = _launch(asked, alone | beside, job.scratch / "all", p["limit_s"])
    share, note = judge(answers, few, drawn, p["loss_tolerance"], ended)
    return Measured(
        declared={
            "dtype": "autocast bf16" if on_gpu else "fp32",
            "deterministic": True,
            "optimizer": p["optimizer"],
            "workers": p["workers"],
            "cache": None,
            "imgsz": p["imgsz"],
            "ranks": count,
        },
        values={ROW: share},
        notes={ROW: note},
    )


def judge(
    answers: list[dict[str, Any]], few: list[Any], drawn: list[Any], tolerance: float, ended: str
) -> tuple[float, str]:
    """The share of drawn failures that were survived, 0 where a run hung, lost or repeated a sample or came out otherwise than it must; and why.

    Args:
        answers: of each rank, by session (fault_run.py).
        few, drawn: the failures of the sessions `recomputed` and `faulty`.
        tolerance: of each epoch's mean loss, as a share of the clean run's.
        ended: how a run ended that did not end well, else "".
    """
    if ended:
        return 0.0, ended
    wrong = []
    clean = [answer["clean"] for answer in answers]
    wrong += _lost_or_repeated(clean)
    for name in ("recomputed", "faulty"):
        if any(answer[name]["samples"] != answer["clean"]["samples"] for answer in answers):
            wrong.append(f"{name} saw other samples than clean")
    recomputed = [answer["recomputed"] for answer in answers]
    split = sum(run["events"].get("split", 0) for run in recomputed)
    plans = sum(run["events"].get("plan", 0) for run in recomputed)
    if missing := len(few) - sum(len(run["fired"]) for run in recomputed):
        wrong.append(f"{missing} of the failures of recomputed did not happen")
    if split or not plans:
        wrong.append(f"recomputed changed its plan {plans} times and cut its batch {split} times")
    if any(answer["recomputed"]["weights"] != answer["clean"]["weights"] for answer in answers):
        wrong.append("recomputed ended with other weights than clean")
    apart = max(_metric_distance(answer["clean"]["metrics"], answer["recomputed"]["metrics"]) for answer in answers)
    if apart > METRIC_TOLERANCE:
        wrong.append(f"the metrics of recomputed, whose validations failed too, were off by {apart:.3f}")
    off = max(_loss_distance(answer["clean"]["losses"], answer["faulty"]["losses"]) for answer in answers)
    if off > tolerance:
        wrong.append(f"the loss was off by {off:.1%}")
    fired = [fault for answer in answers for fault in answer["faulty"]["fired"]]
    survived = len(fired) / len(drawn)
    equal = all(answer["faulty"]["weights"] == answer["clean"]["weights"] for answer in answers)
    events = sum((Counter(answer["faulty"]["events"]) for answer in answers), Counter())
    said = [
        f"{len(fired)} of {len(drawn)} failures happened and were survived ({_counted(fired, 'kind')}; {_counted(fired, 'point')})",
        f"{sum(len(run['samples']) for run in clean)} steps of {len(answers)} process(es) saw each sample as the clean run did",
        f"largest difference of an epoch's mean loss {off:.2%} (allowed {tolerance:.0%})",
        f"weights {'equal' if equal else 'not equal'} to the clean run's",
        f"noted: {', '.join(f'{kind} {count}' for kind, count in sorted(events.items()))}",
        f"recomputed: {sum(len(run['fired']) for run in recomputed)} of {len(few)} failures, {plans} plans, no split, equal bits",
    ]
    return (0.0, f"WRONG: {'; '.join(wrong)}") if wrong else (survived, "; ".join(said))


def _lost_or_repeated(clean: list[dict[str, Any]]) -> list[str]:
    """Over all ranks each epoch must hold every picture once."""
    steps = [sorted(name for rank in clean for name in rank["samples"][i]) for i in range(len(clean[0]["samples"]))]
    everything = Counter(name for step in steps for name in step)
    if len(set(everything.values())) > 1:
        return ["the clean run lost or repeated samples"]
    return []


def _metric_distance(clean: dict[str, float], other: dict[str, float]) -> float:
    return max((abs(value - other[name]) for name, value in clean.items() if name.startswith("metrics/")), default=0.0)


def _loss_distance(clean: list[float], faulty: list[float], parts: int = 6) -> float:
    """Largest relative difference of the mean loss in any sixth of the run."""
    edges = [len(clean) * i // parts for i in range(parts + 1)]
    means = [(mean(clean[a:b]), mean(faulty[a:b])) for a, b in pairwise(edges) if b > a]
    return max(abs(other - one) / one for one, other in means)


def _counted(fired: list[dict[str, Any]], key: str) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(Counter(fault[key] for fault in fired).items()))


def _ranks(device: str, wanted: int) -> int:
    if device != "cuda":
        return wanted
    import torch

    return min(wanted, torch.cuda.device_count())


def _launch(
    asked: dict[str, Any], sessions: dict[str, list[Any]], folder: Path, limit_s: float
) -> tuple[str, list[dict[str, Any]]]:
    """Train in one process for each rank; (how it ended badly or "", what each rank answered)."""
    listed = [
        {"name": name, "faults": [asdict(fault) for fault in chosen], "port": ranks.free_port()}
        for name, chosen in sessions.items()
    ]
    # A captured step runs no Python that could be made to fail.
    eager = {"YOLOV12_COMPILE": "0"}
    ended, answers = ranks.run(
        "benchmarks.fault_run", {**asked, "sessions": listed}, asked["ranks"], folder, limit_s, **eager
    )
    return (f"{', '.join(sessions)}: {ended}", []) if ended else ("", answers)


class _Neighbour:
    """Another process on the cards, for the length of a block: of each it leaves `card_gib`, and takes and gives back up to half of that."""

    def __init__(self, card_gib: float) -> None:
        self.command = [sys.executable, "-c", NEIGHBOUR, str(card_gib)]

    def __enter__(self) -> None:
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        self.process.stdout.readline()

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


BENCHMARK = Benchmark(
    name="oom_faults",
    claim="a training run on 2 GPUs survives failures for want of memory at random points, beside a neighbour",
    rows=(
        Row(ROW, "share", "higher", "failures survived; 0 after a hang, a lost or repeated sample or a wrong weight"),
    ),
    needs="cuda",
    gpus=2,
    run_side=run_side,
    prepare=prepare,
    sides=("ours",),
    parameters={
        "device": "cuda",
        "ranks": 2,
        "model": "yolo12n.yaml",
        "imgsz": 320,
        "batch": 64,
        "steps_per_epoch": 50,
        "epochs": 6,
        "failures": 100,
        "val_images": 128,
        "workers": 8,
        "optimizer": "MuSGD",
        "seed": 0,
        "card_gib": 8.0,
        "loss_tolerance": 0.15,
        "limit_s": 240.0,
    },
    repeats=1,
    timeout_s=540.0,
)
