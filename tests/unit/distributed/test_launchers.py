# SPDX-License-Identifier: AGPL-3.0-or-later
"""What each launcher puts into the environment, and what we make of it. One table; the environments are as the launchers' documents have them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolov12.distributed import launchers
from yolov12.distributed.launchers import Machines, World, adopt, find, first_host, of_machine, of_process
from yolov12.errors import UserError

TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none",
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "GROUP_RANK": "1",
    "MASTER_ADDR": "first",
    "MASTER_PORT": "29500",
}
ARTICLES = {"MASTER_ADDR": "192.168.1.10", "MASTER_PORT": "29501", "WORLD_SIZE": "2", "NODE_RANK": "1"}
KUBEFLOW = {
    "PET_NNODES": "2",
    "PET_NPROC_PER_NODE": "auto",
    "PET_NODE_RANK": "1",
    "PET_MASTER_ADDR": "job-node-0-0.job",
    "PET_MASTER_PORT": "29400",
}
# The operator before Kubeflow Trainer sets these too, and counts pods in RANK.
KUBEFLOW_1 = KUBEFLOW | {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "job-master-0", "MASTER_PORT": "23456"}
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "MASTER_ADDR": "first",
}
MPICH = {"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}
SLURM_GPUS = {
    "SLURM_JOB_ID": "12",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "gpu[03-04]",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    "SLURM_PROCID": "6",
    "SLURM_LOCALID": "2",
    "SLURM_NODEID": "1",
}
SLURM_NODES = SLURM_GPUS | {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "0"}
SLURM_BATCH = {"SLURM_JOB_ID": "12", "SLURM_PROCID": "0", "SLURM_NODEID": "0", "SLURM_NTASKS": "8", "SLURM_NNODES": "2"}

PLACES = {
    "nobody": ({}, World()),
    "torchrun": (TORCHRUN, World(5, 8, 4, True, 1, 1, "first", 29500, "torchrun")),
    "torchrun inside Slurm": (SLURM_NODES | TORCHRUN, World(5, 8, 4, True, 1, 1, "first", 29500, "torchrun")),
    "torchrun inside Kubeflow": (KUBEFLOW | TORCHRUN, World(5, 8, 4, True, 1, 1, "first", 29500, "torchrun")),
    "Slurm, a task for each GPU": (SLURM_GPUS, World(6, 8, 4, True, 2, 1, "gpu03", 20084, "Slurm")),
    "Slurm, one node": (
        SLURM_GPUS | {"SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_TASKS_PER_NODE": "8", "SLURM_NODEID": "0"},
        World(6, 8, 8, True, 2, 0, "127.0.0.1", 20084, "Slurm"),
    ),
    "Slurm's batch script": (SLURM_BATCH, World()),
    "a shell in Slurm": (SLURM_BATCH | {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_NUM_NODES": "1"}, World()),
    "Open MPI": (OPEN_MPI, World(3, 4, 2, True, 1, 1, "first", 29500, "Open MPI")),
    "Open MPI inside Slurm": (SLURM_NODES | OPEN_MPI, World(3, 4, 2, True, 1, 1, "first", 29500, "Open MPI")),
    "MPICH on one machine": (MPICH, World(1, 2, 2, True, 1, 0, "127.0.0.1", 29500, "MPICH")),
    "one task of MPI": (MPICH | {"PMI_SIZE": "1", "PMI_RANK": "0", "MPI_LOCALRANKID": "0"}, World()),
}  # fmt: skip

MACHINES = {
    "the articles' form": (ARTICLES, (1, 2, "192.168.1.10", 29501, 0)),
    "with NNODES": ({"NODE_RANK": "0", "NNODES": "3", "MASTER_ADDR": "a"}, (0, 3, "a", 29500, 0)),
    "WORLD_SIZE in processes": (ARTICLES | {"WORLD_SIZE": "16", "NNODES": "2"}, (1, 2, "192.168.1.10", 29501, 8)),
    "WORLD_SIZE in machines": (ARTICLES | {"NNODES": "2"}, (1, 2, "192.168.1.10", 29501, 0)),
    "one machine": ({"NODE_RANK": "0", "NNODES": "1"}, (0, 1, "127.0.0.1", 29500, 0)),
    "Kubeflow": (KUBEFLOW, (1, 2, "job-node-0-0.job", 29400, 0)),
    "Kubeflow's older operator": (KUBEFLOW_1, (1, 2, "job-node-0-0.job", 29400, 0)),
    "Kubeflow, processes named": (KUBEFLOW | {"PET_NPROC_PER_NODE": "8"}, (1, 2, "job-node-0-0.job", 29400, 8)),
    "Slurm, a task for each node": (SLURM_NODES, (1, 2, "gpu03", 20084, 0)),
    "Slurm, an address given": (SLURM_NODES | {"MASTER_ADDR": "a", "MASTER_PORT": "7"}, (1, 2, "a", 7, 0)),
    "Slurm and NODE_RANK agree": (SLURM_NODES | ARTICLES, (1, 2, "192.168.1.10", 29501, 0)),
    "Open MPI, one for each machine": (
        OPEN_MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "0"},
        (3, 4, "first", 29500, 0),
    ),
}


@pytest.mark.parametrize(("environ", "expected"), PLACES.values(), ids=PLACES)
def test_a_process_for_each_gpu(environ, expected):
    assert find(environ) == expected


@pytest.mark.parametrize(("environ", "expected"), MACHINES.values(), ids=MACHINES)
def test_a_process_on_each_machine(environ, expected):
    found = find(environ)
    assert isinstance(found, Machines)
    assert (found.node, found.count, found.address, found.port, found.local_size) == expected
    assert found.reason


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        (TORCHRUN | {"RANK": "8"}, r"RANK=8 and WORLD_SIZE=8 contradict"),
        (TORCHRUN | {"LOCAL_RANK": "4"}, r"LOCAL_RANK=4 and LOCAL_WORLD_SIZE=4 contradict"),
        (TORCHRUN | {"LOCAL_RANK": ""}, r"LOCAL_RANK is not"),
        (TORCHRUN | {"RANK": "-1"}, r"RANK=-1: type a whole number"),
        ({"WORLD_SIZE": "2", "MASTER_ADDR": "a"}, r"WORLD_SIZE=2 is set, and neither NODE_RANK"),
        (ARTICLES | {"NODE_RANK": "2"}, r"NODE_RANK=2 and WORLD_SIZE=2 contradict"),
        (ARTICLES | {"MASTER_ADDR": ""}, r"MASTER_ADDR is not set"),
        (ARTICLES | {"WORLD_SIZE": ""}, r"NODE_RANK=1 is set, and NNODES is not"),
        (ARTICLES | {"WORLD_SIZE": "3", "NNODES": "2"}, r"WORLD_SIZE=3 and NNODES=2 contradict"),
        (ARTICLES | {"WORLD_SIZE": "8", "NNODES": "2", "GPUS_PER_NODE": "2"}, r"GPUS_PER_NODE=2 contradict"),
        (ARTICLES | {"MASTER_PORT": "x"}, r"MASTER_PORT=x: type a whole number"),
        (ARTICLES | {"MASTER_PORT": "65536"}, r"MASTER_PORT=65536: ports go up to 65535"),
        (TORCHRUN | {"MASTER_PORT": "99999"}, r"MASTER_PORT=99999: ports go up to 65535"),
        (KUBEFLOW | {"PET_MASTER_PORT": "99999"}, r"PET_MASTER_PORT=99999: ports go up to 65535"),
        (SLURM_NODES | ARTICLES | {"NODE_RANK": "0"}, r"SLURM_NODEID=1 contradict"),
        ({**SLURM_GPUS, "SLURM_PROCID": ""}, r"SLURM_PROCID is not set"),
        (KUBEFLOW | {"PET_NNODES": ""}, r"PET_NODE_RANK=1 and PET_NNODES=1 contradict"),
        (KUBEFLOW | {"PET_MASTER_ADDR": ""}, r"PET_MASTER_ADDR is not set"),
        (OPEN_MPI | {"MASTER_ADDR": ""}, r"MASTER_ADDR is not set"),
        (MPICH | {"PMI_RANK": "2"}, r"PMI_RANK=2 and PMI_SIZE=2 contradict"),
    ],
)
def test_contradictions_and_gaps_are_one_sentence(environ, words):
    with pytest.raises(UserError, match=words) as caught:
        find(environ)
    assert "\n" not in str(caught.value)


def test_the_articles_form_says_what_its_world_size_counts():
    assert "WORLD_SIZE=2, which counts machines here" in find(ARTICLES).reason


@pytest.mark.parametrize("environ", [case[0] for case in PLACES.values()], ids=PLACES)
def test_what_was_adopted_is_what_a_process_then_reads(environ):
    environ = dict(environ)
    found = adopt(environ)
    again = of_process(environ)
    assert (again.rank, again.size, again.local_rank, again.local_size, again.node, again.address, again.port) == (
        found.rank, found.size, found.local_rank, found.local_size, found.node, found.address, found.port
    )  # fmt: skip
    assert of_machine(environ) is None


@pytest.mark.parametrize("environ", [case[0] for case in MACHINES.values()], ids=MACHINES)
def test_what_was_adopted_is_what_a_machine_then_reads(environ):
    environ = dict(environ)
    found, again = adopt(environ), of_machine(environ)
    assert again
    assert (again.node, again.count, again.address, again.port, again.local_size) == (
        found.node, found.count, found.address, found.port, found.local_size
    )  # fmt: skip
    assert "RANK" not in environ, "ultralytics would take the machine for a rank"


def test_a_rank_that_a_machine_started_is_no_machine():
    assert of_machine(KUBEFLOW | ARTICLES | TORCHRUN) is None


def test_a_script_does_not_take_slurm_s_word():
    assert (of_process(SLURM_GPUS), of_machine(SLURM_GPUS)) == (World(), None)


@pytest.mark.parametrize(
    ("hosts", "first"),
    [("", ""), ("gpu03", "gpu03"), ("a,b", "a"), ("gpu[03-05,07],x", "gpu03"), ("rack1-[7,9]-ib,y", "rack1-7-ib"), ("a,b[1-2]", "a")],
)  # fmt: skip
def test_the_first_host_of_slurm_s_list(hosts, first):
    assert first_host(hosts) == first


@given(st.lists(st.integers(1, 16), min_size=1, max_size=6))
def test_slurm_s_tasks_of_each_node_are_read_back(counts):
    assert launchers._tasks_per_node(",".join(map(str, counts))) == counts


NAMES = [*TORCHRUN, *ARTICLES, *SLURM_GPUS, "NNODES", *OPEN_MPI, *MPICH, *KUBEFLOW]


@given(st.dictionaries(st.sampled_from(NAMES), st.sampled_from(["", "0", "1", "2", "8", "x"])))
def test_whatever_is_set_it_is_understood_or_refused(environ):
    try:
        found = find(environ)
    except UserError:
        return
    if isinstance(found, World):
        assert 0 <= found.rank < found.size
        assert 0 <= found.local_rank < found.local_size
    else:
        assert 0 <= found.node < found.count
