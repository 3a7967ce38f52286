#!/usr/bin/env bash
# SPDX-License-Identifier: AGPL-3.0-or-later
# Builds the image into the local engine, and lets it prove itself. All variables are optional:
#   VARIANT=train            what to build (env/matrix.yaml)
#   ARCHS="80 90"            the GPU archs that the image must have code for
#   CUDA=13.0                the CUDA line: 13.0, or 12.8 for drivers before 580; the image is then yolov12:$VARIANT-cu128
#   ENV_MANAGER=venv         who makes the environment: venv, or conda (Miniforge); the image is then yolov12:$VARIANT-conda
#   FLASH_ATTN=hd32          the FlashAttention kernels: hd32, none or full (upstream's whole: hours, MAX_JOBS compilers at once)
#   DALI=0                   without NVIDIA DALI
#   TENSORRT=rtx             with TensorRT: none (the default), rtx, or 10 or 11, which need TENSORRT_INDEX=ADDRESS
#   NCCL_TESTS=0             1: NVIDIA's all_reduce_perf instead of our check under its name
#   BASE_IMAGE=...           instead of the pinned Debian
#   BUILD_NETWORK=host       the network of the build's commands
#   MAX_JOBS=4               compilers at once for FLASH_ATTN=full; by default as many as cores and memory allow
#   NO_CACHE=1               take nothing from the builder's cache, so that Debian's updates get in
#   CA_BUNDLE=/path/ca.crt   certificates for a private mirror or an inspected network; a build secret, not in the image
#   NETRC=/path/netrc        logins for private mirrors, as curl's .netrc has them; a build secret like the certificates
#   TAG=name:tag             a further name, beside yolov12:$VARIANT
set -euo pipefail

# shellcheck source=docker/command.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/command.sh"
usage "$@"
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

variant=${VARIANT:-train}

die() {
    printf 'build: %s\n' "$*" >&2
    exit 2
}

# For what was built and is not what was to be built.
fail() {
    printf 'build: %s\n' "$*" >&2
    exit 1
}

docker buildx version >/dev/null 2>&1 || die "docker with buildx is needed: https://docs.docker.com/engine/install/"
engine_answers
python3 -c 'import sys; sys.exit(sys.version_info < (3, 9))' 2>/dev/null ||
    die "python3, 3.9 or newer, is needed, without packages (Debian, Ubuntu: apt install python3)"
for name in CA_BUNDLE NETRC; do
    [[ -z ${!name-} || -s ${!name} ]] || die "$name=${!name}: no such file, or an empty one"
done
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
known DALI 1 0
known TENSORRT none 10 11 rtx
known NCCL_TESTS 0 1
known NO_CACHE 0 1
archs=$(python3 -c 'import json; print(json.load(open("docker/docker-bake.json"))["variable"]["ARCHS"]["default"])')
if [[ -n ${ARCHS-} ]]; then
    read -r -a asked <<<"$ARCHS"
    for arch in "${asked[@]:-none}"; do
        [[ " $archs " == *" $arch "* ]] || die "ARCHS=$ARCHS: type some of $archs, with spaces between"
    done
fi
[[ ${MAX_JOBS:-auto} =~ ^(auto|[1-9][0-9]*)$ ]] || die "MAX_JOBS=$MAX_JOBS: type a number from 1 on, or leave it out"
host='[A-Za-z0-9.-]+(:[0-9]+)?/' part='[a-z0-9]+(([._]|__|-+)[a-z0-9]+)*' name_tag='[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}'
[[ -z ${TAG-} || $TAG =~ ^($host)?$part(/$part)*(:$name_tag)?$ ]] ||
    die "TAG=$TAG is no name of an image: type it as registry.example/team/yolov12:mine, the part before the colon in lower case"
# The password is not shown either.
[[ ! ${TENSORRT_INDEX-} =~ ^([A-Za-z+]+://)?[^/]*@ ]] ||
    die "TENSORRT_INDEX has a login in it, which would stay in the image's history: put that into a file and type NETRC=FILE (docs/registry.md)"
[[ -z ${TENSORRT_INDEX-} || ${TENSORRT-} == 1[01] ]] ||
    die "TENSORRT_INDEX=$TENSORRT_INDEX is for TENSORRT=10 and TENSORRT=11 alone: type one of them too, or leave it out"
[[ ${TENSORRT-} != 1[01] || -n ${TENSORRT_INDEX-} ]] ||
    die "TENSORRT=$TENSORRT needs TENSORRT_INDEX=ADDRESS, the package index of NVIDIA or a mirror of it:" \
        "no public one has these libraries. TENSORRT=rtx and none do without"

# takes NAME VALUE SUFFIX: this value makes another variant of it, with locks and budgets of its own, which can be named as well.
takes() {
    local name=$1 value=$2 suffix=$3
    if [[ $variant == *"$suffix" ]]; then
        [[ -z ${!name-} || ${!name} == "$value" ]] ||
            die "VARIANT=$variant $name=${!name}: this variant has $name=$value; leave one of them out"
    elif [[ ${!name-} == "$value" ]]; then
        variant+=$suffix
    fi
}
chosen=$variant
is_variant "$variant" || die "VARIANT=$variant: type one of $(variants)"
takes CUDA 12.8 -cu128
takes ENV_MANAGER conda -conda
is_variant "$variant" ||
    die "VARIANT=$chosen CUDA=${CUDA:-13.0} ENV_MANAGER=${ENV_MANAGER:-venv} is not built: env/matrix.yaml has what is, and under exclusions why"

# The bake file names what it was rendered from: a pin that was changed since would silently not be in the image.
pins=$(cat env/versions.yaml env/matrix.yaml | sha256sum)
grep -qF "${pins%% *}" docker/docker-bake.json ||
    die "env/versions.yaml or env/matrix.yaml is newer than docker/docker-bake.json: type make lock (or make render, where no version of a package moved)"

# bake puts these from the environment into the plan; set but empty means not set.
for name in BASE_IMAGE ARCHS FLASH_ATTN DALI TENSORRT TENSORRT_INDEX NCCL_TESTS MAX_JOBS; do
    [[ -n ${!name-} ]] || unset "$name"
done
plan() { docker buildx bake --progress quiet --file docker/docker-bake.json --print "$variant"; }
unset INPUTS
INPUTS=$(plan | python3 docker/inputs.py "$variant")
export INPUTS
mapfile -d '' -t planned < <(plan | python3 docker/replay.py "$variant")
((${#planned[@]})) || die "docker/replay.py made nothing of the plan for $variant"

# What is fixed for a variant, or no part of it, does not follow the caller's variable, and must not be lost silently.
declare -A has=([ARCHS]=none [FLASH_ATTN]=none [DALI]=0 [TENSORRT]=none [NCCL_TESTS]=0)
for argument in "${planned[@]}"; do
    name=${argument%%=*}
    [[ -z ${has[$name]-} ]] || has[$name]=${argument#*=}
done
for name in ARCHS FLASH_ATTN DALI TENSORRT NCCL_TESTS; do
    [[ -z ${!name-} || ${!name} == "${has[$name]}" ]] ||
        die "$name=${!name}: yolov12:$variant is built with $name=${has[$name]} only; env/matrix.yaml says why, under exclusions"
done

# Layers in zstd are smaller and unpack faster, and provenance says what they were made from. An engine that keeps its images in a store of its
# own, as Docker did by default before version 29, can have neither (docs/registry.md). Nor can a builder beside the engine (buildx create), with
# a store of its own: what it made is handed over as an archive of one image.
in_containerd=0 gzip_since=
[[ $(docker info --format '{{json .DriverStatus}}') != *io.containerd.snapshotter* ]] || in_containerd=1
if ((in_containerd)); then
    builder=$(docker buildx inspect)
    driver=$(sed -n 's/^Driver: *//p' <<<"$builder")
    [[ $driver == docker ]] ||
        gzip_since="the builder, whose driver is $driver, is not this engine's own: BUILDX_BUILDER=default takes that"
else
    gzip_since="this engine does not keep its images in containerd (docs/registry.md)"
fi
if [[ -z $gzip_since ]]; then
    echo "build: layers in zstd, with provenance, since this engine keeps its images in containerd"
    options=(--output "type=image,compression=zstd,force-compression=true,oci-mediatypes=true" --provenance "mode=max")
else
    echo "build: layers in gzip, without provenance, since $gzip_since"
    options=(--load)
fi
[[ -z ${BUILD_NETWORK-} ]] || options+=(--network "$BUILD_NETWORK")
[[ -z ${CA_BUNDLE-} ]] || options+=(--secret "id=ca,src=$CA_BUNDLE")
[[ -z ${NETRC-} ]] || options+=(--secret "id=netrc,src=$NETRC")
[[ -z ${TAG-} ]] || options+=(--tag "$TAG")
[[ ${NO_CACHE:-0} == 0 ]] || options+=(--no-cache)
if revision=$(git rev-parse HEAD 2>/dev/null); then
    # Files that no commit knows count too: they go into the image like the others.
    [[ -z $(git status --porcelain) ]] || revision+=-dirty
    options+=(--label "org.opencontainers.image.revision=$revision")
fi
docker buildx build "${options[@]}" "${planned[@]}"

tag=yolov12:$variant
differs=0
docker run --rm --pull never --network none "$tag" verify || differs=1

read -r id bytes budget_gb < <(docker image inspect --format '{{.Id}} {{.Size}} {{index .Config.Labels "yolov12.size_budget_gb"}}' "$tag")
if ((in_containerd)); then # there the engine counts each layer twice, packed and unpacked
    report=$(docker run --rm --network none "$tag" verify --json) || differs=1
    bytes=$(python3 -c 'import json, sys; print(sum(json.load(sys.stdin)["bytes"].values()))' <<<"$report")
fi
read -r size_gb budget_gb too_large < <(awk -v bytes="$bytes" -v budget="$budget_gb" \
    'BEGIN { printf "%.2f %.2f %d\n", bytes / 1e9, budget, (bytes > budget * 1e9) }')
((too_large == 0)) ||
    fail "$tag is $size_gb GB, more than its budget of $budget_gb GB (size_budget_gb in env/matrix.yaml)"
((differs == 0)) || fail "$tag does not hold what was promised: the lines above that begin with FAIL say what differs"
printf 'built %s %s %s GB of %s GB\n' "$tag" "$id" "$size_gb" "$budget_gb"
