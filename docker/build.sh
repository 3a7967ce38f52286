#!/usr/bin/env bash
# SPDX-License-Identifier: AGPL-3.0-or-later
# Builds the image into the local engine, and lets it prove itself. All variables are optional:
#   VARIANT=train            what to build (env/matrix.yaml)
#   ARCHS="80 90"            the GPU archs that the image must have code for
#   FLASH_ATTN=hd32          the FlashAttention kernels: hd32 or none
#   DALI=0                   without NVIDIA DALI
#   TENSORRT=rtx             with TensorRT: none (the default), rtx, or 10 or 11, which need TENSORRT_INDEX=ADDRESS
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
case ${FLASH_ATTN:-hd32} in
hd32 | none) ;;
full) die "FLASH_ATTN=full: upstream's whole build takes hours and is not part of this version; type FLASH_ATTN=hd32 or none" ;;
*) die "FLASH_ATTN=$FLASH_ATTN: type FLASH_ATTN=hd32 or none" ;;
esac
[[ ${DALI:-1} == [01] ]] || die "DALI=$DALI: type DALI=1 or DALI=0"
case ${TENSORRT:-none} in
none | rtx) ;;
10 | 11)
    [[ -n ${TENSORRT_INDEX-} ]] || die "TENSORRT=$TENSORRT needs TENSORRT_INDEX=ADDRESS, the package index of NVIDIA or a mirror of it:" \
        "no public one has these libraries. TENSORRT=rtx and none do without"
    ;;
*) die "TENSORRT=$TENSORRT: type TENSORRT=none, 10, 11 or rtx" ;;
esac

# bake puts these from the environment into the plan; set but empty means not set.
for name in BASE_IMAGE ARCHS FLASH_ATTN DALI TENSORRT TENSORRT_INDEX; do
    [[ -n ${!name-} ]] || unset "$name"
done
plan() { docker buildx bake --progress quiet --file docker/docker-bake.json --print "$variant"; }
unset INPUTS
INPUTS=$(plan | python3 docker/inputs.py "$variant")
export INPUTS
mapfile -d '' -t planned < <(plan | python3 docker/replay.py "$variant")
((${#planned[@]})) || die "docker/replay.py made nothing of the plan for $variant"

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
