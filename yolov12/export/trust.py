# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whether an engine may be loaded, and can be: it is native code (promise 9), whole, and made for this GPU and this TensorRT."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yolov12 import settings
from yolov12.errors import UserError
from yolov12.export import cache, engine_file
from yolov12.log import program


def check(path: Path) -> dict[str, Any]:
    """What built the engine, as its header says; empty for a plan of someone else's.

    Raises:
        UserError: it was cut, or it was not built here and YOLOV12_TRUST_WEIGHTS is not 1.
    """
    metadata, plan = engine_file.split(path.read_bytes())
    expected = metadata.get(engine_file.PLAN_BYTES, len(plan))
    if not plan or len(plan) != expected:
        raise UserError(
            f"{path} was cut: its plan has {len(plan)} bytes{f' of {expected}' if expected else ''}; {again(path)}"
        )
    built_by = metadata.get(engine_file.BUILT_BY)
    built_by = built_by if isinstance(built_by, dict) else {}
    if not settings.current().trust_weights and not cache.is_ours(settings.trt_cache_dir(), plan):
        by = f" (its header says: by {_words(built_by)})" if built_by else ""
        raise UserError(
            f"{path} is native code that was not built here{by}: if you trust its author, type trust_weights=1 (YOLOV12_TRUST_WEIGHTS=1); "
            f"else {again(path)}"
        )
    return built_by


def _words(built_by: Mapping[str, Any]) -> str:
    return f"{built_by.get('module')} {built_by.get('version')} for {built_by.get('gpu')}"


def check_fits(path: Path, built_by: Mapping[str, Any], module: str, version: str, gpu: str) -> None:
    """Refuse an engine of another TensorRT or of another GPU, which TensorRT would do with a number.

    Args:
        path: of the engine.
        built_by: what `check` gave.
        module: the Python module that is to run it.
        version: of that module.
        gpu: of the one that it is to run on, as builder.Maker has it.

    Raises:
        UserError: says both, and what to type.
    """
    if not built_by:
        return
    made = f"{path} was built by {_words(built_by)}"
    here = f"here is {module} {version} on {gpu}"
    same_version = built_by.get("version") == version or (
        bool(built_by.get("version_compatible")) and _follows(version, str(built_by.get("version")))
    )
    if built_by.get("module") != module or not same_version or built_by.get("gpu") != gpu:
        raise UserError(f"{made}, and {here}: {again(path)}")


def _follows(version: str, built: str) -> bool:
    """Whether a version-compatible engine of `built` runs in `version`: one of its major line that is no older."""
    here, made = ([int(number) for number in re.findall(r"\d+", one)] for one in (version, built))
    return here[:1] == made[:1] and here >= made


def again(path: Path) -> str:
    """What to type to have the engine at `path` built here."""
    source = next(
        (beside for beside in (path.with_suffix(".onnx"), path.with_suffix(".pt")) if beside.is_file()),
        path.with_suffix(".pt"),
    )
    return f"make it again with {program()} export model={source} format=engine"
