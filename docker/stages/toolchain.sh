#!/usr/bin/env bash
# SPDX-License-Identifier: AGPL-3.0-or-later
# toolchain.sh LOCK: nvcc in /opt/cuda, put together from wheels. Its stage has g++ for it.
set -euo pipefail
# shellcheck source=docker/stages/common.sh
. /run/stage/common.sh

lock=$1
cuda=/opt/cuda
export UV_CACHE_DIR=/var/cache/uv UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
use_secrets

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
/opt/installer/bin/uv pip install --quiet --require-hashes --no-deps --no-build --python python3 --target "$work/wheels" \
    --requirement "$lock"
mv "$work"/wheels/nvidia/cu[0-9]* "$cuda" # each wheel adds its part to the one folder
# Two names that nvcc and linkers look for, and no wheel has.
ln -s lib "$cuda/lib64"
ln -s "$(cd "$cuda/lib" && echo libcudart.so.*)" "$cuda/lib/libcudart.so"

# Proof that the parts go together: a program is compiled for a GPU and linked.
echo '__global__ void one(int *out) { *out = 1; } int main() { one<<<1, 1>>>(nullptr); }' >"$work/one.cu"
if ! (cd "$work" && TMPDIR=$work "$cuda/bin/nvcc" --cudart shared -o one one.cu); then
    echo "toolchain: nvcc from $lock can not compile and link a program (see above)" >&2
    exit 2
fi
"$cuda/bin/nvcc" --version | grep release
