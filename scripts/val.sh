#!/usr/bin/env bash
# SPDX-License-Identifier: AGPL-3.0-or-later
# Validate: scripts/val.sh model=runs/detect/train/weights/best.pt data=my.yaml
set -euo pipefail
exec "$(dirname -- "${BASH_SOURCE[0]}")/launch.sh" val "$@"
