# SPDX-License-Identifier: AGPL-3.0-or-later
"""Copies of device tensors in host memory, fetched a few at a time instead of one by one.

A checkpoint of yolov12n holds about 1,000 tensors. Copied singly, each waits for the GPU; here all of one kind become one flat tensor first.
"""

from __future__ import annotations

import io
import pickle
from collections import defaultdict
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.serialization import DEFAULT_PROTOCOL


def fetch(tensors: Iterable[Tensor], floats_as: torch.dtype | None = None) -> dict[int, Tensor]:
    """Contiguous copies on the CPU, found by the `id` of their original.

    Args:
        tensors: any shapes, dtypes, strides and devices.
        floats_as: what floating-point tensors are converted to on their device; None leaves them as they are.

    Returns:
        One copy per tensor, each with a storage of its own; a parameter's is a parameter.
    """
    alike: dict[tuple[torch.device, torch.dtype], list[Tensor]] = defaultdict(list)
    for tensor in tensors:
        alike[tensor.device, tensor.dtype].append(tensor)
    copies = {}
    for originals in alike.values():
        flat = torch.cat([original.detach().reshape(-1) for original in originals])
        if floats_as is not None and flat.is_floating_point():
            flat = flat.to(floats_as)
        pieces = flat.cpu().split([original.numel() for original in originals])
        for original, piece in zip(originals, pieces, strict=True):
            copy = piece.view(original.shape).clone()
            if isinstance(original, nn.Parameter):
                copy = nn.Parameter(copy, requires_grad=original.requires_grad)
            copies[id(original)] = copy
    return copies


def serialize(content: Any, copies: Mapping[int, Tensor]) -> bytes:
    """What `torch.save` writes for `content`, with every tensor that has a copy replaced by it.

    The objects that hold the tensors are neither changed nor copied: a deep copy of a model's hundreds of modules takes longer than its bytes.

    Args:
        content: what to save.
        copies: from `fetch`; the originals must still be alive.
    """

    class Pickler(pickle.Pickler):
        def reducer_override(self, found: Any) -> Any:
            copy = copies.get(id(found))
            return NotImplemented if copy is None else copy.__reduce_ex__(DEFAULT_PROTOCOL)

    buffer = io.BytesIO()
    torch.save(content, buffer, pickle_module=SimpleNamespace(__name__="pickle", Pickler=Pickler))
    return buffer.getvalue()
