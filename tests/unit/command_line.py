# SPDX-License-Identifier: AGPL-3.0-or-later
"""What stands behind the command line in tests: `YOLO` and the rooms that verbs call are replaced by what notes the calls."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any


class Recorder:
    """Stands for `yolov12.YOLO`: keeps what it was called with."""

    calls: list[tuple[str, dict[str, Any]]]
    task = "detect"
    overrides: dict[str, Any]
    ckpt: dict[str, Any] | None = None
    failure: BaseException | None = None

    def __init__(self, model: str, task: str | None = None) -> None:
        self.calls.append(("YOLO", {"model": model, "task": task}))

    def _call(self, method: str, arguments: dict[str, Any]) -> None:
        self.calls.append((method, arguments))
        if self.failure:
            raise self.failure

    def train(self, **arguments: Any) -> None:
        self._call("train", arguments)

    def val(self, **arguments: Any) -> None:
        self._call("val", arguments)

    def predict(self, **arguments: Any) -> list[SimpleNamespace]:
        self._call("predict", arguments)
        return [SimpleNamespace(path="clip.mp4", save_dir="out")] * 2

    def export(self, **arguments: Any) -> str:
        self._call("export", arguments)
        return "best.onnx"


class Report(list):
    """Lines, as our reports hand them out."""

    def lines(self):
        return list(self)


def checked_dataset(recorder):
    def dataset(path, task, single_class=False, reuse_scan=False):
        recorder.calls.append(("check", {"path": path, "task": task}))
        return SimpleNamespace(lines=lambda: ["2 images, 3 boxes"])

    return dataset


def drawn_dataset(recorder):
    def write(out, **sizes):
        recorder.calls.append(("synth", sizes))
        return out / "data.yaml"

    return write


def called(recorder: type[Recorder], method: str) -> dict[str, Any]:
    return next(arguments for name, arguments in recorder.calls if name == method)


def error_of(capsys) -> str:
    lines = capsys.readouterr().err.splitlines()
    assert "Traceback" not in "".join(lines)
    return lines[-1]
