# SPDX-License-Identifier: AGPL-3.0-or-later
"""A run that does not compile starts without torch's compiler.

Some functions of torch import all of `torch._dynamo`, and sympy with it, only to tell the compiler to stay out: seconds in which nothing else
happens. As long as nobody else has imported it there is no compiler to tell, so what they do apart from that is all there is to do. From the
moment on that somebody does import it, they are torch's own again.

    Optimizer.zero_grad, add_param_group, ...   hidden from the compiler by a decorator
    SGD.step, Adam.step, ...                    break the compiler's graph before and after
    torch.use_deterministic_algorithms          tells it to the compiler too
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer

from yolov12.seams import Seam

SEAMS = (
    Seam("_compile.py", 28, "torch._compile._disable_dynamo", "ef3642a9e93e"),
    Seam("optim/optimizer.py", 59, "torch.optim.optimizer._use_grad_for_differentiable", "d33ddafa4bf1"),
    Seam("__init__.py", 1379, "torch.use_deterministic_algorithms", "ca4fa80b69da"),
)

COMPILER = "torch._dynamo"
HIDDEN = "_disable_dynamo.<locals>.inner"
"""The code of a method that the first of these wraps."""
BREAKING = "_use_grad_for_differentiable.<locals>._use_grad"
"""That of one that the second wraps. Methods with other code are left alone."""
TOLD_BY_ENVIRONMENT = "TORCHINDUCTOR_DETERMINISTIC"
"""Where the compiler finds, once it is imported, what `use_deterministic_algorithms` would have told it (torch/_inductor/config.py:854)."""


def spare() -> None:
    """Put ours in the place of all that, for the whole process. Nothing to do where the compiler is there already; may be called again."""
    if is_loaded():
        return
    for optimizer in _and_below(Optimizer):
        for name, method in list(vars(optimizer).items()):
            made_by = getattr(getattr(method, "__code__", None), "co_qualname", "")
            if made_by == HIDDEN:
                setattr(optimizer, name, _until_loaded(method, method.__wrapped__))
            elif made_by == BREAKING:
                setattr(optimizer, name, _until_loaded(method, _with_grad_as_asked(method.__wrapped__)))
    if not hasattr(torch.use_deterministic_algorithms, "__wrapped__"):
        torch.use_deterministic_algorithms = _until_loaded(torch.use_deterministic_algorithms, _be_deterministic)


def is_loaded() -> bool:
    """Whether somebody has imported the compiler."""
    return COMPILER in sys.modules


def _and_below(optimizer: type[Optimizer]) -> list[type[Optimizer]]:
    found = [optimizer]
    for below in optimizer.__subclasses__():
        found += _and_below(below)
    return found


def _until_loaded(own: Callable[..., Any], light: Callable[..., Any]) -> Callable[..., Any]:
    """`light` as long as the compiler is not there, and torch's `own` from then on."""

    @functools.wraps(own)
    def either(*args: Any, **kwargs: Any) -> Any:
        return own(*args, **kwargs) if COMPILER in sys.modules else light(*args, **kwargs)

    return either


def _with_grad_as_asked(step: Callable[..., Any]) -> Callable[..., Any]:
    """What torch.optim.optimizer._use_grad_for_differentiable does beside breaking the graph."""

    def light(optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        with torch.set_grad_enabled(optimizer.defaults["differentiable"]):
            return step(optimizer, *args, **kwargs)

    return light


def _be_deterministic(mode: bool, *, warn_only: bool = False) -> None:
    """What torch.use_deterministic_algorithms does."""
    torch.set_deterministic_debug_mode(("warn" if warn_only else "error") if mode else "default")
    os.environ[TOLD_BY_ENVIRONMENT] = str(int(mode))
