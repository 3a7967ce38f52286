#!/usr/bin/env bash
# SPDX-License-Identifier: AGPL-3.0-or-later
# dev.sh: the programs beside Python's packages that `make test` and `make lint` call.
set -euo pipefail
# shellcheck source=docker/stages/common.sh
. /run/stage/common.sh

use_secrets
install_debian git make
forget_debian
# The checkout is the caller's, whoever the container runs as.
git config --system --add safe.directory '*'
