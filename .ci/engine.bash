# SPDX-License-Identifier: AGPL-3.0-or-later
# shellcheck shell=bash
# What .ci/run and .ci/scheduled share: a Docker engine, and the variables of `make build` that the caller left open.
# Needs a Docker engine, or DOCKER_ENGINE: a program whose `up` starts one, `base` prints the name of a base image, and `down` stops it.

engine=${DOCKER_ENGINE:-../shared/tools/docker-engine}

start_engine() {
    local exports
    if docker info >/dev/null 2>&1; then
        echo "using the engine that runs here"
        return
    fi
    exports=$("$engine" up)
    eval "$exports"
    trap '"$engine" down' EXIT
}

find_base() {
    if [[ -z ${BASE_IMAGE-} && -x $engine ]]; then
        BASE_IMAGE=$("$engine" base)
    fi
    export BASE_IMAGE=${BASE_IMAGE-} BUILD_NETWORK=${BUILD_NETWORK-host}
    export CA_BUNDLE=${CA_BUNDLE-/etc/ssl/certs/ca-certificates.crt}
    echo "base image: ${BASE_IMAGE:-the pinned one}"
}
