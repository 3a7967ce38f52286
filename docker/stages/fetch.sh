#!/usr/bin/env bash
# SPDX-License-Identifier: AGPL-3.0-or-later
# fetch.sh URL SHA256 FILE: a file that is on no package index, by its address and hash.
set -euo pipefail

url=$1 sha256=$2 file=$3
export DEBIAN_FRONTEND=noninteractive

die() {
    echo "fetch: $*" >&2
    exit 2
}

apt-get -qq update
apt-get -qq install -y --no-install-recommends ca-certificates curl >/dev/null
options=(--fail --location --silent --show-error --retry 3 --output "$file")
if [[ -s /run/secrets/ca.crt ]]; then
    options+=(--cacert /run/secrets/ca.crt)
fi
curl "${options[@]}" "$url" || die "$url can not be fetched (see above)"
found=$(sha256sum "$file")
[[ ${found%% *} == "$sha256" ]] || die "$url has sha256 ${found%% *}, and the pin is $sha256: fetch it again, or mend the pin"
