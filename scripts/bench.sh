#!/usr/bin/env bash
# SPDX-License-Identifier: AGPL-3.0-or-later
# Benchmarks beside stock ultralytics: scripts/bench.sh, or scripts/bench.sh memory,attention, or scripts/bench.sh run NAME
set -euo pipefail
exec "$(dirname -- "${BASH_SOURCE[0]}")/launch.sh" bench "$@"
