#!/usr/bin/env bats
# SPDX-License-Identifier: AGPL-3.0-or-later
# docker/stages/common.sh: what the stages of the build share, with stubs for what it calls. tests/image looks at the finished layers.
# shellcheck disable=SC2016 # single quotes: expands in the inner shell

bats_require_minimum_version 1.5.0
load common

# in_stage PROGRAM: run by a stage's bash, with the secrets of the build in this test's folder.
in_stage() {
    sed "s|/run/secrets|$BATS_TEST_TMPDIR|g" "${repo:?}/docker/stages/common.sh" >"$BATS_TEST_TMPDIR/common.sh"
    cd "$BATS_TEST_TMPDIR" || return
    bash -c "set -euo pipefail; . '$BATS_TEST_TMPDIR/common.sh'; $1"
}

@test "Debian's packages are installed without questions and without what they only recommend" {
    stub apt-get 'echo "$DEBIAN_FRONTEND: $*" >&2'
    run in_stage "install_debian git make"
    [ "$status" -eq 0 ]
    [ "${lines[0]}" = "noninteractive: -qq update" ]
    [ "${lines[1]}" = "noninteractive: -qq install -y --no-install-recommends git make" ]
}

@test "certificates and logins are apt's only where they were given" {
    stub apt-get 'echo "$*" >&2'
    echo "a certificate" >"$BATS_TEST_TMPDIR/ca.crt"
    run in_stage "use_secrets; install_debian git"
    [ "${lines[0]}" = "-qq -o Acquire::https::CAInfo=$BATS_TEST_TMPDIR/ca.crt update" ]
    echo "a login" >"$BATS_TEST_TMPDIR/netrc"
    run in_stage "use_secrets; install_debian git"
    [ "${lines[1]}" = "-qq -o Acquire::https::CAInfo=$BATS_TEST_TMPDIR/ca.crt -o Dir::Etc::netrc=$BATS_TEST_TMPDIR/netrc install -y --no-install-recommends git" ]
    rm "$BATS_TEST_TMPDIR"/{ca.crt,netrc}
    run in_stage "use_secrets; install_debian git"
    [ "${lines[0]}" = "-qq update" ]
}

@test "without secrets no variable changes" {
    run in_stage 'compgen -e >before; use_secrets; compgen -e | diff before -; echo "${#curl_options[@]}"'
    [ "$output" = 0 ]
}

@test "a package that can not be had ends the stage" {
    stub apt-get '[[ $2 != install ]] || exit 100'
    run -100 in_stage "install_debian nothing; echo went on"
    [[ $output != *"went on"* ]]
}

@test "what uv leaves goes away, also from the records, and nothing else does" {
    site=$BATS_TEST_TMPDIR/environment/lib/python3.11/site-packages
    mkdir -p "$site/a-1.dist-info" "$site/b-1.dist-info"
    touch "$site/a-1.dist-info/uv_cache.json" "$BATS_TEST_TMPDIR/environment/.lock"
    printf '%s\n' "a/__init__.py,sha256=0,1" "a-1.dist-info/uv_cache.json,sha256=0,1" >"$site/a-1.dist-info/RECORD"
    echo "b/__init__.py,sha256=0,1" >"$site/b-1.dist-info/RECORD"
    for _ in once again; do
        run -0 in_stage "forget_uv '$BATS_TEST_TMPDIR/environment'"
        run find "$BATS_TEST_TMPDIR/environment" -type f -printf '%P\n'
        [ "$(sort <<<"$output")" = $'lib/python3.11/site-packages/a-1.dist-info/RECORD\nlib/python3.11/site-packages/b-1.dist-info/RECORD' ]
        [ "$(cat "$site"/*/RECORD)" = $'a/__init__.py,sha256=0,1\nb/__init__.py,sha256=0,1' ]
    done
}
