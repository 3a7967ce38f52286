#!/usr/bin/env bash
# SPDX-License-Identifier: AGPL-3.0-or-later
# `make save FILE=...`: a built image as a file, with its hash beside it, for machines without a network.
#   FILE=yolov12-train.tar.zst   where to; .tar.gz and .tar do too
#   VARIANT=train                which image
set -euo pipefail

# shellcheck source=docker/command.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/command.sh"
usage "$@"

file=${FILE-} image=yolov12:${VARIANT:-train}

die() {
    printf 'save: %s\n' "$*" >&2
    exit 2
}

[[ ${CUDA:-13.0} == 13.0 && ${ENV_MANAGER:-venv} == venv ]] ||
    die "CUDA and ENV_MANAGER choose what is built; here name the image: VARIANT=train-cu128 or VARIANT=train-conda"
case $file in
'') die "where to? Type make save FILE=yolov12-${VARIANT:-train}.tar.zst" ;;
*.tar.zst) compress=(zstd -q -T0) ;;
*.tar.gz) compress=(gzip) ;;
*.tar) compress=(cat) ;;
*) die "FILE=$file: let it end in .tar.zst, .tar.gz or .tar" ;;
esac
folder=$(dirname -- "$file")
[[ -d $folder ]] || die "FILE=$file: there is no folder $folder"
[[ -w $folder ]] || die "FILE=$file: $folder can not be written to"
type -P docker >/dev/null || die "docker is needed: https://docs.docker.com/engine/install/"
type -P "${compress[0]}" >/dev/null || die "FILE=$file needs ${compress[0]}: install it, or let the name end in .tar"
if ! docker image inspect "$image" >/dev/null 2>&1; then
    engine_answers
    is_variant "${VARIANT:-train}" || die "there is no image $image, and no variant of that name: type one of $(variants)"
    die "there is no image $image: type make build VARIANT=${VARIANT:-train}"
fi

# Under another name until it is whole, so that an interrupted save leaves nothing that looks like one.
trap 'rm -f -- "$file.part"' EXIT
docker save "$image" | "${compress[@]}" >"$file.part"
read -r hash _ < <(sha256sum <"$file.part")
mv -- "$file.part" "$file"
printf '%s  %s\n' "$hash" "${file##*/}" >"$file.sha256"
printf 'saved %s in %s (%d MB); take %s along\n' "$image" "$file" $(($(stat -c %s -- "$file") / 1000000)) "${file##*/}.sha256"
