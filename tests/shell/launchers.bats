#!/usr/bin/env bats
# SPDX-License-Identifier: AGPL-3.0-or-later
# scripts/VERB.sh, with a stub in the place of `yolov12`.

bats_require_minimum_version 1.5.0
load common

# A checkout with the scripts and nothing else.
setup() {
    checkout="$BATS_TEST_TMPDIR/my checkout"
    mkdir -p "$checkout/.venv/bin"
    cp -r "${repo:?}/scripts" "$checkout"
    cd "$BATS_TEST_TMPDIR" || return
}

@test "each launcher names its verb and keeps the arguments whole" {
    stub_echo yolov12
    for verb in train val predict export bench; do
        run "$checkout/scripts/$verb.sh" 'data=my data.yaml' "name=it's *"
        [ "$output" = "yolov12 [$verb] [data=my data.yaml] [name=it's *]" ]
    done
}

@test "the exit code is the verb's" {
    stub yolov12 'exit 75'
    run -75 "$checkout/scripts/train.sh"
}

@test "the active environment comes before the checkout's" {
    stub yolov12 'echo active'
    cp "$BATS_TEST_TMPDIR/bin/yolov12" "$checkout/.venv/bin"
    run "$checkout/scripts/val.sh"
    [ "$output" = active ]
}

@test "without an active environment the checkout's is used" {
    ln -s "$(type -P echo)" "$checkout/.venv/bin/yolov12"
    PATH=/usr/bin:/bin run "$checkout/scripts/val.sh" model=best.pt
    [ "$output" = "val model=best.pt" ]
}

@test "with neither it says what to run" {
    PATH=/usr/bin:/bin run -2 "$checkout/scripts/val.sh"
    [[ $output == *"no yolov12 on PATH and none in $checkout/.venv: run \"make setup\" there"* ]]
}

# Several machines

multinode() {
    env -u NNODES -u NODE_RANK -u MASTER_ADDR -u MASTER_PORT -u GPUS_PER_NODE -u SLURM_NNODES -u SLURM_NODEID -u SLURM_JOB_NODELIST \
        "$@"
}

@test "on several machines torchrun gets the place of this one, and the arguments whole" {
    stub_echo torchrun
    run multinode NNODES=2 NODE_RANK=1 MASTER_ADDR=first "$checkout/scripts/multinode.sh" train 'data=my data.yaml'
    printed "torchrun [--nnodes=2] [--node-rank=1] [--master-addr=first] [--master-port=29500] [--nproc-per-node=gpu] [--module] [yolov12.cli] [train] [data=my data.yaml]"
}

@test "under Slurm the place comes from Slurm" {
    stub_echo torchrun
    for list in "gpu[03-05,07],x" "gpu03,gpu04" "gpu03"; do
        run multinode SLURM_NNODES=4 SLURM_NODEID=2 SLURM_JOB_NODELIST="$list" GPUS_PER_NODE=8 MASTER_PORT=3 "$checkout/scripts/multinode.sh" train
        printed "torchrun [--nnodes=4] [--node-rank=2] [--master-addr=gpu03] [--master-port=3] [--nproc-per-node=8] [--module] [yolov12.cli] [train]"
        printed "multinode: machine 2 of 4, the first is gpu03:3"
    done
}

@test "without a place it says what to type" {
    stub_echo torchrun
    run -2 multinode "$checkout/scripts/multinode.sh" train
    [ "$output" = "multinode: NNODES=: how many machines? Type NNODES=2, or start it with srun" ]
    run -2 multinode NNODES=2 NODE_RANK=2 "$checkout/scripts/multinode.sh" train
    [ "$output" = "multinode: NODE_RANK=2: which machine is this? Type a number from 0 to 1" ]
    run -2 multinode NNODES=2 NODE_RANK=0 "$checkout/scripts/multinode.sh" train
    [ "$output" = "multinode: MASTER_ADDR is not set: type the name or address of the machine with NODE_RANK=0" ]
    run -2 multinode NNODES=2 NODE_RANK=0 MASTER_ADDR=first "$checkout/scripts/multinode.sh"
    [[ $output == "multinode: which verb?"* ]]
}

@test "without torchrun it says what to run" {
    PATH=/usr/bin:/bin run -2 multinode NNODES=2 NODE_RANK=0 MASTER_ADDR=first "$checkout/scripts/multinode.sh" train
    [[ $output == *"no torchrun on PATH and no $checkout/.venv/bin/torchrun"* ]]
}
