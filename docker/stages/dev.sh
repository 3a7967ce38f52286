#!/usr/bin/env bash
# SPDX-License-Identifier: AGPL-3.0-or-later
# dev.sh: the programs beside Python's packages that `make test` and `make lint` call.
set -euo pipefail

export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
apt-get -qq install -y --no-install-recommends git make >/dev/null
apt-get clean
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/log/apt /var/log/dpkg.log /var/log/alternatives.log /var/cache/ldconfig/aux-cache
# The checkout is the caller's, whoever the container runs as.
git config --system --add safe.directory '*'
