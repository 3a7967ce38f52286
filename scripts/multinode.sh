#!/usr/bin/env bash
# SPDX-License-Identifier: AGPL-3.0-or-later
# multinode.sh VERB ARGUMENTS...: train (or nccl-test) on several machines, on all GPUs of each. To be started once on every machine; under Slurm:
#   srun --nodes=2 --ntasks-per-node=1 scripts/multinode.sh train data=coco.yaml model=yolov12s.yaml batch=512
# without it, on the first machine (on the second with NODE_RANK=1):
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=first-machine scripts/multinode.sh train ...
# MASTER_PORT (29500) is the port on the first machine; GPUS_PER_NODE says how many processes, where it is not one for each GPU.
# The program reads the same variables itself (yolov12/distributed/launchers.py); this says what is missing where none of them is there.
set -euo pipefail

die() {
    printf 'multinode: %s\n' "$*" >&2
    exit 2
}

case ${1-} in
train | nccl-test) ;;
'') die "which verb? For example: multinode.sh train data=coco.yaml model=yolov12s.yaml" ;;
*) die "$1 runs on one machine; train and nccl-test run on several" ;;
esac
if [[ -z ${NODE_RANK-}${PET_NODE_RANK-}${OMPI_COMM_WORLD_SIZE-}${PMI_SIZE-}${SLURM_STEP_NUM_TASKS-} ]]; then
    die "which machine is this? Type NNODES=2 NODE_RANK=0 MASTER_ADDR=first-machine before it, or start it with srun"
fi
exec "$(dirname -- "${BASH_SOURCE[0]}")/launch.sh" "$@"
