# SPDX-License-Identifier: AGPL-3.0-or-later
"""`yolov12 nccl-test`: how fast the ranks of a run would talk to each other here, and what to make of the numbers.

Measures as nccl_check.py does: the bus bandwidth of all-reduce over message sizes, then each pair of ranks. The best bandwidth is compared with what
others report of the same links. Started by itself it starts one rank for each GPU; under any launcher that `yolov12 train` understands it joins.
"""

from __future__ import annotations

import argparse
import re
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from yolov12 import settings
from yolov12.distributed import devices, launchers, nic, world
from yolov12.distributed.gpus import nodes_of
from yolov12.distributed.launchers import Machines
from yolov12.errors import UserError
from yolov12.log import say
from yolov12.tools import nccl_check

OPTIONS = {"minbytes": "1M", "maxbytes": "256M", "stepfactor": 4, "iters": 20, "warmup_iters": 5, "ngpus": 0}
LARGE_BYTES = 64 * 2**20
"""Below this a message says more of latency than of bandwidth."""
AS_REPORTED, SLOW = 0.8, 0.5
"""Shares of the reported bandwidth."""


@dataclass(frozen=True)
class Reported:
    """The bus bandwidth that others report for GPUs with these links."""

    links: str
    gpus: str
    """A pattern in the GPU's name."""
    least_gb_per_s: float
    most_gb_per_s: float
    what: str


# All-reduce of large messages. Source: NVIDIA/nccl-tests#212 and vendors' tables; not measured by this project.
REPORTED = (
    Reported("NVLink", r"(H100|H800|H200).*(PCIe|NVL)|(H100|H800|H200) NVL", 200, 230, "H100 with NVLink bridges"),
    Reported("NVLink", r"H100|H800|H200", 370, 480, "H100 SXM; the upper figure with NVLink multicast (NVLS)"),
    Reported("NVLink", r"A100|A800", 230, 250, "A100 SXM"),
    Reported("PCIe", r"H100|H800|H200", 35, 45, "H100 over PCIe"),
)


def main(options: Mapping[str, Any]) -> int:
    """Start the ranks and wait for them, or be one of them; 1 where a sum was wrong.

    Raises:
        UserError: a wrong option, or more ranks than GPUs.
    """
    arguments = as_arguments(options)
    place = launchers.adopt()
    if isinstance(place, launchers.World) and place.is_launched:
        return measure(arguments)
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    machines = place if isinstance(place, Machines) else None
    wanted = int(options.get("ngpus") or 0) or (machines.local_size if machines else 0)
    count, reason = how_many(wanted, gpus, machines)
    say(f"nccl-test: {reason}")
    if count:
        from yolov12.engine import launch

        launch.start(__file__, count, machines, arguments)
    return 0


def as_arguments(options: Mapping[str, Any]) -> list[str]:
    """The options in the form of nccl_check, checked.

    Raises:
        UserError: a value that means nothing.
    """
    try:
        for name in ("minbytes", "maxbytes"):
            nccl_check.parse_size(str(options.get(name) or OPTIONS[name]))
    except argparse.ArgumentTypeError as error:
        raise UserError(f"nccl-test: {error}") from None
    numbers = {name: options.get(name) for name in ("stepfactor", "iters", "warmup_iters")}
    least = {"stepfactor": 2, "iters": 1, "warmup_iters": 0}
    for name, value in numbers.items():
        if value is not None and (not isinstance(value, int) or value < least[name]):
            raise UserError(f"nccl-test: {name}={value}: type a whole number of at least {least[name]}")
    given = {name: options.get(name) if options.get(name) is not None else default for name, default in OPTIONS.items()}
    if nccl_check.parse_size(str(given["minbytes"])) > nccl_check.parse_size(str(given["maxbytes"])):
        raise UserError(f"nccl-test: minbytes={given['minbytes']} is more than maxbytes={given['maxbytes']}")
    return [word for name in OPTIONS if name != "ngpus" for word in (f"--{name}", str(given[name]))]


def how_many(wanted: int, gpus: int, machines: Machines | None) -> tuple[int, str]:
    """(ranks to start on this machine, the reason); 0 ranks where there is nobody to talk to.

    Raises:
        UserError: more than there are GPUs.
    """
    several = machines is not None and machines.count > 1
    if not gpus:
        count = wanted or (1 if several else 2)
        return (
            count,
            f"torch sees no GPU: {count} rank{'s' if count > 1 else ''} on the CPU over gloo, which says nothing about GPUs",
        )
    if wanted > gpus:
        raise UserError(f"ngpus={wanted}, and torch sees {gpus} here: type ngpus={gpus}, or leave it out")
    count = wanted or gpus
    if count == 1 and not several:
        return 0, "one GPU has nobody to talk to: nothing is measured"
    return count, f"{count} of {gpus} GPUs"


def measure(arguments: Sequence[str]) -> int:
    """As one of the ranks: join, measure, and print on the first."""
    here = world.from_environment()
    options = nccl_check.parse(["all_reduce_perf", *arguments])
    device, seen = torch.device("cpu"), 0
    if torch.cuda.is_available():
        seen = torch.cuda.device_count()
        device = torch.device("cuda", here.local_rank % seen)
        torch.cuda.set_device(device)
    nic.choose_and_tell(here, lambda: nodes_of(range(seen), here.local_size))
    ranks = nccl_check.Ranks(here, device, settings.current().dist_timeout_s)
    try:
        lines, wrong = report(ranks, options, _links_of_all(ranks))
        if here.rank == 0:
            print("\n".join(lines), flush=True)
    finally:
        world.leave()
    return 1 if wrong else 0


def report(ranks: nccl_check.Ranks, options: argparse.Namespace, links: tuple[str, str]) -> tuple[list[str], int]:
    """(what is printed, how many elements were wrong). All ranks must call it.

    Args:
        links: what the ranks talk through, and the name of their GPUs.
    """
    lines = [
        f"all-reduce of {ranks.size} ranks, {options.iters} rounds after {options.warmup_iters}",
        nccl_check.HEADER,
    ]
    best_gb_per_s, wrong = 0.0, 0
    for size, duration_s, wrong_here in nccl_check.all_reduce_measured(ranks, options):
        lines.append(nccl_check.all_reduce_row(size, duration_s, ranks.size, wrong_here))
        wrong += wrong_here
        best_gb_per_s = max(best_gb_per_s, nccl_check.all_reduce_gb_per_s(size, duration_s, ranks.size)[1])
    lines += list(nccl_check.pair_tables(ranks, options))[2:]
    lines.append(f"verdict: {verdict(*links, best_gb_per_s, options.maxbytes, wrong)}")
    return lines, wrong


def verdict(links: str, gpu: str, best_gb_per_s: float, largest_bytes: int, wrong: int) -> str:
    """What the numbers mean.

    Args:
        links: "NVLink", "PCIe", "network" or "cpu".
        gpu: its name, "" on the CPU.
        best_gb_per_s: bus bandwidth, in 1e9 bytes.
        largest_bytes: of the messages that were sent.
        wrong: elements that were not the sum.
    """
    if wrong:
        return f"{wrong} elements were not the sum over the ranks: do not train here before the hardware is checked"
    measured = f"{best_gb_per_s:.3g} GB/s at best"
    if links == "cpu":
        return f"the ranks reach each other, {measured} over gloo; this says nothing about GPUs"
    if links == "network":
        return f"{measured} between machines: compare it with the network's own speed (100 Gbit/s are 12.5 GB/s)"
    if largest_bytes < LARGE_BYTES:
        return f"{measured} over {links}; messages of less than {LARGE_BYTES >> 20} MiB say little of bandwidth: type maxbytes=256M"
    found = next((row for row in REPORTED if row.links == links and re.search(row.gpus, gpu)), None)
    if found is None:
        return f"{measured} over {links}: there is no figure of others for {gpu} to compare with"
    others = f"{found.least_gb_per_s:g} to {found.most_gb_per_s:g} GB/s are reported for {found.what}"
    share = best_gb_per_s / found.least_gb_per_s
    if share >= AS_REPORTED:
        return f"good: {measured}; {others}"
    look = "look at `nvidia-smi topo -m`, and at what NCCL_DEBUG=INFO says of P2P"
    return f"{'slow' if share >= SLOW else 'far too slow'}: {measured}; {others}; {look}"


def _links_of_all(ranks: nccl_check.Ranks) -> tuple[str, str]:
    """What the ranks talk through, by the weakest: "cpu", "network", "PCIe" or "NVLink"; and the name of the first one's GPU."""
    mine: dict[str, Any] = {"host": socket.gethostname(), "gpu": "", "linked": False}
    if ranks.device.type == "cuda":
        gpus = devices.visible_gpus()
        index = ranks.device.index
        used = set(range(min(ranks.size, len(gpus))))
        mine |= {"gpu": gpus[index].name, "linked": used - {index} <= gpus[index].nvlinks}
    everyone = world.from_all(mine, ranks.votes)
    if ranks.device.type != "cuda":
        return "cpu", ""
    if len({one["host"] for one in everyone}) > 1:
        return "network", everyone[0]["gpu"]
    return ("NVLink" if all(one["linked"] for one in everyone) else "PCIe"), everyone[0]["gpu"]


if __name__ == "__main__":
    sys.exit(measure(sys.argv[1:]))
