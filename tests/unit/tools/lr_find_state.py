# SPDX-License-Identifier: AGPL-3.0-or-later
"""Everything of a trainer that an update may change, for tests that it is afterwards what it was."""

from __future__ import annotations

import hashlib
import json
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor

SMALL = {
    "imgsz": 64,
    "batch": 4,
    "nbs": 8,
    "device": "cpu",
    "workers": 0,
    "optimizer": "SGD",
    "plots": False,
    "val": False,
    "verbose": False,
}
"""Arguments of a training that takes a second."""


def held(trainer: Any) -> dict[str, Tensor | str]:
    """Copies, by name: weights and buffers of the model and of its average, the optimizer with its groups, loss scale, random states."""
    tensors: dict[str, Any] = {
        f"{kind} {name}": tensor.clone()
        for kind, model in (("model", trainer.model), ("ema", trainer.ema.ema))
        for name, tensor in model.state_dict().items()
    }
    for number, state in enumerate(trainer.optimizer.state.values()):
        tensors |= {f"optimizer {number} {name}": torch.as_tensor(value).clone() for name, value in state.items()}
    for number, group in enumerate(trainer.optimizer.state_dict()["param_groups"]):
        tensors[f"group {number}"] = json.dumps(group, sort_keys=True, default=str)
    tensors["scaler"] = json.dumps(trainer.scaler.state_dict(), sort_keys=True, default=str)
    tensors["torch"] = torch.get_rng_state()
    name, keys, *place = np.random.get_state()
    tensors["numpy"] = f"{name} {hashlib.sha256(keys.tobytes()).hexdigest()} {place}"
    tensors["python"] = hashlib.sha256(repr(random.getstate()).encode()).hexdigest()
    tensors["ema updates"] = str(trainer.ema.updates)
    return tensors


def changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Names whose values differ in any bit, or that are in one of them alone."""
    return [name for name in before.keys() | after.keys() if not _same(before.get(name), after.get(name))]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and torch.equal(_bits(one), _bits(other))
    return type(one) is type(other) and bool(one == other)


def _bits(tensor: Tensor) -> Tensor:
    """So that NaN equals itself, and 0 is not -0."""
    return tensor.contiguous().view(torch.uint8) if tensor.dim() else tensor.reshape(1).view(torch.uint8)
