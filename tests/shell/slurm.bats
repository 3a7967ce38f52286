#!/usr/bin/env bats
# SPDX-License-Identifier: AGPL-3.0-or-later
# deploy/slurm/*.sbatch, with stubs in the place of srun and scontrol. No Slurm has run them.

bats_require_minimum_version 1.5.0
load common

setup() {
    slurm=${repo:?}/deploy/slurm
    cd "$BATS_TEST_TMPDIR" || return
    export SLURM_JOB_ID=7 SLURM_SUBMIT_DIR="$BATS_TEST_TMPDIR/check out"
    unset IMAGE DATA WORKSPACE NAME CHECKOUT SLURM_RESTART_COUNT
    stub_echo srun scontrol
}

@test "they are clean for shellcheck and shfmt" {
    "$repo/.venv/bin/shellcheck" "$slurm"/*.sbatch
    "$repo/.venv/bin/shfmt" -d -ln bash -i 4 "$slurm"/*.sbatch
}

@test "one task on each node, a signal before the end, and the job may be queued again" {
    for script in "$slurm"/*.sbatch; do
        for option in ntasks-per-node=1 signal=USR1@120 requeue open-mode=append exclusive; do
            grep -qx "#SBATCH --$option" "$script"
        done
    done
}

@test "without a container the launcher of the checkout runs, with the arguments whole" {
    run -0 "$slurm/train.sbatch" 'data=my data.yaml' batch=64
    [ "$output" = "srun [--kill-on-bad-exit=1] [$SLURM_SUBMIT_DIR/scripts/multinode.sh] [train] [data=my data.yaml] [batch=64] [name=job7] [exist_ok=True]" ]
}

@test "in the image the data is mounted to be read only" {
    IMAGE=/a.sqsh DATA=/shared/coco NAME=mine run -0 "$slurm/pyxis.sbatch" data=/data/coco.yaml
    printed "srun [--kill-on-bad-exit=1] [--container-image=/a.sqsh] [--container-mounts=$PWD:/workspace,/shared/coco:/data:ro] [--container-workdir=/workspace] [--no-container-mount-home] [--container-writable] [yolov12] [train] [data=/data/coco.yaml] [name=mine] [exist_ok=True]"
}

@test "without an image it says what is missing" {
    run -1 "$slurm/pyxis.sbatch" data=a.yaml
    [[ $output == *"IMAGE: is not set: the path of a squashfs file"* ]]
}

@test "what is worth a retry is queued again, and ends with its own code" {
    for code in 75 143; do
        stub srun "exit $code"
        run "-$code" "$slurm/train.sbatch" data=a.yaml
        printed "scontrol [requeue] [7]"
        IMAGE=/a.sqsh run "-$code" "$slurm/pyxis.sbatch" data=a.yaml
        printed "scontrol [requeue] [7]"
    done
}

@test "a mistake is not queued again" {
    stub srun "exit 2"
    run -2 "$slurm/train.sbatch" data=a.yaml
    [ "$output" = "" ]
}

@test "a job that was queued again resumes from its checkpoint, where there is one" {
    export SLURM_RESTART_COUNT=1
    run -0 "$slurm/train.sbatch" data=a.yaml
    [[ $output == *"[train] [data=a.yaml]"* ]]
    mkdir -p runs/detect/job7/weights
    touch runs/detect/job7/weights/last.pt
    run -0 "$slurm/train.sbatch" data=a.yaml
    [[ $output == *"[train] [resume=$PWD/runs/detect/job7/weights/last.pt]" ]]
    IMAGE=/a.sqsh run -0 "$slurm/pyxis.sbatch" data=a.yaml
    [[ $output == *"[train] [resume=/workspace/runs/detect/job7/weights/last.pt]" ]]
}
