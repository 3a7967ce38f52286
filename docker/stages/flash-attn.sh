#!/usr/bin/env bash
# SPDX-License-Identifier: AGPL-3.0-or-later
# flash-attn.sh VERSION SHA256 ARCHS: the FlashAttention wheel for these GPUs, in /wheel-flash-attn.
set -euo pipefail

version=$1 sha256=$2 archs=$3
stage=/run/stage
python=/opt/yolov12/bin/python
out=/wheel-flash-attn
export PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1
if [[ -s /run/secrets/ca.crt ]]; then
    export PIP_CERT=/run/secrets/ca.crt
fi
: "${SOURCE_DATE_EPOCH:=315532800}" # 1980-01-01, where a wheel's clock begins
export SOURCE_DATE_EPOCH

# Everything temporary is in one folder, which does not stay in the layer; always the same one, since nvcc names symbols after it too.
work=/tmp/flash-attn
mkdir "$work"
trap 'rm -rf "$work"' EXIT
export TMPDIR=$work

# pip asks the sdist for its name, once the hash is right, and upstream's setup.py then imports torch: hence this Python, and this switch.
echo "flash-attn==$version --hash=sha256:$sha256" >"$work/requirements.txt"
FLASH_ATTENTION_SKIP_CUDA_BUILD=TRUE "$python" -m pip download --quiet --no-cache-dir --require-hashes --no-deps --no-binary :all: \
    --no-build-isolation --dest "$work/sdist" --requirement "$work/requirements.txt"
sdist=("$work"/sdist/*)

# Each compiler needs up to 4.1 GiB.
memory_gib=$(awk '/^MemAvailable/ { print int($2 / 1024 / 1024) }' /proc/meminfo)
jobs=$(nproc)
((jobs * 5 <= memory_gib)) || jobs=$((memory_gib / 5 > 0 ? memory_gib / 5 : 1))
python3 "$stage/flash_attn/build.py" --sdist "${sdist[0]}" --sha256 "$sha256" --version "$version" --archs "$archs" \
    --cuda-home /opt/cuda --torch-python "$python" --jobs "$jobs" --out "$out"

# What the wheel's name promises against what is in it.
wheels=("$out"/*.whl)
promised=${wheels[0]##*+hd32.}
promised=${promised%%-py3-*}
promised=${promised//sm/}
python3 -m zipfile -e "${wheels[0]}" "$work/wheel"
python3 "$stage/gpu_code.py" "$work/wheel/flash_attn/_hd32.so" --expect "${promised//./ }"
