#!/usr/bin/env bash
# SPDX-License-Identifier: AGPL-3.0-or-later
# Predict: scripts/predict.sh model=runs/detect/train/weights/best.pt source=images/
set -euo pipefail
exec "$(dirname -- "${BASH_SOURCE[0]}")/launch.sh" predict "$@"
