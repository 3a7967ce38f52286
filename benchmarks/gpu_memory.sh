#!/usr/bin/env bash
# SPDX-License-Identifier: AGPL-3.0-or-later
# What is to be shown of memory on a GPU, in parts of at most nine minutes each, for a machine that is lent for minutes; see gpu.sh.
#
#   benchmarks/gpu_memory.sh tests         tests of memory and recovery on the GPU, `demo oom` among them
#   benchmarks/gpu_memory.sh memory        the benchmark `memory`
#   benchmarks/gpu_memory.sh map_budget    `map_budget`, one seed for each GPU in a call: six calls with one GPU (KEEP of gpu.sh)
#
# OUT, CARRY and PYTHON as of gpu.sh.
set -euo pipefail
cd "$(dirname "$0")/.."

export OUT=${OUT:-benchmarks/records} CARRY=${CARRY:-.carry}
limit_s=500 # of nine minutes; the rest is for installing what was carried

case ${1:-} in
tests)
    # -s shows at once what plans said beside what was measured, also where the limit ends the tests.
    export PYTEST_ADDOPTS="-v -s --durations=20"
    chosen=(tests/gpu/test_{memory,memory_measured,memory_report,recovery,scaler}.py)
    export GPU_TESTS="${chosen[*]}"
    GPU_TESTS_LIMIT_S=$limit_s exec benchmarks/gpu.sh none
    ;;
memory)
    # Of each side. Stock fails in five of its rows, and is done in a part of that.
    GPU_TESTS=0 exec benchmarks/gpu.sh memory --timeout-s 400
    ;;
map_budget)
    GPU_TESTS=0 KEEP=1 exec benchmarks/gpu.sh map_budget --timeout-s $limit_s
    ;;
*)
    echo "error: ${1:-no part}: expected tests, memory or map_budget" >&2
    exit 2
    ;;
esac
