#!/usr/bin/env bash
# SPDX-License-Identifier: AGPL-3.0-or-later
# kernels.sh ARCHS: the wheel of our own kernels for these GPUs, in /wheel-kernels.
set -euo pipefail

archs=$1
stage=/run/stage
out=/wheel-kernels
export PYTHONDONTWRITEBYTECODE=1
: "${SOURCE_DATE_EPOCH:=315532800}" # 1980-01-01, where a wheel's clock begins
export SOURCE_DATE_EPOCH

# Everything temporary is in one folder, which does not stay in the layer; always the same one, since nvcc names symbols after it too.
work=/tmp/kernels
mkdir "$work"
trap 'rm -rf "$work"' EXIT
export TMPDIR=$work

python3 "$stage/kernels/build.py" --archs "$archs" --cuda-home /opt/cuda --torch-python /opt/yolov12/bin/python --out "$out"

bash "$stage/native/check.sh" "$out" yolov12_kernels/_kernels.so "$stage/gpu_code.py"
