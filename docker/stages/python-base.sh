#!/usr/bin/env bash
# SPDX-License-Identifier: AGPL-3.0-or-later
# python-base.sh PYTHON_VERSION: the base's own python3, which must be that version; tini; and a name for the container itself.
set -euo pipefail
# shellcheck source=docker/stages/common.sh
. /run/stage/common.sh

wanted=$1

# As Debian's own slim image has it: of a package's documentation only its licence.
cat >/etc/dpkg/dpkg.cfg.d/yolov12 <<'DPKG'
path-exclude /usr/share/doc/*
path-include /usr/share/doc/*/copyright
path-exclude /usr/share/man/*
path-exclude /usr/share/locale/*
path-exclude /usr/share/lintian/*
DPKG

use_secrets
# myhostname: with `--network none` nothing else resolves the container's own name, by which the processes of torchrun find each other.
install_debian python3 tini libnss-myhostname
forget_debian

found=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
if [[ $found != "$wanted" ]]; then
    echo "PYTHON_VERSION=$wanted, but python3 of the base image is $found: take another BASE_IMAGE, or another lock" >&2
    exit 2
fi
