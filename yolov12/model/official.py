# SPDX-License-Identifier: AGPL-3.0-or-later
"""Checkpoints of the authors' fork (sunsmarterjie/yolov12, a fork of ultralytics 8.3.63) in the form of upstream ultralytics, exactly.

V1.0 has upstream's layout. Turbo, the fork's main branch, differs in four places (facts: the fork's nn/modules/block.py and nn/tasks.py):

- attention has a `qk` convolution (2C channels: all of q, then all of k) and a `v` convolution; upstream has one `qkv` convolution whose
  channels go head by head: q, k and v of head 0, then of head 1, ... (nn/modules/block.py:1715). This is a permutation of output channels.
- the position encoding `pe` is a 5x5 depthwise convolution; upstream's is 7x7. A border of zeros makes it one, with equal results.
- the MLP of sizes l and x is 1.5 times as wide as its input; upstream's parse_model writes 1.2 for them (nn/tasks.py:2207).
- the second and fourth convolution of the backbone are grouped. Its YAML says so, upstream understands it.

The third would be undone whenever a trainer rebuilds the net from `model.yaml`. So the YAML is rewritten without `scales`, with everything
that parse_model derives from the size spelled out: then upstream builds the very same net from it, here and in stock.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from yolov12.errors import UserError
from yolov12.seams import Seam

SEAMS = (
    Seam("nn/modules/block.py", 1674, "ultralytics.nn.modules.block.AAttn.__init__", "281c3cc9db2b"),
    Seam("nn/tasks.py", 2069, "ultralytics.nn.tasks.parse_model", "7da6bb141028"),
)

HEAD_DIM = 32
"""Channels of one attention head, in every size and on both sides (nn/modules/block.py:1862)."""
UPSTREAM_PE = 7
"""Kernel of upstream's position encoding, pixels."""
TURBO_MLP_RATIO = 1.5
"""Sizes l and x only; the others have 2.0, the default on both sides."""
FIRST_WITH_YOLO12 = (8, 3, 78)
"""ultralytics' first release with YOLO12: attention from an older version is the fork's."""

_QK = ".qk.conv.weight"
# Modules whose first argument is output channels that parse_model scales (nn/tasks.py:2109). Classify is the one that it does not scale.
_SCALED = frozenset(
    "Conv ConvTranspose DWConv DWConvTranspose2d nn.ConvTranspose2d GhostConv Focus Bottleneck GhostBottleneck BottleneckCSP SPP SPPF SPPELAN "
    "C1 C2 C2f C2fCIB C2fPSA C2PSA C3 C3Ghost C3TR C3k2 C3x PSA RepC3 RepNCSPELAN4 ELAN1 ADown AConv SCDown A2C2f".split()
)


class UnfitError(UserError):
    """The weights can not be converted."""


@dataclass(frozen=True)
class Conversion:
    """What was done to a checkpoint."""

    kind: str
    """"official V1.0" or "official turbo"."""
    version: str
    """Version of ultralytics that the file says it was written with: the fork's base."""
    changes: tuple[str, ...]

    def line(self, name: str) -> str:
        """The one line that a user sees."""
        return f"weights: {name} is {self.kind} (fork {self.version}): {', '.join(self.changes)}"


def detect_kind(state_dict: Mapping[str, Tensor]) -> str:
    """ "official-turbo" if the state dict has the turbo release's split attention, else "upstream" (V1.0 included: same layout)."""
    return "official-turbo" if any(key.endswith(_QK) for key in state_dict) else "upstream"


def upstream_state(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A turbo state dict in upstream's layout; other entries are passed on, not copied. Exact in every dtype.

    Works for plain layers (conv + bn) and fused ones (conv with bias).
    """
    converted = dict(state_dict)
    for prefix in [key.removesuffix(_QK) for key in state_dict if key.endswith(_QK)]:
        for key in [key for key in state_dict if key.startswith(f"{prefix}.qk.")]:
            part = key.removeprefix(f"{prefix}.qk.")
            qk, v = converted.pop(key), converted.pop(f"{prefix}.v.{part}")
            # num_batches_tracked is a count, not one number per channel.
            converted[f"{prefix}.qkv.{part}"] = qk if qk.ndim == 0 else interleave_heads(qk, v)
        pe = f"{prefix}.pe.conv.weight"
        converted[pe] = pad(converted[pe], [(UPSTREAM_PE - converted[pe].shape[-1]) // 2] * 4)
    return converted


def interleave_heads(qk: Tensor, v: Tensor) -> Tensor:
    """(2C, ...) of all q then all k, and (C, ...) of v -> (3C, ...) ordered by head: [q_0 k_0 v_0 q_1 k_1 v_1 ...]."""
    q, k = qk.chunk(2)
    heads = [part.reshape(-1, HEAD_DIM, *part.shape[1:]) for part in (q, k, v)]
    return torch.cat(heads, dim=1).reshape(-1, *v.shape[1:])


def explicit_yaml(yaml: Mapping[str, Any], mlp_ratio: float = TURBO_MLP_RATIO) -> dict[str, Any]:
    """The model YAML of one size, from which parse_model builds the same net without knowing the size.

    Without `scales` it knows no channel limit either (`max_channels` is infinite), so channels are limited here; widths and depths are
    still multiplied there, by `width_multiple` and `depth_multiple`.

    Args:
        yaml: `model.yaml` of a checkpoint, with `scales` and `scale`.
        mlp_ratio: of the attention blocks in sizes l and x.
    """
    new = {key: deepcopy(value) for key, value in yaml.items() if key not in {"scales", "scale", "ch"}}
    if not yaml.get("scales"):
        return new
    scale = yaml.get("scale") or next(iter(yaml["scales"]))
    new["depth_multiple"], new["width_multiple"], max_channels = yaml["scales"][scale]
    for _, _, module, args in new["backbone"] + new["head"]:
        if module in _SCALED:
            args[0] = min(args[0], max_channels)
        if module in {"Segment", "YOLOESegment"}:
            args[2] = min(args[2], max_channels)  # mask prototypes' channels
        if module == "C3k2" and scale in {"m", "l", "x"}:
            args[1:2] = [True]
        if module == "A2C2f" and scale in {"l", "x"}:
            args += [True, mlp_ratio]
    new["yaml_file"] = f"yolov12{scale}-turbo.yaml"
    return new


def rebuild(model: Any, yaml: dict[str, Any], state: Mapping[str, Tensor]) -> nn.Module:
    """The net that this version builds from `yaml`, with the weights `state` and everything else that `model` says about itself.

    Args:
        model: a model of ultralytics.nn.tasks.
        yaml: becomes the new model's.
        state: strictly for that net, fused or not.

    Raises:
        UnfitError: the weights do not fit the net.
    """
    channels = yaml.get("channels") or model.yaml.get("ch", 3)
    with torch.random.fork_rng(
        devices=[]
    ):  # the net is first filled with random weights: leave the caller's sequence alone
        new = type(model)(yaml, ch=channels, verbose=False)
    if not any(key.endswith(".bn.weight") for key in state):
        new.fuse(verbose=False)
    try:
        new.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise UnfitError(
            f"the weights do not fit the net that their own YAML describes, so they can not be converted ({_first_line(error)})"
        ) from error
    new.to(next(tensor.dtype for tensor in state.values() if tensor.is_floating_point()))
    for name in ("names", "nc", "args", "task", "transforms"):
        if hasattr(model, name):
            setattr(new, name, getattr(model, name))
    return new.train(model.training)


def convert_checkpoint(checkpoint: dict[str, Any]) -> Conversion | None:
    """Replace the models of an official checkpoint, in place, by ones in upstream's form; None if there was nothing to do.

    The optimizer's state belongs to the old tensors: it goes, and with it the possibility to resume (fine-tuning is not affected).

    Raises:
        UnfitError: the weights do not fit the net that their YAML describes.
    """
    conversion: Conversion | None = None
    version = str(checkpoint.get("version") or "unknown")
    for key in ("model", "ema"):
        model: Any = checkpoint.get(key)
        if not _is_model(model):
            continue
        state = model.state_dict()
        if detect_kind(state) == "official-turbo":
            _check_heads(model)
            checkpoint[key] = rebuild(model, explicit_yaml(model.yaml), upstream_state(state))
            conversion = Conversion("official turbo", version, _turbo_changes(state))
        elif _has_attention(state) and _is_fork(version):
            checkpoint[key] = rebuild(model, deepcopy(model.yaml), state)
            conversion = Conversion("official V1.0", version, ("same layout", "modules rebuilt by this version"))
    if conversion is not None and checkpoint.get("optimizer") is not None:
        checkpoint.update(optimizer=None, epoch=-1)
        conversion = Conversion(
            conversion.kind, version, (*conversion.changes, "optimizer state dropped (fine-tune, do not resume)")
        )
    return conversion


def _turbo_changes(state: Mapping[str, Tensor]) -> tuple[str, ...]:
    blocks = sum(key.endswith(_QK) for key in state)
    kernel = next(t.shape[-1] for key, t in state.items() if key.endswith(".pe.conv.weight"))
    return (
        f"{blocks} attention blocks qk+v -> qkv",
        f"pe {kernel}x{kernel} -> {UPSTREAM_PE}x{UPSTREAM_PE} zero-padded",
        "yaml made explicit",
    )


def _check_heads(model: nn.Module) -> None:
    """Channels of another head size would be reordered wrongly without any error."""
    for module in model.modules():
        if hasattr(module, "qk") and (size := getattr(module, "head_dim", HEAD_DIM)) != HEAD_DIM:
            raise UnfitError(
                f"attention heads of {size} channels: only {HEAD_DIM}, as in the released models, can be converted"
            )


def _is_model(thing: object) -> bool:
    return isinstance(thing, nn.Module) and isinstance(getattr(thing, "yaml", None), dict)


def _has_attention(state: Mapping[str, Tensor]) -> bool:
    return any(key.endswith(".attn.qkv.conv.weight") for key in state) and any(".attn.pe." in key for key in state)


def _is_fork(version: str) -> bool:
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:3])
    return bool(numbers) and numbers < FIRST_WITH_YOLO12


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
