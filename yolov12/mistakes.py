# SPDX-License-Identifier: AGPL-3.0-or-later
"""Telling a user's mistake, and what is worth a retry, from a bug, where the exception comes from a library and not from us.

What the table does not know keeps its traceback: a bug must be visible.
"""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Callable

from yolov12.errors import ExitError, RetryableError, UserError
from yolov12.folders import is_full_disk

OURS = ("yolov12", "ultralytics", "torch", "torchvision", "numpy", "cv2")
"""Packages without which nothing works: one that can not be imported is a broken installation or a bug, not a mistake."""

# (exception, pattern in its message). File names and lines are those of the pinned ultralytics 8.4.190.
_KNOWN: tuple[tuple[type[Exception], str], ...] = (
    (ValueError, r"Invalid (CUDA|NPU|XPU) 'device="),  # utils/torch_utils.py:343, select_device
    (RuntimeError, r"Dataset '.*' error"),  # engine/trainer.py:864, get_dataset
    (ValueError, r"'\w+=.*' (is (an )?)?invalid"),  # cfg/__init__.py:397, check_cfg
    (TypeError, r"'\w+=.*' is (of )?invalid"),  # the same
    (ValueError, r"'?imgsz=.* is not a valid image size"),  # utils/checks.py:258 and :275
    (ValueError, r"(Invalid export format=|Model is already in PyTorch format)"),  # engine/exporter.py:645
    (ValueError, r"(YAML syntax error in|'.*' is not a valid YAML mapping)"),  # utils/__init__.py:692, YAML.load
    (AssertionError, r"ERROR .* is not supported"),  # engine/exporter.py:491, options of an export format
    (TypeError, r"model='.*' should be a \*\.pt PyTorch model"),  # engine/model.py:285
    (ImportError, r"`from yolov12 import YOLO` cannot work here"),  # compat.py
)

# Addresses that do not answer: a download (utils/downloads.py:489), a video stream (data/loaders.py:148).
_UNREACHABLE = re.compile(r"Download failure|Failed to open|Failed to read images from")

# Said of a file that is gone and of one that can not be decoded alike (data/base.py:294); greedy, since a traceback may stand before it.
_LOST_PICTURE = re.compile(r".*Image Not Found (.+)", re.DOTALL)

_WORKER = "DataLoader worker"
"""What torch says of a process of its loader: that it relays an error of it, or that it is gone (torch/utils/data/dataloader.py:1286)."""

_EXPORTER = re.compile(r"ultralytics/(engine/exporter|utils/export/\w+)\.py$")

_PICTURES = re.compile(r" *[\u2190-\u2bff\ufe0f\U0001f000-\U0001faff]+")


def as_exit(error: BaseException) -> ExitError | None:
    """The error to end with, if `error` is a mistake of the user or worth a retry; None if it may be a bug.

    Library code wraps what it catches (`RuntimeError("Dataset ...") from ...`), so causes are asked first for an error of ours, a full disk
    and an address that does not answer.
    """
    causes = list(_chain(error))
    for cause in causes:
        if isinstance(cause, ExitError):
            return cause
        if is_full_disk(cause):
            return RetryableError(f"{sentence(cause)}: make room and run the same command again")
        if _is_out_of_memory(cause):
            return RetryableError(
                f"{_first_line(cause)}; free the device's memory, or use a smaller model, imgsz or batch"
            )
        if isinstance(cause, ConnectionError) and _UNREACHABLE.search(str(cause)):
            return RetryableError(sentence(cause))
        if known := _lost_picture(cause) or _lost_worker(cause):
            return known
    return next((UserError(words) for test in _TESTS if (words := test(error))), None)


def sentence(error: BaseException) -> str:
    """The message of an exception on one line, without the pictures that ultralytics puts into it.

    Where torch relays an error of a loader's worker, that error's, which ends the traceback in its message (torch/_utils.py:770).
    """
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    text = str(error)
    if f"in {_WORKER} process" in text.partition("\n")[0]:
        text = re.split(rf"\n[\w.]*{type(error).__name__}: ", text)[-1]
    return re.sub(r"^ERROR:? ", "", " ".join(_PICTURES.sub("", text).split()))  # what says it says that it is an error


def _chain(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__
    return found


def _lost_picture(error: BaseException) -> ExitError | None:
    """A picture of a data set that ultralytics' loader can not bring; it was there, and its ends looked whole, when the set was scanned."""
    if not isinstance(error, FileNotFoundError) or not (found := _LOST_PICTURE.match(str(error))):
        return None
    path = found[1].strip()
    if not os.path.isfile(path):
        return RetryableError(
            f"{path} is gone: see whether the data set is still there, and run the same command again"
        )
    return UserError(f"{path} can not be decoded, it is damaged within: fetch it again or delete it")


def _lost_worker(error: BaseException) -> ExitError | None:
    """A process of torch's loader that ended without an error of its own; the cause of torch's error says by which signal."""
    if not isinstance(error, RuntimeError) or not re.match(rf"{_WORKER} \(", str(error)):
        return None
    if error.__cause__ is not None and (known := _lost_worker(error.__cause__)):
        return known
    return RetryableError(f"{sentence(error)}: if that was the system's memory running out, use fewer workers")


def _is_out_of_memory(error: BaseException) -> bool:
    """Of a device, where nothing could be made smaller: before the first step, in `val` or `predict`. By name, since torch may be absent."""
    named = any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)
    return named or (isinstance(error, RuntimeError) and "CUDA error: out of memory" in str(error))


def _first_line(error: BaseException) -> str:
    return sentence(type(error)(str(error).strip().partition("\n")[0]))


def _known_message(error: BaseException) -> str:
    for kind, pattern in _KNOWN:
        if isinstance(error, kind) and re.match(pattern, str(error).lstrip(), re.DOTALL):
            # The device's error goes on with advice and a dump of the environment below its first line.
            return sentence(error) if kind is not ValueError else _first_line(error)
    return ""


def _bad_argument(error: BaseException) -> str:
    """ultralytics raises SyntaxError for arguments and data files; one from the Python parser has a file name."""
    return sentence(error) if isinstance(error, SyntaxError) and error.filename is None else ""


def _missing_file(error: BaseException) -> str:
    """Raised with a sentence and not by the system: someone looked for what the user named."""
    return sentence(error) if isinstance(error, FileNotFoundError) and error.errno is None else ""


def _forbidden_file(error: BaseException) -> str:
    return (
        sentence(error)
        if isinstance(error, PermissionError) or getattr(error, "strerror", "") == "Read-only file system"
        else ""
    )


def _malformed_yaml(error: BaseException) -> str:
    """By name: importing yaml to ask would be for nothing on every other path."""
    return (
        f"not valid yaml: {sentence(error)}"
        if any(kind.__name__ == "YAMLError" for kind in type(error).__mro__)
        else ""
    )


def _missing_package(error: BaseException) -> str:
    if not isinstance(error, ModuleNotFoundError) or not error.name or error.name.partition(".")[0] in OURS:
        return ""
    return f"this needs the Python package {error.name!r}, which this environment does not have (nothing is installed without being asked)"


def _unusable_model(error: BaseException) -> str:
    """A file that no backend of ultralytics takes (nn/autobackend.py:240), or that ONNX Runtime can not load (nn/backends/onnx.py:260)."""
    words = sentence(error)
    if found := re.match(r"model='(.*?)' is not a supported model format", words):
        return f"model={found[1]}: no kind of model ends like that: name a .pt or .yaml file, or what export wrote"
    if found := re.match(r"(.*?) is not a loadable ONNX model", words):
        return f"{found[1]} is no whole ONNX file: fetch it again, or export it again"
    if found := re.search(r"\[ONNXRuntimeError\] .* Load model from (.*?) failed: ?(.*)", words):
        return f"ONNX Runtime can not load {found[1]}: {found[2]}"
    return ""


def _refused_export(error: BaseException) -> str:
    """What ultralytics' exporter raises in its own lines is about arguments, platforms and versions; from deeper down it may be a bug."""
    if not isinstance(error, (ValueError, AssertionError)):
        return ""
    frames = traceback.extract_tb(error.__traceback__)
    return sentence(error) if frames and _EXPORTER.search(frames[-1].filename) else ""


_TESTS: tuple[Callable[[BaseException], str], ...] = (
    _known_message,
    _bad_argument,
    _missing_file,
    _forbidden_file,
    _malformed_yaml,
    _missing_package,
    _unusable_model,
    _refused_export,
)
