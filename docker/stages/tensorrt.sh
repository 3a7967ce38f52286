#!/usr/bin/env bash
# SPDX-License-Identifier: AGPL-3.0-or-later
# tensorrt.sh VERSION INDEX: TensorRT from the vendor's wheels, which no public index has, and without hashes, which no lock could ask for.
# Hence from INDEX and from nowhere else: under the same names the public index has sources that fetch the wheels by themselves, and what
# INDEX lacks, anyone could publish there. INDEX as the default index takes the public one's place; and neither a uv.toml nor a variable of the
# base image may name a further one, which would be asked first.
set -euo pipefail
shopt -s nullglob
# shellcheck source=docker/stages/common.sh
. /run/stage/common.sh

version=$1 index=$2
environment=/opt/yolov12
export UV_LINK_MODE=copy UV_PYTHON=$environment/bin/python UV_PYTHON_DOWNLOADS=never PYTHONDONTWRITEBYTECODE=1
unset UV_INDEX UV_EXTRA_INDEX_URL UV_FIND_LINKS
# The first package is a source distribution that would run pip to get the other two. setuptools of the environment packs it, since what builds
# in isolation would be looked for on INDEX.
export NVIDIA_TENSORRT_DISABLE_INTERNAL_PIP=1
use_secrets

packages=(tensorrt-cu13 tensorrt-cu13-libs tensorrt-cu13-bindings)
if ! /opt/installer/bin/uv pip install --quiet --no-cache --no-config --no-deps --no-build-isolation \
    --default-index "$index" "${packages[@]/%/==$version}"; then
    echo "TENSORRT_INDEX=$index: TensorRT $version can not be installed from there (see above)" >&2
    exit 2
fi
# What verify compares with: no lock has it.
install -d "$environment/share/yolov12"
printf '%s\n' "${packages[@]/%/==$version}" >"$environment/share/yolov12/vendor.txt"

"$environment/bin/python" -m compileall -q -f --invalidation-mode unchecked-hash "$environment"/lib/python3*/site-packages/tensorrt*
forget_uv "$environment"
cd /
"$environment/bin/python" -c 'import tensorrt; print("tensorrt", tensorrt.__version__)'
