# SPDX-License-Identifier: AGPL-3.0-or-later
"""A hash of a network from which follows what is traced of it: another export of the same is found in the cache without a trace, which takes seconds.

It is of classes, attributes and numbers. Where a class of the user's, a hook, or a method or a function that a script has replaced may decide what is
computed, there is no hash, and the network is traced. Functions are looked at in `FORWARD`, where networks are made of them, and in the few
places that onnx_key.py names; of other modules they are not seen.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache, partial, partialmethod
from pathlib import Path
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

import yolov12
from yolov12 import settings

KNOWN = ("torch", "ultralytics", "yolov12")
"""Packages whose code is known by their version, ours by its sources. A package's own metadata has that of ultralytics (aoti.py)."""
WRAPPERS = (*sys.stdlib_module_names - {"__main__"}, "typing_extensions")
"""Packages whose decorators are around some of that code; what they are around is looked at too."""
CALLED = (*KNOWN, *{*WRAPPERS} - {"functools", "unittest"})
"""Packages of objects that are called like functions there. A `partial` or a mock is the script's, whoever wrote its class."""
FORWARD = re.compile(
    r"ultralytics\.nn(\..*)?|ultralytics\.utils\.(tal|ops|torch_utils)|torch(\.functional|\.nn\.functional)?"
)
"""Modules whose functions a forward calls by their name."""
SOURCES = ("model", "export")
"""What of this package takes part in a trace."""
SETTINGS = ("flash_attn", "kernels", "predict_graphs", "predict_kernels")
"""Those which the rooms in SOURCES ask in a forward. A trace does not, or should not, heed them; to be sure another value is another hash."""
OF_THE_ROOT = ("args", "criterion", "names", "pt_path", "task")
"""Attributes of the whole network that its forward does not read."""
EMPTY = frozenset(vars(nn.Module()))
"""Attributes that every module has."""


class _NotKnownError(Exception):
    """Something that may decide what is computed, and is not looked at."""


def of(network: nn.Module) -> str | None:
    """The hash; None where there is none."""
    if _has_any_global_hook():
        return None
    chosen = [getattr(settings.current(), name) for name in SETTINGS]
    digest = hashlib.sha256(f"{_sources()} {chosen} {torch.get_default_dtype()} {_autocasts()}".encode())
    try:
        for line in _of_functions():
            digest.update(line.encode())
        kinds = {type(module) for module in network.modules()}
        _require_known(kinds)
        for line in _of_classes(kinds):
            digest.update(line.encode())
        for name, module in network.named_modules(remove_duplicate=False):
            for part in _parts(module, is_root=not name):
                digest.update(part if isinstance(part, bytes) else f"{name}|{part}\n".encode())
    except _NotKnownError:
        return None
    return digest.hexdigest()


def of_values(*values: Any) -> str | None:
    """A hash of plain values; None where one is something else."""
    try:
        return hashlib.sha256(_words(values).encode()).hexdigest()
    except _NotKnownError:
        return None


def are_known(kinds: Iterable[type], functions: Iterable[Any] = ()) -> bool:
    """Whether classes with their methods, and functions, are of packages whose code a hash stands for."""
    try:
        _require_known(kinds)
    except _NotKnownError:
        return False
    return all(map(_is_known, functions))


def numbers(tensor: Tensor) -> bytes:
    """What a tensor holds, behind its type and shape."""
    values = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return f"{tensor.dtype} {tuple(tensor.shape)} ".encode() + values


@cache
def _sources() -> str:
    """Of this package: in a checkout they change without its version."""
    digest = hashlib.sha256()
    for room in SOURCES:
        for file in sorted(Path(yolov12.__file__).parent.joinpath(room).rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _autocasts() -> list[tuple[str, torch.dtype]]:
    """Where a script has switched it on around the export: a trace takes the casts along."""
    return [(kind, torch.get_autocast_dtype(kind)) for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]


def _require_known(kinds: Iterable[type]) -> None:
    """Look whose classes and methods these are."""
    for kind in {base for one in kinds for base in one.__mro__} - {object}:
        methods = (getattr(value, "__func__", getattr(value, "fget", value)) for value in vars(kind).values())
        functions = [method for method in methods if isinstance(method, (FunctionType, partial, partialmethod))]
        if not all(map(_is_known, (kind, *functions))):
            raise _NotKnownError


def _of_functions() -> Iterator[str]:
    """Look whose the functions are that a forward may call, and give those that stand under another's name: a script may have exchanged two."""
    for name, module in [found for found in list(sys.modules.items()) if FORWARD.fullmatch(found[0])]:
        for key, value in list(vars(module).items()):
            if isinstance(value, FunctionType):
                home = str(value.__globals__.get("__name__"))
                is_known = _is_from(home, WRAPPERS) or _is_known(value)  # the standard library's are imported there
            else:
                of_a_library = (
                    isinstance(value, type) or not callable(value) or _is_from(type(value).__module__, CALLED)
                )
                is_known = of_a_library or _is_known(getattr(value, "__wrapped__", value))  # a function with a cache
            if not is_known:
                raise _NotKnownError
            if isinstance(value, (FunctionType, BuiltinFunctionType)) and value.__name__ != key:
                yield f"{name}.{key}={value.__module__}.{value.__qualname__}\n"


def _is_from(module: str, packages: Iterable[str]) -> bool:
    return module.partition(".")[0] in packages


def _of_classes(kinds: Iterable[type]) -> Iterator[str]:
    """The plain values that classes have as attributes: a script may have set one."""
    for kind in sorted(
        {base for one in kinds for base in one.__mro__}, key=lambda kind: (kind.__module__, kind.__qualname__)
    ):
        for key, value in sorted(vars(kind).items()):
            with suppress(_NotKnownError):
                if not key.startswith("__"):
                    yield f"{kind.__qualname__}.{key}={_words(value)}\n"


def _is_known(thing: Any) -> bool:
    if str(getattr(thing, "__module__", None)).partition(".")[0] not in KNOWN:
        return False
    # `functools.wraps` gives a script's function the name and module of what it stands for; where it was written its globals say.
    while isinstance(thing, FunctionType):
        home = str(thing.__globals__.get("__name__")).partition(".")[0]
        if home not in KNOWN and home not in WRAPPERS:
            return False
        thing = getattr(thing, "__wrapped__", None)
    return True


def _parts(module: nn.Module, is_root: bool) -> Iterator[str | bytes]:
    own = vars(module)
    if own["_forward_hooks"] or own["_forward_pre_hooks"]:
        raise _NotKnownError
    yield f"{type(module).__module__}.{type(module).__qualname__} {list(own['_modules'])}"
    for kind in ("_parameters", "_buffers"):
        for key, tensor in own[kind].items():
            yield f"{kind} {key} {tensor is None}"
            yield b"" if tensor is None else numbers(tensor)
    for key, value in sorted(own.items()):
        if key not in EMPTY and not (is_root and key in OF_THE_ROOT):
            yield f"{key}={_words(value)}"


def _words(value: Any) -> str:
    """A plain value as text, other for any other value or type."""
    if isinstance(value, dict):
        inside = [f"{_words(key)}: {_words(one)}" for key, one in value.items()]
    elif isinstance(value, (list, tuple)):
        inside = [_words(one) for one in value]
    elif isinstance(value, Tensor):
        inside = [hashlib.sha256(numbers(value)).hexdigest()]
    elif value is None or type(value) in (bool, int, float, str, torch.dtype, torch.device):
        inside = [repr(value)]
    else:
        raise _NotKnownError
    return f"{type(value).__name__}({', '.join(inside)})"
