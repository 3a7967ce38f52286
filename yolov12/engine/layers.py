# SPDX-License-Identifier: AGPL-3.0-or-later
"""Layers by the names that users give them: `backbone.4`, `neck.2`, `head`, or a module's own name."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from ultralytics.nn.modules.conv import Conv

from yolov12.errors import UserError


def names_of(model: nn.Module, layers: Sequence[str]) -> frozenset[str]:
    """The names of all `Conv`s in these layers.

    Args:
        model: a detection model of ultralytics, whose `yaml` says where the backbone ends and which layer is the head.

    Raises:
        UserError: a layer that the model does not have.
    """
    modules = dict(model.named_modules())
    prefixes = {layer: _module_name(model, layer) for layer in layers}
    unknown = [layer for layer, prefix in prefixes.items() if not prefix or prefix not in modules]
    if unknown:
        raise UserError(f"disable_mas_layers={','.join(unknown)}: the model has no such layer; {_known(model)}")
    return frozenset(
        name
        for name, module in modules.items()
        if isinstance(module, Conv)
        and any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes.values())
    )


def _module_name(model: nn.Module, layer: str) -> str:
    room, _, rest = layer.partition(".")
    number, _, inside = rest.partition(".")
    backbone, last = _borders(model)
    if layer == "head":
        return f"model.{last}"
    if room not in ("backbone", "neck") or not number.isdigit():
        return layer
    index = int(number) + (backbone if room == "neck" else 0)
    if (index < backbone) != (room == "backbone") or index >= last:
        return ""
    return f"model.{index}" + (f".{inside}" if inside else "")


def _borders(model: nn.Module) -> tuple[int, int]:
    """(number of layers in the backbone, position of the head)."""
    yaml = getattr(model, "yaml", None) or {}
    return len(yaml.get("backbone", [])), len(yaml.get("backbone", [])) + len(yaml.get("head", [])) - 1


def _known(model: nn.Module) -> str:
    backbone, last = _borders(model)
    return f"it has backbone.0 to backbone.{backbone - 1}, neck.0 to neck.{last - backbone - 1}, head, and module names such as model.4.cv1"


def stage_of(model: nn.Module, name: str) -> str:
    """Where in a model of ultralytics a module lies: "backbone", "neck" or "head"; "model" where that is not known."""
    _, _, rest = name.partition("model.")
    number = rest.partition(".")[0]
    backbone, last = _borders(model)
    if not number.isdigit() or last < 0:
        return "model"
    return "backbone" if int(number) < backbone else "neck" if int(number) < last else "head"
