#!/usr/bin/env bash
# SPDX-License-Identifier: AGPL-3.0-or-later
# built-wheel.sh FOLDER PACKAGE: install the wheel that lies in FOLDER, which the build made, if there is one; it holds PACKAGE.
set -euo pipefail
# shellcheck source=docker/stages/common.sh
. /run/stage/common.sh

shopt -s nullglob
environment=/opt/yolov12 package=$2
wheels=("$1"/*.whl)
if ((${#wheels[@]} == 0)); then
    exit 0 # FLASH_ATTN=none
fi

export PYTHONDONTWRITEBYTECODE=1
/opt/installer/bin/uv pip install --quiet --offline --no-cache --no-deps --no-index --python "$environment/bin/python" "${wheels[@]}"
"$environment/bin/python" -m compileall -q -f --invalidation-mode unchecked-hash "$environment"/lib/python3*/site-packages/"$package"
forget_uv "$environment"

# The library loads. What the import writes (torch's compiler makes a folder for itself) goes away with the folder.
TMPDIR=$(mktemp -d)
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT
cd /
"$environment/bin/python" - "$package" <<'PYTHON'
import importlib
import sys

package = importlib.import_module(sys.argv[1])
if reason := getattr(package, "load", lambda: None)():
    sys.exit(f"{package.__name__} {package.__version__}: {reason}")
print(package.__name__, package.__version__)
PYTHON
