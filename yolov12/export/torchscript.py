# SPDX-License-Identifier: AGPL-3.0-or-later
"""`format=torchscript`: ultralytics' own, but made aside like the formats of ours, and compared with its source on the CPU."""

from __future__ import annotations

import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ultralytics.utils import LOGGER

from yolov12 import folders
from yolov12.errors import RetryableError
from yolov12.export import request as requests
from yolov12.export.adapter import destination, told_in_our_words, written_to
from yolov12.export.request import Evaluate
from yolov12.log import say
from yolov12.wholefile import replacing

FLOAT_BYTES = 4
BESIDE_WEIGHTS_BYTES = 4 * 2**20
"""Its code and constants, which take far less."""

Stock = Callable[..., str]
"""See run.Stock."""


def export(
    network: Any,
    stock: Stock,
    options: Mapping[str, Any],
    evaluate: Evaluate | None,
) -> str:
    """Export and give the path of the file. A failure leaves the old one as it was.

    Args:
        network: the PyTorch network that `stock` exports.
        stock: ultralytics' own export of it.
        options: what the user passed.
        evaluate: measures mAP for the gate, see request.Evaluate; asked only where `data=` was given.

    Raises:
        UserError: a folder that can not be written to.
        RetryableError: no room.
        ParityError: the file differs from its source.
    """
    arguments = {key: value for key, value in options.items() if key not in (*requests.OWN_KEYS, "data")}
    target = destination(network).with_suffix(".torchscript")
    folders.check_writable(target.parent, str(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    _require_room(target, sum(parameter.numel() for parameter in network.parameters()) * FLOAT_BYTES)
    with tempfile.TemporaryDirectory(prefix=f".{target.stem}.export-", dir=target.parent) as folder:
        staged = Path(folder) / target.name
        with (
            folders.named_where_full(target.parent),
            told_in_our_words(Path(folder), target.parent) as closing,
            written_to(network, staged),
        ):
            stock(**arguments)
        for line in _verified(network, staged, options, evaluate):
            say(line)
        with replacing(target) as part:
            shutil.copyfile(staged, part)
    say(f"export: {target} ({target.stat().st_size / 2**20:.1f} MiB)")
    for text in closing:
        LOGGER.info(text)
    return str(target)


def _require_room(target: Path, weights_bytes: int) -> None:
    """Ask before torch's writer of TorchScript does, which ends the process where the disk is full (it throws in a destructor).

    Raises:
        RetryableError: the weights alone would not fit.
    """
    free_bytes = shutil.disk_usage(target.parent).free
    if free_bytes < weights_bytes + BESIDE_WEIGHTS_BYTES:
        raise RetryableError(
            f"no room to save {target}: {free_bytes / 2**20:.0f} MiB are free and {weights_bytes / 2**20:.0f} MiB of weights are to be "
            "written; make room and run the same command again"
        )


def _verified(
    network: Any,
    path: Path,
    options: Mapping[str, Any],
    evaluate: Evaluate | None,
) -> list[str]:
    if options.get("verify") is False:
        return [f"parity: torchscript {requests.NOT_ASKED}"]
    if options.get("device") not in (None, "cpu"):
        return [f"parity: torchscript is not verified (it is compared for {requests.COMPARED})"]
    from yolov12.export import gate

    with zipfile.ZipFile(path) as file:  # as upstream writes down what became of the arguments
        written = next(name for name in file.namelist() if name.endswith("/extra/config.txt"))
        metadata = json.loads(file.read(written))
    if why_not := gate.why_not_compared(network, metadata):
        return [f"parity: torchscript is not verified: {why_not}"]
    imgsz = requests.exported_size(options.get("imgsz") or (getattr(network, "args", None) or {}).get("imgsz", 640))
    suppression = requests.suppression_of(options)
    nms = suppression if metadata["args"].get("nms") else None
    ranked = suppression if gate.is_ranked(network, metadata) else None
    asked = evaluate if options.get("data") else None
    return gate.verify(gate.Case(network, path, "torchscript", "fp32", imgsz, nms, asked, ranked))
