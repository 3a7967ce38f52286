#!/usr/bin/env bash
# SPDX-License-Identifier: AGPL-3.0-or-later
# environment.sh LOCK: the environment /opt/yolov12 with exactly what the hash lock lists, and pip.
set -euo pipefail

lock=$1
environment=/opt/yolov12
export UV_CACHE_DIR=/var/cache/uv UV_LINK_MODE=copy UV_PYTHON=$environment/bin/python UV_PYTHON_DOWNLOADS=never
if [[ -s /run/secrets/ca.crt ]]; then
    export SSL_CERT_FILE=/run/secrets/ca.crt
fi
uv=/opt/installer/bin/uv

python3 -m venv --without-pip "$environment"
"$uv" pip install --quiet --require-hashes --no-deps --no-build --requirement "$lock"
# Not used by the image; there for `RUN pip install ...` in images made from it. Debian's own wheel, so that Debian's fixes come with it.
"$uv" pip install --quiet --no-deps --no-index /run/stage/wheels/pip-*.whl

# Compiled now, and not checked against the source later: a read-only root starts as fast as any, and timestamps do not matter.
# -f: also over what this Python has compiled for itself since it is there.
"$environment/bin/python" -m compileall -q -f -j 0 --invalidation-mode unchecked-hash "$environment/lib"
rm -f "$environment/.lock" # uv's, and writable by anyone
