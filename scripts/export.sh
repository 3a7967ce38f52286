#!/usr/bin/env bash
# SPDX-License-Identifier: AGPL-3.0-or-later
# Export: scripts/export.sh model=runs/detect/train/weights/best.pt format=onnx
set -euo pipefail
exec "$(dirname -- "${BASH_SOURCE[0]}")/launch.sh" export "$@"
