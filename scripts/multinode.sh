#!/usr/bin/env bash
# SPDX-License-Identifier: AGPL-3.0-or-later
# multinode.sh VERB ARGUMENTS...: a verb on several machines, on all GPUs of each. To be started once on every machine; under Slurm:
#   srun --nodes=2 --ntasks-per-node=1 scripts/multinode.sh train data=coco.yaml model=yolov12s.yaml batch=512
# without it, on the first machine (on the second with NODE_RANK=1):
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=first-machine scripts/multinode.sh train ...
# MASTER_PORT (29500) is the port on the first machine; GPUS_PER_NODE says how many processes, where it is not one for each GPU.
set -euo pipefail

die() {
    printf 'multinode: %s\n' "$*" >&2
    exit 2
}

# "gpu[03-05,07],login" -> gpu03: Slurm's own program for that, scontrol, is not in a container.
first_host() {
    local list=$1 numbers
    if [[ $list =~ ^([^][,]*)\[([^]]*)\]([^,]*) ]]; then
        numbers=${BASH_REMATCH[2]}
        echo "${BASH_REMATCH[1]}${numbers%%[-,]*}${BASH_REMATCH[3]}"
    else
        echo "${list%%,*}"
    fi
}

nodes=${NNODES:-${SLURM_NNODES:-}}
rank=${NODE_RANK:-${SLURM_NODEID:-}}
address=${MASTER_ADDR:-$(first_host "${SLURM_JOB_NODELIST:-}")}
(($#)) || die "which verb? For example: multinode.sh train data=coco.yaml model=yolov12s.yaml"
[[ $nodes =~ ^[1-9][0-9]*$ ]] || die "NNODES=$nodes: how many machines? Type NNODES=2, or start it with srun"
if [[ ! $rank =~ ^[0-9]+$ ]] || ((rank >= nodes)); then
    die "NODE_RANK=$rank: which machine is this? Type a number from 0 to $((nodes - 1))"
fi
[[ -n $address ]] || die "MASTER_ADDR is not set: type the name or address of the machine with NODE_RANK=0"

torchrun=$(type -P torchrun) || torchrun=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)/.venv/bin/torchrun
[[ -x $torchrun ]] || die "no torchrun on PATH and no $torchrun: run \"make setup\", or activate the environment that has it"
printf 'multinode: machine %s of %s, the first is %s:%s\n' "$rank" "$nodes" "$address" "${MASTER_PORT:-29500}" >&2
exec "$torchrun" --nnodes="$nodes" --node-rank="$rank" --master-addr="$address" --master-port="${MASTER_PORT:-29500}" \
    --nproc-per-node="${GPUS_PER_NODE:-gpu}" --module yolov12.cli "$@"
