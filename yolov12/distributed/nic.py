# SPDX-License-Identifier: AGPL-3.0-or-later
"""Through which network devices the ranks of several machines talk: the InfiniBand or RoCE devices next to their GPUs, the interface that leads to
the first machine.

NCCL and gloo read their variables when the groups are made; what the user has set stays. All ranks of a machine choose alike: NCCL draws its rings
from the devices that it may use, and ranks that saw different ones would draw different rings. On one machine nothing is chosen.

Where NCCL may use every device it takes near ones by itself, so the choice keeps it off those that are near no GPU of the run, on another socket or
for storage. An interface is chosen because gloo would take the address that the machine's own name stands for, which on many is the loopback.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import sys
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from yolov12.distributed.launchers import World

SYS = Path("/sys")
HCA, NCCL_INTERFACE, GLOO_INTERFACE = "NCCL_IB_HCA", "NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"
Addresses = Mapping[str, Sequence[tuple[str, str]]]
"""Interface -> its (address, netmask)s."""


@dataclass(frozen=True)
class Choice:
    """What becomes of one variable."""

    variable: str
    value: str | None
    """None: it stays as it is."""
    reason: str

    @property
    def words(self) -> str:
        """For the log."""
        return f"{self.variable}{'' if self.value is None else f'={self.value}'}: {self.reason}"


@dataclass(frozen=True)
class Device:
    """A network device of the kernel's."""

    name: str
    numa_node: int | None
    """None where the kernel does not say."""


def choose(
    environ: Mapping[str, str], first: str, gpu_nodes: Sequence[int | None], addresses: Addresses, root: Path = SYS
) -> list[Choice]:
    """What to set on this machine, one of several.

    Args:
        first: MASTER_ADDR, as a name or an address.
        gpu_nodes: the NUMA nodes of the GPUs that this machine's ranks have; None where it is not known; empty on the CPU.
        addresses: of this machine's interfaces.
        root: of sysfs.
    """
    hops = distances(root)
    choices = []
    if gpu_nodes:
        value, reason = _devices(active_hcas(root), gpu_nodes, hops)
        choices.append(_unless_set(environ, HCA, value, reason))
    name, reason = _interface(first, gpu_nodes, addresses, hops, root)
    if gpu_nodes:
        # With "=", the name and not all that begin with it.
        choices.append(_unless_set(environ, NCCL_INTERFACE, name and f"={name}", reason))
    choices.append(_unless_set(environ, GLOO_INTERFACE, name, reason))
    return choices


def choose_and_tell(
    here: World, gpu_nodes: Callable[[], Sequence[int | None]], environ: MutableMapping[str, str] = os.environ
) -> None:
    """Where a run has several machines, set what is to be set for the ranks of this one, and say it once for the machine. Before they join.

    Args:
        gpu_nodes: tells the NUMA nodes as `choose` wants them.
    """
    if here.size == here.local_size:
        return
    choices = choose(environ, here.address, gpu_nodes(), own_addresses())
    environ.update({choice.variable: choice.value for choice in choices if choice.value is not None})
    if here.local_rank == 0:
        for choice in choices:
            print(f"network: machine {here.node}: {choice.words}", file=sys.stderr, flush=True)


def own_addresses() -> dict[str, list[tuple[str, str]]]:
    """The IP addresses of this machine's interfaces."""
    import psutil

    families = (socket.AF_INET, socket.AF_INET6)
    return {
        name: [(one.address.partition("%")[0], one.netmask or "") for one in found if one.family in families]
        for name, found in psutil.net_if_addrs().items()
    }


def active_hcas(root: Path = SYS) -> list[Device]:
    """The InfiniBand and RoCE devices with a port that is up, by name."""
    found = sorted((root / "class/infiniband").glob("*"))
    return [
        Device(folder.name, _numa_node(folder))
        for folder in found
        if any("ACTIVE" in _read(state) for state in folder.glob("ports/*/state"))
    ]


def distances(root: Path = SYS) -> dict[tuple[int, int], int]:
    """(from, to) -> how far apart two NUMA nodes are, as the firmware says; 10 is one node itself."""
    found = {}
    for folder in (root / "devices/system/node").glob("node[0-9]*"):
        here = int(folder.name.removeprefix("node"))
        # The row has a number for each node that is online, in their order (Documentation/admin-guide/mm/numaperf.rst).
        for there, text in zip(_online(root), _read(folder / "distance").split(), strict=False):
            found[here, there] = int(text)
    return found


def _unless_set(environ: Mapping[str, str], variable: str, value: str | None, reason: str) -> Choice:
    if variable in environ:
        return Choice(variable, None, f"stays {environ[variable]}, as it was set")
    return Choice(variable, value, reason)


def _devices(
    hcas: Sequence[Device], gpu_nodes: Sequence[int | None], hops: Mapping[tuple[int, int], int]
) -> tuple[str | None, str]:
    """(the value of NCCL_IB_HCA or None, the reason)."""
    if not hcas:
        return None, "not set, there is no InfiniBand or RoCE device with a port that is up"
    unknown = "not set, NCCL chooses: the kernel does not say"
    if any(hca.numa_node is None for hca in hcas):
        return None, f"{unknown} what {', '.join(hca.name for hca in hcas if hca.numa_node is None)} is next to"
    if None in gpu_nodes:
        return None, f"{unknown} what the GPUs are next to"
    near: set[str] = set()
    for node in {node for node in gpu_nodes if node is not None}:
        far = {hca.name: hops.get((node, hca.numa_node)) for hca in hcas if hca.numa_node is not None}
        known = {name: distance for name, distance in far.items() if distance is not None}
        if len(known) < len(far):
            return None, f"{unknown} how far NUMA node {node} is from all devices"
        near |= {name for name, distance in known.items() if distance == min(known.values())}
    if len(near) == len(hcas):
        return None, f"not set, NCCL chooses: each of {len(hcas)} is the nearest to a GPU of this run"
    chosen = [hca.name for hca in hcas if hca.name in near]
    nodes = ", ".join(str(node) for node in sorted({node for node in gpu_nodes if node is not None}))
    return f"={','.join(chosen)}", f"of {len(hcas)} devices the nearest to the GPUs of this run, on NUMA node {nodes}"


def _interface(
    first: str, gpu_nodes: Sequence[int | None], addresses: Addresses, hops: Mapping[tuple[int, int], int], root: Path
) -> tuple[str | None, str]:
    """(the interface that leads to the first machine or None, the reason); of several in one network the nearest to the GPUs."""
    try:
        local = leads_from(first)
    except OSError as error:
        return None, f"not set: no way to MASTER_ADDR={first} ({error.strerror or error})"
    if ipaddress.ip_address(local).is_loopback and not _is_loopback(first):
        return None, (
            f"not set: MASTER_ADDR={first} is {local} on this machine, which others can not reach; "
            f"set MASTER_ADDR to an address, or {GLOO_INTERFACE} to the interface"
        )
    taken = next((name for name, of in addresses.items() if local in [address for address, _ in of]), None)
    if taken is None:
        return None, f"not set: no interface has the address {local}, from which MASTER_ADDR={first} is reached"
    reason = f"leads to MASTER_ADDR={first}"
    alike = sorted({taken, *_in_its_network(local, addresses, root)})
    nodes = {name: _numa_node(root / "class/net" / name) for name in alike}
    if len(alike) == 1 or not gpu_nodes:
        return taken, reason
    far = {name: _total(gpu_nodes, node, hops) for name, node in nodes.items()}
    known = {name: total for name, total in far.items() if total is not None}
    if len(known) < len(far):
        return taken, f"{reason}; which of {', '.join(alike)} is next to the GPUs is not known"
    nearest = min(known, key=lambda name: (known[name], name != taken, name))
    return nearest, f"{reason}; of {', '.join(alike)} in that network the nearest to the GPUs of this run"


def leads_from(first: str) -> str:
    """The address of this machine's from which it would send to `first`. Nothing is sent.

    Raises:
        OSError: the name is not known, or no route leads there.
    """
    family, kind, _, _, place = socket.getaddrinfo(first, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(place)
        return str(probe.getsockname()[0]).partition("%")[0]


def _is_loopback(first: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(first).is_loopback
    return first == "localhost"


def _in_its_network(local: str, addresses: Addresses, root: Path) -> list[str]:
    """The interfaces that are up with an address in the network of `local`."""
    networks = {address: _network(address, mask) for of in addresses.values() for address, mask in of}
    return [
        name
        for name, of in addresses.items()
        if _read(root / "class/net" / name / "operstate") == "up"
        and any(networks[address] is not None and networks[address] == networks[local] for address, _ in of)
    ]


def _network(address: str, mask: str) -> ipaddress.IPv4Network | None:
    """None for IPv6, whose machines have many addresses, and for an interface without a network."""
    try:
        return ipaddress.IPv4Network(f"{address}/{mask}", strict=False)
    except ValueError:
        return None


def _total(gpu_nodes: Sequence[int | None], node: int | None, hops: Mapping[tuple[int, int], int]) -> int | None:
    """How far a device is from all GPUs together; None where one distance is not known."""
    far = [None if gpu is None or node is None else hops.get((gpu, node)) for gpu in gpu_nodes]
    return None if None in far else sum(one for one in far if one is not None)


def _numa_node(folder: Path) -> int | None:
    """Of a device of sysfs; None where it is virtual, or the machine has no parts (-1)."""
    text = _read(folder / "device/numa_node")
    return int(text) if text.isdecimal() else None


def _online(root: Path) -> list[int]:
    names = [folder.name for folder in (root / "devices/system/node").glob("node[0-9]*")]
    return sorted(int(name.removeprefix("node")) for name in names)


def _read(path: Path) -> str:
    """A file of sysfs; "" where there is none, or it has nothing to say (reading operstate of a device that goes away fails)."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
