#!/usr/bin/env bash
# SPDX-License-Identifier: AGPL-3.0-or-later
# tensorrt-rtx.sh VERSION SHA256: the Python module `tensorrt_rtx`, for the libraries that came with the lock. There is no wheel of it, and it holds
# nothing but Python, which setuptools of the environment packs.
set -euo pipefail
shopt -s nullglob
# shellcheck source=docker/stages/common.sh
. /run/stage/common.sh

version=$1 sha256=$2
environment=/opt/yolov12
export UV_CACHE_DIR=/var/cache/uv UV_LINK_MODE=copy UV_PYTHON=$environment/bin/python UV_PYTHON_DOWNLOADS=never PYTHONDONTWRITEBYTECODE=1
use_secrets

install -d "$environment/share/yolov12"
# What verify compares with: no lock has it.
echo "tensorrt-rtx-cu13==$version" >"$environment/share/yolov12/vendor.txt"
/opt/installer/bin/uv pip install --quiet --require-hashes --no-deps --no-build-isolation \
    --requirement <(echo "tensorrt-rtx-cu13==$version --hash=sha256:$sha256")
"$environment/bin/python" -m compileall -q -f --invalidation-mode unchecked-hash "$environment"/lib/python3*/site-packages/tensorrt_rtx
forget_uv "$environment"
cd /
"$environment/bin/python" -c 'import tensorrt_rtx; print("tensorrt_rtx", tensorrt_rtx.__version__)'
