#!/usr/bin/env bats
# SPDX-License-Identifier: AGPL-3.0-or-later
# `conda activate yolov12` in an image without conda: the function's answers. tests/image tries it in the image.
# shellcheck disable=SC2016 # single quotes: expands in the inner shell

load common

in_bash() {
    bash -uc "source '${repo:?}/scripts/conda.sh'; $1"
}

@test "what it can not do is refused with what it can" {
    for command in "conda install numpy" "conda activate other" "conda env list" "conda"; do
        run in_bash "$command"
        [ "$status" -eq 2 ]
        [[ $output == *"only \`conda activate yolov12\` and \`conda deactivate\` are understood"* ]]
    done
}

@test "deactivate without activate is no error" {
    run in_bash 'set -e; conda deactivate; echo done'
    [ "$output" = "done" ]
}

@test "the environment's programs are on PATH, once" {
    run in_bash "PATH=/usr/bin:/bin; source '$repo/scripts/conda.sh'; source '$repo/scripts/conda.sh'; echo \$PATH"
    [[ $output == /opt/yolov12/bin:* ]]
    [[ ${output#*:} != *"/opt/yolov12/bin:"* ]]
}
