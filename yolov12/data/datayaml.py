# SPDX-License-Identifier: AGPL-3.0-or-later
"""Reading a data yaml and finding its folders, with the meaning that ultralytics gives them and errors that say what to type.

The rules are those of `check_det_dataset` (data/utils.py:717-836 of 8.4.190); a test compares the two. What is left out on purpose: nothing
here downloads, unpacks or runs anything that a yaml names.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from yolov12.data import dataroot, pictures
from yolov12.errors import UserError

_ARCHIVES = ("zip", "tar", "gz", "tgz", "bz2", "xz", "7z", "rar")


@dataclass(frozen=True)
class DataYaml:
    """A data yaml with its folders resolved."""

    file: Path
    root: Path
    """What relative paths in the yaml start from."""
    names: dict[int, str]
    """Class index -> name, 0 to n-1."""
    splits: dict[str, list[Path]]
    """`train` and `val` -> absolute folders, list files or pictures; each exists."""
    content: dict[str, Any]
    """The yaml as it was read."""


def load(name: str | Path) -> DataYaml:
    """Read the data yaml `name`, or the only yaml in the folder `name`.

    Raises:
        UserError: anything that would stop training before the first picture, in one sentence.
    """
    file = find(name)
    content = read(file)
    root = dataroot.find(file, content)
    dataroot.announce(file, root)
    splits = {}
    for split in ("train", "val"):
        key = "validation" if split == "val" and "val" not in content and "validation" in content else split
        splits[split] = _places(file, content, key, root)
    return DataYaml(file=file, root=root.folder, names=_names(file, content), splits=splits, content=content)


def find(name: str | Path) -> Path:
    """The yaml file that `data=name` means.

    Raises:
        UserError: there is none.
    """
    refuse_address(name)
    text = str(name)
    path = Path(text)
    if path.is_dir():
        found = sorted(path.glob("*.yaml")) or sorted(path.glob("*.yml"))
        if not found:
            raise UserError(f"data={text} is a folder without a yaml file: give the path of the data set's yaml")
        if len(found) > 1:
            raise UserError(f"data={text} is a folder with {len(found)} yaml files: give the path of one")
        return found[0]
    if not path.is_file():
        listed = shipped(text)
        if listed is None:
            raise UserError(
                f"data={text}: there is no such file in {Path.cwd()}: give the path of a data yaml, or data=synth"
            )
        return listed
    if path.suffix.lower() not in (".yaml", ".yml"):
        raise UserError(f"data={text} {_what(path)}")
    return path


def refuse_address(name: Any, is_folder: bool = False) -> None:
    """Refuse `data=name` where it names something on another machine.

    Args:
        name: what was typed.
        is_folder: whether the data set may be a folder of classes.

    Raises:
        UserError: it does.
    """
    text = str(name)
    if "://" in text or text.startswith("ul:"):
        what = "the folder with train/ and val/" if is_folder else "the data yaml"
        raise UserError(f"data={text} is an address: fetch and unpack it first, then give the path of {what} in it")


def _what(path: Path) -> str:
    """What a file is that is no yaml, and what to type."""
    ending = path.suffix.lower().removeprefix(".")
    if ending in pictures.FORMATS:
        return "is a picture: give the path of the data yaml, which names the folders of pictures"
    if ending in _ARCHIVES:
        return "is an archive: unpack it, then give the path of the data yaml in it"
    return "is not a .yaml file: give the path of the data set's yaml"


def read(file: Path) -> dict[str, Any]:
    """The yaml's keys and values.

    Raises:
        UserError: unreadable, empty, malformed (with line and column), or no mapping.
    """
    try:
        content = yaml.safe_load(file.read_bytes().decode("utf-8-sig", errors="ignore"))
    except OSError as error:
        raise UserError(f"{file} can not be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{file} is not valid YAML: {_where(error)}") from error
    if content is None:
        raise UserError(f"{file} is empty: a data yaml has train:, val: and names:")
    if not isinstance(content, dict):
        raise UserError(
            f"{file} holds a {type(content).__name__}, not keys and values: a data yaml has train:, val: and names:"
        )
    return {key: None if value == "None" else value for key, value in content.items()}  # as YAML.load does


def download_advice(content: dict[str, Any], root: Path) -> str:
    """What to say when data are missing and the yaml has a `download:` field; empty if it has none."""
    source = content.get("download")
    if not isinstance(source, str) or not source.strip():
        return ""
    if source.startswith(("http://", "https://")):
        return (
            f"its `download:` names {source.strip()}, which is not fetched by itself: fetch it and unpack it in {root}"
        )
    return (
        f"its `download:` is a script, which is never run: get the data as the script describes and put them in {root}"
    )


def _where(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    return problem if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: {problem}"


def _places(file: Path, content: dict[str, Any], key: str, root: dataroot.Root) -> list[Path]:
    """Where a split's pictures are: a folder, a picture, a text file that lists pictures, or several of these."""
    if content.get(key) in (None, "", []):
        raise UserError(
            f"{file} has no `{key}:`: give it the folder of the {key} pictures, for example {key}: images/{key}"
        )
    is_list = isinstance(content[key], list)
    places = []
    for each in content[key] if is_list else [content[key]]:
        if not isinstance(each, str):
            raise UserError(f"{file}: `{key}:` must be a path or a list of paths, not {each!r}")
        place = dataroot.place(root.folder, each, forgive=not is_list)
        if not place.exists():
            if advice := download_advice(content, root.folder):
                raise UserError(f"{file}: `{key}:` means {place}, which does not exist; {advice}")
            raise UserError(dataroot.missing(file, content, root, key, each))
        places.append(place)
    return places


def _names(file: Path, content: dict[str, Any]) -> dict[int, str]:
    names, count = content.get("names"), content.get("nc")
    if names is None:
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise UserError(f"{file} has no `names:`: list the classes, for example names: [cat, dog]")
        return {index: f"class_{index}" for index in range(count)}
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        raise UserError(
            f"{file}: `names:` must list at least one class, for example names: [cat, dog]; it is {names!r}"
        )
    try:
        indexed = {int(index): str(name) for index, name in names.items()}
    except (TypeError, ValueError) as error:
        raise UserError(f"{file}: the keys of `names:` must be class numbers 0, 1, ...: {error}") from error
    if sorted(indexed) != list(range(len(indexed))):
        raise UserError(
            f"{file}: `names:` must number its {len(indexed)} classes 0-{len(indexed) - 1}, not {sorted(indexed)}"
        )
    if count is not None and count != len(indexed):
        raise UserError(f"{file}: `nc: {count}` but `names:` has {len(indexed)} classes: leave nc out")
    return indexed


def shipped(name: str) -> Path | None:
    """A yaml that ultralytics ships, by its bare name: `coco8` or `coco8.yaml`."""
    if "/" in name or not name:
        return None
    from ultralytics.utils import ROOT

    folder = ROOT / "cfg" / "datasets"
    candidates = (folder / name, folder / f"{name}.yaml")
    return next((path for path in candidates if path.suffix == ".yaml" and path.is_file()), None)
