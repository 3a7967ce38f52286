#!/usr/bin/env bash
# SPDX-License-Identifier: AGPL-3.0-or-later
# python-base.sh PYTHON_VERSION: the base's own python3, which must be that version; tini; and a name for the container itself.
set -euo pipefail

wanted=$1
export DEBIAN_FRONTEND=noninteractive

# As Debian's own slim image has it: of a package's documentation only its licence.
cat >/etc/dpkg/dpkg.cfg.d/yolov12 <<'DPKG'
path-exclude /usr/share/doc/*
path-include /usr/share/doc/*/copyright
path-exclude /usr/share/man/*
path-exclude /usr/share/locale/*
path-exclude /usr/share/lintian/*
DPKG

apt-get -qq update
# myhostname: with `--network none` nothing else resolves the container's own name, by which the processes of torchrun find each other.
apt-get -qq install -y --no-install-recommends python3 tini libnss-myhostname >/dev/null
apt-get clean
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/log/apt /var/log/dpkg.log /var/log/alternatives.log /var/cache/ldconfig/aux-cache

found=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
if [[ $found != "$wanted" ]]; then
    echo "PYTHON_VERSION=$wanted, but python3 of the base image is $found: take another BASE_IMAGE, or another lock" >&2
    exit 2
fi
