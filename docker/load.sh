#!/usr/bin/env bash
# SPDX-License-Identifier: AGPL-3.0-or-later
# `make load FILE=...`: an image that `make save` wrote into the local engine, if it arrived as it was written.
#   FILE=yolov12-train.tar.zst   which file; FILE.sha256 lies beside it
set -euo pipefail

# shellcheck source=docker/command.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/command.sh"
usage "$@"

file=${FILE-}

die() {
    printf 'load: %s\n' "$*" >&2
    exit 2
}

[[ -n $file ]] || die "which file? Type make load FILE=yolov12-train.tar.zst"
[[ -s $file ]] || die "FILE=$file: no such file, or an empty one"
[[ -s $file.sha256 ]] || die "$file.sha256 is not there: make save wrote it beside the image, copy it too"
type -P docker >/dev/null || die "docker is needed: https://docs.docker.com/engine/install/"
read -r written _ <"$file.sha256"
read -r found _ < <(sha256sum <"$file")
[[ $written == "$found" ]] || die "$file is not what make save wrote (sha256 $found instead of $written): copy it again"

# The engine knows the compressions by their content.
said=$(docker load --input "$file")
printf '%s\n' "$said"
[[ $said != *"Loaded image: "* ]] || printf 'docker run --rm %s verify    # shows what is inside\n' "${said##*Loaded image: }"
