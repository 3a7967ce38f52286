# SPDX-License-Identifier: AGPL-3.0-or-later
# shellcheck shell=bash
# common.sh: what several stages do. Sourced from /run/stage, where each of them has it beside its own script.

# use_secrets: the caller's CA_BUNDLE and NETRC (docs/registry.md), for every tool here that fetches. They are files that are there while a
# stage runs, and in no layer; without them nothing changes.
apt_options=() curl_options=()
use_secrets() {
    local bundle=/run/secrets/ca.crt logins=/run/secrets/netrc
    if [[ -s $bundle ]]; then
        # uv; pip; git; curl.
        export SSL_CERT_FILE=$bundle PIP_CERT=$bundle GIT_SSL_CAINFO=$bundle CURL_CA_BUNDLE=$bundle
        apt_options+=(-o "Acquire::https::CAInfo=$bundle") # read by apt's own user: hence the secret's mode in the Dockerfile
    fi
    if [[ -s $logins ]]; then
        export NETRC=$logins # uv and pip
        apt_options+=(-o "Dir::Etc::netrc=$logins")
        curl_options+=(--netrc-optional --netrc-file "$logins")
    fi
}

# install_debian PACKAGE...: these packages of Debian, and what they can not do without.
install_debian() {
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq "${apt_options[@]}" update
    apt-get -qq "${apt_options[@]}" install -y --no-install-recommends "$@" >/dev/null
}

# forget_debian: what installing leaves beside the packages: lists and archives, which only cost space, and what no second build would repeat.
forget_debian() {
    apt-get clean
    rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/log/apt /var/log/dpkg.log /var/log/alternatives.log /var/cache/ldconfig/aux-cache
}

# forget_uv ENVIRONMENT: what uv leaves there beside the packages.
forget_uv() {
    local note
    for note in "$1"/lib/python3*/site-packages/*.dist-info/uv_cache.json; do # when the wheel was made, which no second build would repeat
        [[ -e $note ]] || continue
        sed -i '/uv_cache\.json,/d' "${note%/*}/RECORD"
        rm "$note"
    done
    rm -f "$1/.lock" # writable by anyone
}
