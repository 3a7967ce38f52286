# SPDX-License-Identifier: AGPL-3.0-or-later
"""Reading a command line: `key=value` as `yolo` has it, and `--key value` and `--key=value` as most other programs do."""

from __future__ import annotations

import ast
import difflib
import functools
import importlib.util
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yolov12.declare import PREFIX, switch
from yolov12.errors import UserError
from yolov12.log import warn
from yolov12.settings import DECLARED

# Ultralytics' words and keys that its default.yaml does not list, in the pinned version (cfg/__init__.py:60, :573, :674).
TASKS = ("detect", "segment", "semantic", "depth", "classify", "pose", "obb")
RENAMED = ("boxes", "hide_labels", "hide_conf", "line_thickness", "end2end", "half", "int8")
REMOVED = ("label_smoothing", "save_hybrid", "crop_fraction", "keras")
ELSEWHERE = {"gradient_checkpointing": "type checkpoint=all for True, or checkpoint=0 for False"}
"""Keys of other programs that a script may use, with what says the same on a command line."""
BARE = ("half", "int8", "end2end", "nms")
"""Keys that `yolo` takes without a value though their default is not a boolean."""
VERBATIM = ("name", "project")
"""Keys whose value stays text even if it looks like a number."""

_KEY_VALUE = re.compile(r"([A-Za-z_][\w-]*)=(.*)", re.DOTALL)


@dataclass
class Parsed:
    """What a command line says."""

    options: dict[str, Any] = field(default_factory=dict)
    """Values by key; settings are still text."""
    words: list[str] = field(default_factory=list)
    """What is neither a key nor a value, in order."""


@functools.cache
def ultralytics_folder() -> Path:
    """Where ultralytics lies, found without importing it, which would import torch.

    Raises:
        UserError: it is not installed.
    """
    spec = importlib.util.find_spec("ultralytics")
    if spec is None or spec.origin is None:
        raise UserError("ultralytics is not installed in this environment: activate the one that has it")
    return Path(spec.origin).parent


@functools.cache
def ultralytics_defaults() -> dict[str, Any]:
    """Ultralytics' arguments with their defaults, read as data from its cfg/default.yaml.

    Raises:
        UserError: ultralytics is not installed.
    """
    import yaml

    text = (ultralytics_folder() / "cfg" / "default.yaml").read_text(encoding="utf-8")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # C where it was built
    return yaml.load(text, loader) | dict.fromkeys(("save_dir", *RENAMED, *REMOVED))


def parse(tokens: list[str], keys: Mapping[str, Any], max_words: int = 0) -> Parsed:
    """Read the arguments of a verb.

    Args:
        tokens: what was typed after the verb.
        keys: valid keys with their defaults; those of the settings are valid besides.
        max_words: how many bare words the verb takes.

    Raises:
        UserError: an unknown key, a key without a value, a switch of the verb that is neither on nor off, a word too many.
    """
    parsed = Parsed()
    texts: dict[str, str] = {}
    for key, text in _pairs(list(_merged(tokens)), keys):
        if key is None:
            parsed.words.append(text)
            continue
        if texts.setdefault(key, text) != text:
            warn(f"{key} is given more than once: {key}={text} wins over {key}={texts[key]}")
            texts[key] = text
    if len(parsed.words) > max_words:
        raise UserError(_stray(parsed.words[max_words], keys))
    if (path := texts.pop("cfg", None)) is not None and path.lower() != "none":
        parsed.options |= _from_file(path, keys)
    for key, text in texts.items():
        parsed.options[key] = text if key in DECLARED else value_of(key, text)
    for key in _switches(keys) & parsed.options.keys():
        parsed.options[key] = _on_or_off(key, parsed.options[key])
    return parsed


def _switches(keys: Mapping[str, Any]) -> set[str]:
    """The verb's own keys that are on or off. What ultralytics' take (cache=ram, resume=PATH) values.py knows."""
    theirs = ultralytics_defaults() if "mode" in keys else {}
    return {key for key, default in keys.items() if isinstance(default, bool) and key not in theirs}


def _on_or_off(key: str, value: Any) -> bool:
    """In the words that settings take.

    Raises:
        UserError: any other.
    """
    try:
        return switch(str(value))
    except ValueError:
        raise UserError(f"{key}={value}: type {key}=True or {key}=False") from None


def value_of(key: str, text: str) -> Any:
    """The Python value of `text`, as `yolo` reads it (cfg/__init__.py:967) but for constants of modules: a literal, else the text itself."""
    text = text.strip()
    words = {"none": None, "true": True, "false": False}
    if key in VERBATIM and text.lower() != "none":
        return text
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # the last two: brackets without end
        return text


def _merged(tokens: list[str]) -> Iterator[str]:
    """Tokens with `key = value`, `key= value` and `key =value` joined to one, and so brackets that the shell has split at spaces.

    Raises:
        UserError: a bracket that would swallow all arguments after it.
    """
    joined = ""
    for position, token in enumerate(tokens):
        following = tokens[position + 1] if position + 1 < len(tokens) else ""
        joined += token
        is_open = joined.count("[") > joined.count("]")
        awaits_value = joined.endswith("=") and following and not _KEY_VALUE.fullmatch(following)
        awaits_equals = "=" not in joined and following.startswith("=")
        if not is_open and not awaits_value and not awaits_equals:
            yield joined
            joined = ""
    if joined:
        raise UserError(f"{joined!r} has a '[' without its ']'")


def _pairs(tokens: list[str], keys: Mapping[str, Any]) -> Iterator[tuple[str | None, str]]:
    """(key, text) for each argument, (None, word) for each bare word."""
    position = 0
    while position < len(tokens):
        token = tokens[position].removesuffix(",") or ","
        position += 1
        dashed = token.startswith("--")
        found = _KEY_VALUE.fullmatch(token.removeprefix("--"))
        if found:
            key, text = known_key(found[1], keys), found[2].strip()
            if not text:
                raise UserError(f"{key}= has no value: {_example(key, keys)}")
            yield key, text
        elif dashed:
            key = known_key(token.removeprefix("--"), keys)
            if position < len(tokens) and not _starts_another(tokens[position], keys):
                yield key, tokens[position]
                position += 1
            else:
                yield key, _bare(key, keys)
        elif token in TASKS and "task" in keys:
            yield "task", token
        elif _plain(token) in keys or _plain(token) in DECLARED:
            key = known_key(token, keys)
            yield key, _bare(key, keys)
        else:
            yield None, token


def known_key(typed: str, keys: Collection[str]) -> str:
    """The key that `typed` spells (`flash-attn`, `YOLOV12_FLASH_ATTN` and `flash_attn` are one).

    Raises:
        UserError: there is no such key; the nearest are named.
    """
    key = _plain(typed)
    if key in DECLARED and not DECLARED[key].on_command_line:
        raise UserError(f"{typed} is read before the command line is: set {DECLARED[key].env} in the environment")
    if key in keys or key in DECLARED:
        return key
    if key in ELSEWHERE:
        raise UserError(f"there is no argument {typed!r} on the command line: {ELSEWHERE[key]}")
    raise UserError(f"there is no argument {typed!r}{_nearest(key, [*keys, *DECLARED])}")


def _plain(typed: str) -> str:
    return typed.removeprefix(PREFIX).replace("-", "_").lower() if typed.startswith(PREFIX) else typed.replace("-", "_")


def _starts_another(token: str, keys: Mapping[str, Any]) -> bool:
    """Whether the token after `--key` is the next argument and not the value."""
    found = _KEY_VALUE.fullmatch(token)
    return token.startswith("--") or (found is not None and (_plain(found[1]) in keys or _plain(found[1]) in DECLARED))


def _bare(key: str, keys: Mapping[str, Any]) -> str:
    """The value of a key that was named alone.

    Raises:
        UserError: it is none that can be switched on.
    """
    if key in BARE or isinstance(keys.get(key), bool) or (key in DECLARED and DECLARED[key].is_switch):
        return "True"
    raise UserError(f"{key} needs a value: {_example(key, keys)}")


def _example(key: str, keys: Mapping[str, Any]) -> str:
    if key in DECLARED:
        return f"type {key}=VALUE, where VALUE is {DECLARED[key].accepts}"
    default = keys.get(key)
    return f"type {key}={'VALUE' if default is None else default}"


def _stray(word: str, keys: Mapping[str, Any]) -> str:
    ending = Path(word).suffix.lower()
    for key, endings in (("data", (".yaml", ".yml")), ("model", (".pt", ".onnx", ".engine", ".torchscript"))):
        if key in keys and ending in endings:
            return f"{word!r} is not an argument here; did you mean {key}={word}?"
    return f"{word!r} is not an argument here; arguments are key=value{_nearest(_plain(word), [*keys, *DECLARED])}"


def _nearest(key: str, candidates: list[str]) -> str:
    """The most similar of `candidates`, and what is about as similar."""
    near = difflib.get_close_matches(key, candidates, n=3, cutoff=0.6)
    scores = {name: difflib.SequenceMatcher(None, name, key).ratio() for name in near}
    best = [name for name, score in scores.items() if score > max(scores.values()) - 0.1]
    return f"; did you mean {' or '.join(best)}?" if best else ""


def _from_file(path: str, keys: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments in the yaml file that `cfg=` names; its keys are checked like those that are typed.

    Raises:
        UserError: no such file, not yaml, not a mapping, an unknown key.
    """
    import yaml

    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise UserError(
            f"cfg={path}: {(error.strerror or str(error)).lower()}; name a yaml file of arguments"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"cfg={path} is not yaml: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict):
        raise UserError(f"cfg={path} is not a list of `key: value` lines")
    return {known_key(str(key), keys): value for key, value in found.items() if key not in ("cfg", "mode")}
