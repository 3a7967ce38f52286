# SPDX-License-Identifier: AGPL-3.0-or-later
"""`yolov12 cache ls|prune|verify`: what lies in the cache folder, and the engines and packages in it one by one."""

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
        raise UserError(
            "cache needs to know what to do: yolov12 cache ls, yolov12 cache prune max_gib=2, or yolov12 cache verify"
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
                    f"{len(cache.entries(engines)[0])} engines and packages in {engines}, {len(problems)} would be built again",
                ]
            )
        )
        return 1 if problems else 0
    max_gib = options.get("max_gib", 0.0)
    if isinstance(max_gib, bool) or not isinstance(max_gib, (int, float)) or not max_gib >= 0:
        raise UserError(f"max_gib={max_gib}: type how many GiB engines and packages may take, for example max_gib=2")
    strays = cache.sweep(engines)
    removed = cache.prune(engines, int(max_gib * 2**30))
    freed = sum(entry.plan_bytes for entry in removed)
    print(
        f"{len(removed)} engines and packages removed from {engines}, {freed / 2**20:.1f} MiB; {len(cache.entries(engines)[0])} are left"
        + (f"; {len(strays)} without a record that can be read removed too" if strays else "")
    )
    return 0


def listed(engines: Path) -> Iterator[str]:
    """A line for each engine and package, the one used last first, and one for each other folder of the cache."""
    found, unreadable = cache.entries(engines)
    yield f"{engines}: {len(found)} engines and packages, {sum(entry.plan_bytes for entry in found) / 2**20:.1f} MiB"
    for entry in reversed(found):
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used_s))
        known = entry.key
        words = " ".join(known.get(part, "?") for part in ("precision", "builder", "gpu"))
        yield f"  {entry.name}  {entry.plan_bytes / 2**20:7.1f} MiB  used {used}  {words}"
    yield from (f"  unreadable: {line}" for line in unreadable)
    others = settings.cache_choice()[0]
    for folder in sorted(place for place in others.iterdir() if place.is_dir() and place != engines):
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        yield f"{folder}: {size / 2**20:.1f} MiB"
