#!/usr/bin/env bash
# SPDX-License-Identifier: AGPL-3.0-or-later
# GPU tests, then benchmarks, on a machine that has torch and a GPU but no network: everything else comes from what carry.py packed.
#
#   benchmarks/gpu.sh [NAME... and other arguments of `python -m benchmarks run`]     (default: bccd_wall attention)
#   benchmarks/gpu.sh none                                                            (tests only)
#
# OUT=folder for records and logs   CARRY=.carry   PYTHON=python3   GPU_TESTS="tests/gpu" (0: none)   GPU_TESTS_LIMIT_S=120
# KEEP=1: map_budget, map_paired and lr_find make the runs of some seeds. What is finished comes back as OUT/NAME-runs.json; put it into CARRY before
# the next call, if the machine is another one.
set -euo pipefail
unset PYTHONDONTWRITEBYTECODE
cd "$(dirname "$0")/.."

carry=$(realpath "${CARRY:-.carry}")
python=${PYTHON:-python3}
out=${OUT:-benchmarks/records}
[[ $# -gt 0 ]] || set -- bccd_wall attention
if [[ ! -d $carry/wheels ]]; then
    echo "error: $carry/wheels is missing: run \`python benchmarks/carry.py\` where there is a network, and bring .carry along" >&2
    exit 2
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$work/site" "$carry"/wheels/*.whl
# As where this is installed: nobody's first import is to wait for Python's compiler.
"$python" -m compileall -q -j 0 "$work/site" yolov12 benchmarks || echo "not all of Python could be compiled: its first import takes longer" >&2
export PYTHONPATH=$work/site:$PWD
# A stand-in must not hide the real package, so it is put on the path only where that is missing.
for stand_in in "$carry"/stand-ins/*.py; do
    "$python" -c "import $(basename "$stand_in" .py)" 2>/dev/null || PYTHONPATH=$PYTHONPATH:$carry/stand-ins
done

mkdir -p "$out"
if [[ ${KEEP:-0} != 0 ]]; then
    kept=$(realpath "$out")
    export MAP_BUDGET_RUNS=$kept/map_budget-runs.json MAP_PAIRED_RUNS=$kept/map_paired-runs.json LR_FIND_RUNS=$kept/lr_find-runs.json
    for name in map_budget map_paired lr_find; do # those of OUT are the newer ones
        [[ -f $kept/$name-runs.json || ! -f $carry/$name-runs.json ]] || cp "$carry/$name-runs.json" "$kept"
    done
fi
tests=skipped
if [[ ${GPU_TESTS:-} != 0 ]]; then
    read -ra chosen <<<"${GPU_TESTS:-tests/gpu}"
    # Failed tests are reported at the end: measurements on this machine are too dear to lose with them.
    if YOLO_CONFIG_DIR=$work/config YOLO_OFFLINE=true timeout "${GPU_TESTS_LIMIT_S:-120}" \
        "$python" -m pytest -q -rs -p no:cacheprovider "${chosen[@]}" >"$out/gpu-tests.log" 2>&1; then
        tests=passed
    else
        tests="FAILED (exit code $?)"
    fi
    tail -n 15 "$out/gpu-tests.log"
fi

measured=skipped
if [[ $1 != none ]]; then
    measured=ok
    YOLOV12_COMMIT=${YOLOV12_COMMIT:-$(<"$carry/commit")} YOLOV12_BCCD=$carry/bccd \
        "$python" -m benchmarks run "$@" --records "$out" >/dev/null || measured="FAILED (exit code $?)"
    "$python" -m benchmarks report --records "$out"
fi
echo "tests/gpu: $tests; benchmarks: $measured"
[[ $tests != FAILED* && $measured != FAILED* ]]
