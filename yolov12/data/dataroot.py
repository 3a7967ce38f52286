# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which folder the relative paths of a data yaml start from.

ultralytics takes a relative `path:` from the current folder and, where nothing of that name is there, from `datasets_dir` of a settings file in
the user's home (data/utils.py:782-785 of 8.4.190), so that one yaml means different pictures to two users. That meaning is kept wherever its
folder exists, and said when it comes from the settings file. Where ultralytics would only give up, the yaml's own folder is tried too.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yolov12.errors import UserError
from yolov12.log import say_once


@dataclass(frozen=True)
class Root:
    """The folder, and how it was found."""

    folder: Path
    """Absolute. It may be missing."""
    rule: str
    """What named it."""
    remark: str = ""
    """What the user can not see in the yaml; empty where there is nothing to say."""
    is_upstreams: bool = True
    """Whether ultralytics finds the same folder."""
    tried: tuple[str, ...] = ()
    """Where a relative `path:` was looked for in vain, and by which rules."""


def find(file: Path, content: dict[str, Any]) -> Root:
    """The folder that the relative paths in the yaml `file`, which holds `content`, start from.

    Raises:
        UserError: `path:` is no text.
    """
    asked = content.get("path")
    if asked is not None and not isinstance(asked, str):
        raise UserError(f"{file}: `path:` must be text, not {asked!r}")
    if not asked:
        return Root(file.parent.resolve(), "the yaml's own folder")
    if Path(asked).is_absolute():
        return Root(Path(asked).resolve(), "`path:`")
    if Path(asked).exists():
        return Root(Path(asked).resolve(), "`path:`, from the current folder")
    return _find_elsewhere(file, content, asked)


def classification_folder(named: Path) -> Path:
    """The folder that a classification set's name means: one here or, as in ultralytics (data/utils.py:874), in `datasets_dir`, which is said.

    Raises:
        UserError: it is in neither.
    """
    from ultralytics.utils import DATASETS_DIR, SETTINGS_FILE

    if named.is_dir():
        return named
    shared, rule = (Path(DATASETS_DIR) / named).resolve(), f"datasets_dir of {SETTINGS_FILE}"
    if not shared.is_dir():
        raise UserError(
            f"data={named}: there is no such folder in {Path.cwd()} or {DATASETS_DIR} ({rule}), and none is fetched by itself; "
            "a classification set is a folder with train/<class>/ and val/<class>/ in it"
        )
    say_once(f"root of {named}", f"data: {named} is not in {Path.cwd()}; {shared} is used, by {rule}")
    return shared


def announce(file: Path, root: Root) -> None:
    """Say what is remarkable about the root, once for each yaml."""
    if root.remark:
        say_once(f"root of {file.resolve()}", f"data: {file}: {root.remark}")


def place(root: Path, entry: str, forgive: bool) -> Path:
    """Where `entry` of a split lies; with `forgive` a `../` too many is dropped, as upstream does for a split that is no list."""
    found, without = (root / entry).resolve(), (root / entry.removeprefix("../")).resolve()
    return without if forgive and not found.exists() and without.exists() else found


def missing(file: Path, content: dict[str, Any], root: Root, key: str, entry: str) -> str:
    """The error for `entry` of the split `key`, which is not there: what it means, by which rule, and what to type."""
    asked, own = content.get("path"), file.parent.resolve()
    if root.tried:
        return (
            f"{file}: `path: {asked}` is in none of the places where it may be: {', '.join(root.tried)}: "
            "correct it, or leave it out to start from the yaml's own folder"
        )
    message = f"{file}: `{key}:` means {(root.folder / entry).resolve()}, which does not exist"
    if asked and root.folder != own and (own / entry).exists():
        return f"{message}, but {own / entry} does: leave `path:` out to start from the yaml's own folder"
    if not root.folder.exists():
        return (
            f"{file}: `path: {asked}` does not exist: correct it, or leave it out to start from the yaml's own folder"
        )
    if near := _nearest(root.folder, entry):
        return f"{message}: did you mean `{key}: {near}`?"
    return f"{message}: correct it; it starts from {root.folder} ({root.rule})"


def _find_elsewhere(file: Path, content: dict[str, Any], asked: str) -> Root:
    """The root of a yaml whose relative `path:` is not in the current folder."""
    from ultralytics.utils import DATASETS_DIR, SETTINGS_FILE

    own, here = file.parent.resolve(), Path.cwd()
    shared, beside = (Path(DATASETS_DIR) / asked).resolve(), (own / asked).resolve()
    rule = f"datasets_dir of {SETTINGS_FILE}"
    if shared.exists():
        return Root(shared, f"`path:`, from {rule}", f"`path: {asked}` is not in {here}; {shared} is used, by {rule}")
    if _has_splits(shared, content):  # all of them absolute
        return Root(shared, f"`path:`, from {rule}")
    not_there = f"`path: {asked}` is neither in {here} nor in {DATASETS_DIR} ({rule})"
    if beside.is_dir():
        remark = f"{not_there}; {beside}, in the yaml's own folder, is used"
        return Root(beside, "`path:`, from the yaml's own folder", remark, is_upstreams=False)
    if _has_splits(own, content):
        remark = f"{not_there}; {own}, the yaml's own folder, has the pictures and is used"
        return Root(own, "the yaml's own folder", remark, is_upstreams=False)
    tried = (
        f"{here / asked} (from the current folder)",
        f"{shared} (from {rule})",
        f"{beside} (from the yaml's folder)",
    )
    return Root(shared, f"`path:`, from {rule}", tried=tried)


def _has_splits(root: Path, content: dict[str, Any]) -> bool:
    """Whether everything that the splits name is there, taken from `root`."""
    splits = [split for key in ("train", "val", "validation") if (split := content.get(key))]
    alone = [place(root, split, forgive=True) for split in splits if isinstance(split, str)]
    listed = [root / each for split in splits if isinstance(split, list) for each in split if isinstance(each, str)]
    return bool(alone or listed) and all(each.exists() for each in (*alone, *listed))


def _nearest(root: Path, entry: str) -> str:
    """`entry` with its first wrong part corrected, if that makes a path that is there; empty otherwise."""
    parts = Path(entry).parts
    for index, part in enumerate(parts):
        folder = root.joinpath(*parts[:index])
        if not folder.is_dir() or (folder / part).exists():
            continue
        for near in difflib.get_close_matches(part, (each.name for each in folder.iterdir()), n=3):
            if root.joinpath(*parts[:index], near, *parts[index + 1 :]).exists():
                return str(Path(*parts[:index], near, *parts[index + 1 :]))
    return ""
