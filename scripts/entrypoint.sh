#!/usr/bin/env bash
# SPDX-License-Identifier: AGPL-3.0-or-later
# What `docker run IMAGE ...` does. docs/image.md has the table of cases; tests/shell/entrypoint.bats has a test for each.
set -euo pipefail

workspace=/workspace    # the caller's folder is mounted here
workbench=/root/yolov12 # train.py, utils/ and the link to the imported ultralytics
facts=/opt/yolov12/share/yolov12
devices=/dev
driver_file=/proc/driver/nvidia/version

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
    check_gpu "$@"
    check_script "$@"
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
    elif [[ $PWD == "$workspace" ]] && ! usable .; then
        say "$(why_not_writable)"
    fi
}

# Why nothing can be written to the mounted workspace, and what to type. It is looked at by its path: in a folder of someone else's with
# mode 700, even `.` can not be.
why_not_writable() {
    local user owner mode
    user=$(id -u):$(id -g)
    if [[ ,$(findmnt --noheadings --raw --output OPTIONS --target "$workspace" 2>/dev/null), == *,ro,* ]]; then
        echo "$workspace is mounted read-only: leave :ro out of -v, or name another folder for what is written"
    elif ! read -r owner mode < <(stat -c '%u:%g %a' -- "$workspace" 2>/dev/null); then
        echo "$workspace can not be looked at as $user: type the --user of its owner, or leave --user out where the image starts as root"
    elif [[ ${owner%:*} == "${user%:*}" ]]; then
        echo "$workspace belongs to $owner, as this container runs, and can not be written all the same (its mode is $mode): type chmod u+rwx on the host"
    else
        echo "$workspace belongs to $owner, and $user can not write there: type --user $owner, or leave --user out where the image starts as root"
    fi
}

# What would fail later, or run on the CPU unasked: said before Python has started. Only for what computes, and in an image that has
# code for GPUs (the one without torch has none).
check_gpu() {
    local driver least
    [[ -s $facts/least_driver && " $* " != *[=\ ]cpu\ * ]] || return 0
    case $1 in
    train | val | predict | export | demo | bench | lr-find) ;;
    *) return ;;
    esac
    driver=$(driver_version)
    if [[ ! -e $devices/nvidiactl && ! -e $devices/dxg ]]; then
        say "no NVIDIA GPU is visible, so this runs on the CPU${driver:+; the driver ($driver) is there: type docker run --gpus all}"
        return
    fi
    least=$(<"$facts/least_driver")
    if [[ -n $driver ]] && ((${driver%%.*} < least)); then
        say "the driver is $driver, and this image's CUDA needs $least or newer: update the driver on the host$(image_for "${driver%%.*}"), or type device=cpu"
        exit 2
    fi
    check_archs
}

# One of the workbench's scripts by its name alone, as articles have it: commands start in the workspace, and Python would not say where it is.
check_script() {
    local script=$1
    [[ $script != python && $script != python3 ]] || script=${2-}
    if [[ $script == *.py && ! -e $script && -e $workbench/$script ]]; then
        say "there is no $script in $PWD; the image's own is $workbench/$script: type that path"
        exit 2
    fi
}

# image_for DRIVER: what to say of the image whose CUDA this driver is new enough for; nothing where there is none.
image_for() {
    local line cuda
    [[ -r $facts/older_drivers ]] || return 0
    for line in $(<"$facts/older_drivers"); do
        cuda=${line#*=}
        if (($1 >= ${line%=*})); then
            printf ', take the image for CUDA %s (tag cu%s; make build CUDA=%s)' "$cuda" "${cuda/./}" "$cuda"
            return
        fi
    done
}

# The driver's version, from the kernel module; empty where there is none.
driver_version() {
    if [[ -r $driver_file ]]; then
        sed -nE '1s/.* ([0-9]+\.[0-9.]+) .*/\1/p' "$driver_file"
    fi
}

# Every visible GPU must find code for it: of its own arch, or of an earlier one of the same major version.
check_archs() {
    local name capability code has fits=0 unfit=0
    has=$(<"$facts/archs")
    type -P nvidia-smi >/dev/null || return 0
    while IFS=, read -r name capability; do
        capability=${capability// /}
        [[ $capability =~ ^[0-9]+\.[0-9]$ ]] || continue
        for code in $has; do
            if ((${code%?} == ${capability%.*} && ${code: -1} <= ${capability#*.})); then
                fits=1
                continue 2
            fi
        done
        unfit=1
        say "$name is sm_${capability/./}, and this image has code for sm_${has// /, sm_} only"
    done < <(nvidia-smi --query-gpu=name,compute_cap --format=csv,noheader 2>/dev/null)
    if ((unfit && fits == 0)); then
        say "no visible GPU can run it: choose another GPU, or type device=cpu"
        exit 2
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
