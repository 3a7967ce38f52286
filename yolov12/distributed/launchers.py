# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which launcher started this process, and what it says about the run: one mapping from the environment of each to ours.

There are two kinds. A launcher may start one process for each GPU, as torchrun does: this process is then a `World`'s rank. Or it may start one
process on each machine, as Kubernetes does: this process is then one of the run's `Machines`, and starts the ranks of its own (engine/launch.py).

    launcher                                   variables                                                   kind
    torchrun                                   RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, GROUP_RANK   a process for each GPU
    Kubeflow                                   PET_NNODES, PET_NODE_RANK, PET_MASTER_ADDR, ...              one on each machine
    by hand, JobSet, scripts/multinode.sh      NODE_RANK, MASTER_ADDR, and NNODES or WORLD_SIZE             one on each machine
    Open MPI                                   OMPI_COMM_WORLD_RANK, ..._SIZE, ..._LOCAL_RANK, ..._SIZE     either
    MPICH, Intel MPI                           PMI_RANK, PMI_SIZE, MPI_LOCALRANKID, MPI_LOCALNRANKS         either
    Slurm, in a step that srun started         SLURM_PROCID, SLURM_STEP_NUM_TASKS, SLURM_NODEID, ...        either

The first that is there counts: torchrun may run inside each of the others, and mpirun inside Slurm. Only a command of ours takes Slurm's and MPI's
word for it: `srun -n 8 python my_script.py` may as well be eight runs that know nothing of each other.

Knows nothing of torch, so that a mistake is told in an instant.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from yolov12.errors import UserError
from yolov12.log import say

DEFAULT_PORT = 29500
"""torchrun's."""
HIGHEST_PORT = 65535
LOOPBACK = "127.0.0.1"

Environment = Mapping[str, str]


@dataclass(frozen=True)
class World:
    """This process's place among the processes of the run."""

    rank: int = 0
    size: int = 1
    local_size: int = 1
    is_launched: bool = False
    """Whether a launcher such as torchrun started this process, be it as the only rank."""
    local_rank: int = 0
    node: int = 0
    """Which of the run's machines this is."""
    address: str = ""
    """Of the machine with rank 0; "" where the launcher did not say."""
    port: int = 0
    launcher: str = ""
    """Whose word this is, for the log; "" for a process that nobody launched."""

    @property
    def is_alone(self) -> bool:
        """Whether this process trains by itself, without process groups. ultralytics' loaders want a group wherever RANK is set."""
        return not self.is_launched

    def as_torchrun(self) -> dict[str, str]:
        """What torchrun would have set: torch and ultralytics read nothing else."""
        return {
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.size),
            "LOCAL_RANK": str(self.local_rank),
            "LOCAL_WORLD_SIZE": str(self.local_size),
            "GROUP_RANK": str(self.node),
            "MASTER_ADDR": self.address,
            "MASTER_PORT": str(self.port),
        }


@dataclass(frozen=True)
class Machines:
    """This machine's place among those of the run, where each starts its own ranks."""

    node: int
    count: int
    address: str
    port: int
    launcher: str
    reason: str
    """What the place was read from, for the log."""
    local_size: int = 0
    """How many ranks each machine starts; 0: one for each GPU, one without."""

    def as_variables(self) -> dict[str, str]:
        """The form that is understood from any launcher, for child processes."""
        said = {
            "NODE_RANK": str(self.node),
            "NNODES": str(self.count),
            "MASTER_ADDR": self.address,
            "MASTER_PORT": str(self.port),
        }
        return said | ({"GPUS_PER_NODE": str(self.local_size)} if self.local_size else {})


def of_process(environ: Environment | None = None) -> World:
    """The world that torchrun, or `adopt`, described; a world of one without them.

    Raises:
        UserError: the variables contradict each other, or some are missing.
    """
    environ = os.environ if environ is None else environ
    if not environ.get("RANK"):
        return World()
    rank, size = _number(environ, "RANK"), _number(environ, "WORLD_SIZE", least=1, default=1)
    local_size = _number(environ, "LOCAL_WORLD_SIZE", least=1, default=size)
    if size > 1 and not environ.get("LOCAL_RANK"):
        raise UserError(
            f"RANK={rank} and WORLD_SIZE={size} are set, and LOCAL_RANK is not, which says what GPU of its machine this rank takes: "
            "start it with torchrun, or unset RANK and WORLD_SIZE"
        )
    local_rank = _number(environ, "LOCAL_RANK", default=0)
    for name, value, of, limit in (
        ("RANK", rank, "WORLD_SIZE", size),
        ("LOCAL_RANK", local_rank, "LOCAL_WORLD_SIZE", local_size),
    ):
        if value >= limit:
            raise UserError(f"{name}={value} and {of}={limit} contradict each other: ranks count from 0 to {limit - 1}")
    return World(
        rank,
        size,
        local_size,
        True,
        local_rank,
        node=_number(environ, "GROUP_RANK", default=rank // local_size),
        address=environ.get("MASTER_ADDR", ""),
        port=_port(environ, "MASTER_PORT", least=0, default=0),
        launcher="torchrun" if environ.get("TORCHELASTIC_RUN_ID") else "RANK and WORLD_SIZE",
    )


def of_machine(environ: Environment | None = None) -> Machines | None:
    """The machines that PET_* or NODE_RANK describe; None where they do not, or where this process is a rank already.

    Raises:
        UserError: the variables contradict each other, or some are missing.
    """
    environ = os.environ if environ is None else environ
    if environ.get("PET_NODE_RANK"):  # before RANK: Kubeflow's older operator sets that too, and means the machine
        return None if environ.get("LOCAL_RANK") else _kubeflow(environ)
    if environ.get("RANK"):
        return None
    if environ.get("NODE_RANK"):
        return _by_hand(environ)
    return None


def find(environ: Environment | None = None) -> World | Machines:
    """What the first launcher in the table above says; `World()` where there is none.

    Raises:
        UserError: the variables contradict each other, or some are missing.
    """
    environ = os.environ if environ is None else environ
    if machines := of_machine(environ):
        _agree_with_slurm(machines, environ)
        return machines
    if environ.get("RANK"):
        return of_process(environ)
    for reader in (_open_mpi, _mpich, _slurm):
        if (found := reader(environ)) is not None:
            return found
    if _number(environ, "WORLD_SIZE", least=1, default=1) > 1:
        raise UserError(
            f"WORLD_SIZE={environ['WORLD_SIZE']} is set, and neither NODE_RANK (which machine this is, with one command on each) "
            "nor RANK (which torchrun sets) is: set NODE_RANK, or unset WORLD_SIZE"
        )
    return World()


def adopt(environ: dict[str, str] | os._Environ[str] = os.environ) -> World | Machines:
    """`find`, say it, and pass it on to torch, ultralytics and our own children in the variables that they read.

    To be called before ultralytics is imported, which reads RANK once.

    Raises:
        UserError: the variables contradict each other, or some are missing.
    """
    found = find(environ)
    if isinstance(found, Machines):
        say(f"launcher: {found.launcher}: {found.reason}")
        environ.update(found.as_variables())
        # They counted machines, which torch and ultralytics would not understand.
        environ.pop("WORLD_SIZE", None)
        environ.pop("RANK", None)
    elif found.is_launched:
        environ.update(found.as_torchrun())
        say(f"launcher: {found.launcher}: {found.size} processes, {found.local_size} on this machine")
    return found


def first_host(hosts: str) -> str:
    """ "gpu[03-05,07],login" -> "gpu03": the first of a list as Slurm writes it; "" for an empty one."""
    bracket = re.match(r"([^\[\],]*)\[([^\]]*)\]([^,\[]*)", hosts)
    if bracket:
        return bracket[1] + re.split("[-,]", bracket[2])[0] + bracket[3]
    return hosts.split(",")[0]


def _kubeflow(environ: Environment) -> Machines:
    node, count = _number(environ, "PET_NODE_RANK"), _number(environ, "PET_NNODES", least=1, default=1)
    _is_below("PET_NODE_RANK", node, "PET_NNODES", count)
    per_machine = environ.get("PET_NPROC_PER_NODE", "")
    return Machines(
        node,
        count,
        environ.get("PET_MASTER_ADDR") or _address(environ, count, "PET_MASTER_ADDR"),
        _port(environ, "PET_MASTER_PORT", default=_port(environ, "MASTER_PORT", default=DEFAULT_PORT)),
        "Kubeflow",
        f"PET_NODE_RANK={node} of PET_NNODES={count}",
        # auto, gpu and cpu are torchrun's words for what we find out ourselves
        local_size=int(per_machine) if per_machine.isdigit() else 0,
    )


def _by_hand(environ: Environment) -> Machines:
    """NODE_RANK and MASTER_ADDR exported, and one command on each machine.

    WORLD_SIZE is torch's word for the number of processes, and in this form people write the number of machines into it. It counts machines here,
    because everything else in the form does: NODE_RANK numbers them, and one command is started on each. Where NNODES is set as well, WORLD_SIZE
    may be either.
    """
    node = _number(environ, "NODE_RANK")
    per_machine = _number(environ, "GPUS_PER_NODE", least=1, default=0)
    said = _number(environ, "WORLD_SIZE", least=1, default=0)
    count = _number(environ, "NNODES", least=1, default=said)
    if not count:
        raise UserError(
            f"NODE_RANK={node} is set, and NNODES is not: type NNODES=2 for two machines, or unset NODE_RANK"
        )
    if not environ.get("NNODES"):
        reason = f"NODE_RANK={node}, and WORLD_SIZE={said}, which counts machines here (if yours counts processes, set NNODES)"
        name = "WORLD_SIZE"
    else:
        if said and said % count:
            raise UserError(
                f"WORLD_SIZE={said} and NNODES={count} contradict each other: {said} is neither the number of machines nor a multiple of it; "
                "unset WORLD_SIZE"
            )
        if said > count:
            per_machine = per_machine or said // count
            if per_machine != said // count:
                raise UserError(
                    f"WORLD_SIZE={said}, NNODES={count} and GPUS_PER_NODE={per_machine} contradict each other: unset WORLD_SIZE"
                )
        reason, name = f"NODE_RANK={node} of NNODES={count}", "NNODES"
    _is_below("NODE_RANK", node, name, count)
    port = _port(environ, "MASTER_PORT", default=DEFAULT_PORT)
    return Machines(node, count, _address(environ, count), port, "the environment", reason, per_machine)


def _open_mpi(environ: Environment) -> World | Machines | None:
    if not environ.get("OMPI_COMM_WORLD_SIZE"):
        return None
    prefix = "OMPI_COMM_WORLD_"
    names = (f"{prefix}RANK", f"{prefix}SIZE", f"{prefix}LOCAL_RANK", f"{prefix}LOCAL_SIZE")
    return _of_tasks(environ, "Open MPI", names, node=_number(environ, f"{prefix}NODE_RANK", default=0))


def _mpich(environ: Environment) -> World | Machines | None:
    if not environ.get("PMI_SIZE") or not environ.get(
        "MPI_LOCALNRANKS"
    ):  # srun --mpi=pmi2 sets only the first, and Slurm's say the same
        return None
    return _of_tasks(environ, "MPICH", ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"), node=0)


def _of_tasks(
    environ: Environment, launcher: str, names: tuple[str, str, str, str], node: int
) -> World | Machines | None:
    """What an MPI launcher says in four variables; with one task on each machine, each of which starts its own ranks."""
    rank, size, local_rank, local_size = (
        _number(environ, name, least=least) for name, least in zip(names, (0, 1, 0, 1), strict=True)
    )
    _is_below(names[0], rank, names[1], size)
    _is_below(names[2], local_rank, names[3], local_size)
    if size == 1:
        return None
    port = _port(environ, "MASTER_PORT", default=DEFAULT_PORT)
    address = LOOPBACK if local_size == size else _address(environ, size)
    if local_size == 1:
        return Machines(
            rank, size, address, port, launcher, f"{names[0]}={rank} of {names[1]}={size}, one on each machine"
        )
    return World(rank, size, local_size, True, local_rank, node or rank // local_size, address, port, launcher)


def _slurm(environ: Environment) -> World | Machines | None:
    """A task of a step that srun started. In the batch script itself and in `srun --pty bash` there is one task: nobody was launched."""
    if not environ.get("SLURM_STEP_ID", "").isdigit() or not environ.get("SLURM_STEP_NUM_TASKS"):
        return None
    tasks, nodes = (_number(environ, f"SLURM_STEP_NUM_{what}", least=1) for what in ("TASKS", "NODES"))
    if tasks == 1:
        return None
    rank, node = _number(environ, "SLURM_PROCID"), _number(environ, "SLURM_NODEID")
    _is_below("SLURM_PROCID", rank, "SLURM_STEP_NUM_TASKS", tasks)
    _is_below("SLURM_NODEID", node, "SLURM_STEP_NUM_NODES", nodes)
    hosts = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST", "")
    address = environ.get("MASTER_ADDR") or (LOOPBACK if nodes == 1 else first_host(hosts))
    # Jobs share machines: each has a port of its own, below what Linux gives to clients.
    own = 20000 + (_number(environ, "SLURM_JOB_ID", default=0) * 7 + int(environ["SLURM_STEP_ID"])) % 10000
    port = _port(environ, "MASTER_PORT", default=own)
    if tasks == nodes:
        reason = f"SLURM_NODEID={node} of {nodes} nodes with a task each"
        per_machine = _number(environ, "GPUS_PER_NODE", least=1, default=0)
        return Machines(node, nodes, address, port, "Slurm", reason, per_machine)
    local_rank, counts = (
        _number(environ, "SLURM_LOCALID"),
        _tasks_per_node(environ.get("SLURM_STEP_TASKS_PER_NODE", "")),
    )
    local_size = counts[node] if node < len(counts) else -(-tasks // nodes)
    _is_below("SLURM_LOCALID", local_rank, "SLURM_STEP_TASKS_PER_NODE", local_size)
    return World(rank, tasks, local_size, True, local_rank, node, address, port, "Slurm")


def _tasks_per_node(text: str) -> list[int]:
    """ "4(x2),3" -> [4, 4, 3]; nothing for what is not written so."""
    parts = [re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part) for part in text.split(",")]
    return [int(part[1]) for part in parts if part for _ in range(int(part[2] or 1))] if all(parts) else []


def _agree_with_slurm(machines: Machines, environ: Environment) -> None:
    """NODE_RANK exported in a batch script is the same on every node that srun then starts on."""
    node, nodes = environ.get("SLURM_NODEID", ""), environ.get("SLURM_STEP_NUM_NODES", "")
    if node.isdigit() and nodes.isdigit() and int(nodes) > 1 and int(node) != machines.node:
        raise UserError(
            f"{machines.reason}, and SLURM_NODEID={node} contradict each other: unset NODE_RANK, which srun gives to all nodes alike"
        )


def _number(environ: Environment, name: str, least: int = 0, default: int | None = None) -> int:
    text = environ.get(name, "").strip()
    if not text:
        if default is None:
            raise UserError(f"{name} is not set, though other variables of its launcher are: set it, or unset those")
        return default
    if not re.fullmatch(r"\d+", text) or int(text) < least:
        raise UserError(f"{name}={text}: type a whole number of at least {least}, or unset it")
    return int(text)


def _port(environ: Environment, name: str, default: int, least: int = 1) -> int:
    port = _number(environ, name, least=least, default=default)
    if port > HIGHEST_PORT:
        raise UserError(f"{name}={port}: ports go up to {HIGHEST_PORT}: set another one on all machines")
    return port


def _is_below(name: str, value: int, of: str, limit: int) -> None:
    if value >= limit:
        raise UserError(
            f"{name}={value} and {of}={limit} contradict each other: they are numbered from 0 to {limit - 1}"
        )


def _address(environ: Environment, count: int, name: str = "MASTER_ADDR") -> str:
    if address := environ.get("MASTER_ADDR", ""):
        return address
    if count > 1:
        raise UserError(
            f"{name} is not set: type the name or address of the first of the {count} machines, on all of them"
        )
    return LOOPBACK
