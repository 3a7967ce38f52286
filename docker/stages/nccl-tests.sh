#!/usr/bin/env bash
# SPDX-License-Identifier: AGPL-3.0-or-later
# nccl-tests.sh URL COMMIT ARCHS LOCK PYTHON: NVIDIA's all_reduce_perf in /nccl-tests, from that commit of its repository, against the locked
# NCCL, for an environment with that Python.
set -euo pipefail
# shellcheck source=docker/stages/common.sh
. /run/stage/common.sh

url=$1 commit=$2 archs=$3 lock=$4 python=$5
stage=/run/stage
cuda=/opt/cuda
out=/nccl-tests
export UV_CACHE_DIR=/var/cache/uv UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
use_secrets

die() {
    echo "nccl-tests: $*" >&2
    exit 2
}

install_debian ca-certificates git make

# A commit's name is a hash over all its files, which git computes from what it received: no other pin is needed.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
git init --quiet "$work/source"
cd "$work/source"
# git looks for logins at home.
[[ ! -s /run/secrets/netrc ]] || ln -s /run/secrets/netrc "$work/.netrc"
HOME=$work git fetch --quiet --depth 1 "$url" "$commit" || die "commit $commit can not be fetched from $url (see above)"
git -c advice.detachedHead=false checkout --quiet FETCH_HEAD
[[ $(git rev-parse HEAD) == "$commit" ]] || die "$url gave commit $(git rev-parse HEAD), and the pin is $commit"

# The NCCL that torch has, by its own entry of the lock, with its headers and the name that a linker looks for.
python3 "$stage/locks.py" "$stage/locks/$lock" "$work/locks" nvidia-nccl-cu13
/opt/installer/bin/uv pip install --quiet --require-hashes --no-deps --no-build --python python3 --target "$work/wheels" \
    --requirement "$work/locks/chosen.txt"
nccl=$work/wheels/nvidia/nccl
ln -s libnccl.so.2 "$nccl/lib/libnccl.so"

gencode=()
for arch in $archs; do
    gencode+=("-gencode=arch=compute_$arch,code=sm_$arch")
done
# Where the libraries are in the image: no environment variable is needed to start it.
site=/opt/yolov12/lib/python$python/site-packages/nvidia
export NVCC_APPEND_FLAGS="-Xlinker -rpath=$site/nccl/lib:$site/cu13/lib"
make --silent --jobs "$(nproc)" MPI=0 CUDA_HOME="$cuda" NCCL_HOME="$nccl" NVCC_GENCODE="${gencode[*]}" CXX=g++ >"$work/log" 2>&1 || {
    tail -n 40 "$work/log" >&2
    die "make failed (see above)"
}
[[ -x build/all_reduce_perf ]] || die "make made no build/all_reduce_perf"
python3 "$stage/gpu_code.py" build/all_reduce_perf --expect "$archs"
install -D -t "$out" build/all_reduce_perf
