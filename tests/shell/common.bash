# SPDX-License-Identifier: AGPL-3.0-or-later
# shellcheck shell=bash
# shellcheck disable=SC2154 # `run` of bats sets output and lines
# What the bats files share: the repository's root, and stub programs that come first on PATH.

# shellcheck disable=SC2034 # read by the tests
repo=$(cd -- "${BASH_SOURCE[0]%/*}/../.." && pwd)

# stub NAME BODY: from now on NAME is a bash script with that body.
stub() {
    mkdir -p "$BATS_TEST_TMPDIR/bin"
    printf '#!%s\n%s\n' "$BASH" "$2" >"$BATS_TEST_TMPDIR/bin/$1"
    chmod +x "$BATS_TEST_TMPDIR/bin/$1"
    PATH=$BATS_TEST_TMPDIR/bin:${PATH#"$BATS_TEST_TMPDIR/bin:"}
}

# stub_echo NAME...: each prints its own name and every argument in brackets, so that lost quoting shows.
stub_echo() {
    local name
    for name in "$@"; do
        # shellcheck disable=SC2016 # expands in the stub
        stub "$name" 'printf "%s" "${0##*/}"; printf " [%s]" "$@"; echo'
    done
}

# printed LINE: the last `run` printed exactly this line among others.
printed() {
    local line
    for line in "${lines[@]}"; do
        [[ $line != "$1" ]] || return 0
    done
    printf 'expected the line: %s\nprinted:\n%s\n' "$1" "$output"
    return 1
}
