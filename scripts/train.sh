#!/usr/bin/env bash
# SPDX-License-Identifier: AGPL-3.0-or-later
# Train: scripts/train.sh data=my.yaml model=yolov12n.yaml epochs=100 batch=64 device=auto
set -euo pipefail
exec "$(dirname -- "${BASH_SOURCE[0]}")/launch.sh" train "$@"
