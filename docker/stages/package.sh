#!/usr/bin/env bash
# SPDX-License-Identifier: AGPL-3.0-or-later
# package.sh VERSION ARCHS: the package from its wheel, and proof that the environment is what was asked for.
set -euo pipefail
shopt -s nullglob
# shellcheck source=docker/stages/common.sh
. /run/stage/common.sh

version=$1 archs=$2
environment=/opt/yolov12

export PYTHONDONTWRITEBYTECODE=1 # what the checks below import would be compiled anew, with timestamps
/opt/installer/bin/uv pip install --quiet --offline --no-cache --no-deps --python "$environment/bin/python" /run/stage/wheel/*.whl
"$environment/bin/python" -m compileall -q -f --invalidation-mode unchecked-hash "$environment"/lib/python3*/site-packages/yolov12
forget_uv "$environment"

cd /
"$environment/bin/python" - "$version" "$archs" <<'PYTHON'
import sys
from importlib.metadata import version
from pathlib import Path

import torch

wanted_version, wanted_archs = sys.argv[1], sys.argv[2].split()
compiled = set(torch._C._cuda_getArchFlags().split())  # torch.cuda.get_arch_list() is empty on a machine without a GPU
if missing := [arch for arch in wanted_archs if f"sm_{arch}" not in compiled]:
    sys.exit(f"ARCHS={' '.join(wanted_archs)}: torch {torch.__version__} has no code for {', '.join(missing)}; it has {' '.join(sorted(compiled))}")
# For the entrypoint, which compares them with the visible GPUs before Python starts.
share = Path(sys.prefix, "share/yolov12")
share.mkdir(parents=True, exist_ok=True)
(share / "archs").write_text(" ".join(sorted((arch.removeprefix("sm_") for arch in compiled), key=int)) + "\n")
if version("yolov12") != wanted_version:
    sys.exit(f"VERSION={wanted_version}, but the package in this checkout is {version('yolov12')}: run `make render`")
PYTHON
