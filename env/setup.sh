#!/usr/bin/env bash
# SPDX-License-Identifier: AGPL-3.0-or-later
# Makes .venv, with this checkout installed in it, from the hash lock of the Python at hand. Does nothing when nothing changed.
#   PYTHON=/path/to/python3 env/setup.sh     choose the interpreter
# In the image yolov12:dev .venv is a link to the image's environment, which has that lock.
# Where packages come from is taken from pip's settings (index-url, cert); nothing else of them is, since a local constraint or a
# second index could only contradict the lock.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=.venv
stamp=$venv/.made-from
image=${IMAGE_ENVIRONMENT-/opt/yolov12}

say() { printf '%s\n' "$*" >&2; }
die() {
    say "$*"
    exit 2
}

# The dev lock for an interpreter; fails when it does not start or has no lock.
lock_of() {
    local tag
    tag=$("$1" -c 'import sys; print("py%d%d" % sys.version_info[:2])' 2>/dev/null) || return 1
    [[ -f env/locks/dev-$tag.txt ]] && echo "env/locks/dev-$tag.txt"
}

# The Pythons that have a lock, as "3.11 3.12".
locked_pythons() {
    local lock
    for lock in env/locks/dev-py*.txt; do
        lock=${lock##*-py3}
        printf '3.%s ' "${lock%.txt}"
    done
}

find_python() {
    local candidate version
    if [[ -n ${PYTHON:-} ]]; then
        lock_of "$PYTHON" >/dev/null || die "PYTHON=$PYTHON does not start, or is none of the locked versions: $(locked_pythons)"
        echo "$PYTHON"
        return
    fi
    local candidates=(python3)
    for version in $(locked_pythons); do candidates+=("python$version"); done
    for candidate in "${candidates[@]}"; do
        if lock_of "$candidate" >/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    die "No supported Python found: this needs one of $(locked_pythons)(python3 is: $(python3 --version 2>&1 || true))." \
        "Install one (Debian, Ubuntu: apt install python3 python3-venv) or name it: make PYTHON=/path/to/python3 ..."
}

make_venv() {
    local python=$1
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        die "$python has no venv module with pip. Debian and Ubuntu keep it apart: apt install python3-venv"
    say "setup: making $venv with $("$python" --version) ($python)"
    "$python" -m venv --clear "$venv"
}

# pip's own setting, from the environment or its configuration files; empty when there is none.
pip_setting() {
    local from_environment=PIP_${1^^}
    from_environment=${from_environment//-/_}
    if [[ -n ${!from_environment:-} ]]; then
        echo "${!from_environment}"
    else
        "$venv/bin/python" -m pip config get "global.$1" 2>/dev/null || true
    fi
}

# A certificate bundle: what the user named, else the system's, so that a company's own authority is known to pip and uv alike.
certificates() {
    local bundle
    for bundle in "$(pip_setting cert)" "${SSL_CERT_FILE:-}" "${REQUESTS_CA_BUNDLE:-}" \
        /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt; do
        if [[ -n $bundle && -f $bundle ]]; then
            echo "$bundle"
            return
        fi
    done
}

install_lock() {
    local lock=$1 index cert
    index=$(pip_setting index-url)
    cert=$(certificates)
    PIP_CONFIG_FILE=/dev/null "$venv/bin/python" -m pip --isolated install --quiet --disable-pip-version-check \
        --require-hashes --no-deps ${index:+--index-url "$index"} ${cert:+--cert "$cert"} -r env/locks/build.txt
    [[ -z $cert ]] || export SSL_CERT_FILE=$cert
    [[ -z $index ]] || export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-${UV_INDEX_URL:-$index}}
    export VIRTUAL_ENV=$PWD/$venv
    say "setup: installing $lock (torch with CUDA is most of it)"
    "$venv/bin/uv" pip sync --quiet --require-hashes --no-build "$lock"
    "$venv/bin/uv" pip install --quiet --no-deps --no-build-isolation --editable .
}

# The environment of the image yolov12:dev stands for .venv where the image was made from this checkout's lock.
link_image() {
    [[ ! -d $venv || -L $venv ]] || die "$PWD/$venv belongs to another machine: move it away, or mount a clone without it"
    cmp --silent "$image/share/yolov12/dev-lock.txt" "$(lock_of "$image/bin/python")" ||
        die "this image was made from another dev lock than this checkout's: make build VARIANT=dev"
    ln --symbolic --force --no-dereference "$image" "$venv"
}

[[ $(uname -sm) == "Linux x86_64" ]] ||
    die "The locks are for Linux on x86_64, this is $(uname -sm). Use the image, or install pyproject.toml's dependencies by hand."

if [[ -f $image/share/yolov12/dev-lock.txt ]]; then
    link_image
    exit
fi
# A link that the image left here leads nowhere outside of it.
[[ ! -L $venv || -e $venv ]] || rm "$venv"

# A .venv whose Python still starts and has a lock is kept, unless PYTHON asks for another version.
python=$venv/bin/python
if ! lock_of "$python" >/dev/null || [[ -n ${PYTHON:-} && $(lock_of "$PYTHON") != "$(lock_of "$python")" ]]; then
    chosen=$(find_python)
    make_venv "$chosen"
fi
lock=$(lock_of "$python")
made_from=$(sha256sum "$lock" env/locks/build.txt pyproject.toml env/yolov12_dropin.pth yolov12/__init__.py)
if [[ ! -f $stamp || $(<"$stamp") != "$made_from" ]]; then
    rm -f "$stamp" # so that an install that breaks off is taken up again, also after going back to the old lock
    install_lock "$lock"
    printf '%s\n' "$made_from" >"$stamp"
    say "setup: done, $venv/bin/yolov12"
fi
