#!/usr/bin/env bats
# SPDX-License-Identifier: AGPL-3.0-or-later
# scripts/VERB.sh, with a stub in the place of `yolov12`.

bats_require_minimum_version 1.5.0
load common

# A checkout with the scripts and nothing else.
setup() {
    checkout="$BATS_TEST_TMPDIR/my checkout"
    mkdir -p "$checkout/.venv/bin"
    cp -r "${repo:?}/scripts" "$checkout"
    cd "$BATS_TEST_TMPDIR" || return
}

@test "each launcher names its verb and keeps the arguments whole" {
    stub_echo yolov12
    for verb in train val predict export; do
        run "$checkout/scripts/$verb.sh" 'data=my data.yaml' "name=it's *"
        [ "$output" = "yolov12 [$verb] [data=my data.yaml] [name=it's *]" ]
    done
}

@test "the exit code is the verb's" {
    stub yolov12 'exit 75'
    run -75 "$checkout/scripts/train.sh"
}

@test "the active environment comes before the checkout's" {
    stub yolov12 'echo active'
    cp "$BATS_TEST_TMPDIR/bin/yolov12" "$checkout/.venv/bin"
    run "$checkout/scripts/val.sh"
    [ "$output" = active ]
}

@test "without an active environment the checkout's is used" {
    ln -s "$(type -P echo)" "$checkout/.venv/bin/yolov12"
    PATH=/usr/bin:/bin run "$checkout/scripts/val.sh" model=best.pt
    [ "$output" = "val model=best.pt" ]
}

@test "with neither it says what to run" {
    PATH=/usr/bin:/bin run -2 "$checkout/scripts/val.sh"
    [[ $output == *"no yolov12 on PATH and none in $checkout/.venv: run \"make setup\" there"* ]]
}
