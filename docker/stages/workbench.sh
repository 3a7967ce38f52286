#!/usr/bin/env bash
# SPDX-License-Identifier: AGPL-3.0-or-later
# workbench.sh [ultralytics]: the folders that users see, and the environment in every kind of bash. With `ultralytics`, a link to it.
set -euo pipefail

# Any --user may go through /root into the workbench; with group 0, which docker gives to a uid it does not know, also write there.
chmod 0755 /root
chmod -R u=rwX,g=rwX,o=rX /root/yolov12
ln -s /workspace/runs /root/yolov12/runs
# Where the environment has it; the image without torch does not.
if [[ ${1-} == ultralytics ]]; then
    ln -s "$(cd / && /opt/yolov12/bin/python -c 'import importlib.util; print(importlib.util.find_spec("ultralytics").submodule_search_locations[0])')" \
        /root/yolov12/ultralytics
fi

# NVIDIA's own program instead of our check under its name, where it was built.
if [[ -d /run/stage/nccl-tests ]]; then
    find /run/stage/nccl-tests -type f -exec install -m 0755 -t /root/yolov12/build {} +
fi

# Where nothing is mounted, any --user can write here. The owner is who the entrypoint becomes.
install -d -o 1000 -g 0 -m 1777 /workspace

chmod 0755 /usr/local/bin/entrypoint.sh
chmod 0644 /etc/profile.d/yolov12.sh
# Interactive shells read this one; login shells read profile.d, and `bash -c` what BASH_ENV names.
cat >>/etc/bash.bashrc <<'BASHRC'
. /etc/profile.d/yolov12.sh
PS1='\w\$ ' # without \u: with any --user there may be no name
conda activate yolov12
BASHRC
