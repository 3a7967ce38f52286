#!/usr/bin/env bats
# SPDX-License-Identifier: AGPL-3.0-or-later
# What `docker run IMAGE ...` does, case by case, without an engine: every program that the entrypoint calls is a stub.
# shellcheck disable=SC2016 # single quotes: what a stub is made of expands in the stub
# shellcheck disable=SC2030,SC2031 # each test is a subshell, and what it sets is for itself

bats_require_minimum_version 1.5.0
load common

setup() {
    workspace=$BATS_TEST_TMPDIR/workspace
    workbench=$BATS_TEST_TMPDIR/workbench
    mkdir -p "$workspace" "$workbench" "$BATS_TEST_TMPDIR/home"
    export HOME=$BATS_TEST_TMPDIR/home TMPDIR=$BATS_TEST_TMPDIR/tmp
    unset YOLOV12_USER USER LOGNAME
    stub_echo yolov12 python
    caller 1000 1000
    owner 1000:1000
    stub mountpoint 'exit 0'
    stub findmnt 'echo rw,nosuid,relatime'
    gpus 580.65.06 "NVIDIA H100, 9.0"
    cd "$workspace" || return
}

# caller UID GID [NAME]: who the container was started as.
caller() {
    stub id "case \$* in -u) echo $1 ;; -g) echo $2 ;; -un) echo '${3:-}'; [[ -n '${3:-}' ]] ;; esac"
}

# owner UID:GID: whose folder is mounted at the workspace.
owner() { stub stat "case \$* in *%a*) echo $1 755 ;; *) echo $1 ;; esac"; }

# gpus DRIVER LINE...: a machine with that driver and these GPUs, in an image for sm_75, sm_80 and sm_90; no LINE: no GPU.
gpus() {
    local devices=$BATS_TEST_TMPDIR/dev
    facts=$BATS_TEST_TMPDIR/facts
    rm -rf "$devices" "$facts"
    mkdir -p "$devices" "$facts"
    echo 580 >"$facts/least_driver"
    echo 75 80 90 >"$facts/archs"
    rm -f "$BATS_TEST_TMPDIR/driver"
    [[ -z $1 ]] || echo "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  $1  Release Build" >"$BATS_TEST_TMPDIR/driver"
    (($# == 1)) || touch "$devices/nvidiactl"
    shift
    printf '%s\n' "$@" >"$BATS_TEST_TMPDIR/smi"
    stub nvidia-smi "cat '$BATS_TEST_TMPDIR/smi'"
}

entrypoint() {
    bash -c 'source "$1"; workspace=$2 workbench=$3 facts=$4/facts devices=$4/dev driver_file=$4/driver; eval "$5"; shift 5; main "$@"' \
        entrypoint "${repo:?}/scripts/entrypoint.sh" "$workspace" "$workbench" "$BATS_TEST_TMPDIR" "${override-}" "$@"
}

@test "no arguments and no terminal: help" {
    run entrypoint </dev/null
    [ "$status" -eq 0 ]
    [ "$output" = "yolov12 [--help]" ]
}

@test "no arguments at a terminal: a shell in the workbench" {
    command -v script || skip "needs script(1) to make a terminal"
    stub start "source '$repo/scripts/entrypoint.sh'; workspace='$workspace' workbench='$workbench'; main"
    stub bash 'echo "shell in $PWD"'
    run script -qec start /dev/null
    [[ $output == *"shell in $workbench"* ]]
    [ -d "$workspace/runs" ]
}

@test "every verb of the launcher goes to the launcher" {
    for verb in train val predict export bench lr-find doctor verify env convert data demo serve tune distill cache nccl-test; do
        run entrypoint "$verb" model=a.yaml
        [ "$output" = "yolov12 [$verb] [model=a.yaml]" ]
    done
}

@test "env is the launcher's verb and not the program" {
    run entrypoint env
    [ "$output" = "yolov12 [env]" ]
}

@test "key=value without a verb goes to the launcher" {
    run entrypoint data=my.yaml epochs=1
    [ "$output" = "yolov12 [data=my.yaml] [epochs=1]" ]
}

@test "an option goes to the launcher" {
    run entrypoint --version
    [ "$output" = "yolov12 [--version]" ]
}

@test "a program is run as it is" {
    run entrypoint python my_script.py --lr 0.1
    [ "$output" = "python [my_script.py] [--lr] [0.1]" ]
}

@test "a script of the workbench that is typed without its path is named with it" {
    touch "$workbench/train.py"
    for command in "train.py" "python train.py"; do
        # shellcheck disable=SC2086 # two words
        run -2 entrypoint $command --data my.yaml
        [ "$output" = "entrypoint: there is no train.py in $workspace; the image's own is $workbench/train.py: type that path" ]
    done
    touch train.py
    run -0 entrypoint python train.py
    [ "$output" = "python [train.py]" ]
}

@test "a script is given to python" {
    run entrypoint my_script.py --lr 0.1
    [ "$output" = "python [my_script.py] [--lr] [0.1]" ]
}

@test "a path is run as it is" {
    run entrypoint "$BATS_TEST_TMPDIR/bin/python" -V
    [ "$output" = "python [-V]" ]
}

@test "a path that is not there fails as in a shell" {
    run -127 entrypoint ./nowhere
}

@test "a word that is neither verb nor program goes to the launcher, which names the nearest verb" {
    run entrypoint trian data=my.yaml
    [ "$output" = "yolov12 [trian] [data=my.yaml]" ]
}

@test "arguments keep their spaces, quotes and stars" {
    run entrypoint train 'data=my data.yaml' "name=it's *" ''
    [ "$output" = "yolov12 [train] [data=my data.yaml] [name=it's *] []" ]
    run entrypoint python 'my script.py' '$HOME'
    [ "$output" = 'python [my script.py] [$HOME]' ]
}

@test "the exit code is the command's" {
    stub yolov12 'exit 75'
    run entrypoint train
    [ "$status" -eq 75 ]
}

@test "the command takes the entrypoint's place, so that SIGTERM reaches it" {
    stub yolov12 'echo $$'
    run bash -c 'echo $$; source "$1"; workspace=$2; main verify' - "$repo/scripts/entrypoint.sh" "$workspace"
    [ "${lines[0]}" = "${lines[1]}" ]
}

@test "root becomes the owner of the workspace" {
    caller 0 0 root
    owner 1001:1002
    stub setpriv '[[ ${*: -1} == true ]] || { printf "setpriv"; printf " [%s]" "$@"; echo; }'
    run entrypoint train 'data=my data.yaml'
    [ "$output" = "setpriv [--reuid=1001] [--regid=1002] [--keep-groups] [--] [$repo/scripts/entrypoint.sh] [train] [data=my data.yaml]" ]
}

@test "root stays root where the workspace is root's" {
    caller 0 0 root
    owner 0:0
    stub setpriv 'echo "changed user"'
    run entrypoint train
    [ "$output" = "yolov12 [train]" ]
}

@test "root stays root where the owner has no name in this user namespace" {
    caller 0 0 root
    owner 65534:65534
    stub setpriv 'echo "changed user"'
    run entrypoint train
    [ "$output" = "yolov12 [train]" ]
}

@test "YOLOV12_USER=root keeps root" {
    caller 0 0 root
    owner 1001:1001
    stub setpriv 'echo "changed user"'
    YOLOV12_USER=root run entrypoint train
    [ "$output" = "yolov12 [train]" ]
}

@test "YOLOV12_USER=uid:gid is taken before the owner" {
    caller 0 0 root
    owner 1001:1001
    stub setpriv 'echo "$1 $2"'
    YOLOV12_USER=7:8 run entrypoint train
    printed "--reuid=7 --regid=8"
}

@test "YOLOV12_USER=uid takes group 0, as docker's --user does" {
    caller 0 0 root
    stub setpriv 'echo "$1 $2"'
    YOLOV12_USER=7 run entrypoint train
    printed "--reuid=7 --regid=0"
}

@test "YOLOV12_USER=name is refused with what to write" {
    caller 0 0 root
    YOLOV12_USER=alice run entrypoint train
    [ "$status" -eq 2 ]
    [ "$output" = "entrypoint: YOLOV12_USER=alice: write root, a number (uid), or uid:gid, for example YOLOV12_USER=1000:1000" ]
}

@test "YOLOV12_USER without root says that it has no effect" {
    YOLOV12_USER=7:8 run entrypoint train
    printed "entrypoint: YOLOV12_USER=7:8 has no effect: this started as 1000:1000, and only root can change (--user 0)"
    printed "yolov12 [train]"
}

@test "YOLOV12_USER is silent once it has been followed" {
    YOLOV12_USER=1000:1000 run entrypoint train
    [ "$output" = "yolov12 [train]" ]
}

@test "root without the capability to change user says so and stays root" {
    caller 0 0 root
    owner 1001:1001
    stub setpriv 'exit 1'
    run entrypoint train
    printed "entrypoint: can not become 1001:1001, the owner of $workspace (no capability SETUID or SETGID): staying root"
    printed "yolov12 [train]"
}

@test "a home that can be written is kept" {
    stub yolov12 'echo "$HOME"'
    run entrypoint train
    [ "$output" = "$BATS_TEST_TMPDIR/home" ]
}

@test "without a home a temporary one is made, one for each uid" {
    stub yolov12 'echo "$HOME"; [[ -d $HOME ]]'
    caller 12345 0
    for home in / /nowhere ""; do
        HOME=$home run entrypoint train
        [ "$status" -eq 0 ]
        [ "$output" = "$TMPDIR/yolov12-12345/home" ]
    done
}

@test "without a folder for temporary files it says what to add" {
    HOME=/ TMPDIR=/proc/nowhere run entrypoint train
    printed "entrypoint: no writable folder for temporary files: add --tmpfs /tmp"
}

@test "a uid without a name gets one, since libraries ask for it" {
    stub yolov12 'echo "$USER $LOGNAME"'
    caller 12345 0
    run entrypoint train
    [ "$output" = "yolov12 yolov12" ]
}

@test "a uid with a name keeps the environment" {
    stub yolov12 'echo "${USER-unset} ${LOGNAME-unset}"'
    caller 1000 1000 alice
    run entrypoint train
    [ "$output" = "unset unset" ]
}

@test "a workspace that is neither mounted nor writable gives way to a temporary folder, and it says so" {
    override='usable() { [[ $1 != . ]]; }'
    stub mountpoint 'exit 1'
    stub yolov12 'pwd'
    run entrypoint train
    printed "entrypoint: $workspace is not mounted and not writable: working in $TMPDIR/yolov12-1000/workspace, gone when the container ends"
    printed "$TMPDIR/yolov12-1000/workspace"
}

@test "a mounted workspace stays the working folder, writable or not" {
    override='usable() { [[ $1 != . ]]; }'
    stub yolov12 'pwd'
    run entrypoint val
    printed "$workspace"
}

@test "a mounted workspace that can not be written names its owner and the caller" {
    override='usable() { [[ $1 != . ]]; }'
    caller 12345 0
    owner 1001:1002
    run entrypoint val
    printed "entrypoint: $workspace belongs to 1001:1002, and 12345:0 can not write there: type --user 1001:1002, or leave --user out where the image starts as root"
}

@test "a workspace that is mounted read-only is called so, whoever owns it" {
    override='usable() { [[ $1 != . ]]; }'
    stub findmnt '[[ ${*: -1} == */workspace ]] && echo ro,nosuid,relatime'
    for ids in "1000 1000" "777 777"; do
        # shellcheck disable=SC2086 # two words
        caller $ids
        run entrypoint train
        [ "${lines[0]}" = "entrypoint: $workspace is mounted read-only: leave :ro out of -v, or name another folder for what is written" ]
        [ "${lines[1]}" = "yolov12 [train]" ]
    done
}

@test "a mounted workspace of the caller's own that can not be written is not called someone else's" {
    override='usable() { [[ $1 != . ]]; }'
    run entrypoint train
    [[ ${lines[0]} == "entrypoint: $workspace belongs to 1000:1000, as this container runs, "*"(its mode is 755): type chmod u+rwx on the host" ]]
}

@test "a workspace that can not even be looked at gets one whole sentence" {
    override='usable() { [[ $1 != . ]]; }'
    stub stat 'echo "stat: cannot statx: Permission denied" >&2; exit 1'
    run entrypoint train
    [ "${lines[0]}" = "entrypoint: $workspace can not be looked at as 1000:1000: type the --user of its owner, or leave --user out where the image starts as root" ]
    [ "${lines[1]}" = "yolov12 [train]" ]
}

@test "someone else's workspace with mode 700 is looked at by its path" {
    rm "$BATS_TEST_TMPDIR/bin/stat" "$BATS_TEST_TMPDIR/bin/id"
    [ "$(id -u)" -eq 0 ] || skip "needs root, to be two users"
    as_another=(setpriv --reuid=777 --regid=777 --clear-groups --)
    "${as_another[@]}" true 2>/dev/null || skip "needs the capabilities SETUID and SETGID"
    chmod a+x "$BATS_RUN_TMPDIR" "$BATS_RUN_TMPDIR/test" "$BATS_TEST_TMPDIR"
    chown 4321:4321 "$workspace"
    chmod 700 "$workspace"
    run -0 "${as_another[@]}" bash -c 'source /dev/stdin; workspace=$1; find_workplace' - "$workspace" <"${repo:?}/scripts/entrypoint.sh"
    [ "$output" = "entrypoint: $workspace belongs to 4321:4321, and 777:777 can not write there: type --user 4321:4321, or leave --user out where the image starts as root" ]
}

@test "a driver that is too old ends it before Python starts, with what to do" {
    gpus 535.104.05 "NVIDIA H100, 9.0"
    run -2 entrypoint train data=my.yaml
    [ "$output" = "entrypoint: the driver is 535.104.05, and this image's CUDA needs 580 or newer: update the driver on the host, or type device=cpu" ]
}

@test "a driver that is new enough for an older CUDA gets that image's name" {
    gpus 570.26 "NVIDIA H100, 9.0"
    echo 570=12.8 >"$facts/older_drivers"
    run -2 entrypoint train
    [ "$output" = "entrypoint: the driver is 570.26, and this image's CUDA needs 580 or newer: update the driver on the host, take the image for CUDA 12.8 (tag cu128; make build CUDA=12.8), or type device=cpu" ]
    gpus 535.104.05 "NVIDIA H100, 9.0"
    echo 570=12.8 >"$facts/older_drivers"
    run -2 entrypoint train
    [[ $output != *"CUDA 12.8"* ]]
}

@test "an old driver does not matter to what runs on the CPU, or computes nothing" {
    gpus 535.104.05 "NVIDIA H100, 9.0"
    for command in "train device=cpu" "train --device cpu" "env" "verify" "python my_script.py"; do
        # shellcheck disable=SC2086 # words
        run entrypoint $command
        [ "$status" -eq 0 ]
        [[ $output != *entrypoint:* ]]
    done
}

@test "without a GPU it says that it runs on the CPU" {
    gpus ""
    run entrypoint train data=my.yaml
    [ "${lines[0]}" = "entrypoint: no NVIDIA GPU is visible, so this runs on the CPU" ]
    [ "${lines[1]}" = "yolov12 [train] [data=my.yaml]" ]
}

@test "a GPU that was not given to the container is told apart from none" {
    gpus 580.65.06
    run entrypoint train
    printed "entrypoint: no NVIDIA GPU is visible, so this runs on the CPU; the driver (580.65.06) is there: type docker run --gpus all"
}

@test "a GPU of an earlier minor version than any code has none" {
    gpus 580.65.06 "Tesla V100, 7.0"
    run -2 entrypoint train
    [ "${lines[0]}" = "entrypoint: Tesla V100 is sm_70, and this image has code for sm_75, sm_80, sm_90 only" ]
    [ "${lines[1]}" = "entrypoint: no visible GPU can run it: choose another GPU, or type device=cpu" ]
}

@test "a GPU runs the code of an earlier minor version" {
    gpus 580.65.06 "NVIDIA L4, 8.9"
    run entrypoint train
    [ "$output" = "yolov12 [train]" ]
}

@test "one GPU without code beside another is named and nothing more" {
    gpus 580.65.06 "NVIDIA H100, 9.0" "Tesla V100, 7.0"
    run entrypoint train
    [ "${lines[0]}" = "entrypoint: Tesla V100 is sm_70, and this image has code for sm_75, sm_80, sm_90 only" ]
    [ "${lines[1]}" = "yolov12 [train]" ]
}

@test "without nvidia-smi the archs are left to torch" {
    gpus 580.65.06 "Tesla V100, 7.0"
    stub nvidia-smi 'exit 9'
    run entrypoint train
    [ "$output" = "yolov12 [train]" ]
}

@test "the image without GPU code asks for no GPU" {
    gpus ""
    rm -r "$facts"
    run entrypoint predict model=best.onnx
    [ "$output" = "yolov12 [predict] [model=best.onnx]" ]
}

@test "docker's --workdir is kept" {
    cd "$BATS_TEST_TMPDIR"
    stub yolov12 'pwd'
    run entrypoint train
    [ "$output" = "$BATS_TEST_TMPDIR" ]
}

@test "a command that starts in the workbench finds the folder behind its runs link" {
    cd "$workbench"
    run entrypoint python train.py
    [ "$output" = "python [train.py]" ]
    [ -d "$workspace/runs" ]
}

@test "elsewhere no runs folder is made" {
    run entrypoint python my_script.py
    [ ! -e "$workspace/runs" ]
}
