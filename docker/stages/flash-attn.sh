#!/usr/bin/env bash
# SPDX-License-Identifier: AGPL-3.0-or-later
# flash-attn.sh hd32 VERSION SHA256 ARCHS: the FlashAttention wheel for these GPUs, in /wheel-flash-attn.
# flash-attn.sh full VERSION SHA256 ARCHS MAX_JOBS LOCK: upstream's whole, by its own setup.py.
set -euo pipefail
# shellcheck source=docker/stages/common.sh
. /run/stage/common.sh

kind=$1 version=$2 sha256=$3 archs=$4
stage=/run/stage
python=/opt/yolov12/bin/python
out=/wheel-flash-attn
export PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1
use_secrets
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

if [[ $kind == full ]]; then
    max_jobs=$5 lock=$6
    export UV_CACHE_DIR=/var/cache/uv UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
    install_debian ninja-build
    # torch's headers include those of three libraries, which neither the toolchain nor the image needs to have.
    python3 "$stage/locks.py" "$stage/locks/$lock" "$work/locks" "nvidia-cublas nvidia-cusolver nvidia-cusparse"
    /opt/installer/bin/uv pip install --quiet --require-hashes --no-deps --no-build --python python3 --target "$work/headers" \
        --requirement "$work/locks/chosen.txt"
    "$python" "$stage/flash_attn/full.py" --sdist "${sdist[0]}" --sha256 "$sha256" --version "$version" --archs "$archs" \
        --max-jobs "$max_jobs" --cuda-home /opt/cuda --include "$work"/headers/nvidia/cu*/include --work "$work" --out "$out"
    exit
fi

# Each compiler needs up to 4.1 GiB.
memory_gib=$(awk '/^MemAvailable/ { print int($2 / 1024 / 1024) }' /proc/meminfo)
jobs=$(nproc)
((jobs * 5 <= memory_gib)) || jobs=$((memory_gib / 5 > 0 ? memory_gib / 5 : 1))
python3 "$stage/flash_attn/build.py" --sdist "${sdist[0]}" --sha256 "$sha256" --version "$version" --archs "$archs" \
    --cuda-home /opt/cuda --torch-python "$python" --jobs "$jobs" --out "$out"

bash "$stage/native/check.sh" "$out" flash_attn/_hd32.so "$stage/gpu_code.py"
