# SPDX-License-Identifier: AGPL-3.0-or-later
"""`predict` on several GPUs: the files of a folder are dealt to one process for each, and all write to one folder of results.

Predictions do not depend on each other, so the processes exchange nothing: each is a `predict` of its own, on a list of files.
"""

from __future__ import annotations

import glob
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from yolov12 import folders, sigterm
from yolov12.distributed import binding, devices, launchers
from yolov12.log import say, warn

POLL_S = 0.1
ENDS_S = 10.0
"""How long a process that is told to end may take."""
SETTLED = ("source", "device", "project", "name", "exist_ok", "save_dir")
"""Arguments that are other ones for each process."""


def places_and_files(options: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The devices that `device=` names, each as an argument, and the files that they share: none where there is nothing to share.

    No devices where the arguments leave the choice to ultralytics, and under a launcher, whose ranks predict what they are told.
    """
    if not launchers.of_process().is_alone:
        return [], []
    places = _devices_of(options.get("device"))
    files = files_of(options["source"]) if len(places) > 1 else []
    if len(places) > 1 and len(files) < 2:
        say(f"predict: source={options['source']} can not be shared, so device={places[0]} takes it alone")
    return places, files if len(files) > 1 else []


def _devices_of(device: Any) -> list[str]:
    if device == "auto":
        chosen, reason = devices.auto(devices.visible_gpus())
        say(f"device: {chosen} ({reason})")
        return chosen.split(",")
    return [str(index) for index in devices.requested_gpus(device)]


def files_of(source: Any) -> list[str]:
    """The pictures and videos that a source means, as ultralytics' loader lists them; none for cameras, screens and addresses.

    Raises:
        FileNotFoundError: there is no such file.
    """
    text = str(source)
    is_stream = "://" in text or text.isdigit() or text.startswith("screen") or text.endswith(".streams")
    if not isinstance(source, (str, Path)) or is_stream:
        return []
    from ultralytics.data.loaders import LoadImagesAndVideos

    loader = LoadImagesAndVideos(source)
    loader.close()
    return list(loader.files)


def shares(files: Sequence[str], count: int) -> list[list[str]]:
    """At most `count` lists, dealt in turns: files that lie together are often of one size. None is empty.

    Files whose results would have one name (a.jpg and b/a.png, which is numbered to a-2, and then a-2.jpg) go to one process, which names them
    apart (engine/predictor.py:508).
    """
    stems = Counter(Path(file).stem for file in files)

    def name(stem: str) -> str:
        before = re.sub(r"-\d+$", "", stem)
        return name(before) if before != stem and stems[before] > 1 else stem

    groups: dict[str, list[str]] = {}
    for file in files:
        groups.setdefault(name(Path(file).stem), []).append(file)
    dealt = [list(groups.values())[start::count] for start in range(min(count, len(groups)))]
    return [[file for group in part for file in group] for part in dealt]


def main(options: Mapping[str, Any], task: str, files: Sequence[str], places: Sequence[str]) -> int:
    """Predict, and give the exit code: that of the first process that failed, whose error it has printed; the others are ended then.

    Args:
        options: of `predict`.
        task: of the model.
        files: see `files_of`.
        places: a device for each process.
    """
    parts = shares(files, len(places))
    results = folder_of(options, task)
    kept = [f"{key}={value}" for key, value in options.items() if key not in SETTLED and value is not None]
    environment = {**os.environ, binding.THREADS_VARIABLE: binding.threads_each(len(parts))}
    say(f"predict: {len(files)} files on {len(parts)} devices ({', '.join(places[: len(parts)])}), a process for each")
    with tempfile.TemporaryDirectory(prefix="yolov12-predict-") as lists, _ended_with_this() as started:
        for part, device in zip(parts, places, strict=False):
            names = Path(lists) / f"{len(started)}.txt"
            # ultralytics expands a line of such a list that has a star (data/loaders.py), as it does with no name that a folder holds.
            names.write_text("\n".join(glob.escape(name) if "*" in name else name for name in part))
            words = [*kept, f"source={names}", f"device={device}", f"save_dir={results}"]
            command = [sys.executable, "-m", "yolov12.cli", "predict", *words]
            started.append(subprocess.Popen(command, env=environment))
        failed = _first_failure(started)
    if failed is None:
        say(f"predict: {len(files)} files done, results in {results}")
        return 0
    code = started[failed].returncode
    warn(f"predict: the process of device={places[failed]} ended with exit code {code}, so the others were ended")
    return code if code > 0 else 128 - code  # as shells have it for a signal


def folder_of(options: Mapping[str, Any], task: str) -> Path:
    """Where all of them write: ultralytics would number a folder for each (cfg/__init__.py:537)."""
    project = folders.of_run(options, task)
    if project is None:
        return Path(options["save_dir"])
    from ultralytics.utils.files import increment_path

    return increment_path(project / str(options.get("name") or "predict"), exist_ok=bool(options.get("exist_ok")))


def _first_failure(started: Sequence[subprocess.Popen[bytes]]) -> int | None:
    """Wait until all have ended well, which gives None, or one has not."""
    while True:
        codes = [process.poll() for process in started]
        failed = next((index for index, code in enumerate(codes) if code), None)
        if failed is not None or None not in codes:
            return failed
        time.sleep(POLL_S)


@contextmanager
def _ended_with_this() -> Iterator[list[subprocess.Popen[bytes]]]:
    """A list of processes none of which outlives the block, also where this process is asked to end."""

    started: list[subprocess.Popen[bytes]] = []
    with sigterm.as_an_exception():
        try:
            yield started
        finally:
            for process in started:
                process.terminate()  # nothing, for one that has ended
            deadline_s = time.monotonic() + ENDS_S
            for process in started:
                try:
                    process.wait(max(0.0, deadline_s - time.monotonic()))
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
