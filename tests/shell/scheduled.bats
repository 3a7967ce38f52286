#!/usr/bin/env bats
# SPDX-License-Identifier: AGPL-3.0-or-later
# .ci/scheduled: that a part that fails hides no other, with stubs for what the parts run.
# shellcheck disable=SC2016 # single quotes: what a stub is made of expands in the stub

bats_require_minimum_version 1.5.0
load common

setup() {
    unset LOG
    tree=$BATS_TEST_TMPDIR/tree
    mkdir -p "$tree/.venv/bin" "$tree/tests/image"
    cp -r "${repo:?}/.ci" "$tree"
    echo "pytest.mark.slow" >"$tree/tests/image/test_one.py"
    touch "$tree/tests/image/test_two.py"
    stub make 'exit "${setup_code:-0}"'
    stub docker 'exit 0'
    stub git 'echo c0ffee'
    for program in pytest python; do
        printf '#!%s\n%s\n' "$BASH" 'echo "ran ${0##*/} $*, see https://mirror.example/simple and /some/where/file"
            [[ ${failing-none} != "${!#}" ]]' >"$tree/.venv/bin/$program"
        chmod +x "$tree/.venv/bin/$program"
    done
}

scheduled() { BASE_IMAGE=base "$tree/.ci/scheduled" "$@"; }

@test "it lists its parts, with one for each file of image tests that has slow ones" {
    run scheduled --list
    [ "$output" = $'slow-tests\nbench\nimages\nimage-tests\nimage-tests-cu128\nslow-image-test_one\nready' ]
}

@test "a part that fails hides no other, and fails the whole" {
    failing=images run -1 scheduled
    printed "ran pytest -q -m slow tests/image/test_one.py, see https://mirror.example/simple and /some/where/file"
    printed "=== summary of c0ffee"
    [[ $output == *"images                       FAILED, code 1"*"image-tests                  ok"* ]]
}

@test "where all is well the exit code is 0" {
    run scheduled
    [ "$status" -eq 0 ]
    [[ $output != *FAILED* ]]
}

@test "a part that is named runs alone" {
    run scheduled ready
    [ "$status" -eq 0 ]
    printed "=== ready"
    [[ $output != *"=== images"* ]]
}

@test "an unknown part is a usage error that names the known ones" {
    run -2 scheduled redy
    [ "$output" = "scheduled: there is no part redy: type one of slow-tests bench images image-tests image-tests-cu128 slow-image-test_one ready" ]
}

@test "without an environment nothing is run" {
    setup_code=2 run -2 scheduled
    [[ $output != *summary* ]]
    setup_code=2 LOG=$BATS_TEST_TMPDIR/log run -2 scheduled
    [[ $output != *summary* ]]
}

@test "the log names neither folders nor hosts of this machine" {
    ln -sf "$repo/.venv/bin/python" "$tree/.venv/bin/python"
    cp -r "$repo/benchmarks" "$tree"
    LOG=$BATS_TEST_TMPDIR/log run scheduled slow-tests
    [ "$status" -eq 0 ]
    grep -q "see <host>/simple and .../file" "$BATS_TEST_TMPDIR/log"
}
