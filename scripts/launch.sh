#!/usr/bin/env bash
# SPDX-License-Identifier: AGPL-3.0-or-later
# launch.sh VERB ARGUMENTS...: run a verb with the `yolov12` at hand: the active environment's, else that of this checkout (make setup).
set -euo pipefail

checkout=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)

if launcher=$(type -P yolov12); then
    exec "$launcher" "$@"
fi
if [[ -x $checkout/.venv/bin/yolov12 ]]; then
    exec "$checkout/.venv/bin/yolov12" "$@"
fi
printf '%s: no yolov12 on PATH and none in %s: run "make setup" there, or activate the environment that has it\n' \
    "${0##*/}" "$checkout/.venv" >&2
exit 2
