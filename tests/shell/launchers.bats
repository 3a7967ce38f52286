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
    env -u NNODES -u NODE_RANK -u MASTER_ADDR -u PET_NODE_RANK -u OMPI_COMM_WORLD_SIZE -u PMI_SIZE -u SLURM_STEP_NUM_TASKS "$@"
}

@test "on several machines the arguments stay whole, and the variables reach the program" {
    # shellcheck disable=SC2016 # expands in the stub
    stub yolov12 'printf "%s" "$NODE_RANK of $NNODES"; printf " [%s]" "$@"; echo'
    run multinode NNODES=2 NODE_RANK=1 MASTER_ADDR=first "$checkout/scripts/multinode.sh" train 'data=my data.yaml'
    [ "$output" = "1 of 2 [train] [data=my data.yaml]" ]
}

@test "a task of Slurm, Kubeflow or MPI has its place" {
    stub_echo yolov12
    for place in SLURM_STEP_NUM_TASKS=2 PET_NODE_RANK=0 OMPI_COMM_WORLD_SIZE=2 PMI_SIZE=2; do
        run multinode "$place" "$checkout/scripts/multinode.sh" nccl-test
        [ "$output" = "yolov12 [nccl-test]" ]
    done
}

@test "without a place or a verb it says what to type" {
    stub_echo yolov12
    run -2 multinode "$checkout/scripts/multinode.sh" train
    [[ $output == "multinode: which machine is this? Type NNODES=2 NODE_RANK=0 MASTER_ADDR=first-machine"* ]]
    run -2 multinode NODE_RANK=0 "$checkout/scripts/multinode.sh"
    [[ $output == "multinode: which verb?"* ]]
    run -2 multinode NODE_RANK=0 "$checkout/scripts/multinode.sh" export
    [ "$output" = "multinode: export runs on one machine; train and nccl-test run on several" ]
}
