# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a model name that the user typed stands for: a local file, an architecture of ultralytics, or released weights.

ultralytics knows `yolo12n.yaml` and not `yolov12n.yaml` (nn/tasks.py:2300 looks for a file `yolov12.yaml`, which it does not have), and has no
names for the weights that the authors of YOLOv12 released. docs/weights.md has the table.

torch is not imported, so that a mistyped name is told at once.
"""

from __future__ import annotations

import ast
import difflib
import functools
import hashlib
import importlib.util
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from yolov12 import log, settings
from yolov12.errors import UserError
from yolov12.model import download

AUTHORS = "https://github.com/sunsmarterjie/yolov12/releases/download"
ASSETS = "https://github.com/ultralytics/assets/releases/download/v8.4.0"
"""ultralytics' own files; release as in utils/downloads.py:584."""

_YAML = (".yaml", ".yml")
_FILES = (".pt", *_YAML, ".onnx", ".engine", ".torchscript", ".pt2")
_SIZES = "nsmlx"


@dataclass(frozen=True)
class Release:
    """One file of released weights."""

    file: str
    """Name in our cache: it says which release it is, where the released file's own name does not."""
    url: str
    meaning: str
    sha256: str | None = None
    """Not known to us for any of them: the hash is shown after the download, and checked once it stands here."""


def _releases() -> dict[str, Release]:
    table = {}
    for size in _SIZES:
        turbo = Release(f"yolov12{size}-turbo.pt", f"{AUTHORS}/turbo/yolov12{size}.pt", "the authors' turbo release")
        table[f"yolov12{size}.pt"] = turbo
        table[turbo.file] = turbo
        v1 = Release(f"yolov12{size}-v1.0.pt", f"{AUTHORS}/v1.0/yolov12{size}.pt", "the authors' V1.0 release")
        table[v1.file] = v1
        for task in ("seg", "cls"):
            file = f"yolov12{size}-{task}.pt"
            table[file] = Release(file, f"{AUTHORS}/{task}/{file}", f"the authors' {task} release")
        file = f"yolo12{size}.pt"
        table[file] = Release(file, f"{ASSETS}/{file}", "ultralytics' own training of YOLO12")
    return table


RELEASES = _releases()
"""What each name of YOLOv12 weights means. A bare `yolov12n.pt` is turbo, as the authors' README links it."""


def resolve(model: str) -> str:
    """What ultralytics should be given for `model`: the text itself, upstream's name for it, or the path of weights in the cache.

    Local files win, whatever their name. Released YOLOv12 weights are downloaded if they are not in the cache; other names that
    ultralytics knows are handed on as they are (model/weights.py fetches them when they are loaded).

    Raises:
        UserError: no such file or name (the nearest names are given), or offline and not in the cache.
        RetryableError: the download failed.
    """
    text = str(model).strip()
    if not text:
        raise UserError("model= is empty: name an architecture (yolov12n.yaml) or weights (yolov12n.pt)")
    if "://" in text:
        return _remote(text)
    path = Path(text)
    if path.is_file() or path.is_dir():  # a folder is an exported model, such as yolo11n_openvino_model
        return text
    if text.endswith(_YAML):
        return _architecture(text)
    if path.parent != Path():
        raise UserError(f"model={text}: no such file{_by_name_alone(path.name)}")
    return _weights(text)


def known_architectures() -> list[str]:
    """Every YAML name that `resolve` takes: ultralytics' files, with their sizes, and our `yolov12` names for its `yolo12`."""
    names = set()
    for file in _yaml_files().values():
        names |= {file.stem, *_sized(file)}
    aliases = {name.replace("yolo12", "yolov12", 1) for name in names if name.startswith("yolo12")}
    return sorted(f"{name}.yaml" for name in names | aliases)


def _remote(url: str) -> str:
    """A file's address is fetched into the cache; a model server's address is handed on."""
    parts = urlsplit(url)
    file = Path(parts.path).name
    if parts.scheme in {"http", "https"} and file.lower().endswith(_FILES):
        place = (
            f"from/{parts.hostname}/{hashlib.sha256(url.encode()).hexdigest()[:12]}"  # many addresses end in best.pt
        )
        return str(download.fetch(file, url, folder=place))
    if parts.scheme not in {"http", "https", "grpc"} and settings.current().offline:
        raise UserError(
            f"model={url} needs the network, and YOLOV12_OFFLINE=1 forbids it: fetch the file and give its path"
        )
    return url


def _architecture(text: str) -> str:
    """A YAML name that is no local file. nn/tasks.py:2300 takes the size out of the name and looks again: so do we."""
    unsized = _unsized(text)
    if Path(unsized).is_file():  # the user's own yolov12.yaml, asked for as yolov12s.yaml
        return text
    path = Path(text)
    if path.parent != Path():
        if any(
            (_package().parent / name).is_file() for name in (text, unsized)
        ):  # ultralytics/cfg/models/12/yolo12n.yaml
            return text
        raise UserError(f"model={text}: no such file{_by_name_alone(path.name)}")
    upstream = re.sub(r"^yolov12", "yolo12", text)
    if any(Path(name).stem in _yaml_files() and name.endswith(".yaml") for name in (upstream, _unsized(upstream))):
        return upstream
    raise UserError(
        f"model={text}: no such file, and no architecture has that name{_nearest(text, known_architectures())}"
    )


def _weights(text: str) -> str:
    """A bare name that is no local file and no YAML."""
    name = text if text.endswith((*_FILES, ".pth")) else f"{text}.pt"
    if name != text and Path(name).is_file():
        return name
    if name in RELEASES:
        return _released(name)
    if name in _assets():
        return text
    known = sorted({*RELEASES, *_assets()})
    if not name.endswith((".pt", ".pth")):
        raise UserError(f"model={text}: no such file")
    yaml = f"{name.removesuffix('.pt')}.yaml"
    from_scratch = f"; there is an architecture of that name: {yaml}" if yaml in known_architectures() else ""
    raise UserError(
        f"model={text}: no such file, and no released weights have that name{from_scratch or _nearest(name, known)}"
    )


def _released(name: str) -> str:
    release = RELEASES[name]
    where = _found_by_stock(name) or download.fetch(release.file, release.url, release.sha256)
    log.say_once(f"released {name}", f"weights: {name} is {release.meaning}: {where}")
    return str(where)


def _found_by_stock(name: str) -> Path | None:
    """`name` in ultralytics' own weights folder (utils/downloads.py:608), if ultralytics is running: scripts that count on it still work."""
    utils = sys.modules.get("ultralytics.utils")
    path = Path(utils.SETTINGS["weights_dir"]) / name if utils is not None else None
    return path if path is not None and path.is_file() else None


def _unsized(text: str) -> str:
    """The name without its size, by the patterns of nn/tasks.py:2294-2300: yolo12n-seg.yaml -> yolo12-seg.yaml, yolov5n6 -> yolov5-p6."""
    path = Path(text)
    name = re.sub(r"^(yolov[58])([nsmlx])6(?=\.)", r"\1\2-p6", path.name)
    return str(path.with_name(re.sub(r"(\d+)([nslmx])(.+)?$", r"\1\3", name)))


def _sized(file: Path) -> list[str]:
    """Stems of an architecture with each of its sizes: yolo12-seg.yaml -> yolo12n-seg, ..."""
    family = re.fullmatch(r"(yolo(?:e-)?v?\d+)((?:-.*)?)", file.stem)
    sizes = re.findall(r"^  ([a-z]):", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [f"{family[1]}{size}{family[2]}" for size in sizes] if family else []


@functools.cache
def _yaml_files() -> dict[str, Path]:
    """ultralytics' architectures by stem, read as data."""
    return {file.stem: file for file in sorted((_package() / "cfg" / "models").rglob("*.yaml"))}


@functools.cache
def _package() -> Path:
    spec = importlib.util.find_spec("ultralytics")  # finds the folder without importing the package
    if spec is None or not spec.submodule_search_locations:
        raise UserError("ultralytics is not installed in this environment")
    return Path(spec.submodule_search_locations[0])


@functools.cache
def _assets() -> frozenset[str]:
    """Names of ultralytics' released files. Its list is an expression of literals, evaluated here alone: importing its module imports torch."""
    tree = ast.parse((_package() / "utils" / "downloads.py").read_text(encoding="utf-8"))
    listed = next(
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "GITHUB_ASSETS_NAMES"
    )
    names = eval(compile(ast.Expression(listed), "downloads.py", "eval"), {"__builtins__": {"frozenset": frozenset}})
    return names | {name.replace("u.pt", ".pt") for name in names if re.match(r"yolov[35].*u\.pt", name)}


def _by_name_alone(name: str) -> str:
    return f"; the name alone, {name}, is known" if name in RELEASES or name in known_architectures() else ""


def _nearest(name: str, known: list[str]) -> str:
    """The most similar names, all sizes of them where only the size is wrong."""
    typed = re.sub(r"\.pth$", ".pt", name.lower())
    near = difflib.get_close_matches(typed, known, n=6, cutoff=0.7)
    scores = {each: difflib.SequenceMatcher(None, each, typed).ratio() for each in near}
    best = sorted(each for each, score in scores.items() if score > max(scores.values()) - 0.04)
    return f"; nearest: {', '.join(best)}" if best else "; docs/weights.md lists the names"
