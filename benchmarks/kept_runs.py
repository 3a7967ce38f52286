# SPDX-License-Identifier: AGPL-3.0-or-later
"""Training runs of several kinds for several seeds, side by side, spread over a machine's GPUs, and over calls where it is lent for minutes.

Without a file all runs are made in one call. With one, each call makes those of the first seeds that lack any, as many as are run side by side, and
what is finished waits in the file for the rest. In a call the runs of one seed are on one GPU, and seeds take the GPUs in turn. Runs side by side
share GPUs and cores, of which there may be fewer than their workers, so nothing in them is a timing.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from benchmarks import child, sides, system, training
from benchmarks.child import Run

Key = tuple[str, int]
"""What kind of run, and its seed."""
NOT_YET = Run([], None, "not run yet: the same call again makes further seeds")
NOT_OF_A_RUN = ("kept", "data", "seeds")
"""Parameters that may differ from call to call without making another run of it."""


def run_all(
    module: str, asked: Mapping[Key, Mapping[str, Any]], kept: str, scratch: Path, at_once: int | None = None
) -> dict[Key, Run]:
    """Every run that was asked for: as it was kept, made now, failed, or NOT_YET.

    Args:
        module: whose program makes one (child.py).
        asked: what each is to do: `side`, `data` (the folder to copy) and `workers`, and what the module reads.
        kept: name of the file of finished runs; "" for none.
        scratch: where each gets a folder of its own.
        at_once: how many seeds' runs share a GPU; None for all without a file, and for one with it.
    """
    file = Kept(Path(kept)) if kept else None
    runs = {key: run for key, of in asked.items() if file and (run := file.of(key, of))}
    missing = [key for key in asked if key not in runs]
    seeds = list(dict.fromkeys(seed for _, seed in missing))
    gpus = _gpus()
    together = max(1, len(gpus)) * (at_once or (1 if file else max(1, len(seeds))))
    batches = [set(seeds[first : first + together]) for first in range(0, len(seeds), together)]
    waves = [[key for key in missing if key[1] in batch] for batch in batches]
    for wave in waves[:1] if file else waves:
        gpu_of = dict(zip(dict.fromkeys(seed for _, seed in wave), itertools.cycle(gpus or [""]), strict=False))
        started = {key: _start(module, scratch / "-".join(map(str, key)), asked[key], gpu_of[key[1]]) for key in wave}
        with ThreadPoolExecutor(len(started)) as waiting:
            keys = {waiting.submit(child.finished, one): key for key, one in started.items()}
            for run in as_completed(keys):  # a slow one must not keep the finished ones from the file
                runs[key := keys[run]] = run.result()
                if file and not runs[key].failure:
                    file.add(key, asked[key], runs[key])
    found = {key: runs.get(key, NOT_YET) for key in asked}
    for key, run in found.items():
        if run is not NOT_YET:
            print(f"--- {key[0]}-{key[1]}", *run.lines, sep="\n", file=sys.stderr)
    return found


def seeds_that_fit(seed_gib: float) -> int:
    """On one GPU at once, at least one.

    Args:
        seed_gib: GPU memory that the runs of a seed take at most.
    """
    return max(1, int(system.gpu_memory_gib() / seed_gib))


def _gpus() -> list[str]:
    """Those that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [str(number) for number in range(len(system.gpus()))]
    return [name for name in visible.split(",") if name]


def _start(module: str, folder: Path, asked: Mapping[str, Any], gpu: str) -> child.Started:
    """One run in a process and a folder of its own: ultralytics' and our caches are not made for several writers.

    Args:
        gpu: the only one that it sees; "" where there is none.
    """
    training.prepare_dataset(asked, folder)
    environment = sides.environment(asked["side"], folder, os.environ)
    if gpu:
        environment["CUDA_VISIBLE_DEVICES"] = gpu
    environment["OMP_NUM_THREADS"] = str(max(1, asked["workers"]))  # they share the cores
    return child.start(module, asked, folder, environment)


class Kept:
    """A file of finished runs. Those of other code, parameters or another device are not taken.

    Args:
        path: need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.circumstances = {"code": system.code_digest(), "card": system.device(1)}
        self.runs: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}

    def of(self, key: Key, asked: Mapping[str, Any]) -> Run | None:
        """A run that was asked for in the same words."""
        found = self.runs.get(str(key))
        return Run(**found["run"]) if found and found["of"] == self._words(asked) else None

    def add(self, key: Key, asked: Mapping[str, Any], run: Run) -> None:
        """Keep it, and write the whole file at once: the machine may be taken away after any run."""
        self.runs[str(key)] = {"of": self._words(asked), "run": run._asdict()}
        aside = self.path.with_suffix(".part")
        aside.write_text(json.dumps(self.runs))
        aside.replace(self.path)

    def _words(self, asked: Mapping[str, Any]) -> dict[str, str]:
        return self.circumstances | {name: str(value) for name, value in asked.items() if name not in NOT_OF_A_RUN}
