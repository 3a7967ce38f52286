#!/usr/bin/env bash
# SPDX-License-Identifier: AGPL-3.0-or-later
# What `docker run IMAGE ...` does. docs/image.md has the table of cases; tests/shell/entrypoint.bats has a test for each.
set -euo pipefail

workspace=/workspace    # the caller's folder is mounted here
workbench=/root/yolov12 # train.py, utils/ and the link to the imported ultralytics

say() { printf 'entrypoint: %s\n' "$*" >&2; }

main() {
    if (($(id -u) == 0)); then
        leave_root "$@"
    else
        check_user
    fi
    find_home

    if (($# == 0)); then
        if [[ ! -t 0 || ! -t 1 ]]; then
            exec yolov12 --help
        fi
        cd "$workbench"
        keep_runs
        exec bash
    fi

    find_workplace
    keep_runs
    case $1 in
    train | val | predict | export | bench | lr-find | doctor | verify | env | convert | data | demo | \
        serve | tune | distill | cache | nccl-test | -* | *=*)
        exec yolov12 "$@"
        ;;
    *.py) exec python "$@" ;;
    */*) exec "$@" ;;
    esac
    if type -P -- "$1" >/dev/null; then
        exec "$@"
    fi
    exec yolov12 "$@" # not a program either: the launcher knows the verbs and names the nearest
}

# Start again as the owner of the workspace, so that outputs belong to the caller. Returns where root is to stay.
leave_root() {
    local user drop
    user=$(wanted_user)
    case $user in
    # 65534 stands for an owner that this user namespace can not name; in a rootless engine, root is the caller.
    0:* | 65534:*) return ;;
    esac
    # The group root is kept: the workbench is writable for it, and what `--group-add` gave stays too.
    drop=(setpriv "--reuid=${user%:*}" "--regid=${user#*:}" --keep-groups --)
    if ! "${drop[@]}" true 2>/dev/null; then
        say "can not become $user, the owner of $workspace (no capability SETUID or SETGID): staying root"
        return
    fi
    exec "${drop[@]}" "${BASH_SOURCE[0]}" "$@"
}

# Print uid:gid of the user to be: YOLOV12_USER, or the owner of the workspace.
wanted_user() {
    local asked=${YOLOV12_USER-}
    case $asked in
    "") stat -c %u:%g -- "$workspace" ;;
    root) echo 0:0 ;;
    *)
        if [[ ! $asked =~ ^[0-9]+(:[0-9]+)?$ ]]; then
            say "YOLOV12_USER=$asked: write root, a number (uid), or uid:gid, for example YOLOV12_USER=1000:1000"
            exit 2
        fi
        [[ $asked == *:* ]] || asked+=:0 # as docker's own --user does
        echo "$asked"
        ;;
    esac
}

check_user() {
    local user wanted
    user=$(id -u):$(id -g)
    if [[ -n ${YOLOV12_USER-} ]]; then
        wanted=$(wanted_user)
        [[ $wanted == "$user" ]] || say "YOLOV12_USER=$wanted has no effect: this started as $user, and only root can change (--user 0)"
    fi
}

# With any --user there may be neither a home nor a name in /etc/passwd, and libraries ask for both.
find_home() {
    if ! usable "${HOME:-/}"; then
        HOME=$(scratch)/home
        export HOME
        mkdir -p -- "$HOME" 2>/dev/null || say "no writable folder for temporary files: add --tmpfs /tmp"
    fi
    if ! id -un >/dev/null 2>&1; then
        export USER=${USER:-yolov12}
        export LOGNAME=$USER
    fi
}

# Nothing mounted and a read-only root: work in a temporary folder rather than fail at the first output.
# A mounted folder that can not be written is left to the verb, which may only need to read it.
find_workplace() {
    local place
    if [[ $PWD == "$workspace" ]] && ! usable . && ! mountpoint -q -- "$workspace"; then
        place=$(scratch)/workspace
        if mkdir -p -- "$place" 2>/dev/null; then
            say "$workspace is not mounted and not writable: working in $place, gone when the container ends"
            cd "$place"
        fi
    fi
}

# `runs` in the workbench is a link to the workspace's; `mkdir runs/detect` fails as long as it leads nowhere.
keep_runs() {
    if [[ $PWD == "$workbench" ]]; then
        mkdir -p -- "$workspace/runs" 2>/dev/null || say "$workspace/runs can not be written: outputs need a project=FOLDER"
    fi
}

usable() { [[ $1 != / && -d $1 && -w $1 ]]; }
scratch() { printf '%s/yolov12-%s' "${TMPDIR:-/tmp}" "$(id -u)"; }

# Tests source this file and call main with folders of their own.
if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
    main "$@"
fi
