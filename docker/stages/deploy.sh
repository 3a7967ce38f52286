#!/usr/bin/env bash
# SPDX-License-Identifier: AGPL-3.0-or-later
# deploy.sh VERSION: the predictor from its wheel, and the folders that users see.
set -euo pipefail
shopt -s nullglob
# shellcheck source=docker/stages/common.sh
. /run/stage/common.sh

version=$1
environment=/opt/yolov12

export PYTHONDONTWRITEBYTECODE=1
/opt/installer/bin/uv pip install --quiet --offline --no-cache --no-deps --python "$environment/bin/python" /run/stage/wheel/*.whl
"$environment/bin/python" -m compileall -q -f --invalidation-mode unchecked-hash "$environment"/lib/python3*/site-packages/yolov12*
forget_uv "$environment"

# What ONNX Runtime's CUDA provider is linked with lies in site-packages, where the loader does not look by itself.
shopt -s nullglob
libraries=("$environment"/lib/python3*/site-packages/nvidia/*/lib)
if ((${#libraries[@]})); then
    printf '%s\n' "${libraries[@]}" >/etc/ld.so.conf.d/yolov12.conf
    ldconfig -X
    rm -f /var/cache/ldconfig/aux-cache # with the times of files, so different in every build
fi

cd /
found=$("$environment/bin/python" -c 'import importlib.metadata, yolov12_deploy.model; print(importlib.metadata.version("yolov12-deploy"))')
if [[ $found != "$version" ]]; then
    echo "VERSION=$version, but the package in this checkout is $found: run \`make render\`" >&2
    exit 2
fi
