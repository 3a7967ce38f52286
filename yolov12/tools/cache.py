# SPDX-License-Identifier: AGPL-3.0-or-later
"""`yolov12 cache ls|prune|verify`: what lies in the cache folder, and the engines, graphs, packages and verdicts in it one by one."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from yolov12 import settings
from yolov12.errors import UserError
from yolov12.export import cache


def main(words: list[str], options: Mapping[str, Any]) -> int:
    """Run one of the three and return the exit code: 1 where `verify` found something.

    Raises:
        UserError: none of the three, or a size below 0.
    """
    if words not in (["ls"], ["prune"], ["verify"]):
        typed = f"there is no `cache {' '.join(words)}`: " if words else ""
        raise UserError(
            f"{typed}cache needs to know what to do: yolov12 cache ls, yolov12 cache prune max_gib=2, or yolov12 cache verify"
        )
    engines = settings.trt_cache_dir()
    if words == ["ls"]:
        print("\n".join(listed(engines)))
        return 0
    if words == ["verify"]:
        problems = cache.verify(engines)
        print(
            "\n".join(
                [
                    *problems,
                    f"{len(cache.entries(engines)[0])} engines, graphs, packages and verdicts in {engines}, {len(problems)} would be built again",
                ]
            )
        )
        return 1 if problems else 0
    max_gib = options.get("max_gib", 0.0)
    if isinstance(max_gib, bool) or not isinstance(max_gib, (int, float)) or not max_gib >= 0:
        raise UserError(
            f"max_gib={max_gib}: type how many GiB engines, graphs, packages and verdicts may take, for example max_gib=2"
        )
    strays = cache.sweep(engines)
    removed = cache.prune(engines, int(max_gib * 2**30))
    freed = sum(map(cache.size, removed))
    timings = sum(isinstance(one, cache.Timing) for one in removed)
    and_timings = f" and {timings} files of timings" if timings else ""
    print(
        f"{len(removed) - timings} engines, graphs, packages and verdicts{and_timings} removed from {engines},"
        f" {freed / 2**20:.1f} MiB; {len(cache.entries(engines)[0])} are left"
        + (f"; {len(strays)} without a record that can be read removed too" if strays else "")
    )
    return 0


def listed(engines: Path) -> Iterator[str]:
    """A line for each engine, package and file of timings, the one used last first, and one for each other folder of the cache."""
    found, unreadable = cache.entries(engines)
    yield f"{engines}: {len(found)} engines, graphs, packages and verdicts, {sum(entry.plan_bytes for entry in found) / 2**20:.1f} MiB"
    for entry in reversed(found):
        words = " ".join(entry.key.get(part, "?") for part in ("precision", "builder", "gpu"))
        yield _line(entry, words)
    yield from (f"  unreadable: {line}" for line in unreadable)
    yield from (
        _line(timing, "what TensorRT measured, for the next build") for timing in reversed(cache.timings(engines))
    )
    others = settings.cache_choice()[0]
    for folder in sorted(place for place in others.iterdir() if place.is_dir() and place != engines):
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        yield f"{folder}: {size / 2**20:.1f} MiB"


def _line(one: cache.Entry | cache.Timing, words: str) -> str:
    used = time.strftime("%Y-%m-%d %H:%M", time.localtime(one.used_s))
    return f"  {one.name}  {cache.size(one) / 2**20:7.1f} MiB  used {used}  {words}"
