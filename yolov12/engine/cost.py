# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a run costs: GPU-hours, energy, how busy the GPUs were, and what the time went to that was not work.

Waiting is measured on the host, by the clock, where the loop asks for a batch (data_wait.py) and where the ranks vote (step.py); nothing here waits
for a GPU.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from yolov12.distributed.world import from_all
from yolov12.engine.energy import CounterError, Meter, meter_of
from yolov12.errors import ExitError
from yolov12.log import rank, say, warn
from yolov12.wholefile import replacing

SAMPLE_INTERVAL_S = 5.0
"""How often a GPU is asked how busy it is: the answer takes a driver call."""
FILE = "cost.json"


@dataclass(frozen=True)
class Share:
    """One process's part of a run, or of what was run of it at a stretch."""

    seconds: float
    images: int
    """Trained on."""
    data_wait_s: float
    peer_wait_s: float
    on_gpu: bool
    energy_j: float | None
    """Of the GPU's board, whoever used it; None where nobody counts it."""
    utilisation: float | None
    """Mean share of time in which the GPU ran anything, 0 to 1."""
    why_no_energy: str


class Cost:
    """Watches one process.

    Args:
        device: that it trains on.
    """

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        self.meter, self.why_no_energy = meter_of(device)
        self.images = 0
        self._began_s = self._sampled_s = time.monotonic()
        self._energy_before_j = self.meter.energy_j() if self.meter else 0.0
        self._utilisation: list[float] = []

    def after_step(self, images: int) -> None:
        """A step was made on so many images of this process."""
        self.images += images
        now_s = time.monotonic()
        if self.meter and now_s - self._sampled_s >= SAMPLE_INTERVAL_S:
            self._sampled_s = now_s
            if (busy := self._read(lambda meter: meter.utilisation())) is not None:
                self._utilisation.append(busy)

    def share(self, data_wait_s: float, peer_wait_s: float) -> Share:
        """Of this process until now; the arguments are those of `finish`."""
        busy, energy_j = self._utilisation, self._read(lambda meter: meter.energy_j())
        return Share(
            seconds=time.monotonic() - self._began_s,
            images=self.images,
            data_wait_s=data_wait_s,
            peer_wait_s=peer_wait_s,
            on_gpu=self.on_gpu,
            energy_j=None if energy_j is None else energy_j - self._energy_before_j,
            utilisation=sum(busy) / len(busy) if busy else None,
            why_no_energy=self.why_no_energy,
        )

    def _read(self, reading: Callable[[Meter], float]) -> float | None:
        """None where there is no meter, or it fails, as from then on: what a run costs is no reason to end it."""
        if self.meter is None:
            return None
        try:
            return reading(self.meter)
        except CounterError as error:
            self.meter, self.why_no_energy = None, str(error)
            return None

    def finish(
        self,
        data_wait_s: float,
        peer_wait_s: float,
        folder: Path,
        group: dist.ProcessGroup | None,
        price: float | None,
        resumed: bool,
    ) -> None:
        """Tell what the run cost and add it to cost.json. Every rank must call it.

        Args:
            data_wait_s: how long this process waited for data.
            peer_wait_s: how long it waited for other processes.
            folder: of the run.
            group: CPU process group; None for a single process.
            price: of one GPU for an hour; None tells no price.
            resumed: whether what the file says already belongs to this run.

        Raises:
            PeerFailedError: another rank did not take part.
        """
        shares = from_all(self.share(data_wait_s, peer_wait_s), group)
        for line in lines(shares, price):
            say(line)
        if rank() == 0:
            path = folder / FILE
            parts = [*(_earlier(path) if resumed else []), summary(shares, price)]
            try:
                with replacing(path) as part:
                    part.write_text(json.dumps({"parts": parts}, indent=2) + "\n")
            except (OSError, ExitError) as error:  # the run itself is done, and what matters of it is on disk
                warn(f"{path} was not written: {error}")


def summary(shares: Sequence[Share], price: float | None) -> dict[str, Any]:
    """All processes together. What nobody could count is None."""
    process_s = sum(share.seconds for share in shares)
    images = sum(share.images for share in shares)
    gpu_hours = sum(share.seconds for share in shares if share.on_gpu) / 3600
    counted = [share.energy_j for share in shares if share.energy_j is not None]
    energy_j = sum(counted) if counted and len(counted) == len(shares) else None
    busy = [share.utilisation for share in shares if share.utilisation is not None]
    return {
        "processes": len(shares),
        "hours": max(share.seconds for share in shares) / 3600,
        "gpu_hours": gpu_hours,
        "images": images,
        "energy_kwh": None if energy_j is None else energy_j / 3.6e6,
        "images_per_joule": images / energy_j if energy_j else None,
        "mean_utilisation": sum(busy) / len(busy) if busy else None,
        "share_waiting_for_data": sum(share.data_wait_s for share in shares) / process_s if process_s else 0.0,
        "share_waiting_for_peers": sum(share.peer_wait_s for share in shares) / process_s if process_s else 0.0,
        "price": None if price is None or not gpu_hours else price * gpu_hours,
        "of_each_process": [asdict(share) for share in shares],
    }


def lines(shares: Sequence[Share], price: float | None) -> list[str]:
    """For the log."""
    all_ = summary(shares, price)
    several = "" if len(shares) == 1 else f", {len(shares)} processes"
    if not all_["gpu_hours"]:
        told = [f"{all_['hours']:.3f} h on the CPU{several}, {all_['images']} images"]
    else:
        told = [f"{all_['gpu_hours']:.3f} GPU-hours ({all_['hours']:.3f} h{several}), {all_['images']} images"]
        if all_["price"] is not None:
            told.append(f"{all_['price']:.2f} at {price:g} per GPU-hour")
        if all_["energy_kwh"] is None:
            told.append(f"energy not counted ({next(s.why_no_energy for s in shares if s.energy_j is None)})")
        else:
            told.append(
                f"{all_['energy_kwh']:.3f} kWh of the GPUs, {all_['images_per_joule'] or 0:.2f} images per joule"
            )
        if all_["mean_utilisation"] is not None:
            told.append(f"GPUs busy {all_['mean_utilisation']:.0%} of the time")
    waits = f"waited {all_['share_waiting_for_data']:.1%} of the time for data"
    if len(shares) > 1:
        waits += f" and {all_['share_waiting_for_peers']:.1%} for other processes"
    return [f"cost: {', '.join(told)}", f"cost: {waits}"]


def _earlier(path: Path) -> list[Any]:
    """What the file says of the run's earlier parts."""
    try:
        parts = json.loads(path.read_text())["parts"]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError, KeyError) as error:
        say(f"cost: {path} can not be read ({error}); what it said of the run so far is left out")
        return []
    return parts if isinstance(parts, list) else []
