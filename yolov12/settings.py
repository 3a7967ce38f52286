# SPDX-License-Identifier: AGPL-3.0-or-later
"""The settings of this package: one declaration each, from which come the environment variable, the flag, the help and the table in docs.

The environment is the one channel: what the command line and the script ask for is exported there, so that child processes (ranks, loader
workers) see the same. Precedence: command line > environment that was set > script argument > default.
"""

from __future__ import annotations

import difflib
import functools
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yolov12 import folders
from yolov12.declare import PREFIX, Declaration, as_text, declarations, read, setting, switch
from yolov12.errors import UserError
from yolov12.log import say_once


def _checkpoint_is_no_path(text: str) -> str | None:
    if "/" in text or text.endswith((".pt", ".pth")):
        return f"this setting is about recomputing activations (1, 0 or all); to continue a run, use resume={text}"
    return None


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the user asked for. Read it with `current()`."""

    flash_attn: str = setting(
        "1",
        accepts="1, 0, plain, flash-attn, sdpa-flash, sdpa-cudnn, sdpa-efficient or sdpa-cpu",
        doc="Attention. 1: the best fused backend for the device and shape; 0: plain; or one backend by name.",
        choices=("1", "0", "plain", "flash-attn", "sdpa-flash", "sdpa-cudnn", "sdpa-efficient", "sdpa-cpu"),
    )
    amp: str = setting(
        "1",
        accepts="1, 0, fp16 or bf16",
        doc="Number format of training. 1: bf16 where the GPU has it, else fp16 with a loss scaler; 0: fp32.",
        choices=("1", "0", "fp16", "bf16"),
        aliases={"fp32": "0"},
        in_script=True,
        in_ultralytics=True,
    )
    checkpoint: str = setting(
        "1",
        accepts="1, 0 or all",
        doc="Recomputing activations to save memory. 1: only as much as the budget needs; 0: never; all: everywhere.",
        choices=("1", "0", "all"),
        mistake=_checkpoint_is_no_path,
        in_script=True,
    )
    cache_dir: Path | None = setting(  # noqa: RUF009  # makes a field, as dataclasses.field does
        None,
        accepts="a folder that you may write to",
        doc="Downloads and other caches. Not set: /workspace/.yolov12; where there is no /workspace, ~/.cache/yolov12; else a temporary folder.",
    )
    trt_cache_dir: Path | None = setting(  # noqa: RUF009  # makes a field, as dataclasses.field does
        None,
        accepts="a folder that you may write to",
        doc="TensorRT engines. Not set: `engines` in the cache folder.",
    )
    kernels: bool = setting(
        True,
        accepts="1 or 0",
        doc="Our GPU kernels for batch norm, activation, the detection loss and augmentation. 0: torch's operations.",
    )
    mem_safety_ratio: float = setting(
        0.10,
        accepts="a number from 0 to 0.5",
        doc="Share of the GPU's memory that the memory plan leaves free.",
        at_least=0.0,
        at_most=0.5,
        in_script=True,
    )
    disable_mas_layers: tuple[str, ...] = setting(
        (),
        accepts="layers, separated by commas",
        doc="Layers that memory-aware scheduling leaves alone.",
        in_script=True,
    )
    mas_data: bool = setting(
        False,
        accepts="1 or 0",
        doc="1: where not even one image fits with everything recomputed, train on smaller images instead of giving up.",
        in_script=True,
    )
    data_pipeline: str = setting(
        "auto",
        accepts="auto, gpu or cpu",
        doc="Where images are decoded and augmented. auto: on a GPU that keeps all of them, that 4 readers feed, or with NVIDIA DALI.",
        choices=("auto", "gpu", "cpu"),
        in_script=True,
    )
    compile: str = setting(
        "auto",
        accepts="auto, 0, 1, reduce-overhead or max-autotune-no-cudagraphs",
        doc="torch.compile. auto: where it is known to pay; 0: never; 1: always; or one of its modes.",
        choices=("auto", "0", "1", "reduce-overhead", "max-autotune-no-cudagraphs"),
        aliases={"default": "1"},
        in_script=True,
        in_ultralytics=True,
    )
    predict_graphs: bool = setting(
        True,
        accepts="1 or 0",
        doc="predict and val of a .pt file on a GPU answer by CUDA graphs. 0: kernels are launched one by one, as ultralytics does.",
    )
    predict_kernels: bool = setting(
        True,
        accepts="1 or 0",
        doc="predict letterboxes and suppresses by our kernels, val suppresses by one; both run float16 networks by them. 0: OpenCV, torch, cuDNN.",
    )
    predict_ahead: bool = setting(
        True,
        accepts="1 or 0",
        doc="predict of files on a GPU begins with the next batch before Python makes the results of this one. 0: after them.",
    )
    plot_process: bool = setting(
        True,
        accepts="1 or 0",
        doc="1: the plots of a training or a validation are drawn by processes of their own, beside it. 0: by its own process, one after the other.",
    )
    grad_compress: str = setting(
        "none",
        accepts="none or bf16",
        doc="Number format in which gradients travel between GPUs. bf16: half the bytes; what rounding takes away is added in the next step.",
        choices=("none", "bf16"),
    )
    lr_scale: str = setting(
        "none",
        accepts="none or linear",
        doc="Whether lr0 follows the batch. linear: lr0 times the images of an update over nbs, with the weight decay of nbs; none: as stock.",
        choices=("none", "linear"),
        in_script=True,
    )
    grad_clip: str = setting(
        "global",
        accepts="global or max_rank",
        doc="Which norm an update is clipped by. global: that of all GPUs' gradient, as stock; max_rank: the largest of one GPU's own.",
        choices=("global", "max_rank"),
        in_script=True,
    )
    sync_bn: bool = setting(
        False,
        accepts="1 or 0",
        doc="Batch norm statistics over all GPUs. On, an out-of-memory ends the run instead of being retried.",
        in_script=True,
    )
    mixed_gpus: bool = setting(
        False,
        accepts="1 or 0",
        doc="Whether GPUs of several kinds may train together. Every update then waits for the slowest of them.",
        in_script=True,
    )
    dist_timeout_s: int = setting(
        180,
        accepts="seconds, at least 1",
        doc="After how many seconds a rank counts as hung: one that neither comes to a vote nor says that it is busy, or a collective.",
        at_least=1,
    )
    rdzv_timeout_s: int = setting(
        600,
        accepts="seconds, at least 1",
        doc="How many seconds ranks wait for each other at the start.",
        at_least=1,
    )
    save_steps: int = setting(
        0,
        accepts="steps, 0 or more",
        doc="Write last.pt also within an epoch, after every so many steps. 0: after each epoch, and when the run is asked to end.",
        at_least=0,
        in_script=True,
    )
    offline: bool = setting(
        False,
        accepts="1 or 0",
        doc="1: never use the network; say what to fetch and where to put it.",
    )
    trust_weights: bool = setting(
        False,
        accepts="1 or 0",
        doc="1: load weights and caches even if loading them can run code from the file.",
    )
    price_per_gpu_hour: float | None = setting(
        None,
        accepts="a number, at least 0",
        doc="Price of one GPU for one hour, in your currency: runs then show their cost.",
        at_least=0.0,
    )
    user: str | None = setting(
        None,
        accepts="root, a uid or uid:gid",
        doc="Who a container that was started as root becomes. Not set: the owner of /workspace. Read before Python starts.",
        choices=("root",),
        pattern=r"\d+(:\d+)?",
        on_command_line=False,
    )
    disable: bool = setting(
        False,
        accepts="1 or 0",
        doc="1: `from ultralytics import YOLO` stays plain ultralytics.",
        on_command_line=False,
    )


DECLARED: Mapping[str, Declaration] = declarations(Settings)

ORIGINS = PREFIX + "ORIGINS"
"""Internal: JSON of {name: [origin, text]} for what we exported. Children inherit it with the values, and so know a script's argument from
a variable that the user set. The text is there to notice that somebody set the variable again since."""

# What Kubernetes injects into every pod of a namespace for a Service called yolov12 or yolov12-something.
_INJECTED = re.compile(PREFIX + r"(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\w+)?)")


def current() -> Settings:
    """The settings as they are now.

    Raises:
        UserError: a wrong value: its name, the value, and what to type.
    """
    return _read(tuple(os.environ.get(declaration.env, "") for declaration in DECLARED.values()))


@functools.lru_cache(maxsize=8)
def _read(texts: tuple[str, ...]) -> Settings:
    del texts  # the cache's key: the model reads the environment itself
    words = {d.env: f"{d.name}={os.environ[d.env]}" for d in DECLARED.values() if origin(d.name) == "command line"}
    found = read(Settings, {}, words)
    for declaration in DECLARED.values():
        if declaration.later and origin(declaration.name) != "default":
            say_once(f"{declaration.env} later", f"WARNING {declaration.env} has no effect in this version")
    return found


def origin(name: str) -> str:
    """Where the value of a setting comes from: "default", "environment", "command line" or "script"."""
    text = os.environ.get(DECLARED[name].env, "")
    if not text:
        return "default"
    exported, exported_text = _exported().get(name, ("environment", text))
    return exported if exported_text == text else "environment"


def apply_command_line(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Export the settings among the arguments of a command line, over what the environment says.

    Returns:
        The other arguments, and `amp` and `compile` as ultralytics spells them if they were given.

    Raises:
        UserError: a wrong value.
    """
    rest = {key: value for key, value in arguments.items() if key not in DECLARED}
    for name, declaration in DECLARED.items():
        if name not in arguments:
            continue
        typed = f"{name}={as_text(arguments[name])}"
        wanted = _parse(declaration, arguments[name], typed)
        if origin(name) == "environment" and getattr(current(), name) != wanted:
            _say_who_wins(f"{typed} (command line)", _in_force(declaration))
        _export(declaration, wanted, "command line")
        rest |= _for_ultralytics(declaration, wanted)
    return rest


def apply_script_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Export what the script asks for in `model.train(...)`, where neither the command line nor the environment says otherwise.

    What an earlier call of the script asked for is forgotten first: arguments count for one call.

    Returns:
        The arguments for ultralytics: those that only we know are gone; `amp` and `compile` have the value that won, if anyone set one
        (`compile` is left out where "auto" won).

    Raises:
        UserError: a wrong value.
    """
    _forget_script()
    ours = {name: declaration for name, declaration in DECLARED.items() if declaration.in_script}
    rest = {key: value for key, value in arguments.items() if key not in ours or ours[key].in_ultralytics}
    for name, declaration in ours.items():
        if (value := arguments.get(name)) is not None:
            typed = f"{name}={value!r}"
            wanted = _parse(declaration, value, typed)
            if origin(name) == "default":
                _export(declaration, wanted, "script")
            elif getattr(current(), name) != wanted:
                _say_who_wins(_in_force(declaration), f"{typed} (script)")
        if origin(name) != "default":
            rest.pop(name, None)
            rest |= _for_ultralytics(declaration, getattr(current(), name))
    return _without_ddp(rest)


def check_unknown(environ: Mapping[str, str], strict: bool) -> None:
    """Report variables that look like settings and are none; those that Kubernetes injects are ignored.

    Args:
        environ: the environment to look at.
        strict: raise for a name that is close to a setting's, instead of warning.

    Raises:
        UserError: a probable misspelling, if `strict`.
    """
    known = {declaration.env.removeprefix(PREFIX) for declaration in DECLARED.values()}
    unknown = []
    for env in sorted(environ):
        name = env.removeprefix(PREFIX)
        if not env.startswith(PREFIX) or name in known or env == ORIGINS or _INJECTED.fullmatch(env):
            continue
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
        meant = f"{env}, which is no setting" + (f"; did you mean {PREFIX}{near[0]}?" if near else "")
        if near and strict:
            raise UserError(f"the environment sets {meant} `yolov12 env` lists them all")
        unknown.append(meant)
    if unknown:
        say_once(f"unknown settings {unknown}", f"WARNING ignored: {'; '.join(unknown)}")


def cache_dir() -> Path:
    """The folder for what can be made again: YOLOV12_CACHE_DIR, else what `folders.choose_cache` takes. It exists; said once.

    Raises:
        UserError: it can not be written to.
    """
    return _folder(current().cache_dir, DECLARED["cache_dir"])


def trt_cache_dir() -> Path:
    """The folder for TensorRT engines: YOLOV12_TRT_CACHE_DIR, else `engines` in `cache_dir()`.

    It exists, unless its disk is full: what lies there is read and pruned then too, and what does not fit is made all the same (export/cache.py).

    Raises:
        UserError: it can not be written to.
    """
    if (explicit := current().trt_cache_dir) is not None:
        return _folder(explicit, DECLARED["trt_cache_dir"], may_be_full=True)
    engines = _folder(current().cache_dir, DECLARED["cache_dir"], may_be_full=True) / "engines"
    try:
        engines.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        if not folders.is_full_disk(error) and engines.parent.is_dir():
            raise
    return engines


def cache_choice() -> tuple[Path, str]:
    """`cache_dir()` and the reason for it, without a word, be its disk full or not."""
    return _choice(current().cache_dir, DECLARED["cache_dir"], may_be_full=True)


def _folder(explicit: Path | None, declaration: Declaration, may_be_full: bool = False) -> Path:
    folder, reason = _choice(explicit, declaration, may_be_full)
    if explicit is None:
        say_once(f"{declaration.env} {folder}", f"cache: {folder} ({reason})")
    return folder


def _choice(explicit: Path | None, declaration: Declaration, may_be_full: bool) -> tuple[Path, str]:
    return _chosen(explicit, f"{declaration.env}={explicit} ({origin(declaration.name)})", may_be_full)


@functools.lru_cache(maxsize=8)
def _chosen(explicit: Path | None, words: str, may_be_full: bool) -> tuple[Path, str]:
    return folders.choose_cache(explicit, words, may_be_full)


def _parse(declaration: Declaration, value: Any, typed: str) -> Any:
    """The value of the setting that `value` means; `typed` is how the user wrote it."""
    text = as_text(value)
    if not text:
        return declaration.default
    return getattr(read(Settings, {declaration.env: text}, {declaration.env: typed}), declaration.name)


def _in_force(declaration: Declaration) -> str:
    """What now sets the setting, in the words of whoever set it."""
    where = origin(declaration.name)
    name = declaration.env if where == "environment" else declaration.name
    return f"{name}={os.environ[declaration.env]} ({where})"


def _say_who_wins(winner: str, loser: str) -> None:
    say_once(f"{winner} {loser}", f"{winner} wins over {loser}")


def _for_ultralytics(declaration: Declaration, value: Any) -> dict[str, Any]:
    """The argument of ultralytics that a setting amounts to; nothing where it knows none, or where the choice is left to us."""
    if not declaration.in_ultralytics or value == "auto":
        return {}
    return {declaration.name: {"1": True, "0": False}.get(value, value)}


def _without_ddp(arguments: dict[str, Any]) -> dict[str, Any]:
    """Take `ddp` away: several GPUs always mean one process each, so it says nothing new, unless it is off."""
    device = arguments.get("device")
    if (ddp := arguments.pop("ddp", None)) is None:
        return arguments
    try:
        several = "," in as_text(device).strip("[]() ,")
        if switch(as_text(ddp)):
            return arguments
    except ValueError:
        raise UserError(f"ddp={ddp!r}: type True or False") from None
    if several:
        raise UserError(f"ddp=False and device={device!r} contradict each other: name one device, or leave ddp out")
    # One process: -1 is ultralytics' word for an idle GPU, or the CPU where there is none.
    return arguments | {"device": -1} if str(device).lower() == "auto" else arguments


def _exported() -> dict[str, tuple[str, str]]:
    try:
        return {
            name: (str(where), str(text)) for name, (where, text) in json.loads(os.environ.get(ORIGINS) or "{}").items()
        }
    except (ValueError, TypeError, AttributeError):
        raise UserError(f"{ORIGINS} is internal to yolov12 and can not be read: unset it") from None


def _export(declaration: Declaration, value: Any, where: str) -> None:
    """Set the variable, or unset it for None and an empty list, and remember who asked for it.

    The value is written out again and not as it was typed: a relative path would mean another folder to a child that runs elsewhere.
    """
    text = as_text(value)
    exported = {name: kept for name, kept in _exported().items() if name != declaration.name}
    if text:
        os.environ[declaration.env] = text
        exported[declaration.name] = (where, text)
    else:
        os.environ.pop(declaration.env, None)
    if exported:
        os.environ[ORIGINS] = json.dumps(exported)
    else:
        os.environ.pop(ORIGINS, None)


def _forget_script() -> None:
    for name, declaration in DECLARED.items():
        if origin(name) == "script":
            _export(declaration, None, "script")
