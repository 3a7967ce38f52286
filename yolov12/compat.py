# SPDX-License-Identifier: AGPL-3.0-or-later
"""The drop-in: `from ultralytics import YOLO` is ours, in scripts that have never heard of this package.

A `.pth` file in site-packages calls `install` at the start of every interpreter of the environment, loader workers and torchrun ranks included.
So this module imports nothing but `os` and `sys`, not even `typing`, and `install` only puts a finder on `sys.meta_path`. The work happens
when ultralytics is imported: the finder lets the pinned `ultralytics/models/yolo/model.py` run and puts our subclass in the place of its
`YOLO`.

With YOLOV12_DISABLE=1, or another version of ultralytics than the pinned one, ultralytics stays as it is.
"""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PACKAGE = "ultralytics"
TARGET = "ultralytics.models.yolo.model"

# Read by ultralytics at import (utils/__init__.py): no DNS probe, version ping or telemetry; and no pip run behind the user's back.
# ONNX Runtime, which it imports, would write down an identifier of the machine and send events (its Privacy.md). A value that the user set stays.
QUIET_ENVIRONMENT = {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "ORT_DISABLE_TELEMETRY": "1"}


def is_disabled() -> bool:
    """Whether YOLOV12_DISABLE asks for plain ultralytics. Spelled out here because settings.py costs more than this module may."""
    return os.environ.get("YOLOV12_DISABLE", "").strip().lower() in {"1", "true", "yes", "on"}


def install() -> None:
    """Watch for the import of ultralytics. Costs microseconds, changes nothing else, and may be called again."""
    if not is_disabled() and not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def yolo_class() -> type:
    """Our `YOLO`, for `from yolov12 import YOLO`: the same class that the drop-in puts into ultralytics.

    Raises:
        ImportError: the installed ultralytics is not the pinned version, or YOLOV12_DISABLE=1.
    """
    install()
    import importlib

    module = importlib.import_module(TARGET)
    if not take_over(module):
        raise ImportError(f"`from yolov12 import YOLO` cannot work here: {_reason_against()}")
    return module.YOLO


def take_over(module: "Any") -> bool:
    """Replace `module.YOLO` (ultralytics/models/yolo/model.py:32) by our subclass of it; say why when not. Idempotent."""
    reason = _reason_against()
    if reason:
        if not is_disabled():
            print(f"WARNING yolov12 stays out of the way: {reason}", file=sys.stderr)
        return False
    from yolov12.engine.yolo import YOLOv12Mixin

    if not issubclass(module.YOLO, YOLOv12Mixin):
        module.YOLO = type(
            "YOLO", (YOLOv12Mixin, module.YOLO), {"__module__": "yolov12", "__doc__": module.YOLO.__doc__}
        )
    return True


def _reason_against() -> str:
    if is_disabled():
        return "YOLOV12_DISABLE=1"
    from yolov12.pins import ULTRALYTICS

    installed = getattr(sys.modules.get(PACKAGE), "__version__", "unknown")
    if installed != ULTRALYTICS:
        return f"ultralytics {installed} is installed, this version is written for {ULTRALYTICS}; plain ultralytics is used"
    return ""


class _Finder:
    """Meta-path finder that claims one module and leaves all others to the next finder."""

    @staticmethod
    def find_spec(name: str, path: "Any" = None, target: "Any" = None) -> "Any":
        if name == PACKAGE:
            for key, value in QUIET_ENVIRONMENT.items():
                os.environ.setdefault(key, value)
        elif name != TARGET:
            return None
        from importlib.machinery import PathFinder

        spec: Any = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = (_Loader if name == TARGET else _UncollectedLoader)(spec.loader)
        return spec


class _Passing:
    """Is what another loader is."""

    def __init__(self, inner: "Any") -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> "Any":
        return getattr(self.inner, name)

    def create_module(self, spec: "Any") -> "Any":
        return self.inner.create_module(spec)


class _Loader(_Passing):
    """Runs the module as its own loader would, then takes it over."""

    def exec_module(self, module: "Any") -> None:
        self.inner.exec_module(module)
        take_over(module)


class _UncollectedLoader(_Passing):
    """Runs the package as its own loader would, without Python's collector of reference cycles.

    The package imports torch: very many objects that stay, which the collector would look through again and again.
    """

    def exec_module(self, module: "Any") -> None:
        import gc

        was_on = gc.isenabled()
        gc.disable()
        try:
            self.inner.exec_module(module)
        finally:
            if was_on and not gc.get_freeze_count():  # else somebody wants his objects to stay frozen
                gc.freeze()
                gc.unfreeze()  # there and back they become old, so that it does not look through them as soon as it is on
            if was_on:
                gc.enable()
