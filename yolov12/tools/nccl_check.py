# SPDX-License-Identifier: AGPL-3.0-or-later
"""How fast the GPUs of a machine, or of several, talk to each other: all-reduce over sizes, and each pair of ranks.

    python -m yolov12.tools.nccl_check all_reduce_perf -b 1M -e 256M -f 2        # on all GPUs here
    python -m yolov12.tools.nccl_check p2pBandwidthLatencyTest
    torchrun --nnodes=2 ... -m yolov12.tools.nccl_check all_reduce_perf          # on several machines

Stands in for two of NVIDIA's programs, with the options and columns that their users know, over torch.distributed: NCCL on GPUs, gloo on the
CPU. The numbers are those of the collectives that training uses, with torch's overhead in the latency of small messages; they are not
comparable with NVIDIA's below about a megabyte.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.distributed as dist

from yolov12 import settings
from yolov12.distributed import binding, world
from yolov12.errors import UserError

ELEMENT_BYTES = 4
"""float32."""
LATENCY_BYTES = 8
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}
OURS = "not NVIDIA's program: yolov12's own check over torch.distributed, with the same options and columns"


def parse_size(text: str) -> int:
    """ "64M" -> bytes; K, M and G are powers of 1024, as in nccl-tests.

    Raises:
        argparse.ArgumentTypeError: not a size.
    """
    found = re.fullmatch(r"([0-9]+)([KMG]?)", text.upper())
    if not found or not int(found[1]):
        raise argparse.ArgumentTypeError(f"{text}: type a size such as 8, 64K, 128M or 1G")
    return int(found[1]) * UNITS[found[2]]


def message_sizes(least_bytes: int, most_bytes: int, factor: int) -> Iterator[int]:
    """Sizes from least to most, each `factor` times the one before, rounded down to whole float32."""
    size = least_bytes
    while size <= most_bytes:
        yield max(size // ELEMENT_BYTES, 1) * ELEMENT_BYTES
        size *= factor


def all_reduce_gb_per_s(size_bytes: int, duration_s: float, ranks: int) -> tuple[float, float]:
    """algbw and busbw in 1e9 bytes/s: size over time, and that times 2(n-1)/n, what each link carries in the best algorithm.

    The second does not depend on the number of ranks, so it can be compared with the hardware (nccl-tests, doc/PERFORMANCE.md).
    """
    algorithm = size_bytes / duration_s / 1e9
    return algorithm, algorithm * 2 * (ranks - 1) / ranks


HEADER = (
    f"#{'size':>12} {'count':>12} {'type':>8} {'redop':>7} {'root':>6} {'time':>10} {'algbw':>8} {'busbw':>8} {'#wrong':>7}\n"
    f"#{'(B)':>12} {'(elements)':>12} {'':>8} {'':>7} {'':>6} {'(us)':>10} {'(GB/s)':>8} {'(GB/s)':>8} {'':>7}"
)


def all_reduce_row(size_bytes: int, duration_s: float, ranks: int, wrong: int) -> str:
    """One line of the table, below `HEADER`."""
    algorithm, bus = all_reduce_gb_per_s(size_bytes, duration_s, ranks)
    return (
        f" {size_bytes:>12} {size_bytes // ELEMENT_BYTES:>12} {'float':>8} {'sum':>7} {-1:>6}"
        f" {duration_s * 1e6:>10.2f} {algorithm:>8.2f} {bus:>8.2f} {wrong:>7}"
    )


def matrix(title: str, cells: Sequence[Sequence[float | None]]) -> str:
    """A table of rank against rank; nothing to say of a rank and itself."""
    head = "   D\\D" + "".join(f"{rank:>9}" for rank in range(len(cells)))
    rows = [
        f"{rank:>6}" + "".join(f"{'-':>9}" if value is None else f"{value:>9.2f}" for value in row)
        for rank, row in enumerate(cells)
    ]
    return "\n".join([title, head, *rows])


class Ranks:
    """The ranks that measure together, from the inside of one of them. Every method is a collective: all ranks must call it."""

    def __init__(self, here: world.World, device: torch.device, timeout_s: int) -> None:
        self.rank, self.size, self.device = here.rank, here.size, device
        self.votes = world.join(here, device, timeout_s, timeout_s)

    def all_reduce_s(self, size_bytes: int, rounds: int, warmup: int) -> float:
        """Seconds of one all-reduce, the mean over rounds and ranks."""
        data = torch.zeros(size_bytes // ELEMENT_BYTES, device=self.device)  # a sum of zeros stays one, however often
        mine = torch.tensor(self._timed(lambda: dist.all_reduce(data), rounds, warmup))
        dist.all_reduce(mine, group=self.votes)
        return mine.item() / self.size

    def all_reduce_wrong(self, size_bytes: int) -> int:
        """How many elements of one all-reduce are not the sum over all ranks, added up over the ranks."""
        data = torch.full((size_bytes // ELEMENT_BYTES,), self.rank + 1.0, device=self.device)
        dist.all_reduce(data)
        wrong = (data != self.size * (self.size + 1) / 2).sum().cpu()
        dist.all_reduce(wrong, group=self.votes)
        return int(wrong)

    def pair_s(self, sender: int, receiver: int, there_bytes: int, back_bytes: int, rounds: int, warmup: int) -> float:
        """Seconds from sending to having the answer, the mean over rounds; the ranks of no part wait."""
        mine = torch.zeros(1)
        if self.rank in (sender, receiver):
            there, back = (torch.zeros(size // ELEMENT_BYTES, device=self.device) for size in (there_bytes, back_bytes))
            sends = [(dist.send, there, receiver), (dist.recv, back, receiver)]
            answers = [(dist.recv, there, sender), (dist.send, back, sender)]
            steps = sends if self.rank == sender else answers

            def exchange() -> None:
                for action, data, peer in steps:
                    action(data, peer)

            seconds = self._timed(exchange, rounds, warmup, wait=False)
            mine += seconds if self.rank == sender else 0
        dist.all_reduce(mine, group=self.votes)
        return mine.item()

    def _timed(self, action: Callable[[], object], rounds: int, warmup: int, wait: bool = True) -> float:
        for _ in range(warmup):
            action()
        self._finish()
        if wait:
            dist.barrier(group=self.votes)
        began = time.perf_counter()
        for _ in range(rounds):
            action()
        self._finish()
        return (time.perf_counter() - began) / rounds

    def _finish(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def all_reduce_measured(ranks: Ranks, options: argparse.Namespace) -> Iterator[tuple[int, float, int]]:
    """(bytes, seconds, wrong elements) of each message size."""
    for size in message_sizes(options.minbytes, options.maxbytes, options.stepfactor):
        yield size, ranks.all_reduce_s(size, options.iters, options.warmup_iters), ranks.all_reduce_wrong(size)


def all_reduce_table(ranks: Ranks, options: argparse.Namespace) -> Iterator[str]:
    """The table of all_reduce_perf, line by line."""
    yield f"# {OURS}"
    yield f"# ranks {ranks.size} on {_device_name(ranks.device)}, in place, {options.iters} rounds after {options.warmup_iters}"
    yield HEADER
    buses, all_wrong = [], 0
    for size, duration_s, wrong in all_reduce_measured(ranks, options):
        yield all_reduce_row(size, duration_s, ranks.size, wrong)
        buses.append(all_reduce_gb_per_s(size, duration_s, ranks.size)[1])
        all_wrong += wrong
    yield f"# Out of bounds values : {all_wrong} {'FAILED' if all_wrong else 'OK'}"
    yield f"# Avg bus bandwidth    : {sum(buses) / len(buses):.4g}"


def pair_tables(ranks: Ranks, options: argparse.Namespace) -> Iterator[str]:
    """The tables of p2pBandwidthLatencyTest: how fast each rank (row) sends to each other (column)."""
    yield f"# {OURS}"
    yield f"# ranks {ranks.size} on {_device_name(ranks.device)}, {options.iters} rounds after {options.warmup_iters}"
    rounds = (options.iters, options.warmup_iters)
    bandwidths: list[list[float | None]] = [[None] * ranks.size for _ in range(ranks.size)]
    latencies: list[list[float | None]] = [[None] * ranks.size for _ in range(ranks.size)]
    for sender in range(ranks.size):
        for receiver in range(ranks.size):
            if sender != receiver:
                there_s = ranks.pair_s(sender, receiver, options.maxbytes, LATENCY_BYTES, *rounds)
                bandwidths[sender][receiver] = options.maxbytes / there_s / 1e9
                ping_s = ranks.pair_s(sender, receiver, LATENCY_BYTES, LATENCY_BYTES, *rounds)
                latencies[sender][receiver] = ping_s / 2 * 1e6
    yield matrix(f"Unidirectional Bandwidth Matrix (GB/s), messages of {options.maxbytes} B", bandwidths)
    yield matrix(f"Latency Matrix (us), half of a round trip of {LATENCY_BYTES} B", latencies)


def _device_name(device: torch.device) -> str:
    return f"{torch.cuda.get_device_name(device)}, NCCL" if device.type == "cuda" else "the CPU, gloo"


PROGRAMS = {"all_reduce_perf": all_reduce_table, "p2pBandwidthLatencyTest": pair_tables}


def parse(argv: list[str]) -> argparse.Namespace:
    """Options of nccl-tests that mean something here; exits with code 2 and the list of them for others."""
    parser = argparse.ArgumentParser(prog="nccl_check", description=OURS, allow_abbrev=False)
    parser.add_argument("program", choices=PROGRAMS)
    parser.add_argument("-b", "--minbytes", type=parse_size, default="1M", help="smallest message (1M)")
    parser.add_argument(
        "-e", "--maxbytes", type=parse_size, default="64M", help="largest message, of pairs the only one (64M)"
    )
    parser.add_argument(
        "-f", "--stepfactor", type=int, default=2, help="each message is so much larger than the last (2)"
    )
    parser.add_argument(
        "-g", "--ngpus", type=int, default=0, help="ranks to start here (one for each GPU; 2 on the CPU)"
    )
    parser.add_argument("-n", "--iters", type=int, default=20, help="rounds that are timed (20)")
    parser.add_argument("-w", "--warmup_iters", type=int, default=5, help="rounds before them (5)")
    options = parser.parse_args(argv)
    if options.minbytes > options.maxbytes:
        parser.error(f"-b {options.minbytes} is more than -e {options.maxbytes}")
    if options.stepfactor < 2 or options.iters < 1 or options.warmup_iters < 0 or options.ngpus < 0:
        parser.error("-f is at least 2, -n at least 1, -w and -g at least 0")
    return options


def how_many(wanted: int, gpus: int) -> tuple[int, str]:
    """How many ranks to start on this machine, and why; 0 for none.

    Raises:
        UserError: more than there are GPUs.
    """
    if not gpus:
        return wanted or 2, "torch sees no GPU here: ranks on the CPU, with gloo, which says nothing of a GPU's links"
    if wanted > gpus:
        raise UserError(
            f"-g {wanted}, and torch sees {gpus} GPU{'s' if gpus > 1 else ''} here: type -g {gpus}, or leave it out"
        )
    if (wanted or gpus) == 1:
        return (
            0,
            "one GPU has nobody to talk to: there is nothing to measure here (several machines: start it with torchrun)",
        )
    return wanted or gpus, f"{wanted or gpus} of {gpus} GPUs"


def torchrun(count: int) -> list[str]:
    """What Python is given to start `count` ranks on this machine; without an address the host's name is looked up, which needs a network."""
    return ["-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1", f"--nproc-per-node={count}"]


def measure(options: argparse.Namespace, timeout_s: int) -> None:
    """As one of the ranks that a launcher has started: join, measure, and print on the first."""
    here = world.from_environment()
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    ranks = Ranks(here, device, timeout_s)
    try:
        for line in PROGRAMS[options.program](ranks, options):
            if here.rank == 0:
                print(line, flush=True)
    finally:
        world.leave()


def main(argv: list[str]) -> int:
    """Measure, where a launcher has started this process; otherwise become the launcher of one rank for each GPU."""
    options = parse(argv)
    try:
        # Read before ranks are started, each of which would refuse a wrong one by itself.
        timeout_s = settings.current().dist_timeout_s
        if world.from_environment().is_launched:
            measure(options, timeout_s)
            return 0
        count, reason = how_many(options.ngpus, torch.cuda.device_count() if torch.cuda.is_available() else 0)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if not count:
        print(f"# {OURS}\n# {reason}")
    else:
        print(f"# {reason}", file=sys.stderr, flush=True)
        os.environ[binding.THREADS_VARIABLE] = binding.threads_each(count)  # without it torchrun prints a banner
        os.execv(sys.executable, [sys.executable, *torchrun(count), "-m", "yolov12.tools.nccl_check", *argv])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
