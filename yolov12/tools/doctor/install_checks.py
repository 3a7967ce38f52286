# SPDX-License-Identifier: AGPL-3.0-or-later
"""Checks of what is installed and set: settings, versions, caches, what would reach for the network, what loading weights may do."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from pathlib import Path

from yolov12 import settings
from yolov12.errors import ExitError, UserError
from yolov12.export import cache as engine_cache
from yolov12.folders import check_writable
from yolov12.tools import verify
from yolov12.tools.doctor.result import Result, fail, ok, skipped, warn
from yolov12.tools.doctor.world import World

LOGGERS = {"wandb": "wandb", "comet": "comet-ml", "clearml": "clearml"}
"""Ultralytics' setting -> the package that sends runs to its service where both are there."""
NO = ("0", "false", "no", "off")


def known_settings(world: World) -> Iterator[Result]:
    """No YOLOV12_ variable is a misspelt setting. A wrong value has ended the command before this."""
    try:
        settings.check_unknown(world.environ, strict=True)
    except ExitError as error:
        name = next(iter(re.findall(r"YOLOV12_\w+", str(error))))
        yield fail("settings", f"{name} is no setting", str(error), f"unset {name}   # yolov12 env lists what there is")
        return
    changed = [name for name in settings.DECLARED if settings.origin(name) != "default"]
    yield ok("settings", f"set: {', '.join(changed)}" if changed else "all at their defaults")


def versions(world: World) -> Iterator[Result]:
    """Python and every package as the image's lock or, elsewhere, as env/versions.yaml has them; `yolov12 verify` says more."""
    here = world.installed
    found = [verify.check_python(here), verify.check_versions(here)]
    found += [verify.check_built(here, package) for package in verify.BUILT if "torch" in here.packages]
    for check in found:
        if check.ok is not False:
            continue
        differs = f"{check.name}: expected {check.expected}, found {check.found}"
        if here.promised is not None:
            yield fail(
                "versions",
                differs,
                "the image is not what was built",
                "make build   # or docker pull; then: yolov12 verify",
            )
        elif "ultralytics" in check.expected:
            why = "this package changes ultralytics in places that it has read in that version, and stays out of any other"
            yield fail("versions", differs, why, "make setup   # or pip install what was expected")
        else:
            yield warn(
                "versions",
                differs,
                "only the pinned versions are tested together",
                "make setup   # or pip install what was expected",
            )
    if all(check.ok is not False for check in found):
        yield ok("versions", found[1].found)


def cache(world: World) -> Iterator[Result]:
    """The cache folder stays, it and that of the engines (YOLOV12_TRT_CACHE_DIR) are ours alone, and every engine is whole."""
    keep = 'docker run -v "$PWD":/workspace   # or YOLOV12_CACHE_DIR=FOLDER'
    is_kept = not world.cache_reason.startswith("temporary") and "not a mount" not in world.cache_reason
    if found := _open_to_others(world.cache):
        yield found
    elif not is_kept:
        yield warn("cache", str(world.cache), world.cache_reason, keep)
    else:
        yield ok("cache", str(world.cache), world.cache_reason)
    try:
        check_writable(world.engines, argument="YOLOV12_TRT_CACHE_DIR")
    except UserError as error:
        to_type = "unset YOLOV12_TRT_CACHE_DIR   # or set it to a folder that can be written to"
        yield fail("cache", str(world.engines), str(error), to_type, "engines")
        return
    if not world.engines.is_dir():
        yield skipped("cache", "no engine was built here yet", subject="engines")
        return
    if found := _open_to_others(world.engines, "engines"):
        yield found
    problems, count = engine_cache.verify(world.engines), len(engine_cache.entries(world.engines)[0])
    if problems:
        value = f"{len(problems)} of {count + len(engine_cache.entries(world.engines)[1])} would be built again"
        yield warn(
            "cache",
            value,
            problems[0],
            "yolov12 cache verify   # lists them; yolov12 cache prune removes them",
            "engines",
        )
    else:
        yield ok("cache", f"{count} whole", subject="engines")


def _open_to_others(folder: Path, subject: str = "") -> Result | None:
    """What to say of a folder of native code that others may write to."""
    if not folder.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return None
    why = "others may put native code there, which would be loaded"
    return warn("cache", str(folder), why, f"chmod go-w {folder}", subject)


def offline(world: World) -> Iterator[Result]:
    """What would reach for the network, or be missing without one."""
    reaching = []
    if world.environ.get("YOLO_OFFLINE", "true").lower() in NO:
        why = "ultralytics then looks for newer versions of itself, and may send events"
        reaching.append(warn("offline", "YOLO_OFFLINE is off", why, "unset YOLO_OFFLINE"))
    for key, package in LOGGERS.items():
        if world.logger_settings.get(key) and package in world.installed.packages:
            why = f"{package} is installed, and ultralytics' settings let it send every run to its service"
            reaching.append(warn("offline", f"{key} is on", why, f"yolo settings {key}=False"))
    if not world.font.is_file():
        why = "plots need a font, and ultralytics would download one"
        reaching.append(warn("offline", f"no font at {world.font}", why, "pip install --force-reinstall matplotlib"))
    weights = sorted(file.name for file in (world.cache / "weights").rglob("*.pt"))
    if world.environ.get("YOLOV12_OFFLINE", "").lower() not in ("", *NO) and not weights:
        why = "YOLOV12_OFFLINE=1 forbids to fetch any: only training from scratch, and files that you name, work"
        reaching.append(warn("offline", "no weights in the cache", why, f"cp yolo12n.pt {world.cache / 'weights'}/"))
    have = (
        f"weights in the cache: {', '.join(weights)}"
        if weights
        else "no weights in the cache; a .yaml trains from scratch"
    )
    yield from reaching or [ok("offline", f"nothing reaches for the network by itself; {have}")]


def weights(world: World) -> Iterator[Result]:
    """Loading a checkpoint runs no code from it: a file that was made to is tried."""
    if world.torch_failure:
        yield skipped("weights", "torch can not be imported")
        return
    if world.runs_code_from_weights():
        why = "a file that was made to run code did so when it was loaded"
        yield fail("weights", "not safe", why, "make build   # or docker pull: the package is damaged")
        return
    trusting = {
        "YOLOV12_TRUST_WEIGHTS": "checkpoints and engines of anyone are loaded, and may run code",
        "YOLOV12_DISABLE": "scripts get plain ultralytics, which loads checkpoints by pickle: they may run code",
        "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "torch.load in your scripts lets files run code",
    }
    found = [
        warn("weights", f"{name}={world.environ[name]}", why, f"unset {name}")
        for name, why in trusting.items()
        if world.environ.get(name, "").lower() not in ("", *NO)
    ]
    yield from found or [ok("weights", "a checkpoint that was made to run code was refused")]
