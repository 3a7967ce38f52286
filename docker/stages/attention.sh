#!/usr/bin/env bash
# SPDX-License-Identifier: AGPL-3.0-or-later
# attention.sh FOLDER: install the FlashAttention wheel that lies in FOLDER, if there is one.
set -euo pipefail

shopt -s nullglob
environment=/opt/yolov12
wheels=("$1"/*.whl)
if ((${#wheels[@]} == 0)); then
    exit 0 # FLASH_ATTN=none
fi

export PYTHONDONTWRITEBYTECODE=1
/opt/installer/bin/uv pip install --quiet --offline --no-cache --no-deps --no-index --python "$environment/bin/python" "${wheels[@]}"
"$environment/bin/python" -m compileall -q -f --invalidation-mode unchecked-hash "$environment"/lib/python3*/site-packages/flash_attn
for note in "$environment"/lib/python3*/site-packages/*.dist-info/uv_cache.json; do # uv's: when the wheel was made, which no second build would repeat
    sed -i '/uv_cache\.json,/d' "${note%/*}/RECORD"
    rm "$note"
done
rm -f "$environment/.lock" # uv's, and writable by anyone

# What the import writes (torch's compiler makes a folder for itself) goes away with the folder.
TMPDIR=$(mktemp -d)
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT
cd /
"$environment/bin/python" -c 'import flash_attn; flash_attn.flash_attn_func, flash_attn.flash_attn_qkvpacked_func; print("flash_attn", flash_attn.__version__)'
