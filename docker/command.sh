# SPDX-License-Identifier: AGPL-3.0-or-later
# shellcheck shell=bash
# What the scripts behind `make build`, `make save`, `make load` and `make sign` share.

bake=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)/docker-bake.json

# usage ARGUMENT...: where anything was typed behind the script that calls this, its head is shown and nothing done: it takes variables alone.
usage() {
    local script=${BASH_SOURCE[1]}
    (($#)) || return 0
    if [[ $1 == -h || $1 == --help ]]; then
        head_of "$script"
        exit 0
    fi
    printf '%s: %s is not understood: what there is to say is said by variables\n' "$(basename -- "$script" .sh)" "$1" >&2
    head_of "$script" >&2
    exit 2
}

# head_of SCRIPT: the comment below its licence.
head_of() { sed -n -e '1,2d' -e '/^#/!q' -e 's/^# \{0,1\}//p' -- "$1"; }

# variants: what there is to build, in one line.
variants() { grep -o '"yolov12:[^"]*"' "$bake" | sed 's/.*:\(.*\)"/\1/' | paste -sd ' '; }

# is_variant NAME
is_variant() { grep -qF "\"yolov12:$1\"" "$bake"; }

# engine_answers: else it ends with docker's own last words. `docker buildx version` and many others need no engine, so they say nothing of one.
engine_answers() {
    local said
    said=$(docker version --format '{{.Server.Version}}' 2>&1) ||
        die "docker does not answer: ${said##*$'\n'}" \
            "Start it (sudo systemctl start docker), name another by DOCKER_HOST, or, where permission is denied, join the group docker"
}
