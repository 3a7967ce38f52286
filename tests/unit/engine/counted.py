# SPDX-License-Identifier: AGPL-3.0-or-later
"""Counts what Python does with torch: its calls, and the tensors that they make objects of."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

LOOKS_ONLY = {"stride", "numel", "dim", "element_size", "is_floating_point", "untyped_storage"}
"""Read a tensor's header, without giving Python's lock away."""


class Calls(TorchFunctionMode):
    """Within it, what Python calls of torch."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.new_tensors = 0
        """Answers of these calls, without those that are among what was given."""

    @property
    def count(self) -> int:
        return len(self.names)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name not in LOOKS_ONLY and not name.startswith(("__get__", "__set__", "__delete__")):
            self.names.append(name)
            given = {id(tensor) for tensor in _tensors([*args, *(kwargs or {}).values()])}
            self.new_tensors += sum(id(tensor) not in given for tensor in _tensors(answer))
        return answer


def _tensors(found: Any) -> list[Tensor]:
    if isinstance(found, Tensor):
        return [found]
    if isinstance(found, list | tuple):
        return [tensor for one in found for tensor in _tensors(one)]
    return []
