#!/usr/bin/env bash
# SPDX-License-Identifier: AGPL-3.0-or-later
# installer.sh LOCK: what installs and builds packages, in /opt/installer.
set -euo pipefail

lock=$1
export DEBIAN_FRONTEND=noninteractive PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
if [[ -s /run/secrets/ca.crt ]]; then
    export PIP_CERT=/run/secrets/ca.crt
fi

apt-get -qq update
apt-get -qq install -y --no-install-recommends python3-venv >/dev/null
python3 -m venv /opt/installer
/opt/installer/bin/pip install --quiet --require-hashes --no-deps --only-binary :all: --requirement "$lock"
