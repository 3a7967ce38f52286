# SPDX-License-Identifier: AGPL-3.0-or-later
"""A data set is read once before training, so that what is wrong with it is said in the first seconds and all at once.

Stock ultralytics drops a picture whose label file it dislikes, with a warning among hundreds of lines, and trains on the rest. On
the command line that is an error here, with the file, the line and the value. A damaged picture is not: it is left out, counted and named.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from yolov12.data import dataroot, datayaml, labels, pictures, scanned
from yolov12.errors import UserError

_TASKS_WITH_LABELS = ("detect", "segment", "pose", "obb")
_SHOWN_PROBLEMS = 10
_SHOWN_PICTURES = 5
_CHUNK = 256
"""Pictures per unit of work: large against a thread's overhead, small against a data set."""


@dataclass
class Split:
    """What was found in one split."""

    images: int = 0
    objects: int = 0
    unlabelled: int = 0
    """Pictures without a label file: trained on as background."""
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """Damaged pictures, which the run leaves out, and why."""
    rewritten: list[str] = field(default_factory=list)
    """JPEGs without their end mark, which ultralytics writes anew in place."""
    problems: list[tuple[str, labels.Problem]] = field(default_factory=list)
    """Label files at fault."""
    known_from: Path | None = None
    """The label cache in which all this stood, so that nothing was read."""

    def add(self, other: Split) -> None:
        """Count another part of the same split in."""
        self.images += other.images
        self.objects += other.objects
        self.unlabelled += other.unlabelled
        self.skipped += other.skipped
        self.rewritten += other.rewritten
        self.problems += other.problems


@dataclass
class Report:
    """What a check found. A report exists only if training can start."""

    data: Path
    classes: int
    splits: dict[str, Split]

    def lines(self) -> list[str]:
        """The report for people: one line for the set, and more for each thing worth knowing."""
        counts = ", ".join(
            f"{name} {_count(split.images, 'image')} with {_count(split.objects, 'object')}"
            for name, split in self.splits.items()
        )
        found = [f"data: {self.data}: {_count(self.classes, 'class', 'classes')}; {counts}"]
        for name, split in self.splits.items():
            if split.known_from:
                found.append(f"data: {name}: unchanged since the scan in {split.known_from}, not read again")
            if split.unlabelled:
                these = f"{split.unlabelled} of {_count(split.images, 'image')}"
                found.append(f"data: {name}: {these} without a label file, counted as background")
            if split.skipped:
                named = _first([f"{path} ({why})" for path, why in split.skipped], _SHOWN_PICTURES)
                found.append(f"data: {name}: {_count(len(split.skipped), 'damaged image')}, left out: {named}")
            if split.rewritten:
                these = f"{_count(len(split.rewritten), 'JPEG')} without the end mark"
                fate = "which ultralytics writes anew in place (or leaves out, if it can not)"
                found.append(f"data: {name}: {these}, {fate}: {_first(split.rewritten, _SHOWN_PICTURES)}")
            if split.problems:
                found.append(f"data: {name}: {_problems_text(self.data.parent, split.problems)}")
        return found


def dataset(
    data: str | Path, task: str = "detect", strict: bool = True, single_class: bool = False, reuse_scan: bool = False
) -> Report:
    """Check the data set `data` for `task` and report what is in it.

    `data` is a data yaml, a folder with one, or, for classify, a folder with `train/<class>/` in it, here or in ultralytics' `datasets_dir`.
    Nothing is downloaded, decoded or written.
    With `strict=False` faults in label files are reported, not raised; stock then drops these pictures.
    With `reuse_scan=True` a split for detection that an earlier run scanned without a fault, and that is unchanged, is not read again.

    Raises:
        UserError: there is nothing to train on, or label files have faults; all faults are counted and the first ten named, one on a line.
    """
    if task == "classify":
        return _classification(Path(data))
    description = datayaml.load(data)
    counted_by = "nc" if description.content.get("names") is None else "names"
    rules = labels.Rules(len(description.names), task, _keypoints(description, task), single_class, counted_by)
    splits = {}
    for name, places in description.splits.items():
        paths = pictures.listed(places)
        if not paths:
            raise UserError(f"{description.file}: {_no_images(name, places)}")
        keypoints = description.content.get("kpt_shape")
        known = _as_scanned(paths, rules, keypoints) if reuse_scan and task == "detect" else None
        splits[name] = known or _check_split(paths, rules)
        _refuse_useless(description.file, name, paths, splits[name], task)
    problems = [problem for split in splits.values() for problem in split.problems]
    if strict and problems:
        raise UserError(f"{description.file}: correct or delete {_problems_text(description.file.parent, problems)}")
    return Report(description.file, len(description.names), splits)


def _as_scanned(paths: list[str], rules: labels.Rules, keypoints: object) -> Split | None:
    classes = 1 if rules.single_class else rules.classes  # a run with single_cls=True has one (engine/trainer.py:867)
    found = scanned.unchanged(paths, [label_path(path) for path in paths], classes, keypoints, rules.single_class)
    return found and Split(len(paths), found.objects, found.unlabelled, known_from=found.cache)


def _check_split(paths: list[str], rules: labels.Rules) -> Split:
    chunks = [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]
    total = Split()
    # Threads, because the time goes into opening files, often on a network mount.
    with ThreadPoolExecutor(min(16, 4 * (os.cpu_count() or 1))) as pool:
        for part in pool.map(lambda chunk: _check_chunk(chunk, rules), chunks):
            total.add(part)
    return total


def _check_chunk(paths: list[str], rules: labels.Rules) -> Split:
    found = Split(images=len(paths))
    for path in paths:
        verdict, why = pictures.damage(path)
        if verdict == "skip":
            found.skipped.append((path, why))
        elif verdict == "rewrite":
            found.rewritten.append(path)
        if rules.task in _TASKS_WITH_LABELS:
            _check_label(label_path(path), rules, found)
    return found


def _check_label(path: str, rules: labels.Rules, found: Split) -> None:
    """Count one label file into `found`."""
    try:
        with open(path, "rb") as file:
            text = file.read().decode("utf-8-sig")
    except FileNotFoundError:
        found.unlabelled += 1
        return
    except (OSError, UnicodeDecodeError) as error:
        found.problems.append((path, labels.Problem(1, f"can not be read as text: {error}")))
        return
    objects, problems = labels.check(text, rules)
    found.objects += objects
    found.problems += [(path, problem) for problem in problems]


def label_path(image: str) -> str:
    """Where the labels of `image` are: the last folder `images` becomes `labels`, the ending .txt (data/utils.py:134-147)."""
    before, folder, after = image.rpartition(f"{os.sep}images{os.sep}")
    moved = f"{before}{os.sep}labels{os.sep}{after}" if folder else image
    return moved.rsplit(".", 1)[0] + ".txt"


def _no_images(name: str, places: list[Path]) -> str:
    """What to say about a split without pictures: the folder of the labels is often named in place of theirs."""
    where = _first([str(place) for place in places], 3)
    found = f"no images for `{name}:` in {where}"
    for place in places:
        beside = Path("images".join(str(place).rsplit("labels", 1)))
        if place.is_dir() and any(place.glob("*.txt")) and beside.is_dir():
            return f"{found}, which holds label files: `{name}:` names the folder of the pictures, here {beside}"
    return f"{found}: put pictures there ({', '.join(sorted(pictures.FORMATS))}), or correct `{name}:`"


def _refuse_useless(file: Path, name: str, paths: list[str], split: Split, task: str) -> None:
    if len(split.skipped) == split.images:
        path, why = split.skipped[0]
        raise UserError(
            f"{file}: none of the {_count(split.images, 'image')} for `{name}:` can be read: {path} ({why})"
        )
    if name == "train" and task in _TASKS_WITH_LABELS and split.unlabelled == split.images:
        none = f"none of the {_count(split.images, 'training image')} has a label file"
        raise UserError(f"{file}: {none}: {_where_labels_belong(paths[0])}")


def _where_labels_belong(image: str) -> str:
    """The rule by which label files are found, on the example of one picture."""
    wanted = label_path(image)
    if wanted != os.path.splitext(image)[0] + ".txt":
        return f"that of {image} would be {wanted} (the same path with `labels` for `images`)"
    return (
        f"that of {image} would be {wanted}, beside it, since no folder on its path is called `images`: "
        "put the pictures below a folder `images` and the label files, with the same names, below a folder `labels` next to it"
    )


def _keypoints(description: datayaml.DataYaml, task: str) -> tuple[int, int] | None:
    shape = description.content.get("kpt_shape")
    if shape is None and task != "pose":
        return None
    if (
        isinstance(shape, list)
        and len(shape) == 2
        and all(type(n) is int for n in shape)
        and shape[0] > 0
        and shape[1] in (2, 3)
    ):
        return shape[0], shape[1]
    raise UserError(
        f"{description.file}: `kpt_shape:` is {shape!r}; it must be [how many keypoints, 2 or 3 numbers each], for example [17, 3]"
    )


def _classification(folder: Path) -> Report:
    """A classification set: `train/` and `val/`, each with a folder of pictures per class."""
    folder = dataroot.classification_folder(folder)
    splits = {}
    for name, alternatives in (("train", ("train",)), ("val", ("val", "validation", "valid", "test"))):
        place = next((folder / each for each in alternatives if (folder / each).is_dir()), None)
        if place is None:
            raise UserError(f"data={folder} has no folder {name}: put the pictures into {folder / name}/<class>/")
        paths = pictures.listed([place])
        if not paths:
            raise UserError(f"data={folder}: no images in {place}")
        splits[name] = _check_split(paths, labels.Rules(0, "classify"))
        _refuse_useless(folder, name, paths, splits[name], "classify")
        splits[name].objects = splits[name].images
    classes = sum(each.is_dir() for each in (folder / "train").iterdir())
    return Report(folder, classes, splits)


def _problems_text(root: Path, problems: list[tuple[str, labels.Problem]]) -> str:
    """How many faults there are, and below it the first of them, each on a line of its own."""
    named = [f"  {_short(path, root)}:{problem.line}: {problem.what}" for path, problem in problems[:_SHOWN_PROBLEMS]]
    if more := len(problems) - len(named):
        named.append(f"  and {more} more")
    return "\n".join([f"{_count(len(problems), 'label line')} at fault:", *named])


def _count(number: int, one: str, many: str = "") -> str:
    """`1 image`, `2 images`."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def _first(named: list[str], count: int) -> str:
    more = len(named) - count
    return "; ".join(named[:count]) + (f"; and {more} more" if more > 0 else "")


def _short(path: str, root: Path) -> str:
    """`path` from the data yaml's folder if it lies below it."""
    absolute = root.resolve()
    return os.path.relpath(path, absolute) if Path(path).is_relative_to(absolute) else path
