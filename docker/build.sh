#!/usr/bin/env bash
# SPDX-License-Identifier: AGPL-3.0-or-later
# Builds the image into the local engine. All variables are optional:
#   VARIANT=train            what to build (env/matrix.yaml)
#   ARCHS="80 90"            the GPU archs that the image must have code for
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

# bake puts BASE_IMAGE and ARCHS from the environment into the plan; set but empty means not set.
[[ -n ${BASE_IMAGE-} ]] || unset BASE_IMAGE
[[ -n ${ARCHS-} ]] || unset ARCHS
plan=$(docker buildx bake --file docker/docker-bake.json --print "$variant")
mapfile -d '' -t planned < <(python3 docker/replay.py "$variant" <<<"$plan")
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
read -r id bytes < <(docker image inspect --format '{{.Id}} {{.Size}}' "$tag")
awk -v tag="$tag" -v id="$id" -v bytes="$bytes" 'BEGIN { printf "built %s %s %.2f GB\n", tag, id, bytes / 1e9 }'
