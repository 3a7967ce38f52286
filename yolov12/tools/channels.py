# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whether the pictures of a data set have the channels that a model takes, be it a network of torch or an exported file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from yolov12.data import datayaml
from yolov12.errors import UserError

RGB = 3
"""Where nothing else is said, by a data yaml (data/utils.py:786) or by a model (nn/backends/pytorch.py:70)."""


def check(model: Any, name: str, data: str) -> None:
    """Refuse pictures of another kind, which the network would do in the middle of the first batch, in its runtime's words.

    Args:
        model: a YOLO for boxes; of an exported file, what the exporter wrote into it counts.
        name: of the model, as the user typed it.
        data: the data set's yaml. An address is left to ultralytics.

    Raises:
        UserError: says both.
    """
    if "://" in data or data.startswith("ul:"):
        return
    taken, given = taken_by(model), datayaml.read(datayaml.find(data)).get("channels", RGB)
    if taken != given:
        raise UserError(
            f"{name} takes pictures of {_channels(taken)}, and data={data} has {_channels(given)} (its `channels:`): "
            "name another data set, or a model that was trained on it"
        )


def taken_by(model: Any) -> int:
    """Channels of the pictures that a YOLO takes."""
    network = model.model
    if not isinstance(network, (str, Path)):
        return int((getattr(network, "yaml", None) or {}).get("channels", RGB))
    from ultralytics.nn.backends.base import BaseBackend

    return int(BaseBackend.read_metadata(network).get("channels", RGB))


def _channels(count: int) -> str:
    return "1 channel" if count == 1 else f"{count} channels"
