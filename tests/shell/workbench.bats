#!/usr/bin/env bats
# SPDX-License-Identifier: AGPL-3.0-or-later
# The programs in the image's /root/yolov12/build, which carry the names of NVIDIA's.

bats_require_minimum_version 1.5.0
load common

setup() { stub_echo python; }

@test "each of NVIDIA's names is our check with the same arguments" {
    for name in all_reduce_perf p2pBandwidthLatencyTest; do
        run "${repo:?}/docker/workbench/build/$name" -b 8 -e "1 G"
        [ "$output" = "python [-m] [yolov12.tools.nccl_check] [$name] [-b] [8] [-e] [1 G]" ]
    done
}

@test "each says in its source that it is not NVIDIA's" {
    for name in all_reduce_perf p2pBandwidthLatencyTest; do
        grep -q "^# Not NVIDIA's $name: our own check" "${repo:?}/docker/workbench/build/$name"
    done
}
