#!/usr/bin/env bash
# SPDX-License-Identifier: AGPL-3.0-or-later
# Benchmarks beside stock ultralytics: scripts/bench.sh list, then scripts/bench.sh run NAME
set -euo pipefail
exec "$(dirname -- "${BASH_SOURCE[0]}")/launch.sh" bench "$@"
