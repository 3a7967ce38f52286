# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which network devices the ranks of several machines take, on machines whose sysfs the test makes up."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from yolov12.distributed import nic
from yolov12.distributed.launchers import World

LOCAL = "192.168.1.11"
FIRST = "192.168.1.10"
ADDRESSES = {
    "lo": [("127.0.0.1", "255.0.0.0")],
    "eth0": [(LOCAL, "255.255.255.0")],
    "eth1": [("192.168.1.12", "255.255.255.0")],
    "eth2": [("10.0.0.5", "255.255.0.0"), ("fe80::1", "ffff:ffff:ffff:ffff::")],
}
TWO_SOCKETS = ("10 21", "21 10")


class Machine:
    """A sysfs in a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, path: str, text: object) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")

    def nodes(self, *rows: str) -> None:
        for node, row in enumerate(rows):
            self.write(f"devices/system/node/node{node}/distance", row)

    def hca(self, name: str, node: int, state: str = "4: ACTIVE") -> None:
        self.write(f"class/infiniband/{name}/device/numa_node", node)
        self.write(f"class/infiniband/{name}/ports/1/state", state)

    def interface(self, name: str, node: int | None = None, state: str = "up") -> None:
        self.write(f"class/net/{name}/operstate", state)
        if node is not None:
            self.write(f"class/net/{name}/device/numa_node", node)

    def choose(self, gpu_nodes: list[int | None], first: str = FIRST, **environ: str) -> dict[str, nic.Choice]:
        return {choice.variable: choice for choice in nic.choose(environ, first, gpu_nodes, ADDRESSES, self.root)}


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Two sockets, two HCAs and an interface beside each; the way to the first machine is eth0."""
    monkeypatch.setattr(nic, "leads_from", lambda first: LOCAL)
    made = Machine(tmp_path / "sys")
    made.nodes(*TWO_SOCKETS)
    for number in range(4):
        made.hca(f"mlx5_{number}", node=number // 2)
    made.interface("lo", state="unknown")
    made.interface("eth0", node=0)
    made.interface("eth1", node=1)
    made.interface("eth2", node=1)
    return made


def test_gpus_of_one_socket_keep_off_the_devices_of_the_other(machine: Machine) -> None:
    chosen = machine.choose([1, 1])["NCCL_IB_HCA"]
    assert chosen.value == "=mlx5_2,mlx5_3"
    assert (
        chosen.words == "NCCL_IB_HCA==mlx5_2,mlx5_3: of 4 devices the nearest to the GPUs of this run, on NUMA node 1"
    )


def test_where_each_device_is_near_some_gpu_nccl_chooses_and_that_is_said(machine: Machine) -> None:
    chosen = machine.choose([0, 0, 1, 1])["NCCL_IB_HCA"]
    assert chosen.value is None
    assert chosen.words == "NCCL_IB_HCA: not set, NCCL chooses: each of 4 is the nearest to a GPU of this run"


def test_without_a_device_on_its_node_a_gpu_gets_the_nearest_of_others(machine: Machine) -> None:
    machine.nodes("10 12 32 32", "12 10 32 32", "32 32 10 12", "32 32 12 10")
    machine.hca("mlx5_2", node=2)
    machine.hca("mlx5_3", node=2)
    machine.hca("mlx5_0", node=0)
    machine.hca("mlx5_1", node=0)
    assert machine.choose([3])["NCCL_IB_HCA"].value == "=mlx5_2,mlx5_3"


def test_a_port_that_is_down_does_not_count(machine: Machine) -> None:
    machine.hca("mlx5_2", node=1, state="1: DOWN")
    assert machine.choose([1])["NCCL_IB_HCA"].value == "=mlx5_3"
    for number in range(4):
        machine.hca(f"mlx5_{number}", node=0, state="1: DOWN")
    assert "no InfiniBand or RoCE device with a port that is up" in machine.choose([1])["NCCL_IB_HCA"].reason


@pytest.mark.parametrize(
    ("gpu_nodes", "node_of_a_device", "rows", "said"),
    [
        ([1, None], 0, TWO_SOCKETS, "what the GPUs are next to"),
        ([1], -1, TWO_SOCKETS, "what mlx5_0 is next to"),
        ([1], 0, ("10 21", ""), "how far NUMA node 1 is from all devices"),
    ],
    ids=["a GPU", "a device", "the distance"],
)
def test_what_is_not_known_is_left_to_nccl_and_said(
    machine: Machine, gpu_nodes, node_of_a_device: int, rows, said: str
) -> None:
    machine.nodes(*rows)
    machine.hca("mlx5_0", node=node_of_a_device)
    chosen = machine.choose(gpu_nodes)["NCCL_IB_HCA"]
    assert chosen.value is None
    assert chosen.reason == f"not set, NCCL chooses: the kernel does not say {said}"


def test_the_interface_that_leads_to_the_first_machine_is_taken_and_not_one_that_is_merely_near(
    machine: Machine,
) -> None:
    machine.interface("eth1", node=1, state="down")
    chosen = machine.choose([1])  # eth2 is there, in another network
    assert chosen["GLOO_SOCKET_IFNAME"].words == f"GLOO_SOCKET_IFNAME=eth0: leads to MASTER_ADDR={FIRST}"
    assert chosen["NCCL_SOCKET_IFNAME"].value == "=eth0"


def test_of_interfaces_in_that_network_the_nearest_to_the_gpus_is_taken(machine: Machine) -> None:
    assert machine.choose([1])["GLOO_SOCKET_IFNAME"].value == "eth1"
    assert machine.choose([0])["GLOO_SOCKET_IFNAME"].value == "eth0"
    assert machine.choose([0, 1])["GLOO_SOCKET_IFNAME"].value == "eth0"  # as near: the one that the kernel takes
    assert "of eth0, eth1 in that network the nearest to the GPUs" in machine.choose([1])["GLOO_SOCKET_IFNAME"].reason


def test_where_the_distance_is_not_known_the_kernels_own_way_is_taken_and_that_is_said(machine: Machine) -> None:
    machine.interface("eth1", node=-1)
    chosen = machine.choose([1])["GLOO_SOCKET_IFNAME"]
    assert (chosen.value, chosen.reason) == (
        "eth0",
        f"leads to MASTER_ADDR={FIRST}; which of eth0, eth1 is next to the GPUs is not known",
    )


def test_what_the_user_has_set_stays(machine: Machine) -> None:
    environ = {"NCCL_IB_HCA": "mlx5_9", "NCCL_SOCKET_IFNAME": "ib0", "GLOO_SOCKET_IFNAME": "bond0"}
    chosen = machine.choose([1], **environ)
    assert {choice.value for choice in chosen.values()} == {None}
    assert chosen["NCCL_IB_HCA"].words == "NCCL_IB_HCA: stays mlx5_9, as it was set"


def test_on_the_cpu_only_gloo_is_told(machine: Machine) -> None:
    assert set(machine.choose([])) == {"GLOO_SOCKET_IFNAME"}


def test_a_name_that_stands_for_the_loopback_is_not_taken_and_the_user_is_told_what_to_type(
    machine: Machine, monkeypatch
) -> None:
    monkeypatch.setattr(nic, "leads_from", lambda first: "127.0.1.1")
    chosen = machine.choose([], first="node1")["GLOO_SOCKET_IFNAME"]
    assert chosen.value is None
    assert (
        "MASTER_ADDR=node1 is 127.0.1.1 on this machine, which others can not reach; set MASTER_ADDR to an address"
        in chosen.reason
    )


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(101, "Network is unreachable"), "Network is unreachable"),
        (socket.gaierror(-2, "not known"), "not known"),
    ],
)
def test_no_way_to_the_first_machine_is_said(machine: Machine, monkeypatch, error: OSError, said: str) -> None:
    def leads_from(first: str) -> str:
        raise error

    monkeypatch.setattr(nic, "leads_from", leads_from)
    chosen = machine.choose([])["GLOO_SOCKET_IFNAME"]
    assert (chosen.value, chosen.reason) == (None, f"not set: no way to MASTER_ADDR={FIRST} ({said})")


def test_an_address_that_no_interface_has_is_said(machine: Machine, monkeypatch) -> None:
    monkeypatch.setattr(nic, "leads_from", lambda first: "172.16.0.1")
    assert machine.choose([])["GLOO_SOCKET_IFNAME"].reason.startswith(
        "not set: no interface has the address 172.16.0.1"
    )


def test_this_machine_reaches_itself_by_its_loopback() -> None:
    assert nic.leads_from("127.0.0.1") == "127.0.0.1"
    assert "127.0.0.1" in [address for address, _ in nic.own_addresses()["lo"]]


@pytest.mark.parametrize(("local_rank", "lines"), [(0, 1), (1, 0)])
def test_one_rank_of_each_machine_tells_and_all_set(capfd, local_rank: int, lines: int) -> None:
    environ: dict[str, str] = {}
    here = World(
        rank=2 + local_rank, size=4, local_size=2, is_launched=True, local_rank=local_rank, node=1, address="127.0.0.1"
    )
    nic.choose_and_tell(here, list, environ)
    assert environ == {"GLOO_SOCKET_IFNAME": "lo"}
    assert (
        capfd.readouterr().err.count("network: machine 1: GLOO_SOCKET_IFNAME=lo: leads to MASTER_ADDR=127.0.0.1\n")
        == lines
    )


def test_on_one_machine_nothing_is_chosen_and_nobody_is_asked(capfd) -> None:
    def asked() -> list[int]:
        raise AssertionError("asked for the GPUs")

    environ: dict[str, str] = {}
    nic.choose_and_tell(World(rank=1, size=2, local_size=2, is_launched=True, local_rank=1), asked, environ)
    assert (environ, capfd.readouterr().err) == ({}, "")
