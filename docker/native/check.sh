#!/usr/bin/env bash
# SPDX-License-Identifier: AGPL-3.0-or-later
# check.sh WHEELS LIBRARY GPU_CODE: the one wheel in the folder WHEELS has in LIBRARY code for the GPUs that its name promises, and for no other.
# GPU_CODE is yolov12/tools/gpu_code.py, which reads the binaries.
set -euo pipefail

wheels=("$1"/*.whl)
name=${wheels[0]##*/} # flash_attn-2.8.3+hd32.sm80.sm90-py3-none-linux_x86_64.whl
promised=${name#*+}
promised=${promised%%-*}
promised=${promised#hd32.}
promised=${promised//sm/}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m zipfile -e "${wheels[0]}" "$work"
python3 "$3" "$work/$2" --expect "${promised//./ }"
