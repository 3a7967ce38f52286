# SPDX-License-Identifier: AGPL-3.0-or-later
"""Read a checkpoint that torch.save wrote without running code from it (promise 9).

A pickle is a program: GLOBAL names any object of any module, REDUCE calls it. Here GLOBAL yields inert tokens for names on a list, and each
instruction that acts checks what it acts on:

- REDUCE calls only the constructors of plain data in `_CALLS` (tensors, containers, numpy scalars, paths).
- NEWOBJ makes an empty instance of a listed class, `__init__` does not run; BUILD fills its `__dict__` by the class's own `__setstate__`.
- `getattr` yields a `forward` of a listed class, which old heads and fused layers carry, and nothing else.
- All else that a pickle can do (EXT, INST, OBJ, calling what is on the stack, append methods of arbitrary objects) is refused.

So what a file can bring in is data inside instances of known layers. It can still be wrong, large or useless.

ultralytics has such a list of its own (nn/tasks.py:1696, `_SafeLoad`, off by default), used with torch.load(weights_only=True). The names
below follow it. The loader is not used, since it lets a file run code after all: REDUCE may call the constructors of the listed classes, among
them `DistillationModel(teacher, ..)`, which loads the file or address that it is given without any restriction; and torch's own list has
`_rebuild_from_type_v2`, which calls the function that it is given.
"""

from __future__ import annotations

import importlib
import pickle
import types
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from ultralytics.utils import IterableSimpleNamespace

from yolov12.seams import Seam

SEAMS = (Seam("nn/tasks.py", 1696, "ultralytics.nn.tasks._SafeLoad", "5907cde1e845"),)


class RefusedError(pickle.UnpicklingError):
    """The file asks for something that a checkpoint does not need; `what` names it."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


@dataclass(frozen=True)
class _Call:
    """Stands for a function in the unpickler's stack, where only REDUCE can use it."""

    function: Callable[..., Any]


@dataclass(frozen=True)
class _Class:
    """Stands for a class in the unpickler's stack, where only NEWOBJ can use it, and `getattr` for its `forward`."""

    cls: Any


def _ordered_dict(items: Any = ()) -> OrderedDict[Any, Any]:
    return OrderedDict(_plain(items, list, tuple))


def _set(items: Any = ()) -> set[Any]:
    return set(_plain(items, list, tuple))


def _size(dims: Any = ()) -> torch.Size:
    return torch.Size(_plain(dims, list, tuple))


def _plain(value: Any, *kinds: type) -> Any:
    """`value` itself: iterating anything else would run methods of what the file brought."""
    if type(value) not in kinds:
        raise RefusedError(f"a container made from {type(value).__qualname__}")
    return value


def _namespace(*args: Any) -> IterableSimpleNamespace:
    if args:
        raise RefusedError("IterableSimpleNamespace with arguments")
    return IterableSimpleNamespace()


def _path(*parts: Any) -> Path:
    return Path(*(str(part) for part in parts))


def _bytes(text: Any, encoding: Any) -> bytes:
    """How protocol 2 writes bytes. Other encodings are refused: a codec's name is the name of a module."""
    if type(text) is not str or encoding != "latin1":
        raise RefusedError(f"_codecs.encode(.., {encoding!r})")
    return text.encode("latin1")


def _dtype(code: Any, *_flags: Any) -> np.dtype[Any]:
    dtype = np.dtype(code) if type(code) is str else None
    if dtype is None or dtype.kind not in "biufc":
        raise RefusedError(f"numpy.dtype({code!r})")
    return dtype


def _scalar(dtype: Any, data: Any) -> Any:
    """A numpy scalar from its bytes; numpy's own constructor would also take objects."""
    if not isinstance(dtype, np.dtype) or type(data) is not bytes:
        raise RefusedError("numpy scalar of something else than bytes")
    return np.frombuffer(data, dtype=dtype, count=1)[0]


def _getattr(owner: Any, name: Any) -> Any:
    if type(owner) is _Class and name == "forward" and issubclass(owner.cls, nn.Module):
        return owner.cls.forward  # `Segment.detect = Detect.forward`
    if isinstance(owner, nn.Module) and type(name) is str and name in {"forward", "forward_fuse"}:
        return getattr(type(owner), name).__get__(owner)  # `layer.forward = layer.forward_fuse`
    if type(owner) is _Call and owner.function is _interpolation() and type(name) is str:
        return _interpolation()[name]
    raise RefusedError(f"getattr(.., {name!r})")


def _interpolation() -> Any:
    from torchvision.transforms.functional import InterpolationMode

    return InterpolationMode


_CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered_dict,
    "builtins.set": _set,
    "builtins.getattr": _getattr,
    "_codecs.encode": _bytes,
    "torch.Size": _size,
    "torch.device": torch.device,
    "torch._utils._rebuild_tensor_v2": torch._utils._rebuild_tensor_v2,
    "torch._utils._rebuild_parameter": torch._utils._rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": torch._utils._rebuild_parameter_with_state,
    "numpy.dtype": _dtype,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    "ultralytics.utils.IterableSimpleNamespace": _namespace,
    **{f"{module}.{name}": _path for module in ("pathlib", "pathlib._local") for name in ("PosixPath", "WindowsPath")},
}

_LAYER_PACKAGES = ("torch.nn.modules", "ultralytics.nn.modules")
_LAYER_MODULES = {"ultralytics.nn.tasks", *_LAYER_PACKAGES}
_PLAIN_MODULES = {"ultralytics.utils.loss", "ultralytics.utils.tal", "ultralytics.nn.distill_model"}
"""Criteria and the like, which checkpoints saved in the middle of a run carry; all classes that are defined there."""
_TRANSFORMS_MODULE = "torchvision.transforms.transforms"
_TRANSFORMS = {"Compose", "Normalize", "Resize", "CenterCrop", "ToTensor"}
"""Preprocessing of classification models."""

_RENAMED = {
    ("ultralytics.nn.modules.block", "Silence"): ("torch.nn.modules.linear", "Identity"),
    ("ultralytics.nn.tasks", "YOLOv10DetectionModel"): ("ultralytics.nn.tasks", "DetectionModel"),
    ("ultralytics.utils.loss", "v10DetectLoss"): ("ultralytics.utils.loss", "E2EDetectLoss"),
}
_MOVED = {
    "ultralytics.yolo.utils": "ultralytics.utils",
    "ultralytics.yolo.v8": "ultralytics.models.yolo",
    "ultralytics.yolo.data": "ultralytics.data",
}


def _current_name(module: str, name: str) -> tuple[str, str]:
    """Today's place of a name: protocol 2 writes Python 2's modules, old ultralytics had other ones (nn/tasks.py:1904)."""
    module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    for old, new in _MOVED.items():
        if module == old or module.startswith(f"{old}."):
            module = new + module.removeprefix(old)
    return _RENAMED.get((module, name), (module, name))


def _listed_class(module: str, name: str) -> type | None:
    is_layer = module in _LAYER_MODULES or module.rpartition(".")[0] in _LAYER_PACKAGES
    is_transform = module == _TRANSFORMS_MODULE and name in _TRANSFORMS
    if not (is_layer or is_transform or module in _PLAIN_MODULES):
        return None
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError:
        return None
    if not isinstance(found, type):
        return None
    return found if issubclass(found, nn.Module) or (found.__module__ == module and not is_layer) else None


def _is_listed(instance: Any) -> bool:
    cls = type(instance)
    return cls is IterableSimpleNamespace or _listed_class(cls.__module__, cls.__qualname__) is cls


# What torch.save writes (protocol 2), as in torch/_weights_only_unpickler.py. These only move data, or are overridden below.
_OPCODES = (
    "PROTO STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINSTRING "
    "EMPTY_LIST EMPTY_DICT EMPTY_SET EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 BINGET LONG_BINGET BINPUT LONG_BINPUT "
    "BINPERSID GLOBAL REDUCE NEWOBJ BUILD APPEND APPENDS SETITEM SETITEMS"
).split()


class _Instructions(dict[int, Callable[[Any], None]]):
    """What an instruction's byte does."""

    def __missing__(self, byte: int) -> Any:
        raise RefusedError(f"the pickle instruction {bytes([byte])!r}")


class _Unpickler(pickle._Unpickler):
    """The standard library's unpickler in Python, with the instructions that act replaced. torch.load adds the reading of tensors."""

    # Attributes of the base class that its type stub does not have.
    stack: list[Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]

    def find_class(self, module: str, name: str) -> Any:
        module, name = _current_name(module, name)
        full = f"{module}.{name}"
        if full in _CALLS:
            return _Call(_CALLS[full])
        if full == "torchvision.transforms.functional.InterpolationMode":
            return _Call(_interpolation())
        if module == "torch" and isinstance(dtype := getattr(torch, name, None), torch.dtype):
            return dtype
        if (cls := _listed_class(module, name)) is not None:
            return _Class(cls)
        raise RefusedError(full)

    def load_reduce(self) -> None:
        args, call = self.stack.pop(), self.stack.pop()
        if type(call) is not _Call or type(args) is not tuple:
            raise RefusedError(f"a call of {_describe(call)}")
        self.append(call.function(*args))

    def load_newobj(self) -> None:
        args, token = self.stack.pop(), self.stack.pop()
        if type(token) is not _Class or type(args) is not tuple or args:
            raise RefusedError(f"an instance of {_describe(token)}")
        self.append(token.cls.__new__(token.cls))

    def load_build(self) -> None:
        state, instance = self.stack.pop(), self.stack[-1]
        if isinstance(instance, np.dtype):
            if type(state) is not tuple or state[1] not in ("<", "=", "|"):
                raise RefusedError("a numpy.dtype that is not of this machine")
        elif type(state) is not dict:
            raise RefusedError(f"state for {_describe(instance)} that is no dict")
        elif type(instance) is OrderedDict:
            instance.__dict__.update(state)
        elif not _is_listed(instance):
            raise RefusedError(f"state for {_describe(instance)}")
        elif (setstate := getattr(type(instance), "__setstate__", None)) is not None:
            setstate(instance, state)  # of the class: an attribute of that name in the file's own state is not asked
        else:
            instance.__dict__.update(state)

    def load_append(self) -> None:
        item = self.stack.pop()
        self._expect(list).append(item)

    def load_appends(self) -> None:
        items = self.pop_mark()
        self._expect(list).extend(items)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._expect(dict, OrderedDict)[key] = value

    def load_setitems(self) -> None:
        items = self.pop_mark()
        self._expect(dict, OrderedDict).update(zip(items[::2], items[1::2], strict=True))

    def _expect(self, *kinds: type) -> Any:
        if type(self.stack[-1]) not in kinds:
            raise RefusedError(f"adding items to {_describe(self.stack[-1])}")
        return self.stack[-1]

    dispatch = _Instructions(
        {
            **{getattr(pickle, name)[0]: pickle._Unpickler.dispatch[getattr(pickle, name)[0]] for name in _OPCODES},
            pickle.REDUCE[0]: load_reduce,
            pickle.NEWOBJ[0]: load_newobj,
            pickle.BUILD[0]: load_build,
            pickle.APPEND[0]: load_append,
            pickle.APPENDS[0]: load_appends,
            pickle.SETITEM[0]: load_setitem,
            pickle.SETITEMS[0]: load_setitems,
        }
    )


class _TrustingUnpickler(pickle.Unpickler):
    """Runs whatever the file says; only finds things where they are today."""

    def find_class(self, module: str, name: str) -> Any:
        return super().find_class(*_current_name(module, name))


def _describe(thing: Any) -> str:
    return getattr(
        getattr(thing, "cls", None) or getattr(thing, "function", None) or type(thing), "__qualname__", "something"
    )


def _no_plain_load(*_args: Any, **_kwargs: Any) -> Any:
    raise RefusedError("a pickle outside a torch.save archive")


def load(path: Path, trust: bool = False) -> Any:
    """The object in the archive `path` that torch.save wrote, its tensors on the CPU.

    Args:
        path: a zip archive that is no TorchScript; the caller has checked, since torch.load would run that as such.
        trust: let the file run any code.

    Raises:
        RefusedError: it asks for something that is not on the lists, and `trust` is off.
        Exception: any of those that a damaged pickle can cause.
    """
    # torch.load takes a "pickle module"; its zip reader and the checks of tensor storages are what is wanted of it.
    module = types.SimpleNamespace(
        __name__="yolov12.model.safeload", Unpickler=_TrustingUnpickler if trust else _Unpickler, load=_no_plain_load
    )
    return torch.load(path, map_location="cpu", pickle_module=module, weights_only=False)
