# SPDX-License-Identifier: AGPL-3.0-or-later
"""Two machines made of network namespaces on this one, with a cable between them that can lose packets and be cut."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

ADDRESSES = ("10.77.0.1", "10.77.0.2")
PORT = "29500"
REPOSITORY = Path(__file__).parents[2]


def why_not() -> str | None:
    """Why this machine can not be two between which packets are lost; None where it can. tc's netem, the usual way, is not in every kernel."""
    if shutil.which("ip") is None:
        return "needs the program ip"
    if shutil.which("nft") is None and shutil.which("iptables") is None:
        return "needs nft or iptables, to lose packets"
    try:
        with Cable() as cable:
            cable.lose(50)
            return None
    except subprocess.CalledProcessError as error:
        return f"network namespaces, or rules for packets, are not allowed here: {error.stderr.strip()}"


class Cable:
    """Two machines, 0 and 1, and the cable between them. On leaving, whatever still runs on them is ended."""

    def __init__(self) -> None:
        self.names = [f"yolov12-test-{os.getpid()}-{node}" for node in (0, 1)]

    def __enter__(self) -> Cable:
        try:
            for name in self.names:
                _ip("netns", "add", name)
            _ip(
                "link",
                "add",
                "wire",
                "netns",
                self.names[0],
                "type",
                "veth",
                "peer",
                "name",
                "wire",
                "netns",
                self.names[1],
            )
            for name, address in zip(self.names, ADDRESSES, strict=True):
                _ip("-n", name, "addr", "add", f"{address}/24", "dev", "wire")
                for device in ("lo", "wire"):
                    _ip("-n", name, "link", "set", device, "up")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for pid in self.processes():
            subprocess.run(["kill", "-KILL", str(pid)], check=False)
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)

    def start(self, node: int, command: Sequence[str], folder: Path, **environ: str) -> subprocess.Popen[str]:
        """Start a program on a machine, in a folder, with what a user exports on it."""
        exported = {"MASTER_ADDR": ADDRESSES[0], "MASTER_PORT": PORT, "NNODES": "2", "NODE_RANK": str(node)}
        return subprocess.Popen(
            ["ip", "netns", "exec", self.names[node], *command],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"} | exported | environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def processes(self) -> list[int]:
        """What runs on either machine."""
        asked = [
            subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False)
            for name in self.names
        ]
        return [int(pid) for answer in asked for pid in answer.stdout.split()]

    def lose(self, percent: int) -> None:
        """Let both machines lose that share of the packets that reach them, drawn at random. With 100 neither hears that the other is gone."""
        if shutil.which("nft"):
            drop = f"iifname wire numgen random mod 100 < {percent} counter drop"
            chain = "add chain inet loss input { type filter hook input priority 0; }"
            self._inside("nft", f"add table inet loss; {chain}; add rule inet loss input {drop}")
        else:
            drawn = f"-m statistic --mode random --probability {percent / 100}"
            self._inside("iptables", *f"-A INPUT -i wire {drawn} -j DROP".split())

    def mend(self) -> None:
        """Lose nothing any more."""
        if shutil.which("nft"):
            self._inside("nft", "delete table inet loss")
        else:
            self._inside("iptables", "-F", "INPUT")

    def lost(self) -> int:
        """Packets that were lost since the cable was last whole."""
        if shutil.which("nft"):
            told, pattern = self._inside("nft", "list ruleset"), r"counter packets (\d+)"
        else:
            told, pattern = self._inside("iptables", "-L", "INPUT", "-v", "-x", "-n"), r"(?m)^\s*(\d+)\s.*DROP"
        return sum(map(int, re.findall(pattern, told)))

    def _inside(self, *command: str) -> str:
        """What a program on each machine prints."""
        return "".join(_run(["ip", "netns", "exec", name, *command]) for name in self.names)


def _ip(*words: str) -> str:
    return _run(["ip", *words])


def _run(command: Sequence[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
