#!/usr/bin/env bash
# SPDX-License-Identifier: AGPL-3.0-or-later
# Builds the image into the local engine, and lets it prove itself. All variables are optional:
#   VARIANT=train            what to build (env/matrix.yaml)
#   ARCHS="80 90"            the GPU archs that the image must have code for
#   CUDA=13.0                the CUDA line: 13.0, or 12.8 for drivers before 580; the image is then yolov12:$VARIANT-cu128
#   ENV_MANAGER=venv         who makes the environment: venv, or conda (Miniforge); the image is then yolov12:$VARIANT-conda
#   FLASH_ATTN=hd32          the FlashAttention kernels: hd32, none or full (upstream's whole: hours, MAX_JOBS compilers at once)
#   NCCL_TESTS=0             1: NVIDIA's all_reduce_perf instead of our check under its name
#   BASE_IMAGE=...           instead of the pinned Debian
#   BUILD_NETWORK=host       the network of the build's commands
#   CA_BUNDLE=/path/ca.crt   certificates for a private mirror or an inspected network; a build secret, not in the image
#   TAG=name:tag             a further name, beside yolov12:$VARIANT
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

variant=${VARIANT:-train}

die() {
    printf 'build: %s\n' "$*" >&2
    exit 2
}

docker buildx version >/dev/null 2>&1 || die "docker with buildx is needed: https://docs.docker.com/engine/install/"
[[ -z ${CA_BUNDLE-} || -s $CA_BUNDLE ]] || die "CA_BUNDLE=$CA_BUNDLE: no such file, or an empty one"
# known NAME VALUE...: the variable, where it is set, has one of these values.
known() {
    local name=$1 value
    shift
    for value in "" "$@"; do
        [[ ${!name-} != "$value" ]] || return 0
    done
    die "$name=${!name}: type one of $*"
}
known CUDA 13.0 12.8
known ENV_MANAGER venv conda
known FLASH_ATTN hd32 none full
known NCCL_TESTS 0 1

# A CUDA line and a manager are variants of their own, with locks and budgets of their own.
chosen=$variant
[[ ${CUDA:-13.0} == 13.0 ]] || variant+=-cu128
[[ ${ENV_MANAGER:-venv} == venv ]] || variant+=-conda
[[ $variant == "$chosen" ]] || grep -qF "\"yolov12:$variant\"" docker/docker-bake.json ||
    die "VARIANT=$chosen CUDA=${CUDA:-13.0} ENV_MANAGER=${ENV_MANAGER:-venv} is not built: env/matrix.yaml has what is, and under exclusions why"

# bake puts these from the environment into the plan; set but empty means not set.
for name in BASE_IMAGE ARCHS FLASH_ATTN NCCL_TESTS MAX_JOBS; do
    [[ -n ${!name-} ]] || unset "$name"
done
plan() { docker buildx bake --progress quiet --file docker/docker-bake.json --print "$variant"; }
unset INPUTS
INPUTS=$(plan | python3 docker/inputs.py "$variant")
export INPUTS
mapfile -d '' -t planned < <(plan | python3 docker/replay.py "$variant")
((${#planned[@]})) || die "docker/replay.py made nothing of the plan for $variant"

# What is fixed for a variant does not follow the caller's variable, and must not be lost silently.
for name in FLASH_ATTN NCCL_TESTS; do
    for argument in "${planned[@]}"; do
        [[ -z ${!name-} || $argument != "$name="* || $argument == "$name=${!name}" ]] ||
            die "$name=${!name}: yolov12:$variant is built with $argument only; env/matrix.yaml says why, under exclusions"
    done
done

options=(--load)
[[ -z ${BUILD_NETWORK-} ]] || options+=(--network "$BUILD_NETWORK")
[[ -z ${CA_BUNDLE-} ]] || options+=(--secret "id=ca,src=$CA_BUNDLE")
[[ -z ${TAG-} ]] || options+=(--tag "$TAG")
if revision=$(git rev-parse HEAD 2>/dev/null); then
    git diff --quiet HEAD || revision+=-dirty
    options+=(--label "org.opencontainers.image.revision=$revision")
fi
docker buildx build "${options[@]}" "${planned[@]}"

tag=yolov12:$variant
docker run --rm --network none "$tag" verify

read -r id bytes budget_gb < <(docker image inspect --format '{{.Id}} {{.Size}} {{index .Config.Labels "yolov12.size_budget_gb"}}' "$tag")
awk -v tag="$tag" -v id="$id" -v bytes="$bytes" -v budget="$budget_gb" 'BEGIN {
    if (bytes > budget * 1e9) {
        printf "build: %s is %.2f GB, more than its budget of %.2f GB (size_budget_gb in env/matrix.yaml)\n", tag, bytes / 1e9, budget >"/dev/stderr"
        exit 1
    }
    printf "built %s %s %.2f GB of %.2f GB\n", tag, id, bytes / 1e9, budget
}'
