#!/usr/bin/env bash
# SPDX-License-Identifier: AGPL-3.0-or-later
# installer.sh LOCK: what installs and builds packages, in /opt/installer.
set -euo pipefail
# shellcheck source=docker/stages/common.sh
. /run/stage/common.sh

lock=$1
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
use_secrets

install_debian python3-venv
python3 -m venv /opt/installer
/opt/installer/bin/pip install --quiet --require-hashes --no-deps --only-binary :all: --requirement "$lock"
